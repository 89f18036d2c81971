//! A cluster that is to be hurt and must not notice: who runs, and how much memory they take.

use crate::cluster::{Component, DevCluster};

/// The components as they were when this began. From then on the kernel keeps their greatest memory anew.
pub struct Watched {
    before: Vec<(Component, u64)>,
}

/// A line of /proc/PID/status, in bytes.
///
/// # Panics
/// When there is none.
pub fn memory(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
    let kb = line.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kb.unwrap_or_else(|| panic!("{field} of {pid}: {status}")) << 10
}

impl Watched {
    /// Begins to watch.
    ///
    /// # Panics
    /// When a component is dead.
    pub fn new(cluster: &DevCluster) -> Watched {
        let components = cluster.components().expect("cluster.json is there");
        let before = components.into_iter().map(|c| {
            let pid = c.pid.unwrap_or_else(|| panic!("{} is dead", c.name));
            // 5 sets the greatest resident size back to the present one.
            std::fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("our own processes can be told");
            (c, memory(pid, "VmRSS"))
        });
        Watched {
            before: before.collect(),
        }
    }

    /// One component is the process that it was, and never took more than `grown_max` bytes beyond what it took at the
    /// beginning. Returns what it took, for people.
    ///
    /// # Panics
    /// When not.
    pub fn assert_bounded(&self, cluster: &DevCluster, name: &str, grown_max: u64) -> String {
        let (c, rss) = self
            .before
            .iter()
            .find(|(c, _)| c.name == name)
            .expect("it is watched");
        assert_eq!(cluster.component(name).pid, c.pid, "{name} was started again");
        let grown = memory(c.pid.expect("it was alive"), "VmHWM").saturating_sub(*rss);
        assert!(
            grown <= grown_max,
            "{name} grew by {grown} bytes over {rss}, more than {grown_max}"
        );
        format!("{name} {} KiB", grown >> 10)
    }

    /// Every component is the process that it was, and those of Redoubt's own never took more than `grown_max` bytes
    /// beyond what they took at the beginning. Returns what each took, for people.
    ///
    /// # Panics
    /// When not.
    pub fn assert_unhurt(&self, cluster: &DevCluster, grown_max: u64) -> String {
        let own = |c: &Component| !matches!(c.kind.as_str(), "master" | "replica");
        let mut told = Vec::new();
        for (c, _) in &self.before {
            let pid = cluster.component(&c.name).pid;
            assert_eq!(pid, c.pid, "{} was started again", c.name);
            if own(c) {
                told.push(self.assert_bounded(cluster, &c.name, grown_max));
            }
        }
        format!("grew at most by: {}", told.join(", "))
    }
}
