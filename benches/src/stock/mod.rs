//! What Redoubt costs, beside a stock Redis, in one run on one machine.
//!
//! Six systems (`systems`) are loaded in turn by the same generator ([`crate::load`]). They take turns round by round, so that
//! a slow minute of the machine hits all alike, and the median round is told. All processes share the machine's cores, so CPU
//! time per operation of each is told beside the throughput.

mod report;
mod systems;
mod twemproxy;

use crate::load::{Crowd, Load, Spell, Test};
use report::Measured;
pub(crate) use report::markdown;
use std::time::{Duration, Instant};
use systems::{Kind, System};

/// Rounds; the median is told.
const ROUNDS: usize = 3;
/// How long a load is put on a system, in each round. All loads, systems and rounds take some twenty minutes.
const MEASURED: Duration = Duration::from_millis(1200);
/// Before anything is measured.
const WARM_UP: Duration = Duration::from_millis(200);
/// How long a system is left alone before it is loaded.
const SETTLE: Duration = Duration::from_millis(200);
/// Operations a second where all systems have the same to do: less than any of them can.
const RATE: u32 = 10_000;

/// What is to be measured; of lists, what is not empty.
#[derive(clap::Args)]
pub(crate) struct Wanted {
    /// Rounds; the median is told.
    #[arg(default_value_t = ROUNDS)]
    rounds: usize,
    /// Only these systems. They are compared with the first of them.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Kind>,
    /// Only these kinds of operations.
    #[arg(long, value_enum, value_delimiter = ',')]
    test: Vec<Test>,
    /// Only so many clients.
    #[arg(long, value_delimiter = ',')]
    clients: Vec<usize>,
    /// Only so many requests of a client at a time.
    #[arg(long, value_delimiter = ',')]
    pipeline: Vec<usize>,
    /// Only values of so many bytes.
    #[arg(long, value_delimiter = ',')]
    bytes: Vec<usize>,
    /// How long each load is put on a system in each round, seconds.
    #[arg(long)]
    seconds: Option<f64>,
}

impl Wanted {
    fn systems(&self) -> Vec<Kind> {
        let all = [
            Kind::Stock,
            Kind::Always,
            Kind::Wait,
            Kind::Twemproxy,
            Kind::Dedicated,
            Kind::Shared,
        ];
        all.into_iter().filter(|kind| among(&self.only, kind)).collect()
    }

    /// In the order of the report. Values of one size come together, since each system is filled with them.
    fn loads(&self) -> Vec<Load> {
        let mut loads = Vec::new();
        for bytes in [100, 4096] {
            for clients in [1, 50, 1000] {
                for pipeline in [1, 16] {
                    for test in [Test::Set, Test::Get, Test::Mix] {
                        loads.push(Load {
                            test,
                            clients,
                            pipeline,
                            bytes,
                            rate: None,
                        });
                    }
                }
                // Of a pipeline the reads would wait for the writes before them, whatever their keys.
                for rate in [None, Some(RATE)] {
                    loads.push(Load {
                        test: Test::Clean,
                        clients,
                        pipeline: 1,
                        bytes,
                        rate,
                    });
                }
            }
        }
        // One client does not reach the rate, nor is there anybody else's write to wait for.
        loads.retain(|load| load.test != Test::Clean || (load.clients > 1 && load.bytes == 100));
        loads.retain(|load| {
            among(&self.test, &load.test)
                && among(&self.clients, &load.clients)
                && among(&self.pipeline, &load.pipeline)
                && among(&self.bytes, &load.bytes)
        });
        loads
    }
}

/// Whether `one` is wanted.
fn among<T: PartialEq>(wanted: &[T], one: &T) -> bool {
    wanted.is_empty() || wanted.contains(one)
}

/// Whether a load is put on a system.
fn is_measured(kind: Kind, load: Load) -> bool {
    match load.test {
        Test::Get | Test::Clean => !kind.reads_as_stock(),
        Test::Set | Test::Mix => true,
    }
}

/// Runs it, and prints the tables.
///
/// # Errors
/// How many answers were wrong, if any.
pub(crate) async fn run(wanted: Wanted) -> Result<(), String> {
    let (kinds, loads) = (wanted.systems(), wanted.loads());
    let mut systems = Vec::new();
    for kind in &kinds {
        systems.push(System::start(*kind).await);
    }
    let spell = Spell {
        warm_up: WARM_UP,
        measured: wanted.seconds.map_or(MEASURED, Duration::from_secs_f64),
    };
    let (began, mut measured) = (Instant::now(), Vec::new());
    for (n, load) in loads.iter().enumerate() {
        for _ in 0..wanted.rounds {
            for system in &mut systems {
                if is_measured(system.kind, *load) {
                    measured.push(measure(system, *load, spell).await);
                }
            }
        }
        let passed = began.elapsed().as_secs();
        eprintln!("{} of {} loads, {passed} s: {}", n + 1, loads.len(), load.name());
        eprintln!("{}", report::table(&kinds, &[*load], &measured));
    }
    println!("{}", report::table(&kinds, &loads, &measured));
    println!("\n{}", report::targets(&loads, &measured));
    for system in systems {
        system.stop().await;
    }
    report::wrong(&measured)
}

/// One round of one load on one system.
async fn measure(system: &mut System, load: Load, spell: Spell) -> Measured {
    let target = system.target(load.bytes).await;
    let crowd = Crowd::connect(target.port, load.clients).await;
    tokio::time::sleep(SETTLE).await;
    let (run, ()) = crowd.work(load, target, spell, &system.processes(), || ()).await;
    Measured {
        system: system.kind,
        load,
        run,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        wanted: Wanted,
    }

    fn wanted(line: &str) -> Wanted {
        Line::parse_from(["x"].into_iter().chain(line.split_whitespace())).wanted
    }

    #[test]
    fn without_a_word_all_is_measured() {
        let all = wanted("");
        assert_eq!(
            (all.systems().len(), all.loads().len(), all.rounds),
            (6, 40, ROUNDS)
        );
    }

    #[test]
    fn single_rows_can_be_asked_for() {
        let one = wanted("7 --only twemproxy,shared --test set --clients 50 --pipeline 1 --bytes 100");
        assert_eq!(one.systems(), [Kind::Twemproxy, Kind::Shared]);
        let names: Vec<String> = one.loads().into_iter().map(Load::name).collect();
        assert_eq!(names, ["SET, 100 B, 50 clients, pipeline 1"]);
        assert_eq!(one.rounds, 7);
    }
}
