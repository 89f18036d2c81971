//! Journal nodes as processes, and a writer of theirs.

use redoubt_client::{Client, ClientConfig};
use redoubt_env::Env;
use redoubt_proto::v1;
use redoubt_proto::v1::journal_client::JournalClient;
use redoubt_tests::{Program, redoubt};
use redoubt_types::{Chain, HolderId, JournalName, payload_crc};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tonic::Streaming;

/// The longest there is, renewed by every append: nothing but appends is to be measured.
const LEASE: Duration = Duration::from_secs(600);
const DEADLINE: Duration = Duration::from_secs(60);

/// A journal cluster.
pub(crate) struct Nodes {
    // Ended before their directory is removed.
    programs: Vec<Program>,
    ports: Vec<u16>,
    dir: TempDir,
}

impl Nodes {
    /// Starts `count` nodes and makes them a cluster.
    pub(crate) async fn start(count: u16, base: u16) -> Nodes {
        let mut nodes = Nodes {
            dir: tempfile::tempdir().expect("a directory"),
            ports: (1..=count).map(|i| base + 100 + i).collect(),
            programs: Vec::new(),
        };
        nodes.boot();
        let endpoints = nodes.endpoints().join(",");
        let (code, _, errors) = redoubt(&["bootstrap", "--endpoints", &endpoints]).await;
        assert_eq!(code, 0, "{errors}");
        nodes
    }

    /// Starts the nodes on what they hold.
    pub(crate) fn boot(&mut self) {
        let start = |port: &u16| {
            let dir = self.dir.path().join(port.to_string());
            let dir = dir.to_str().expect("a path");
            let listen = format!("127.0.0.1:{port}");
            let name = format!("node-{port}");
            let args = ["--name", &name, "--listen", &listen, "--dir", dir];
            Program::start("redoubt-journal", &args, &self.dir.path().join("log"))
        };
        self.programs = self.ports.iter().map(start).collect();
    }

    /// Ends the nodes in order.
    pub(crate) async fn stop(&mut self) {
        for program in self.programs.drain(..) {
            program.stop().await;
        }
    }

    /// Has the operating system forget what it holds of the nodes' files, as after a restart of the machine.
    pub(crate) fn chill(&self) {
        for port in &self.ports {
            let dir = self.dir.path().join(port.to_string());
            for entry in std::fs::read_dir(dir).expect("the node's directory").flatten() {
                if entry.file_type().is_ok_and(|t| t.is_file()) {
                    let file = std::fs::File::open(entry.path()).expect("the node's file");
                    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)
                        .expect("advice is taken");
                }
            }
        }
    }

    /// Where the nodes listen.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.ports.iter().map(|p| format!("127.0.0.1:{p}")).collect()
    }

    /// The nodes' processes.
    pub(crate) fn processes(&self) -> Vec<(String, u32)> {
        let named = self.ports.iter().zip(&self.programs);
        named.map(|(port, p)| (port.to_string(), p.pid())).collect()
    }

    /// A client of the cluster.
    pub(crate) fn client(&self) -> Client {
        let config = ClientConfig {
            endpoints: self.endpoints(),
            journal: JournalName::default(),
            cluster: None,
        };
        Client::new(Env::real(), config)
    }

    /// A new writer at the tail.
    pub(crate) async fn writer(&self) -> Writer {
        let client = self.client();
        let holder = HolderId::new(u64::from(std::process::id())).expect("a process id");
        let granted = client.acquire(holder, "bench", LEASE, DEADLINE).await;
        let grant = granted.expect("a quorum grants the epoch");
        let found = client.describe(DEADLINE).await.expect("the journal answers");
        let leader = found.leader.expect("there is a leader");
        let journal = JournalClient::connect(format!("http://{leader}")).await;
        let (requests, stream) = mpsc::channel(1024);
        let stream = futures_util::stream::unfold(stream, |mut rx: mpsc::Receiver<_>| async move {
            Some((rx.recv().await?, rx))
        });
        let answers = journal.expect("the leader listens").append(stream).await;
        Writer {
            leader: leader.rsplit_once(':').expect("host:port").1.to_owned(),
            epoch: grant.epoch.get(),
            replid: grant.lineage.last().replid.to_string(),
            start: grant.position.tail.get(),
            chain: grant.position.tail_chain,
            requests,
            answers: answers.expect("an append stream").into_inner(),
        }
    }
}

/// An append stream to the leader.
pub(crate) struct Writer {
    /// Its name among the processes.
    pub(crate) leader: String,
    epoch: u64,
    replid: String,
    start: u64,
    chain: Chain,
    requests: mpsc::Sender<v1::AppendRequest>,
    answers: Streaming<v1::AppendResponse>,
}

/// Anything that takes entries and answers them in order.
pub(crate) trait Target {
    /// Sends one entry.
    async fn send(&mut self, payload: &bytes::Bytes);
    /// Waits for answers; returns how many entries they answer.
    async fn answered(&mut self) -> u64;
}

impl Target for Writer {
    async fn send(&mut self, payload: &bytes::Bytes) {
        let request = v1::AppendRequest {
            request_id: self.start,
            journal: JournalName::default().as_str().to_owned(),
            entry: Some(v1::Entry {
                epoch: self.epoch,
                replid: self.replid.clone(),
                start: self.start,
                chain: self.chain.get(),
                payload: payload.clone(),
                payload_crc: payload_crc(payload),
                captured_wall_ms: 1,
            }),
            ..Default::default()
        };
        self.start += payload.len() as u64;
        self.chain = self.chain.extend(payload);
        self.requests.send(request).await.expect("the stream goes on");
    }

    async fn answered(&mut self) -> u64 {
        let answer = self.answers.message().await.expect("the stream goes on");
        match answer.and_then(|a| a.outcome) {
            Some(v1::append_response::Outcome::Admitted(_)) => 1,
            other => panic!("an append was answered with {other:?}"),
        }
    }
}

/// A SET command of `bytes` bytes.
pub(crate) fn entry(bytes: usize) -> bytes::Bytes {
    let with = |value: usize| {
        let head = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${value}\r\n");
        [head.as_bytes(), &vec![b'x'; value], b"\r\n"].concat()
    };
    // The length's own digits are part of the length.
    let value = (0..bytes).rev().find(|value| with(*value).len() <= bytes);
    with(value.expect("an entry has room for a command")).into()
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ran {
    /// Entries that were answered.
    pub(crate) entries: u64,
    pub(crate) seconds: f64,
    /// From sending to the answer, ms.
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Keeps `depth` entries on their way until `enough` says so of the entries sent and the time.
pub(crate) async fn drive(
    target: &mut impl Target,
    payload: &bytes::Bytes,
    depth: usize,
    enough: impl Fn(u64, Duration) -> bool,
) -> Ran {
    let began = Instant::now();
    let (mut sent, mut on_the_way, mut took) = (0, VecDeque::new(), Vec::new());
    loop {
        while on_the_way.len() < depth && !enough(sent, began.elapsed()) {
            on_the_way.push_back(Instant::now());
            target.send(payload).await;
            sent += 1;
        }
        if on_the_way.is_empty() {
            break;
        }
        for _ in 0..target.answered().await {
            let at = on_the_way.pop_front().expect("an answer to an entry");
            took.push(at.elapsed().as_secs_f64() * 1e3);
        }
    }
    took.sort_by(f64::total_cmp);
    let quantile = |q: f64| {
        took.get((took.len() as f64 * q) as usize)
            .copied()
            .unwrap_or_default()
    };
    Ran {
        entries: sent,
        seconds: began.elapsed().as_secs_f64(),
        p50_ms: quantile(0.5),
        p99_ms: quantile(0.99),
    }
}
