//! What all clients of a hunt know together, and what it forbids to see.
//!
//! A *register* is a key, or some keys that are always written at once. One client writes it, and its states are counted:
//! version 1, 2, 3, … So who sees a version has seen what is linearizable exactly if no earlier version is seen by anyone who
//! asks afterwards, and nothing was seen before it was sent. A *floor* is the latest version that was acknowledged or seen.
//!
//! A writer that loses its connection does not know what became of its last writes, and they may be executed late. It leaves
//! its registers behind and goes on with new ones; readers look at the old ones now and then, and may see them go on, never back.

use super::shapes::{Claim, Shape};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use tokio::sync::Notify;

/// One register.
#[derive(Debug)]
pub struct Slot {
    /// Its number, which its keys are named after.
    pub id: usize,
    /// What it is made of.
    pub shape: Shape,
    /// Its databases, where it has some of its own: see [`Shape::databases`].
    pub dbs: [u64; 2],
    issued: AtomicU64,
    acked: AtomicU64,
    floor: AtomicU64,
}

impl Slot {
    /// The name of its key `part`.
    pub fn key(&self, part: &str) -> String {
        format!("hunt:{}:{part}", self.id)
    }

    /// Everything up to version `n` is about to be sent.
    pub fn issue(&self, n: u64) {
        self.issued.fetch_max(n, Ordering::SeqCst);
    }

    /// Version `n` was acknowledged.
    pub fn ack(&self, n: u64) {
        self.acked.fetch_max(n, Ordering::SeqCst);
        self.floor.fetch_max(n, Ordering::SeqCst);
    }

    /// The latest version that somebody knows to be durable.
    pub fn floor(&self) -> u64 {
        self.floor.load(Ordering::SeqCst)
    }

    /// The latest version that was acknowledged to its writer.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::SeqCst)
    }

    /// The latest version that was sent.
    pub fn issued(&self) -> u64 {
        self.issued.load(Ordering::SeqCst)
    }

    /// A read has shown `claim`, which was asked for when `low` was known. Returns the earliest version that it can be.
    ///
    /// # Errors
    /// With what is wrong about it.
    pub fn saw(&self, claim: Claim, low: u64) -> Result<u64, String> {
        let issued = self.issued();
        let found = match claim {
            Claim::Is(n) if n > issued => {
                return Err(format!(
                    "version {n} was seen before it was written ({issued} is the last)"
                ));
            }
            Claim::Is(n) if n < low => None,
            Claim::Is(n) => Some(n).filter(|n| !self.shape.is_absent(*n)),
            other => (low..=issued.min(low + super::shapes::PERIOD_MAX)).find(|n| self.shape.fits(other, *n)),
        };
        let n = found.ok_or_else(|| {
            format!("it shows {claim:?}, although version {low} was known before (and {issued} is the last that was sent)")
        })?;
        self.floor.fetch_max(n, Ordering::SeqCst);
        Ok(n)
    }
}

/// What all clients share.
#[derive(Debug)]
pub struct Board {
    slots: RwLock<Vec<Arc<Slot>>>,
    /// The slot of each register that is written now.
    current: RwLock<Vec<usize>>,
    databases: AtomicU64,
    /// Registers that were just written by those who write rarely, and by those who never rest.
    fresh: [AtomicU64; 2],
    written: [Notify; 2],
    stop: AtomicBool,
    failure: Mutex<Option<String>>,
    /// Commands that read and were answered, and what they showed of single registers.
    pub reads: AtomicU64,
    /// See `reads`.
    pub shown: AtomicU64,
    /// Messages and notifications that came.
    pub heard: AtomicU64,
    /// Versions that were acknowledged.
    pub writes: AtomicU64,
    /// Connections that were closed.
    pub closed: AtomicU64,
    /// Keys whose end by time somebody was told of: slot and version.
    pub ended: Mutex<std::collections::BTreeSet<(usize, u64)>>,
}

impl Board {
    /// Nothing is known.
    pub fn new() -> Board {
        Board {
            slots: RwLock::default(),
            current: RwLock::default(),
            // The first two are shared.
            databases: AtomicU64::new(2),
            fresh: [const { AtomicU64::new(0) }; 2],
            written: [const { Notify::const_new() }; 2],
            stop: AtomicBool::new(false),
            failure: Mutex::default(),
            reads: AtomicU64::new(0),
            shown: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            ended: Mutex::default(),
        }
    }

    /// A new register in place of `old`, or beside all others.
    pub fn open(&self, shape: Shape, old: Option<&Slot>) -> Arc<Slot> {
        let count = shape.databases();
        let db = self.databases.fetch_add(count, Ordering::SeqCst);
        assert!(db + count <= super::DATABASES, "no databases are left");
        let mut slots = self.slots.write().unwrap();
        let id = slots.len();
        let slot = Arc::new(Slot {
            id,
            shape,
            dbs: [db, db + count.saturating_sub(1)],
            issued: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            floor: AtomicU64::new(0),
        });
        slots.push(Arc::clone(&slot));
        let mut current = self.current.write().unwrap();
        let place = old.and_then(|old| current.iter().position(|id| *id == old.id));
        match place {
            Some(place) => current[place] = id,
            None => current.push(id),
        }
        slot
    }

    /// The register of this number, if there is one.
    pub fn slot(&self, id: usize) -> Option<Arc<Slot>> {
        self.slots.read().unwrap().get(id).cloned()
    }

    /// Every register that there was.
    pub fn all(&self) -> Vec<Arc<Slot>> {
        self.slots.read().unwrap().clone()
    }

    /// Those that are written now.
    pub fn current(&self) -> Vec<Arc<Slot>> {
        let slots = self.slots.read().unwrap();
        self.current
            .read()
            .unwrap()
            .iter()
            .map(|id| Arc::clone(&slots[*id]))
            .collect()
    }

    /// A register was just written, and the write is on its way: `busily` by one of those who never rest.
    pub fn sent(&self, slot: &Slot, busily: bool) {
        self.fresh[usize::from(busily)].store(slot.id as u64, Ordering::SeqCst);
        self.written[usize::from(busily)].notify_waiters();
    }

    /// Waits until one is just written. Cancel-safe.
    pub async fn just_written(&self, busily: bool) -> Option<Arc<Slot>> {
        self.written[usize::from(busily)].notified().await;
        self.slot(self.fresh[usize::from(busily)].load(Ordering::SeqCst) as usize)
    }

    /// Something is wrong. The first to say so is heard, and everybody stops.
    pub fn fail(&self, why: String) {
        self.failure.lock().unwrap().get_or_insert(why);
        self.end();
    }

    /// What is wrong.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap().clone()
    }

    /// Everybody is to stop.
    pub fn end(&self) {
        self.stop.store(true, Ordering::SeqCst);
        // Those who wait for a write look again.
        self.written.iter().for_each(Notify::notify_waiters);
    }

    /// Whether everybody is to stop.
    pub fn ended(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// Adds one.
pub fn count(to: &AtomicU64) {
    to.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn what_is_older_than_known_or_newer_than_sent_is_not_let_pass() {
    let board = Board::new();
    let slot = board.open(Shape::List, None);
    slot.issue(20);
    slot.ack(9);
    assert_eq!(slot.saw(Claim::Is(12), slot.floor()), Ok(12));
    assert_eq!(slot.floor(), 12);
    for wrong in [Claim::Is(11), Claim::Is(21), Claim::Is(16)] {
        assert!(slot.saw(wrong, 12).is_err(), "{wrong:?}");
    }
    // A list is empty at 16, the next time after 12, and has two elements at 18; it has seven at 15, and not again before 23.
    assert_eq!(slot.saw(Claim::Len(7), 12), Ok(15));
    assert_eq!(slot.saw(Claim::Absent, 12), Ok(16));
    assert_eq!(slot.saw(Claim::Len(2), 16), Ok(18));
    assert!(slot.saw(Claim::Len(7), 18).is_err());
    assert!(slot.saw(Claim::Absent, 18).is_err());
}
