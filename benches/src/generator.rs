//! The load generator beside `redis-benchmark`, on one stock server: what it measures must not be itself.

use crate::cpu;
use crate::load::{Crowd, Load, Spell, Target, Test, fill};
use crate::stock::markdown;
use redoubt_tests::Server;
use std::time::Duration;
use tokio::process::Command;

const ROUNDS: usize = 5;
const KEYS: u64 = 100_000;
const BYTES: usize = 100;
const SPELL: Spell = Spell {
    warm_up: Duration::from_millis(200),
    measured: Duration::from_secs(2),
};

/// One round of one of them.
struct Round {
    per_second: f64,
    /// CPU time of the server and of the generator, microseconds per operation.
    cpu: [f64; 2],
}

/// Runs it, and prints the table.
pub(crate) async fn run() {
    let server = Server::start(&[]).await;
    let target = Target {
        port: server.port,
        waits: false,
        keys: KEYS,
    };
    fill(target, BYTES).await;
    let mut table = markdown([
        "load",
        "generator",
        "operations/s",
        "CPU µs per operation: server",
        "generator",
    ]);
    for clients in [1, 50, 1000] {
        for pipeline in [1, 16] {
            for test in [Test::Set, Test::Get] {
                let load = Load {
                    test,
                    clients,
                    pipeline,
                    bytes: BYTES,
                    rate: None,
                };
                let (mut ours, mut theirs) = (Vec::new(), Vec::new());
                for _ in 0..ROUNDS {
                    ours.push(own(load, target, &server).await);
                    let enough = ours.last().map_or(0.0, |r| r.per_second) * SPELL.measured.as_secs_f64();
                    theirs.push(redis_benchmark(load, enough as u64, &server).await);
                }
                let mut name = load.name();
                for (generator, rounds) in [("own", &mut ours), ("redis-benchmark", &mut theirs)] {
                    rounds.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
                    let Round { per_second, cpu } = rounds[ROUNDS / 2];
                    let [of_server, of_generator] = cpu.map(|us| format!("{us:.1}"));
                    table.add_row([
                        std::mem::take(&mut name),
                        generator.to_owned(),
                        format!("{per_second:.0}"),
                        of_server,
                        of_generator,
                    ]);
                }
                eprintln!("{table}");
            }
        }
    }
    println!("{table}");
}

/// One round of our own generator.
async fn own(load: Load, target: Target, server: &Server) -> Round {
    let processes = [
        ("server".to_owned(), server.pid()),
        ("load".to_owned(), std::process::id()),
    ];
    let crowd = Crowd::connect(target.port, load.clients).await;
    let (run, ()) = crowd.work(load, target, SPELL, &processes, || ()).await;
    assert_eq!(run.first_wrong, None);
    Round {
        per_second: run.per_second(),
        cpu: ["server", "load"].map(|name| run.cpu.get(name).copied().unwrap_or_default()),
    }
}

/// One round of `redis-benchmark`, of so many operations.
async fn redis_benchmark(load: Load, operations: u64, server: &Server) -> Round {
    let test = if load.test == Test::Set { "set" } else { "get" };
    let processes = [("server".to_owned(), server.pid())];
    let (before, children) = (cpu::times(&processes), cpu::of_ended_children());
    let output = Command::new("redis-benchmark")
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &server.port.to_string(),
            "-t",
            test,
            "--csv",
        ])
        .args(["-c", &load.clients.to_string(), "-P", &load.pipeline.to_string()])
        .args(["-d", &load.bytes.to_string(), "-r", &KEYS.to_string()])
        .args(["-n", &operations.to_string()])
        .output()
        .await
        .expect("redis-benchmark runs");
    assert!(output.status.success(), "redis-benchmark: {output:?}");
    let of_server = cpu::per_operation(&before, &cpu::times(&processes), operations);
    let of_generator = (cpu::of_ended_children() - children) * 1e6 / operations as f64;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Round {
        // Its own count leaves out how long it takes to start.
        per_second: parse(&text, test).unwrap_or_else(|| panic!("redis-benchmark printed {text:?}")),
        cpu: [of_server.get("server").copied().unwrap_or_default(), of_generator],
    }
}

/// Operations a second, in `"test","rps","avg_latency_ms",…` and lines of that kind.
fn parse(text: &str, test: &str) -> Option<f64> {
    let name = format!("\"{}\",", test.to_uppercase());
    let line = text.lines().find_map(|line| line.strip_prefix(&name))?;
    line.split(',').next()?.trim_matches('"').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_redis_benchmark_prints() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\
                    \"p99_latency_ms\",\"max_latency_ms\"\n\
                    \"SET\",\"83333.33\",\"0.3\",\"0.1\",\"0.295\",\"0.4\",\"0.511\",\"1.2\"\n";
        assert_eq!(parse(text, "set"), Some(83333.33));
        assert_eq!(parse(text, "get"), None);
    }
}
