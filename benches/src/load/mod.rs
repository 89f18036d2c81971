//! The load generator: a fixed number of clients, each with so many requests on their way, and what their answers took.
//!
//! One thread drives all clients, since the systems that it loads share the machine's cores with it: a client writes its
//! requests in one call, and reads what there is in another. Answers are checked; a wrong one ends its client, and is told.

mod client;
mod commands;

use crate::cpu::{self, Times};
use client::{Client, Pace};
use commands::Kind;
use hdrhistogram::Histogram;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Clients that connect at a time: fewer than any server's queue of those that it has not accepted yet.
const CONNECT_AT_ONCE: usize = 100;
/// How long all clients may take to connect, or to end once they should.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long clients go on after the end of what is measured, so that it ends under load.
const OVERTIME: Duration = Duration::from_millis(50);
/// Latencies are told to three digits.
const DIGITS: u8 = 3;
/// Of ten operations of a mix, so many are writes.
const WRITES_OF_TEN: u64 = 1;

/// What kinds of operations, on which keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Test {
    Set,
    Get,
    /// One SET to nine GETs, of the same keys.
    Mix,
    /// One SET to nine GETs of keys that nobody writes.
    Clean,
}

impl Test {
    /// Which operation comes next, by a random number: whether it is a write, and of which of `keys` keys.
    fn draw(self, random: u64, keys: u64) -> (bool, u64) {
        let (what, key) = (random >> 40, random % keys);
        let writes = what % 10 < WRITES_OF_TEN;
        match self {
            Test::Set => (true, key),
            Test::Get => (false, key),
            Test::Mix => (writes, key),
            Test::Clean => (writes, if writes { key / 2 } else { keys / 2 + key / 2 }),
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) test: Test,
    pub(crate) clients: usize,
    /// Requests of a client at a time.
    pub(crate) pipeline: usize,
    /// Of a value.
    pub(crate) bytes: usize,
    /// Operations a second, of all clients together; else each sends the next ones when it has its answers.
    pub(crate) rate: Option<u32>,
}

impl Load {
    /// For people.
    pub(crate) fn name(self) -> String {
        let test = match self.test {
            Test::Set => "SET",
            Test::Get => "GET",
            Test::Mix => "1 SET : 9 GET",
            Test::Clean => "1 SET : 9 GET of other keys",
        };
        let rate = self.rate.map_or(String::new(), |rate| format!(", {rate}/s"));
        let Load {
            clients,
            pipeline,
            bytes,
            ..
        } = self;
        format!("{test}, {bytes} B, {clients} clients, pipeline {pipeline}{rate}")
    }
}

/// What the load is put on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) port: u16,
    /// Whether each write has a `WAIT 1 0` behind it, whose answer it waits for.
    pub(crate) waits: bool,
    /// Keys that there are.
    pub(crate) keys: u64,
}

/// How long a load is put on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spell {
    /// Before anything is measured.
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// Operations answered.
    pub(crate) operations: u64,
    pub(crate) seconds: f64,
    /// What each write took, nanoseconds.
    pub(crate) sets: Histogram<u64>,
    /// What each read took.
    pub(crate) gets: Histogram<u64>,
    /// Answers that were wrong, and connections that were lost.
    pub(crate) wrong: u64,
    /// The first of them.
    pub(crate) first_wrong: Option<String>,
    /// CPU time per operation of each process, microseconds.
    pub(crate) cpu: Times,
}

impl Run {
    /// Operations a second.
    pub(crate) fn per_second(&self) -> f64 {
        self.operations as f64 / self.seconds
    }
}

/// A latency for people.
pub(crate) fn ms(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1e6
}

/// What all clients of a run add to.
struct Tally {
    sets: Histogram<u64>,
    gets: Histogram<u64>,
    wrong: u64,
    first_wrong: Option<String>,
}

impl Tally {
    fn new() -> Self {
        let histogram = || Histogram::new(DIGITS).expect("a number of digits that there is");
        Tally {
            sets: histogram(),
            gets: histogram(),
            wrong: 0,
            first_wrong: None,
        }
    }

    fn answered(&mut self, kind: Kind, took: Duration) {
        let histogram = match kind {
            Kind::Set => &mut self.sets,
            Kind::Get => &mut self.gets,
        };
        *histogram += took.as_nanos() as u64;
    }

    fn wrong(&mut self, what: String) {
        self.wrong += 1;
        self.first_wrong.get_or_insert(what);
    }
}

/// Clients that are connected.
pub(crate) struct Crowd(Vec<Client>);

impl Crowd {
    /// Connects `count` clients, and sees that each is served.
    pub(crate) async fn connect(port: u16, count: usize) -> Crowd {
        let all = async {
            let (mut clients, mut connecting) = (Vec::with_capacity(count), JoinSet::new());
            for n in 0..count {
                if connecting.len() == CONNECT_AT_ONCE
                    && let Some(client) = connecting.join_next().await
                {
                    clients.push(client.expect("no task fails"));
                }
                connecting.spawn(Client::connect(port, n as u64));
            }
            clients.extend(connecting.join_all().await);
            clients
        };
        let clients = tokio::time::timeout(PATIENCE, all).await;
        Crowd(clients.unwrap_or_else(|_| panic!("{count} clients are not served within {PATIENCE:?}")))
    }

    /// Splits off those behind the first `at`.
    pub(crate) fn split_off(&mut self, at: usize) -> Crowd {
        Crowd(self.0.split_off(at))
    }

    /// Has all of them do what `load` says; they are gone then. CPU time is that of `processes` in what is measured, and `now`
    /// is called at its end.
    pub(crate) async fn work<T>(
        self,
        load: Load,
        target: Target,
        spell: Spell,
        processes: &[(String, u32)],
        now: impl FnOnce() -> T,
    ) -> (Run, T) {
        assert_eq!(self.0.len(), load.clients, "the load has as many clients");
        let tally = Arc::new(Mutex::new(Tally::new()));
        let began = Instant::now();
        let end = began + spell.warm_up + spell.measured;
        let mut working = JoinSet::new();
        for (n, client) in self.0.into_iter().enumerate() {
            let share = |rate: u32| Pace {
                next: began + Duration::from_secs_f64(n as f64 / f64::from(rate)),
                every: Duration::from_secs_f64((load.clients * load.pipeline) as f64 / f64::from(rate)),
            };
            let pace = load.rate.map(share);
            working.spawn(client.work(load, target, pace, end + OVERTIME, Arc::clone(&tally)));
        }
        tokio::time::sleep(spell.warm_up).await;
        let lock = || tally.lock().expect("no client has failed");
        let (before, first) = (cpu::times(processes), Instant::now());
        let warm = std::mem::replace(&mut *lock(), Tally::new());
        tokio::time::sleep_until(end.into()).await;
        let Tally {
            sets,
            gets,
            wrong,
            first_wrong,
        } = std::mem::replace(&mut *lock(), Tally::new());
        let (seconds, after, seen) = (first.elapsed().as_secs_f64(), cpu::times(processes), now());
        let ended = tokio::time::timeout(PATIENCE, working.join_all()).await;
        ended.unwrap_or_else(|_| panic!("{}: clients wait for answers for {PATIENCE:?}", load.name()));
        let late = std::mem::replace(&mut *lock(), Tally::new());
        let operations = sets.len() + gets.len();
        let run = Run {
            operations,
            seconds,
            sets,
            gets,
            wrong: warm.wrong + wrong + late.wrong,
            first_wrong: warm.first_wrong.or(first_wrong).or(late.first_wrong),
            cpu: cpu::per_operation(&before, &after, operations),
        };
        (run, seen)
    }
}

/// Gives every key of `target` a value of `bytes` bytes.
pub(crate) async fn fill(target: Target, bytes: usize) {
    let mut client = Client::connect(target.port, 0).await;
    client
        .fill(target.keys, bytes)
        .await
        .unwrap_or_else(|error| panic!("keys can't be written: {error}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_keys_are_written_by_nobody() {
        let mut writes = 0;
        for i in 0..10_000_u64 {
            let random = i.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let (write, key) = Test::Clean.draw(random, 1000);
            assert_eq!(write, key < 500, "key {key}");
            assert!(key < 1000);
            writes += u64::from(write);
        }
        assert!((900..1100).contains(&writes), "{writes} of 10,000");
    }
}
