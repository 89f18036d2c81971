//! A file system in memory whose power can be cut: the faulty twin of [`crate::files::RealFiles`].
//!
//! It promises no more than POSIX does. What was written and not synced may be there after a cut, or not, or
//! in part, or in another order; a name that was made and whose directory was not synced may be gone. What
//! was synced is there. Deterministic: the same calls and seeds leave the same bytes.
//!
//! Directories themselves are durable as soon as they are made.

mod disk;
mod faults;
#[cfg(test)]
mod tests;

use crate::files::{DirLock, File, Files, Mode};
use disk::Disk;
use faults::Faults;
pub use faults::{Call, Fault};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A simulated file system. Clones share it.
#[derive(Clone)]
pub struct SimFiles(Arc<Mutex<Sim>>);

struct Sim {
    disk: Disk,
    faults: Faults,
    /// Counts power cuts: files and locks of an earlier life are dead.
    life: u64,
    sync_is_noop: bool,
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
        };
        SimFiles(Arc::new(Mutex::new(sim)))
    }

    fn sim(&self) -> MutexGuard<'_, Sim> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the power and switches it on again. `seed` decides, file by file, what of the unsynced writes is
    /// there then (none, all, a first part of them, or any 512-byte sectors as they were at any time since the
    /// last sync), and up to where each directory's unsynced changes go. Every open file and lock is dead.
    pub fn power_cut(&self, seed: u64) {
        let mut sim = self.sim();
        sim.life += 1;
        sim.disk.power_cut(seed);
        sim.faults.power_on();
    }

    /// Kills the process, so to say: every open file and lock is dead, and a failed power is back as if it had
    /// been the process that ended; but nothing is lost and nothing is synced, since the page cache survives.
    pub fn kill(&self) {
        let mut sim = self.sim();
        sim.life += 1;
        sim.faults.power_on();
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
    /// reads as written.
    pub fn fail_nth(&self, call: Call, nth: u64, fault: Fault) {
        self.sim().faults.fail_nth(call, nth, fault);
    }

    /// How many calls of this kind there have been.
    pub fn calls(&self, call: Call) -> u64 {
        self.sim().faults.calls(call)
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

impl Files for SimFiles {
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn File>> {
        let mut sim = self.sim();
        sim.faults.check(if mode == Mode::CreateNew {
            Call::Create
        } else {
            Call::Open
        })?;
        let inode = if mode == Mode::CreateNew {
            sim.disk.create(path)?
        } else {
            sim.disk.find(path)?
        };
        let life = sim.life;
        Ok(Arc::new(SimFile {
            files: self.clone(),
            inode,
            life,
            writable: mode != Mode::Read,
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut sim = self.sim();
        sim.faults.check(Call::List)?;
        sim.disk.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut sim = self.sim();
        sim.faults.check(Call::Create)?;
        sim.disk.create_dir(dir);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut sim = self.sim();
        sim.faults.check(Call::Rename)?;
        sim.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut sim = self.sim();
        sim.faults.check(Call::Remove)?;
        sim.disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut sim = self.sim();
        sim.faults.check(Call::SyncDir)?;
        sim.disk.sync_dir(dir);
        Ok(())
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<Box<dyn DirLock>> {
        let mut sim = self.sim();
        sim.faults.check(Call::Lock)?;
        let life = sim.life;
        if !sim.disk.lock(dir, life) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock {
            files: self.clone(),
            dir: dir.to_owned(),
            life,
        }))
    }
}

struct SimLock {
    files: SimFiles,
    dir: PathBuf,
    life: u64,
}

impl DirLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.files.sim().disk.unlock(&self.dir, self.life);
    }
}

struct SimFile {
    files: SimFiles,
    inode: u64,
    life: u64,
    writable: bool,
}

impl SimFile {
    /// The file system, if this handle is of its present life.
    fn alive(&self) -> io::Result<MutexGuard<'_, Sim>> {
        let sim = self.files.sim();
        if sim.life != self.life {
            return Err(io::Error::other("this file was open when the power was cut"));
        }
        Ok(sim)
    }

    fn alive_for_writing(&self) -> io::Result<MutexGuard<'_, Sim>> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.alive()
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        let mut sim = self.alive()?;
        sim.faults.check(Call::Read)?;
        Ok(sim.disk.read(self.inode, buf, pos))
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], pos: u64) -> io::Result<()> {
        let mut sim = self.alive_for_writing()?;
        let mut bytes: Vec<u8> = bufs.iter().flat_map(|b| b.iter().copied()).collect();
        let verdict = sim.faults.check(Call::Write);
        if verdict.is_err() {
            let keep = sim.faults.below(bytes.len() as u64 + 1) as usize;
            bytes.truncate(keep);
        }
        sim.disk.write(self.inode, pos, bytes);
        verdict
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut sim = self.alive_for_writing()?;
        let off_before = sim.faults.is_off();
        let verdict = sim.faults.check(Call::Sync);
        if verdict.is_ok() && !sim.sync_is_noop {
            sim.disk.sync(self.inode);
        }
        if verdict.is_err() && !off_before && !sim.faults.is_off() {
            sim.disk.forget_unsynced(self.inode);
        }
        verdict
    }

    fn len(&self) -> io::Result<u64> {
        let mut sim = self.alive()?;
        sim.faults.check(Call::Read)?;
        Ok(sim.disk.len(self.inode))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut sim = self.alive_for_writing()?;
        sim.faults.check(Call::Write)?;
        sim.disk.set_len(self.inode, len);
        Ok(())
    }
}
