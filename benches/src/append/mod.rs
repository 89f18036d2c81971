//! Appends to the journal beside a bare quorum append, three processes each.
//!
//! The same driver keeps the same number of the same entries on their way to both, in turns, so that a slow minute of the
//! machine hits both; the median round is told.

pub(crate) mod bare;

use crate::cpu;
use crate::nodes::{Nodes, Ran, Target, Writer, drive, entry};
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use redoubt_tests::{Program, free_base};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Rounds; the median is told.
const ROUNDS: usize = 3;
/// How long one system is loaded at a time.
const RUN: Duration = Duration::from_secs(2);
/// How long the machine is left alone between two runs.
const SETTLE: Duration = Duration::from_millis(300);
pub(crate) const PAYLOADS: [usize; 4] = [128, 4 << 10, 64 << 10, 1 << 20];
pub(crate) const DEPTHS: [usize; 3] = [1, 16, 256];

/// The bare one, seen from outside.
struct Bare {
    stream: TcpStream,
    answered: u64,
}

impl Target for Bare {
    async fn send(&mut self, payload: &bytes::Bytes) {
        let len = (payload.len() as u32).to_le_bytes();
        self.stream.write_all(&len).await.expect("the bare leader reads");
        self.stream
            .write_all(payload)
            .await
            .expect("the bare leader reads");
    }

    async fn answered(&mut self) -> u64 {
        let answered = self.stream.read_u64_le().await.expect("the bare leader answers");
        let more = answered - self.answered;
        self.answered = answered;
        more
    }
}

/// A run of one system, and what its processes used, µs per entry.
struct Row {
    ran: Ran,
    cpu: BTreeMap<String, f64>,
}

async fn measured(target: &mut impl Target, bytes: usize, depth: usize, processes: &[(String, u32)]) -> Row {
    tokio::time::sleep(SETTLE).await;
    let before = cpu::times(processes);
    let ran = drive(target, &entry(bytes), depth, |_, passed| passed >= RUN).await;
    let cpu = cpu::per_operation(&before, &cpu::times(processes), ran.entries);
    Row { ran, cpu }
}

fn per_second(row: &Row) -> f64 {
    row.ran.entries as f64 / row.ran.seconds
}

fn median(mut rows: Vec<Row>) -> Row {
    rows.sort_by(|a, b| per_second(a).total_cmp(&per_second(b)));
    rows.swap_remove(rows.len() / 2)
}

/// The nodes' processes, each with what it is called.
fn processes(nodes: &Nodes, writer: &Writer) -> Vec<(String, u32)> {
    let name = |port: String| match port == writer.leader {
        true => "leader".to_owned(),
        false => port,
    };
    let processes = nodes.processes().into_iter();
    processes.map(|(port, pid)| (name(port), pid)).collect()
}

/// Runs it, and prints the table.
pub(crate) async fn run(rounds: Option<usize>, payloads: &[usize], depths: &[usize]) {
    let rounds = rounds.unwrap_or(ROUNDS);
    let base = free_base();
    let dir = tempfile::tempdir().expect("a directory");
    let ports = [base + 201, base + 211, base + 212];
    let start = |i: usize| {
        let file = dir.path().join(i.to_string());
        let port = ports[i].to_string();
        let followers = [ports[1].to_string(), ports[2].to_string()];
        let mut args = vec!["bare-node", &port, file.to_str().expect("a path")];
        if i == 0 {
            args.extend(followers.iter().map(String::as_str));
        }
        Program::start("redoubt-bench", &args, &dir.path().join("log"))
    };
    let bare_nodes = [start(0), start(1), start(2)];
    let theirs: Vec<(String, u32)> = ["leader", "follower-1", "follower-2"]
        .into_iter()
        .zip(&bare_nodes)
        .map(|(name, p)| (name.to_owned(), p.pid()))
        .collect();
    let stream = loop {
        match TcpStream::connect(("127.0.0.1", ports[0])).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    stream.set_nodelay(true).expect("a socket option");
    let mut bare = Bare { stream, answered: 0 };

    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    table.set_header([
        "payload",
        "depth",
        "system",
        "entries/s",
        "MB/s",
        "× bare",
        "p50 ms",
        "× bare",
        "p99 ms",
        "CPU µs per entry",
    ]);
    for &bytes in payloads {
        for &depth in depths {
            // Anew each time: what three nodes write in one row would else fill a disk by the last.
            let nodes = Nodes::start(3, base).await;
            let mut writer = nodes.writer().await;
            let ours = processes(&nodes, &writer);
            let (mut of_bare, mut of_ours) = (Vec::new(), Vec::new());
            for round in 1..=rounds {
                of_bare.push(measured(&mut bare, bytes, depth, &theirs).await);
                of_ours.push(measured(&mut writer, bytes, depth, &ours).await);
                let last = |rows: &[Row]| rows.last().map_or(0.0, per_second);
                eprintln!(
                    "{bytes} bytes, depth {depth}, round {round} of {rounds}: bare {:.0}/s, redoubt {:.0}/s",
                    last(&of_bare),
                    last(&of_ours)
                );
            }
            let (of_bare, of_ours) = (median(of_bare), median(of_ours));
            let base = (per_second(&of_bare), of_bare.ran.p50_ms);
            for (system, row) in [("bare", &of_bare), ("redoubt", &of_ours)] {
                let cpu: Vec<String> = row
                    .cpu
                    .iter()
                    .map(|(name, us)| format!("{name} {us:.0}"))
                    .collect();
                table.add_row([
                    bytes.to_string(),
                    depth.to_string(),
                    system.to_owned(),
                    format!("{:.0}", per_second(row)),
                    format!("{:.1}", per_second(row) * bytes as f64 / 1e6),
                    format!("{:.2}", per_second(row) / base.0),
                    format!("{:.2}", row.ran.p50_ms),
                    format!("{:.2}", row.ran.p50_ms / base.1),
                    format!("{:.2}", row.ran.p99_ms),
                    cpu.join(", "),
                ]);
            }
        }
    }
    println!("{table}");
    drop(bare_nodes);
}
