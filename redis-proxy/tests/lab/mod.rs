//! A real redis-server on loopback, a session on it whose commits the test makes by hand, and clients that
//! speak in bytes.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a failure is the test's"
)]

use bytes::BytesMut;
use redoubt_env::net::Conn;
use redoubt_env::{Env, Task};
use redoubt_proxy::capture::buffer::{Bounds, DoubleBuffer};
use redoubt_proxy::client::{self, Options};
use redoubt_proxy::hold::Hold;
use redoubt_proxy::session::Session;
use redoubt_proxy::upstream::{Control, Upstream, fence};
use redoubt_resp::info::{parse_replication, parse_server};
use redoubt_types::limits::{ENTRY_PAYLOAD_BYTES_MAX, UNCOMMITTED_BYTES_MAX};
use redoubt_types::{Db, Epoch, Offset, ReplId, RunId};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// For whatever must happen.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// For whatever must not happen: long beside a fence (under 1 ms), short for the test.
pub(crate) const A_WHILE: Duration = Duration::from_millis(150);
const LEASE: Duration = Duration::from_secs(3600);

/// A redis-server that is killed with this.
pub(crate) struct Server {
    child: Child,
    pub(crate) addr: String,
    dir: TempDir,
}

impl Server {
    pub(crate) async fn start(env: &Env) -> Self {
        let probe = env.net().listen("127.0.0.1:0").await.unwrap();
        let addr = probe.local_addr();
        drop(probe);
        let dir = TempDir::new().unwrap();
        let child = spawn(&addr, dir.path());
        let server = Server { child, addr, dir };
        server.become_ready(env).await;
        server
    }

    /// Kills the server and starts another at the same address, which begins empty.
    pub(crate) async fn replace(&mut self, env: &Env) {
        self.kill().await;
        self.child = spawn(&self.addr, self.dir.path());
        self.become_ready(env).await;
    }

    async fn become_ready(&self, env: &Env) {
        for _ in 0..500 {
            if let Ok(mut control) = Control::connect(env, &self.upstream(), SOON).await
                && control
                    .call(&[b"PING"], SOON)
                    .await
                    .is_ok_and(|v| v.as_str() == Some("PONG"))
            {
                self.begin_counting(env).await;
                return;
            }
            env.sleep(Duration::from_millis(10)).await;
        }
        panic!("redis-server did not start");
    }

    /// A server counts offsets only once it has had a replica.
    async fn begin_counting(&self, env: &Env) {
        let mut replica = env.net().connect(&self.addr).await.unwrap();
        let (mut seen, mut control) = (BytesMut::new(), self.control(env).await);
        // One after the other: a server refuses a PSYNC while an answer is pending.
        for (ask, answer) in [
            ("REPLCONF capa eof capa psync2\r\n", "+OK"),
            ("PSYNC ? -1\r\n", "+FULLRESYNC"),
        ] {
            replica.write_all(ask.as_bytes()).await.unwrap();
            while !seen.windows(answer.len()).any(|w| w == answer.as_bytes()) {
                env.timeout(SOON, replica.read_buf(&mut seen))
                    .await
                    .unwrap()
                    .unwrap();
            }
        }
        drop(replica);
        loop {
            let info = control.call(&[b"INFO", b"replication"], SOON).await.unwrap();
            let info = parse_replication(info.as_bytes().unwrap()).unwrap();
            if info.connected_slaves == 0 {
                return;
            }
            env.sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn upstream(&self) -> Upstream {
        self.addr.clone().into()
    }

    pub(crate) async fn control(&self, env: &Env) -> Control {
        Control::connect(env, &self.upstream(), SOON).await.unwrap()
    }

    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }
}

fn spawn(addr: &str, dir: &Path) -> Child {
    let port = addr.rsplit(':').next().unwrap();
    let mut command = Command::new("redis-server");
    command.args([
        "--port",
        port,
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
    ]);
    command
        .arg(dir)
        .args(["--enable-debug-command", "local", "--lua-time-limit", "20"]);
    command.args(["--repl-diskless-sync-delay", "0", "--repl-backlog-ttl", "0"]);
    command.stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap()
}

/// Server, session, fence task and proxy.
pub(crate) struct Lab {
    pub(crate) env: Env,
    pub(crate) server: Server,
    pub(crate) session: Arc<Session>,
    pub(crate) serving: watch::Sender<Option<Arc<Session>>>,
    pub(crate) addr: String,
    /// Whether the proxy is to stop.
    pub(crate) drain: watch::Sender<bool>,
    tasks: Vec<Task<()>>,
    fence_failing_max: Duration,
    capture_paused: Arc<AtomicBool>,
}

/// How a lab differs from the usual.
pub(crate) struct Plan {
    pub(crate) release_deadline: Duration,
    pub(crate) clients_max: usize,
    pub(crate) lease: Duration,
    pub(crate) serving: bool,
    pub(crate) fencing: bool,
    pub(crate) fence_failing_max: Duration,
    pub(crate) clean_reads: bool,
    pub(crate) own_max: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            release_deadline: Duration::from_secs(60),
            clients_max: 100,
            lease: LEASE,
            serving: true,
            fencing: true,
            fence_failing_max: Duration::from_secs(60),
            clean_reads: true,
            own_max: 1000,
        }
    }
}

impl Lab {
    pub(crate) async fn new() -> Self {
        Self::with(Plan::default()).await
    }

    pub(crate) async fn with(plan: Plan) -> Self {
        let env = Env::real();
        let server = Server::start(&env).await;
        let session = session_on(&env, &server, plan.lease).await;
        let (serving, shown) = watch::channel(plan.serving.then(|| Arc::clone(&session)));
        let (drain, draining) = watch::channel(false);
        let listener = env.net().listen("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr();
        let options = Options {
            release_deadline: plan.release_deadline,
            clients_max: plan.clients_max,
            shared: crate::SHARED,
            own_max: plan.own_max,
            fence_failing_max: plan.fence_failing_max,
            clean_reads: plan.clean_reads,
        };
        let tasks = vec![env.spawn(client::serve(listener, shown, options, env.clone(), draining))];
        let mut lab = Lab {
            drain,
            env,
            server,
            session,
            serving,
            addr,
            tasks,
            fence_failing_max: plan.fence_failing_max,
            capture_paused: Arc::default(),
        };
        if plan.fencing {
            lab.begin_fencing();
        }
        lab
    }

    /// Waits until all clients are closed, once that was asked for.
    pub(crate) async fn drained(&self, within: Duration) {
        let gone = async {
            while !self.tasks.first().is_some_and(Task::is_finished) {
                self.env.sleep(Duration::from_millis(5)).await;
            }
        };
        self.env
            .timeout(within, gone)
            .await
            .expect("clients are still served");
    }

    pub(crate) fn begin_fencing(&mut self) {
        let fence = fence::run(
            Arc::clone(&self.session),
            self.env.clone(),
            self.fence_failing_max,
        );
        self.tasks.push(self.env.spawn(fence));
    }

    /// Plays capture from here on: what the server writes is indexed, and not committed.
    pub(crate) async fn begin_capture(&mut self) {
        let from = self.session.hold.committed();
        let mut stream = self.stream(from).await;
        let bounds = Bounds {
            entry_max: ENTRY_PAYLOAD_BYTES_MAX,
            uncommitted_max: UNCOMMITTED_BYTES_MAX,
        };
        let mut buffer = DoubleBuffer::new(from, Db::default(), bounds);
        let (env, session) = (self.env.clone(), Arc::clone(&self.session));
        let paused = Arc::clone(&self.capture_paused);
        self.tasks.push(self.env.spawn(async move {
            while stream.read_buf(buffer.space()).await.unwrap() > 0 {
                while paused.load(Ordering::Relaxed) {
                    env.sleep(Duration::from_millis(1)).await;
                }
                let wall = env.wall();
                session.clean.index(|group| buffer.filled(wall, group)).unwrap();
            }
        }));
    }

    /// What comes of the stream from now on is not indexed.
    pub(crate) fn pause_capture(&self) {
        self.capture_paused.store(true, Ordering::Relaxed);
    }

    /// It is again, with all that came meanwhile.
    pub(crate) fn resume_capture(&self) {
        self.capture_paused.store(false, Ordering::Relaxed);
    }

    /// The server's stream behind `from`.
    pub(crate) async fn stream(&self, from: Offset) -> Box<dyn Conn> {
        let mut replica = self.env.net().connect(&self.server.addr).await.unwrap();
        let ask = format!("PSYNC {} {}\r\n", self.session.replid, from.psync());
        replica.write_all(ask.as_bytes()).await.unwrap();
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(self.env.timeout(SOON, replica.read_u8()).await.unwrap().unwrap());
        }
        assert!(line.starts_with(b"+CONTINUE"), "{line:?}");
        replica
    }

    pub(crate) async fn client(&self) -> Client {
        Client {
            env: self.env.clone(),
            conn: self.env.net().connect(&self.addr).await.unwrap(),
        }
    }

    /// A client of the server itself, past the proxy.
    pub(crate) async fn direct(&self) -> Client {
        Client {
            env: self.env.clone(),
            conn: self.env.net().connect(&self.server.addr).await.unwrap(),
        }
    }

    /// The server's offset.
    pub(crate) async fn offset(&self) -> Offset {
        let info = self
            .server
            .control(&self.env)
            .await
            .call(&[b"INFO", b"replication"], SOON)
            .await
            .unwrap();
        parse_replication(info.as_bytes().unwrap()).unwrap().offset
    }

    /// The journal has committed everything before `end`.
    pub(crate) fn commit(&self, end: Offset) {
        self.session
            .hold
            .on_appended(end, self.env.now(), true, LEASE, Duration::ZERO);
    }

    /// The journal has committed all that the server has done so far.
    pub(crate) async fn commit_all(&self) {
        self.commit(self.offset().await);
    }

    /// The journal commits everything at once from now on.
    pub(crate) fn commit_ever(&self) {
        self.commit(Offset::new(u64::MAX / 2));
    }

    pub(crate) fn renew(&self, lease: Duration) {
        self.session
            .hold
            .on_renewed(self.env.now(), lease, Duration::ZERO);
    }
}

pub(crate) async fn session_on(env: &Env, server: &Server, lease: Duration) -> Arc<Session> {
    let (replid, run_id, offset) = identity_of(env, server).await;
    let hold = Hold::new(offset, env.now().plus(lease), env.clone());
    Arc::new(Session::new(
        Epoch::FIRST,
        replid,
        run_id,
        server.upstream(),
        hold,
        UNCOMMITTED_BYTES_MAX,
    ))
}

async fn identity_of(env: &Env, server: &Server) -> (ReplId, RunId, Offset) {
    let mut control = server.control(env).await;
    let replication = control.call(&[b"INFO", b"replication"], SOON).await.unwrap();
    let replication = parse_replication(replication.as_bytes().unwrap()).unwrap();
    let info = control.call(&[b"INFO", b"server"], SOON).await.unwrap();
    let info = parse_server(info.as_bytes().unwrap()).unwrap();
    (replication.replid, info.run_id, replication.offset)
}

/// A client that speaks in bytes.
pub(crate) struct Client {
    env: Env,
    pub(crate) conn: Box<dyn Conn>,
}

impl Client {
    /// Sends bytes as they are; but where clients share a connection, inline commands as arrays, since no inline command
    /// may take it.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let mut bytes = bytes.as_ref().to_vec();
        let inline = bytes.first().is_some_and(u8::is_ascii_alphabetic) && bytes.ends_with(b"\r\n");
        if crate::SHARED && inline && !bytes.contains(&b'$') {
            bytes = as_arrays(&bytes);
        }
        self.send_as_it_is(bytes).await;
    }

    pub(crate) async fn send_as_it_is(&mut self, bytes: impl AsRef<[u8]>) {
        self.env
            .timeout(SOON, self.conn.write_all(bytes.as_ref()))
            .await
            .unwrap()
            .unwrap();
    }

    /// Sends to one that may close before it has taken all.
    pub(crate) async fn send_some(&mut self, bytes: &[u8]) {
        let sent = self.env.timeout(SOON, self.conn.write_all(bytes)).await;
        sent.expect("it takes them or closes").ok();
    }

    /// The next bytes must be these.
    pub(crate) async fn expect(&mut self, want: impl AsRef<[u8]>) {
        let want = want.as_ref();
        let mut got = vec![0; want.len()];
        let read = self.env.timeout(SOON, self.conn.read_exact(&mut got)).await;
        match read {
            Ok(Ok(_)) => assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(want)),
            other => panic!("{other:?} instead of {:?}", String::from_utf8_lossy(want)),
        }
    }

    /// The next line, without its CR LF.
    pub(crate) async fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(
                self.env
                    .timeout(SOON, self.conn.read_u8())
                    .await
                    .unwrap()
                    .unwrap(),
            );
        }
        line.truncate(line.len() - 2);
        String::from_utf8(line).unwrap()
    }

    /// Nothing comes for a while, and the connection stays open.
    pub(crate) async fn expect_silence(&mut self) {
        let mut byte = [0];
        let read = self.env.timeout(A_WHILE, self.conn.read(&mut byte)).await;
        assert!(read.is_err(), "{read:?} {byte:?} instead of silence");
    }

    /// The connection ends, and not a byte comes before that.
    pub(crate) async fn expect_end(&mut self) {
        assert_eq!(String::from_utf8_lossy(&self.rest().await), "");
    }

    /// Everything up to the connection's end.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        // A reset is an end too.
        let _ = self
            .env
            .timeout(SOON, self.conn.read_to_end(&mut all))
            .await
            .expect("the connection must end");
        all
    }
}

/// Inline commands as clients' libraries send them.
fn as_arrays(lines: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    for line in std::str::from_utf8(lines).unwrap().lines() {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        redoubt_resp::stream::encode_command(&args, &mut out);
    }
    out.to_vec()
}
