//! A whole cluster under `redoubt dev up`.

use crate::program::binary;
use redoubt_client::{Client, ClientConfig};
use redoubt_env::Env;
use redoubt_types::JournalName;
use serde::Deserialize;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// How a cluster is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Journal nodes.
    pub journals: usize,
    /// Replicas.
    pub replicas: usize,
    /// `1s`, `never`, …
    pub restart: &'static str,
    /// Planted bugs and pauses, comma-separated, beside those of the test's own environment (see
    /// [`crate::assert_catches`]).
    pub bugs: &'static str,
    /// The program of its servers; the `redis-server` on the PATH when nothing is said.
    pub server: Option<PathBuf>,
    /// Further arguments by kind, such as `("proxy", "--lease=1s")`.
    pub args: Vec<(&'static str, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            journals: 3,
            replicas: 1,
            restart: "1s",
            bugs: "",
            server: None,
            args: Vec::new(),
        }
    }
}

/// One process of the cluster, as cluster.json tells it.
#[derive(Clone, Debug, Deserialize)]
pub struct Component {
    /// Its name, such as `journal-1`.
    pub name: String,
    /// `journal`, `master`, `replica`, `proxy` or `replay`.
    pub kind: String,
    /// `None` while it is dead.
    pub pid: Option<u32>,
    /// `host:port`.
    pub address: String,
    /// Its log file.
    pub log: String,
}

#[derive(Deserialize)]
struct ClusterFile {
    components: Vec<Component>,
}

/// A running cluster; ends with its handle.
pub struct DevCluster {
    /// Its directory.
    pub dir: PathBuf,
    base: u16,
    options: Options,
    supervisor: Option<Child>,
    _keep: Option<tempfile::TempDir>,
}

impl DevCluster {
    /// Starts a cluster in a new directory and waits until all of it is healthy.
    pub async fn start(options: Options) -> DevCluster {
        let keep = tempfile::tempdir().expect("a temporary directory");
        let dir = keep.path().join("cluster");
        let mut cluster = DevCluster {
            dir,
            base: crate::free_base(),
            options,
            supervisor: None,
            _keep: Some(keep),
        };
        cluster.up().await;
        cluster
    }

    /// Starts the supervisor again over the same directory.
    pub async fn up(&mut self) {
        assert!(self.supervisor.is_none(), "the supervisor runs");
        let o = &self.options;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.with_extension("log"));
        let log = log.expect("a log file");
        let mut command = Command::new(binary("redoubt"));
        command
            .args(["dev", "up", "--dir"])
            .arg(&self.dir)
            .args(["--port-base", &self.base.to_string()]);
        command.args([
            "--journals",
            &o.journals.to_string(),
            "--replicas",
            &o.replicas.to_string(),
        ]);
        command.args(["--restart", o.restart, "--output", "json"]);
        if let Some(server) = &o.server {
            command.arg("--redis-server").arg(server);
        }
        for (kind, arg) in &o.args {
            command.args(["--arg", &format!("{kind}={arg}")]);
        }
        crate::program::plant(&mut command, o.bugs);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log)
            .kill_on_drop(false);
        // A supervisor that was killed leaves its file behind; the next one removes it as it starts.
        let stale: Vec<u32> = self.components().iter().flatten().filter_map(|c| c.pid).collect();
        // Ours from here on, so that it ends with this handle also when it never becomes healthy.
        self.supervisor = Some(command.spawn().expect("redoubt dev up starts"));
        crate::eventually("a healthy cluster", Duration::from_secs(90), || {
            if let Some(Ok(Some(status))) = self.supervisor.as_mut().map(Child::try_wait) {
                panic!("redoubt dev up ended with {status}:\n{}", self.supervisor_log());
            }
            let now = self.components();
            let is_new =
                |all: &Vec<Component>| !all.iter().any(|c| c.pid.is_some_and(|p| stale.contains(&p)));
            std::future::ready(now.filter(is_new).ok_or("cluster.json is not there yet"))
        })
        .await;
    }

    /// What the supervisor printed.
    pub fn supervisor_log(&self) -> String {
        std::fs::read_to_string(self.dir.with_extension("log")).unwrap_or_default()
    }

    /// What cluster.json says, if it is there.
    pub fn components(&self) -> Option<Vec<Component>> {
        let text = std::fs::read_to_string(self.dir.join("cluster.json")).ok()?;
        let file: ClusterFile =
            serde_json::from_str(&text).expect("cluster.json is JSON of the documented shape");
        Some(file.components)
    }

    /// The component called `name`.
    pub fn component(&self, name: &str) -> Component {
        let all = self.components().expect("cluster.json is there");
        all.into_iter()
            .find(|c| c.name == name)
            .unwrap_or_else(|| panic!("there is no {name}"))
    }

    /// All components of a kind.
    pub fn of_kind(&self, kind: &str) -> Vec<Component> {
        self.components()
            .expect("cluster.json is there")
            .into_iter()
            .filter(|c| c.kind == kind)
            .collect()
    }

    /// The port of the component called `name`.
    pub fn port(&self, name: &str) -> u16 {
        let address = self.component(name).address;
        address
            .rsplit_once(':')
            .and_then(|(_, p)| p.parse().ok())
            .expect("host:port")
    }

    /// A component's log.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.component(name).log).unwrap_or_default()
    }

    /// Journal endpoints.
    pub fn endpoints(&self) -> Vec<String> {
        self.of_kind("journal").into_iter().map(|c| c.address).collect()
    }

    /// A client of the journal.
    pub fn journal(&self) -> Client {
        let config = ClientConfig {
            endpoints: self.endpoints(),
            journal: JournalName::default(),
            cluster: None,
        };
        Client::new(Env::real(), config)
    }

    /// The name of the journal node that leads.
    pub async fn leader(&self) -> String {
        let client = self.journal();
        crate::eventually("a leader", Duration::from_secs(20), || async {
            let leader = client
                .describe(Duration::from_secs(5))
                .await
                .ok()
                .and_then(|d| d.leader);
            let leader = leader.ok_or_else(|| "no node knows a leader".to_owned())?;
            let found = self
                .of_kind("journal")
                .into_iter()
                .find(|c| c.address == leader && c.pid.is_some());
            found
                .map(|c| c.name)
                .ok_or_else(|| format!("{leader} is not one of ours"))
        })
        .await
    }

    /// Sends a signal to a component's process; returns its process id.
    pub fn signal(&self, name: &str, signal: rustix::process::Signal) -> u32 {
        let pid = self
            .component(name)
            .pid
            .unwrap_or_else(|| panic!("{name} is dead"));
        let raw = rustix::process::Pid::from_raw(pid as i32).expect("a process id");
        rustix::process::kill_process(raw, signal).unwrap_or_else(|e| panic!("{name} (pid {pid}): {e}"));
        pid
    }

    /// `kill -9`; returns the process id.
    pub fn kill(&self, name: &str) -> u32 {
        self.signal(name, rustix::process::Signal::KILL)
    }

    /// SIGKILL for all of `names`, one right after the other; waits until the supervisor has started them again.
    pub async fn kill_all(&self, names: &[&str]) {
        let killed: Vec<_> = names.iter().map(|name| (*name, self.kill(name))).collect();
        for (name, pid) in killed {
            self.restarted(name, pid).await;
        }
    }

    /// Waits until the supervisor has started `name` again as another process than `old`.
    pub async fn restarted(&self, name: &str, old: u32) {
        crate::eventually(&format!("a restart of {name}"), Duration::from_secs(30), || {
            let pid = self.component(name).pid;
            std::future::ready(if pid.is_some_and(|p| p != old) {
                Ok(())
            } else {
                Err(format!("pid {pid:?}"))
            })
        })
        .await;
    }

    /// Runs `redoubt` with these arguments; returns exit code, output and errors.
    pub async fn redoubt(&self, args: &[&str]) -> (i32, String, String) {
        crate::program::redoubt(args).await
    }

    /// `redoubt dev start` or `stop` of a component.
    pub async fn dev(&self, verb: &str, name: &str) {
        let dir = self.dir.to_string_lossy().into_owned();
        let (code, out, err) = self.redoubt(&["dev", verb, name, "--dir", &dir]).await;
        assert_eq!(code, 0, "redoubt dev {verb} {name}: {out}{err}");
    }

    /// `redoubt rebuild` into an empty server.
    pub async fn rebuild_into(&self, target: &crate::Server) {
        let endpoints = self.endpoints().join(",");
        let args = ["rebuild", "--endpoints", &endpoints, "--into", &target.address()];
        let (code, out, err) = self.redoubt(&args).await;
        assert_eq!(code, 0, "redoubt rebuild: {out}{err}");
    }

    /// A new server of the same program that was rebuilt from the journal alone, over a replica link.
    pub async fn rebuilt(&self) -> crate::Server {
        let fresh = match &self.options.server {
            Some(program) => crate::Server::start_debuggable(program, &[]).await,
            None => crate::Server::start(&[]).await,
        };
        self.rebuild_into(&fresh).await;
        fresh
    }

    /// What the clients remember is there, exactly once, in a server that was rebuilt from the journal alone.
    pub async fn assert_nothing_lost(&self, outcome: &crate::Outcome) {
        let fresh = self.rebuilt().await;
        outcome.assert_kept_by(&mut fresh.connect().await).await;
    }

    /// Stops everything in order and waits for it.
    pub async fn down(&mut self) {
        let mut child = self.supervisor.take().expect("the supervisor runs");
        if let Some(pid) = child.id().and_then(|p| rustix::process::Pid::from_raw(p as i32)) {
            rustix::process::kill_process(pid, rustix::process::Signal::INT)
                .expect("the supervisor can be signalled");
        }
        let status = tokio::time::timeout(Duration::from_secs(90), child.wait()).await;
        let status = status
            .expect("the cluster stops in time")
            .expect("its exit status");
        assert!(
            status.success(),
            "redoubt dev up ended with {status}:\n{}",
            self.supervisor_log()
        );
        assert!(self.components().is_none(), "cluster.json is left behind");
    }

    /// `kill -9` of the supervisor alone: its components are left running.
    pub async fn kill_supervisor(&mut self) {
        let mut child = self.supervisor.take().expect("the supervisor runs");
        child.kill().await.expect("the supervisor can be killed");
    }

    /// The processes in the supervisor's own records, `DIR/NAME/pid`.
    fn recorded(&self) -> Vec<u32> {
        #[derive(Deserialize)]
        struct Record {
            pid: u32,
        }
        let folders = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let records = folders.filter_map(|folder| std::fs::read(folder.path().join("pid")).ok());
        records
            .filter_map(|record| serde_json::from_slice::<Record>(&record).ok())
            .map(|record| record.pid)
            .collect()
    }

    /// How many full syncs replay answered so far, from its log.
    pub fn full_syncs(&self) -> usize {
        self.log("replay-1").matches("full sync").count()
    }
}

impl Drop for DevCluster {
    fn drop(&mut self) {
        let components = self.components().unwrap_or_default();
        if std::thread::panicking() {
            eprintln!("--- redoubt dev up:\n{}", self.supervisor_log());
            for c in &components {
                let log = std::fs::read_to_string(&c.log).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                eprintln!(
                    "--- {} ({:?}):\n{}",
                    c.name,
                    c.pid,
                    lines[lines.len().saturating_sub(30)..].join("\n")
                );
            }
        }
        let kill = |pid: u32| {
            if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
                // What has ended already needs no killing.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        };
        if let Some(supervisor) = &mut self.supervisor
            && let Some(pid) = supervisor.id()
        {
            kill(pid);
            // Not before it is gone is nothing started any more.
            let end = std::time::Instant::now() + Duration::from_secs(2);
            while matches!(supervisor.try_wait(), Ok(None)) && std::time::Instant::now() < end {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        // Beside those that cluster.json knows, those that were started before there was one, or since.
        components
            .iter()
            .filter_map(|c| c.pid)
            .chain(self.recorded())
            .for_each(kill);
    }
}
