//! Many connections at once: half of them idle, half doing a little work. What the proxy's memory grows by, and how long the
//! answers take.

use crate::open::mib;
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use redoubt_tests::{DevCluster, Options, memory};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Connections, half of them idle.
const CONNECTIONS: usize = 10_000;
/// What one of the others does between two requests.
const THINKS: Duration = Duration::from_secs(2);
/// How long they work.
const WORKS: Duration = Duration::from_secs(20);
/// One request in so many is a write.
const WRITES: usize = 10;
const VALUE: usize = 100;

/// Runs it, and prints the table.
pub(crate) async fn run(connections: Option<usize>) {
    let connections = connections.unwrap_or(CONNECTIONS);
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    table.set_header([
        "clients",
        "memory MiB before",
        "with all idle",
        "with half of them at work",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "longest ms",
    ]);
    for shared in [true, false] {
        // A server with its own default of 10,000 takes fewer than that for clients with their own.
        let maxclients = (connections + 200).to_string();
        let mut cluster = DevCluster::start(Options {
            replicas: 0,
            args: vec![
                ("proxy", format!("--shared-upstream={shared}")),
                ("proxy", format!("--clients-max={connections}")),
                ("master", "--maxclients".to_owned()),
                ("master", maxclients),
            ],
            ..Options::default()
        })
        .await;
        let proxy = cluster.component("proxy-1");
        let pid = proxy.pid.expect("it runs");
        let memory = || format!("{:.0}", mib(memory(pid, "VmRSS")));
        let before = memory();
        let mut clients = Vec::new();
        for _ in 0..connections {
            clients.push(Client::connect(cluster.port("proxy-1")).await);
        }
        let idle = memory();
        let working = clients.split_off(connections / 2);
        let (mut took, busy) = work(working, memory).await;
        took.sort_unstable();
        let at = |share: f64| {
            let index = (took.len() as f64 * share) as usize;
            format!("{:.2}", took[index.min(took.len() - 1)].as_secs_f64() * 1e3)
        };
        table.add_row([
            format!("{connections}, {}", if shared { "shared" } else { "dedicated" }),
            before,
            idle,
            busy,
            format!("{:.0}", took.len() as f64 / WORKS.as_secs_f64()),
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0),
        ]);
        drop(clients);
        cluster.down().await;
    }
    println!("{table}");
}

/// Has them work; how long each answer took, and what `memory` told at the end.
async fn work(clients: Vec<Client>, memory: impl Fn() -> String) -> (Vec<Duration>, String) {
    let mut tasks = JoinSet::new();
    let (count, end) = (clients.len(), Instant::now() + WORKS);
    for (n, mut client) in clients.into_iter().enumerate() {
        tasks.spawn(async move {
            let mut took = Vec::new();
            // One after the other over the time that each takes to think.
            tokio::time::sleep(THINKS.mul_f64(n as f64 / count as f64)).await;
            while Instant::now() < end {
                let began = Instant::now();
                if (n + took.len()).is_multiple_of(WRITES) {
                    client.set(n).await;
                } else {
                    client.get(n).await;
                }
                took.push(began.elapsed());
                tokio::time::sleep(THINKS).await;
            }
            (client, took)
        });
    }
    let done = tasks.join_all().await;
    let memory = memory();
    (done.into_iter().flat_map(|(_, took)| took).collect(), memory)
}

/// A client that knows two commands.
struct Client(TcpStream);

impl Client {
    /// Connects, and sees that it is served.
    async fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connects");
        let mut client = Client(stream);
        client.ask(b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n").await;
        client
    }

    async fn set(&mut self, n: usize) {
        let value = "v".repeat(VALUE);
        let command = format!("*3\r\n$3\r\nSET\r\n$8\r\nkey{n:05}\r\n${VALUE}\r\n{value}\r\n");
        self.ask(command.as_bytes(), b"+OK\r\n").await;
    }

    async fn get(&mut self, n: usize) {
        self.0
            .write_all(format!("*2\r\n$3\r\nGET\r\n$8\r\nkey{n:05}\r\n").as_bytes())
            .await
            .expect("it is connected");
        let mut answer = Vec::new();
        let whole = [5, format!("${VALUE}\r\n\r\n").len() + VALUE];
        while !(whole.contains(&answer.len()) && answer.ends_with(b"\r\n")) {
            let read = self.0.read_buf(&mut answer).await.expect("it is connected");
            assert!(read > 0, "the connection was closed");
        }
    }

    async fn ask(&mut self, command: &[u8], answer: &[u8]) {
        self.0.write_all(command).await.expect("it is connected");
        let mut got = vec![0; answer.len()];
        self.0.read_exact(&mut got).await.expect("it is answered");
        assert_eq!(got, answer);
    }
}
