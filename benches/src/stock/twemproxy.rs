//! twemproxy (`nutcracker`), as what a plain proxy costs.

use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// How long it may take to listen.
const START_MAX: Duration = Duration::from_secs(10);

/// A running one, in front of one server. It ends with this.
pub(crate) struct Twemproxy {
    pub(crate) port: u16,
    child: Child,
    _dir: TempDir,
}

impl Twemproxy {
    /// Starts one in front of the server at `server`.
    pub(crate) async fn start(server: u16) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = dir.path().join("nutcracker.yml");
        // Both are free: a cluster would use them.
        let port = redoubt_tests::free_base();
        let stats = port + 101;
        let text = format!(
            "pool:\n  listen: 127.0.0.1:{port}\n  redis: true\n  servers:\n   - 127.0.0.1:{server}:1\n"
        );
        std::fs::write(&config, text).expect("its configuration is written");
        let child = Command::new("nutcracker")
            .arg("-c")
            .arg(&config)
            .args(["-a", "127.0.0.1", "-s", &stats.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("nutcracker runs: `make bench` installs it");
        let listens = async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(START_MAX, listens)
            .await
            .expect("nutcracker listens");
        Twemproxy {
            port,
            child,
            _dir: dir,
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }
}
