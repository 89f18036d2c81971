//! A file system in memory whose power can be cut: the faulty twin of [`crate::files::RealFiles`].
//!
//! It promises no more than POSIX does. What was written and not synced may be there after a cut, or not, or
//! in any part down to single bytes, in whatever order it was written, in one file or in several. Of names that were
//! made, changed or removed and whose directory was not synced, any may be as they were before. What was synced is there.
//! A call that failed may have done what it was asked for all the same. Deterministic: the same calls and seeds leave
//! the same bytes.

mod calls;
mod disk;
mod faults;
mod inode;
#[cfg(test)]
mod tests;

use disk::Disk;
use faults::Faults;
pub use faults::{Call, Fault};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A simulated file system. Clones share it.
#[derive(Clone)]
pub struct SimFiles(Arc<Shared>);

struct Shared {
    sim: Mutex<Sim>,
    /// A sync began to wait, or one that waits may go on.
    changed: Condvar,
}

struct Sim {
    disk: Disk,
    faults: Faults,
    /// Counts power cuts: files and locks of an earlier life are dead.
    life: u64,
    sync_is_noop: bool,
    /// From which sync on they are held up; by the hold's number.
    holds: BTreeMap<u64, u64>,
    next_hold: u64,
    /// How many syncs wait.
    waiting: usize,
}

impl Sim {
    fn is_held(&self, sync: u64) -> bool {
        self.holds.values().any(|first| *first <= sync)
    }
}

/// A slow disk, as long as this lives: see [`SimFiles::hold_syncs`].
pub struct HeldSyncs {
    files: SimFiles,
    number: u64,
}

impl HeldSyncs {
    /// Blocks until `count` syncs wait at once.
    pub fn wait_for(&self, count: usize) {
        let mut sim = self.files.sim();
        while sim.waiting < count {
            let woken = self.files.0.changed.wait(sim);
            sim = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for HeldSyncs {
    fn drop(&mut self) {
        self.files.sim().holds.remove(&self.number);
        self.files.0.changed.notify_all();
    }
}

impl SimFiles {
    /// An empty file system; `seed` decides what failed calls leave behind.
    pub fn new(seed: u64) -> Self {
        Self::build(seed, false)
    }

    /// The same with a `sync_data` that does nothing and says `Ok`: the twin of the planted bug
    /// `no_fdatasync`, to show that a test notices.
    pub fn with_noop_sync(seed: u64) -> Self {
        Self::build(seed, true)
    }

    fn build(seed: u64, sync_is_noop: bool) -> Self {
        let sim = Sim {
            disk: Disk::default(),
            faults: Faults::new(seed),
            life: 0,
            sync_is_noop,
            holds: BTreeMap::new(),
            next_hold: 0,
            waiting: 0,
        };
        SimFiles(Arc::new(Shared {
            sim: Mutex::new(sim),
            changed: Condvar::new(),
        }))
    }

    fn sim(&self) -> MutexGuard<'_, Sim> {
        self.0.sim.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the power and switches it on again. `seed` decides, file by file, what of the unsynced writes is
    /// there then (none, all, a first part of them, any 512-byte sectors as they were at any time since the last sync, or
    /// any runs of their bytes), and which of the unsynced changes of names (any, but none of a name that an earlier lost
    /// one was about). Every open file and lock is dead.
    pub fn power_cut(&self, seed: u64) {
        let mut sim = self.sim();
        sim.disk.power_cut(seed);
        self.next_life(sim);
    }

    /// Kills the process, so to say: every open file and lock is dead, and a failed power is back as if it had
    /// been the process that ended; but nothing is lost and nothing is synced, since the page cache survives.
    pub fn kill(&self) {
        let mut sim = self.sim();
        sim.disk.kill();
        self.next_life(sim);
    }

    fn next_life(&self, mut sim: MutexGuard<'_, Sim>) {
        sim.life += 1;
        sim.faults.power_on();
        self.0.changed.notify_all();
    }

    /// Lets `calls` more changing calls happen; with the next one the power fails: it has an effect that
    /// only a following [`SimFiles::power_cut`] (or [`SimFiles::kill`]) decides, and returns an error, as does
    /// every call after it.
    pub fn power_off_after(&self, calls: u64) {
        self.sim().faults.power_off_after(calls);
    }

    /// Whether the power has failed.
    pub fn is_off(&self) -> bool {
        self.sim().faults.is_off()
    }

    /// Makes the `nth` call of this kind from now (1 is the next one) fail. A failed write leaves any first
    /// part of itself; after a failed sync nothing that was unsynced is ever synced again, though it still
    /// reads as written; what else fails may have happened or not.
    pub fn fail_nth(&self, call: Call, nth: u64, fault: Fault) {
        self.sim().faults.fail_nth(Some(call), nth, fault);
    }

    /// Makes the `nth` call of any kind from now fail.
    pub fn fail_nth_of_all(&self, nth: u64, fault: Fault) {
        self.sim().faults.fail_nth(None, nth, fault);
    }

    /// How many calls of this kind there have been.
    pub fn calls(&self, call: Call) -> u64 {
        self.sim().faults.calls(Some(call))
    }

    /// How many calls there have been.
    pub fn all_calls(&self) -> u64 {
        self.sim().faults.calls(None)
    }

    /// The calls that were made to fail so far.
    pub fn failed_calls(&self) -> Vec<Call> {
        self.sim().faults.failed().to_vec()
    }

    /// The disk has this many bytes, or no end of them, which is how it begins. A file takes whole blocks of 4096 bytes,
    /// holes too, and one for itself, as long as it has a name or is open. What does not fit fails with `ENOSPC`, a write
    /// after as much of it as fits.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.sim().disk.set_capacity(bytes);
    }

    /// Bytes that files take, as [`SimFiles::set_capacity`] counts them.
    pub fn used_space(&self) -> u64 {
        self.sim().disk.used_space()
    }

    /// The disk becomes slow: the `nth` `sync_data` from now (1 is the next one) and all behind it block until what is
    /// returned is dropped, or until a power cut or kill fails them.
    #[must_use = "dropping it makes the disk fast again"]
    pub fn hold_syncs(&self, nth: u64) -> HeldSyncs {
        let mut sim = self.sim();
        let (number, first) = (sim.next_hold, sim.faults.calls(Some(Call::Sync)) + nth);
        sim.next_hold += 1;
        sim.holds.insert(number, first);
        HeldSyncs {
            files: self.clone(),
            number,
        }
    }

    /// Flips one bit of what a file holds, durably, as rot does.
    ///
    /// # Panics
    /// When there is no such byte.
    pub fn flip_bit(&self, path: &Path, byte: u64, bit: u8) {
        let mut bytes = self.contents(path).unwrap_or_default();
        match bytes.get_mut(byte as usize) {
            Some(b) => *b ^= 1 << (bit % 8),
            None => panic!("{} has no byte {byte}", path.display()),
        }
        self.put(path, &bytes);
    }

    /// Bytes that can still be written, in whole blocks.
    pub fn free_space(&self) -> u64 {
        self.sim().disk.free_space()
    }

    /// What a file holds now; `None` if there is none.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        self.sim().disk.contents(path)
    }

    /// Makes a file hold `bytes`, durably.
    pub fn put(&self, path: &Path, bytes: &[u8]) {
        self.sim().disk.put(path, bytes);
    }

    /// Removes a file, durably, as an operator's mistake does.
    pub fn lose(&self, path: &Path) {
        self.sim().disk.lose(path);
    }

    /// All files there are, in order.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.sim().disk.paths()
    }
}

impl std::fmt::Debug for SimFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimFiles")
    }
}
