//! Clients that append unique tokens which are never overwritten, and remember what was acknowledged and what
//! they saw.

use redis::aio::MultiplexedConnection;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// What the clients of a run remember.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Tokens that were acknowledged, by list.
    pub acked: BTreeMap<String, Vec<u64>>,
    /// Tokens that some reader saw, by list.
    pub seen: BTreeMap<String, BTreeSet<u64>>,
    /// Connections that were closed or refused while a request was under way.
    pub broken: u64,
    /// The longest time between two acknowledgements anywhere.
    pub outage: Duration,
}

impl Outcome {
    /// How many tokens were acknowledged.
    pub fn acked_count(&self) -> usize {
        self.acked.values().map(Vec::len).sum()
    }

    /// Looks into a server: every acknowledged token must be there exactly once and in its client's order,
    /// and so must every token that a reader saw.
    ///
    /// # Panics
    /// With the tokens that are missing or there twice.
    pub async fn assert_kept_by(&self, conn: &mut MultiplexedConnection) {
        let lists: BTreeSet<&String> = self.acked.keys().chain(self.seen.keys()).collect();
        for list in lists {
            let held: Vec<u64> = redis::cmd("LRANGE")
                .arg(list)
                .arg(0)
                .arg(-1)
                .query_async(conn)
                .await
                .expect("LRANGE");
            assert!(
                held.windows(2).all(|w| w[0] < w[1]),
                "{list} holds tokens twice or out of order: {held:?}"
            );
            let held: BTreeSet<u64> = held.into_iter().collect();
            let none = Vec::new();
            let lost: Vec<&u64> = self
                .acked
                .get(list)
                .unwrap_or(&none)
                .iter()
                .filter(|t| !held.contains(t))
                .collect();
            assert!(lost.is_empty(), "{list}: acknowledged and lost: {lost:?}");
            let none = BTreeSet::new();
            let dirty: Vec<&u64> = self
                .seen
                .get(list)
                .unwrap_or(&none)
                .iter()
                .filter(|t| !held.contains(t))
                .collect();
            assert!(dirty.is_empty(), "{list}: seen by a reader and lost: {dirty:?}");
        }
    }
}

/// A run of clients.
pub struct Tokens {
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    broken: Arc<AtomicU64>,
    outcome: Arc<Mutex<Outcome>>,
    tasks: Vec<JoinHandle<()>>,
}

/// What all clients of a run share.
#[derive(Clone)]
struct Shared {
    port: u16,
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    broken: Arc<AtomicU64>,
    outcome: Arc<Mutex<Outcome>>,
    last_ack: Arc<Mutex<Instant>>,
}

impl Tokens {
    /// Starts `writers` clients that append, and half as many that read, through a proxy's port.
    pub fn start(port: u16, writers: usize, name: &str) -> Tokens {
        let shared = Shared {
            port,
            stop: Arc::default(),
            acked: Arc::default(),
            broken: Arc::default(),
            outcome: Arc::default(),
            last_ack: Arc::new(Mutex::new(Instant::now())),
        };
        let mut tasks = Vec::new();
        for w in 0..writers {
            tasks.push(tokio::spawn(write(shared.clone(), format!("tokens:{name}:{w}"))));
            if w % 2 == 0 {
                tasks.push(tokio::spawn(read(shared.clone(), format!("tokens:{name}:{w}"))));
            }
        }
        Tokens {
            stop: shared.stop,
            acked: shared.acked,
            broken: shared.broken,
            outcome: shared.outcome,
            tasks,
        }
    }

    /// Tokens acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::SeqCst)
    }

    /// Tells how many tokens were acknowledged so far, for somebody who outlives a borrow of this.
    pub fn counter(&self) -> impl Fn() -> u64 + Send + 'static {
        let acked = Arc::clone(&self.acked);
        move || acked.load(Ordering::SeqCst)
    }

    /// Connections broken so far.
    pub fn broken(&self) -> u64 {
        self.broken.load(Ordering::SeqCst)
    }

    /// Waits until `more` further tokens were acknowledged.
    pub async fn progress(&self, more: u64, within: Duration) {
        let from = self.acked();
        crate::eventually("acknowledged writes", within, || {
            let now = self.acked();
            std::future::ready(if now >= from + more {
                Ok(())
            } else {
                Err(format!("{now} after {from}"))
            })
        })
        .await;
    }

    /// Lets every client finish what it is at, and tells what they remember.
    pub async fn stop(mut self) -> Outcome {
        self.stop.store(true, Ordering::SeqCst);
        for task in std::mem::take(&mut self.tasks) {
            tokio::time::timeout(Duration::from_secs(120), task)
                .await
                .expect("a client ends")
                .expect("no panic");
        }
        let mut outcome = std::mem::take(&mut *self.outcome.lock().unwrap());
        outcome.broken = self.broken();
        outcome
    }
}

async fn connection(shared: &Shared) -> Option<MultiplexedConnection> {
    while !shared.stop.load(Ordering::SeqCst) {
        match crate::try_connect(shared.port).await {
            Ok(conn) => return Some(conn),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    None
}

async fn write(shared: Shared, list: String) {
    let mut token = 0u64;
    while let Some(mut conn) = connection(&shared).await {
        while !shared.stop.load(Ordering::SeqCst) {
            // Each token is tried once: one whose answer never came may be there or not.
            token += 1;
            let pushed: redis::RedisResult<u64> = redis::cmd("RPUSH")
                .arg(&list)
                .arg(token)
                .query_async(&mut conn)
                .await;
            if pushed.is_err() {
                shared.broken.fetch_add(1, Ordering::SeqCst);
                break;
            }
            shared.acked.fetch_add(1, Ordering::SeqCst);
            let since = std::mem::replace(&mut *shared.last_ack.lock().unwrap(), Instant::now()).elapsed();
            let mut outcome = shared.outcome.lock().unwrap();
            outcome.outage = outcome.outage.max(since);
            outcome.acked.entry(list.clone()).or_default().push(token);
        }
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
    }
}

async fn read(shared: Shared, list: String) {
    while let Some(mut conn) = connection(&shared).await {
        while !shared.stop.load(Ordering::SeqCst) {
            let newest: redis::RedisResult<Vec<u64>> = redis::cmd("LRANGE")
                .arg(&list)
                .arg(-3)
                .arg(-1)
                .query_async(&mut conn)
                .await;
            match newest {
                Ok(newest) => {
                    shared
                        .outcome
                        .lock()
                        .unwrap()
                        .seen
                        .entry(list.clone())
                        .or_default()
                        .extend(newest);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Err(_) => {
                    shared.broken.fetch_add(1, Ordering::SeqCst);
                    break;
                }
            }
        }
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
    }
}
