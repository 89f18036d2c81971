//! A second proxy over a cluster's journal, for a server that a test chose; and an address that lies.
#![allow(
    unreachable_pub,
    clippy::expect_used,
    reason = "part of a test binary; what fails here fails a test"
)]

use redoubt_tests::{DevCluster, Options, Program, eventually, try_connect};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const SOON: Duration = Duration::from_secs(20);

/// A journal with a replay, and nobody who serves; no replicas, whatever the options say.
pub async fn unserved(options: Options) -> DevCluster {
    let options = Options {
        replicas: 0,
        ..options
    };
    let cluster = DevCluster::start(options).await;
    cluster.dev("stop", "proxy-1").await;
    cluster
}

/// A `redoubt-proxy` in front of a server of the test's own.
pub struct Standby {
    /// Where clients connect.
    pub port: u16,
    proxy: Program,
    dir: tempfile::TempDir,
}

impl Standby {
    /// Starts it in front of the server on port `upstream`, whose replay is the cluster's or the one on port `replay`.
    pub async fn start(cluster: &DevCluster, upstream: u16, replay: Option<u16>) -> Standby {
        Self::start_with(cluster, upstream, replay, &[]).await
    }

    /// The same with further arguments.
    pub async fn start_with(
        cluster: &DevCluster,
        upstream: u16,
        replay: Option<u16>,
        further: &[&str],
    ) -> Standby {
        let upstream = format!("127.0.0.1:{upstream}");
        Self::start_before(cluster, &upstream, replay, further).await
    }

    /// The same in front of the server at the address `upstream`.
    pub async fn start_before(
        cluster: &DevCluster,
        upstream: &str,
        replay: Option<u16>,
        further: &[&str],
    ) -> Standby {
        let port = redoubt_tests::free_base();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let listen = format!("127.0.0.1:{port}");
        let endpoints = cluster.endpoints().join(",");
        let replay = replay.map(|port| format!("127.0.0.1:{port}"));
        let replay = replay.unwrap_or_else(|| cluster.component("replay-1").address);
        let args = ["--name", "standby", "--listen", &listen, "--upstream", upstream];
        let args = [
            &args[..],
            &["--endpoints", &endpoints, "--replay", &replay],
            further,
        ]
        .concat();
        let proxy = Program::start("redoubt-proxy", &args, &dir.path().join("proxy.log"));
        eventually("the proxy listens", SOON, || async {
            let reached = TcpStream::connect(("127.0.0.1", port)).await;
            reached.map(drop)
        })
        .await;
        Standby { port, proxy, dir }
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.proxy.log()
    }

    /// Waits until it has logged `words`.
    ///
    /// # Panics
    /// When it has logged what it must not do instead, or nothing of both in time.
    pub async fn says(&self, words: &str, not: &str) {
        eventually(words, SOON, || {
            let log = self.log();
            assert!(!log.contains(not), "it says {not:?}:\n{log}");
            std::future::ready(if log.contains(words) { Ok(()) } else { Err(log) })
        })
        .await;
    }

    /// SIGTERM; returns how it ended, and what it has logged.
    pub async fn stop(self) -> (std::process::ExitStatus, String) {
        let status = self.proxy.stop().await;
        let log = std::fs::read_to_string(self.dir.path().join("proxy.log"));
        (status, log.expect("its log"))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        self.proxy.signal(signal);
    }

    /// Ends it.
    pub async fn kill(self) {
        self.proxy.kill().await;
        assert!(try_connect(self.port).await.is_err());
    }
}

/// Where an [`Interposed`] leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// To the program on this port.
    Through(u16),
    /// Nowhere: a replica that asks is given a full sync that can't be loaded.
    BadSync { replid: String, offset: String },
}

/// An address in front of another one: what it passes on may be changed, and it can be led elsewhere, which cuts its
/// connections.
pub struct Interposed {
    /// Where it listens.
    pub port: u16,
    mode: watch::Sender<Mode>,
    accepting: JoinHandle<()>,
}

impl Interposed {
    /// Listens on loopback. Of `lies`, each first text is replaced by the second, of the same length, in what comes
    /// back.
    pub async fn start(mode: Mode, lies: Vec<(String, String)>) -> Interposed {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        assert!(lies.iter().all(|(truth, lie)| truth.len() == lie.len()));
        let (mode, watched) = watch::channel(mode);
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(serve(near, watched.clone(), lies.clone()));
            }
        });
        Interposed {
            port,
            mode,
            accepting,
        }
    }

    /// Leads elsewhere from now on.
    pub fn lead_to(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Interposed {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One connection, as long as the mode stays. However it ends, both ends are closed.
async fn serve(near: TcpStream, mut mode: watch::Receiver<Mode>, lies: Vec<(String, String)>) {
    let now = mode.borrow_and_update().clone();
    let serving = async {
        match now {
            Mode::Through(port) => {
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else {
                    return;
                };
                let (near_read, near_write) = near.into_split();
                let (far_read, far_write) = far.into_split();
                tokio::select! {
                    biased;
                    () = pass(near_read, far_write, &[]) => {}
                    () = pass(far_read, near_write, &lies) => {}
                }
            }
            Mode::BadSync { replid, offset } => bad_sync(near, &replid, &offset).await,
        }
    };
    tokio::select! {
        biased;
        _ = mode.changed() => {}
        () = serving => {}
    }
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, lies: &[(String, String)]) {
    let mut buf = vec![0; 64 << 10];
    while let Ok(n @ 1..) = from.read(&mut buf).await {
        let bytes = &mut buf[..n];
        for (truth, lie) in lies {
            while let Some(at) = bytes.windows(truth.len()).position(|w| w == truth.as_bytes()) {
                bytes[at..at + lie.len()].copy_from_slice(lie.as_bytes());
            }
        }
        if to.write_all(&buf[..n]).await.is_err() {
            return;
        }
    }
}

/// Shakes hands with a replica and gives it what is no RDB file; then nothing.
async fn bad_sync(mut replica: TcpStream, replid: &str, offset: &str) {
    let mut buf = vec![0; 4096];
    while let Ok(n @ 1..) = replica.read(&mut buf).await {
        let text = String::from_utf8_lossy(&buf[..n]).to_ascii_uppercase();
        let mut answer = "+PONG\r\n".repeat(text.matches("PING").count());
        answer += &"+OK\r\n".repeat(text.matches("REPLCONF").count());
        if text.contains("PSYNC\r\n") {
            answer += &format!("+FULLRESYNC {replid} {offset}\r\n$20\r\nthis is no RDB file!");
        }
        if replica.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
