//! Many clients at once: half of them idle, half with a request from time to time. What the proxy and its server need of memory,
//! and how long the answers take.

use crate::load::{Crowd, Load, Run, Spell, Target, Test, fill, ms};
use crate::open::mib;
use crate::stock::markdown;
use redoubt_tests::{DevCluster, Options, memory};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::time::Duration;

/// Clients, half of them idle.
pub(crate) const CLIENTS: usize = 10_000;
/// Operations a second of the other half: of 5,000, each has one a second.
const RATE: u32 = 5_000;
/// How long they work.
const SPELL: Spell = Spell {
    warm_up: Duration::from_secs(3),
    measured: Duration::from_secs(20),
};
const KEYS: u64 = 100_000;
const BYTES: usize = 100;
/// Connections and files that a process has beside those of the clients, at most.
const OTHER_FILES: usize = 100;

/// Runs it, and prints the table.
///
/// # Errors
/// Wrong answers.
pub(crate) async fn run(clients: usize) -> Result<(), String> {
    let files = open_files();
    let mut table = markdown([
        "clients",
        "MiB of the proxy: before",
        "all idle",
        "half at work",
        "of the master: before",
        "all idle",
        "half at work",
        "operations/s",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "longest ms",
        "CPU µs per operation",
    ]);
    let mut wrong = Vec::new();
    for shared in [true, false] {
        // The proxy has another connection for each client with a server connection of its own.
        let fit = files.saturating_sub(OTHER_FILES) / if shared { 1 } else { 2 };
        let clients = clients.min(fit);
        let name = format!("{clients}, {}", if shared { "shared" } else { "dedicated" });
        let (memory, run) = measure(clients, shared).await;
        let [before, idle, busy] = memory.map(|both| both.map(|bytes| format!("{:.0}", mib(bytes))));
        let mut all = run.sets.clone();
        all.add(&run.gets).expect("both are of one kind");
        let mut row = vec![name.clone()];
        for i in 0..2 {
            row.extend([before[i].clone(), idle[i].clone(), busy[i].clone()]);
        }
        row.push(format!("{:.0}", run.per_second()));
        row.extend([0.5, 0.99, 0.999, 1.0].map(|quantile| format!("{:.2}", ms(&all, quantile))));
        row.push(crate::cpu::shown(&run.cpu));
        table.add_row(row);
        eprintln!("{table}");
        wrong.extend(
            run.first_wrong
                .map(|first| format!("{name}: {} clients: {first}", run.wrong)),
        );
    }
    println!("{table}");
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n"))
    }
}

/// Memory of proxy and master: before, with all clients idle, and after half of them have worked; and how they did.
async fn measure(clients: usize, shared: bool) -> ([[u64; 2]; 3], Run) {
    // A server with its own default of 10,000 takes fewer than that for clients with their own.
    let maxclients = clients + OTHER_FILES;
    let mut cluster = DevCluster::start(Options {
        replicas: 0,
        args: vec![
            ("proxy", format!("--shared-upstream={shared}")),
            ("proxy", format!("--clients-max={maxclients}")),
            ("master", "--maxclients".to_owned()),
            ("master", maxclients.to_string()),
        ],
        ..Options::default()
    })
    .await;
    let components = cluster.components().expect("the cluster is healthy").into_iter();
    let processes: Vec<(String, u32)> = components.filter_map(|c| Some((c.name, c.pid?))).collect();
    let pid = |name| cluster.component(name).pid.expect("it runs");
    let pids = [pid("proxy-1"), pid("master-1")];
    let now = || pids.map(|pid| memory(pid, "VmRSS"));
    let target = Target {
        port: cluster.port("proxy-1"),
        waits: false,
        keys: KEYS,
    };
    fill(target, BYTES).await;
    let before = now();
    let mut idle = Crowd::connect(target.port, clients).await;
    let connected = now();
    let working = idle.split_off(clients - clients / 2);
    let load = Load {
        test: Test::Mix,
        clients: clients / 2,
        pipeline: 1,
        bytes: BYTES,
        rate: Some(RATE),
    };
    let (run, busy) = working.work(load, target, SPELL, &processes, now).await;
    drop(idle);
    cluster.down().await;
    ([before, connected, busy], run)
}

/// Lets this process, and those that it starts, open as many files as the system allows; returns how many.
fn open_files() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit).expect("a limit may be raised up to its maximum");
    maximum
        .and_then(|most| most.try_into().ok())
        .unwrap_or(usize::MAX)
}
