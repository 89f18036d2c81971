//! Stock redis-servers on loopback, each in a temporary directory, ended by pid when dropped.

use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A running redis-server. Dropping it kills the process and removes its files.
pub struct Redis {
    pub port: u16,
    child: Child,
    dir: TempDir,
}

impl Redis {
    /// Starts a server with further command-line `args`, and waits until it answers.
    pub async fn start(args: &[&str]) -> Redis {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let child = Self::spawn(&dir, port, args);
        let redis = Redis { port, child, dir };
        redis.wait_answers().await;
        redis
    }

    fn spawn(dir: &TempDir, port: u16, args: &[&str]) -> Child {
        Command::new("/usr/bin/redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--logfile",
                "redis.log",
            ])
            .args(["--dir", dir.path().to_str().unwrap()])
            .args(args)
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    async fn wait_answers(&self) {
        until("the server answers", async || {
            self.call(&["PING"]).await == "PONG"
        })
        .await;
    }

    /// Saves and stops the server, and starts it again on the same files.
    pub async fn restart(&mut self, args: &[&str]) {
        self.call(&["SHUTDOWN", "SAVE"]).await;
        self.child.wait().await.unwrap();
        self.child = Self::spawn(&self.dir, self.port, args);
        self.wait_answers().await;
    }

    /// Its RDB as of now.
    pub async fn rdb(&self) -> Vec<u8> {
        assert_eq!(self.call(&["SAVE"]).await, "OK");
        std::fs::read(self.dir.path().join("dump.rdb")).unwrap()
    }

    /// Runs one command and returns what redis-cli prints.
    pub async fn call(&self, args: &[&str]) -> String {
        let mut cli = Command::new("/usr/bin/redis-cli");
        cli.args(["-p", &self.port.to_string()])
            .args(args)
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(Duration::from_secs(10), cli.output()).await;
        String::from_utf8_lossy(&output.expect("redis-cli hung").unwrap().stdout)
            .trim()
            .to_owned()
    }

    /// One field of `INFO replication`.
    pub async fn replication(&self, field: &str) -> String {
        let info = self.call(&["INFO", "replication"]).await;
        let found = info
            .lines()
            .find_map(|l| l.trim().strip_prefix(field)?.strip_prefix(':').map(str::to_owned));
        found.unwrap_or_default()
    }

    /// Waits until the server's link is up and it holds everything before `offset`.
    pub async fn fed_to(&self, offset: u64) {
        let there = async || {
            self.replication("master_link_status").await == "up"
                && self.replication("master_repl_offset").await == offset.to_string()
        };
        until(&format!("the replica holds {offset} bytes"), there).await;
    }

    /// How often the server's own log says that it took a full sync.
    pub fn full_syncs(&self) -> usize {
        self.log().matches("Full resync from master").count()
    }

    /// How often the server's own log says that it continued.
    pub fn continues(&self) -> usize {
        self.log()
            .matches("Successful partial resynchronization with master")
            .count()
    }

    /// The server's log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("redis.log")).unwrap_or_default()
    }
}

/// Waits until `f` says so.
///
/// # Panics
/// After 20 s.
pub async fn until(what: &str, f: impl AsyncFn() -> bool) {
    for _ in 0..400 {
        if f().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("waited 20 s in vain until {what}");
}
