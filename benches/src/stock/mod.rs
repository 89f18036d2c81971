//! What Redoubt costs, beside a stock Redis, in one run on one machine.
//!
//! Five systems are loaded in turn by the same `redis-benchmark`: (a) a stock server without persistence, (b) a
//! stock server with `appendfsync always`, (c) twemproxy in front of a server as in (a): what a proxy costs that keeps
//! nothing, (d) a whole Redoubt cluster with three journal nodes, where each client has a connection to the server, (e) one where
//! clients share one. All are on this machine. They take turns round by round, so that a slow minute of the machine hits all
//! alike, and the median round is told. All processes share the machine's cores, so CPU time per operation is told beside the
//! throughput.

mod load;
mod report;
mod twemproxy;

use crate::cpu;
use load::{Load, Run};
use redoubt_tests::{DevCluster, Options, Server};
use report::Measured;
use std::time::Duration;
use twemproxy::Twemproxy;

/// Rounds; the median is told.
const ROUNDS: usize = 3;
/// How long a system is left alone before it is loaded.
const SETTLE: Duration = Duration::from_millis(500);

/// A system under load.
struct System {
    name: &'static str,
    port: u16,
    /// Its processes, by name.
    processes: Vec<(String, u32)>,
}

/// Runs it, and prints the table.
pub(crate) async fn run(rounds: Option<usize>) {
    let rounds = rounds.unwrap_or(ROUNDS);
    let plain = Server::start(&[]).await;
    let durable = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let behind = Server::start(&[]).await;
    let twemproxy = Twemproxy::start(behind.port).await;
    let dedicated = redoubt(false).await;
    let shared = redoubt(true).await;
    let systems = [
        System {
            name: "(a) stock",
            port: plain.port,
            processes: vec![("server".into(), plain.pid())],
        },
        System {
            name: "(b) always",
            port: durable.port,
            processes: vec![("server".into(), durable.pid())],
        },
        System {
            name: "(c) twemproxy",
            port: twemproxy.port,
            processes: vec![("server".into(), behind.pid()), ("proxy".into(), twemproxy.pid())],
        },
        of_redoubt("(d) redoubt, dedicated", &dedicated),
        of_redoubt("(e) redoubt, shared", &shared),
    ];
    let mut measured: Vec<Measured> = Vec::new();
    for load in Load::ALL {
        for round in 0..rounds {
            for system in &systems {
                tokio::time::sleep(SETTLE).await;
                let before = cpu::times(&system.processes);
                let run = Run::of(load, system.port).await;
                let after = cpu::times(&system.processes);
                eprintln!(
                    "round {} of {rounds}: {} {}: {:.0}/s",
                    round + 1,
                    system.name,
                    load.name(),
                    run.per_second
                );
                let cpu = cpu::per_operation(&before, &after, run.operations);
                measured.push(Measured {
                    system: system.name,
                    load,
                    run,
                    cpu,
                });
            }
        }
    }
    println!("{}", report::table(&measured));
    for mut cluster in [dedicated, shared] {
        cluster.down().await;
    }
}

/// A cluster whose clients share a connection to the server, or don't.
async fn redoubt(shared: bool) -> DevCluster {
    let shared = shared.to_string();
    DevCluster::start(Options {
        replicas: 0,
        args: vec![("proxy", "--shared-upstream".to_owned()), ("proxy", shared)],
        ..Options::default()
    })
    .await
}

fn of_redoubt(name: &'static str, cluster: &DevCluster) -> System {
    let processes = cluster.components().expect("the cluster is healthy");
    System {
        name,
        port: cluster.port("proxy-1"),
        processes: processes
            .into_iter()
            .filter_map(|c| Some((c.name, c.pid?)))
            .collect(),
    }
}
