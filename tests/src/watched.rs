//! A cluster that is to be hurt and must not notice: who runs, and how much memory they take.

use crate::cluster::{Component, DevCluster};

/// The components as they were when this began. From then on the kernel keeps their greatest memory anew.
pub struct Watched {
    before: Vec<(Component, u64)>,
}

/// A line of /proc/PID/status, in bytes.
fn memory(pid: u32, field: &str) -> u64 {
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

    /// Every component is the process that it was, and those of Redoubt's own never took more than `grown_max` bytes
    /// beyond what they took at the beginning. Returns what each took, for people.
    ///
    /// # Panics
    /// When not.
    pub fn assert_unhurt(&self, cluster: &DevCluster, grown_max: u64) -> String {
        let mut told = String::new();
        for (c, rss) in &self.before {
            assert_eq!(
                cluster.component(&c.name).pid,
                c.pid,
                "{} was started again",
                c.name
            );
            if matches!(c.kind.as_str(), "master" | "replica") {
                continue;
            }
            let grown = memory(c.pid.expect("it was alive"), "VmHWM").saturating_sub(*rss);
            assert!(
                grown <= grown_max,
                "{} grew by {grown} bytes over {rss}, more than {grown_max}",
                c.name
            );
            told += &format!("{} {} KiB, ", c.name, grown >> 10);
        }
        format!("grew at most by: {}", told.trim_end_matches(", "))
    }
}
