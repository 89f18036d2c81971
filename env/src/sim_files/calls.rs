//! The file seam over the simulated disk: what each call does, and what is left of it when it fails.

use super::faults::{Call, no_power};
use super::{Sim, SimFiles};
use crate::files::{DirLock, File, Files, Mode};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};

impl Sim {
    /// A call that has its effect or not, whatever it answers.
    fn change(&mut self, call: Call, effect: impl FnOnce(&mut Sim) -> io::Result<()>) -> io::Result<()> {
        let verdict = self.faults.begin(call);
        let done = if verdict.happens { effect(self) } else { Ok(()) };
        verdict.answer.and(done)
    }

    /// A call that changes nothing.
    fn ask(&mut self, call: Call) -> io::Result<()> {
        self.faults.begin(call).answer
    }
}

impl Files for SimFiles {
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn File>> {
        let mut sim = self.sim();
        if mode == Mode::CreateNew {
            sim.change(Call::Create, |sim| sim.disk.create(path).map(drop))?;
        } else {
            sim.ask(Call::Open)?;
        }
        let inode = sim.disk.find(path)?;
        sim.disk.inode(inode).handles += 1;
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
        sim.ask(Call::List)?;
        sim.disk.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.sim().change(Call::Create, |sim| {
            sim.disk.create_dir(dir);
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.sim().change(Call::Rename, |sim| sim.disk.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.sim().change(Call::Remove, |sim| sim.disk.remove(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.sim().change(Call::SyncDir, |sim| {
            sim.disk.sync_dir(dir);
            Ok(())
        })
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<Box<dyn DirLock>> {
        let mut sim = self.sim();
        sim.ask(Call::Lock)?;
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

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut sim = self.files.sim();
        if sim.life == self.life {
            sim.disk.inode(self.inode).handles -= 1;
        }
    }
}

impl SimFile {
    /// The file system, if this handle is of its present life.
    fn alive(&self) -> io::Result<MutexGuard<'_, Sim>> {
        self.still_alive(self.files.sim())
    }

    fn still_alive<'a>(&self, sim: MutexGuard<'a, Sim>) -> io::Result<MutexGuard<'a, Sim>> {
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

    /// Waits while sync number `number` is held up.
    fn wait_for_disk<'a>(&'a self, mut sim: MutexGuard<'a, Sim>, number: u64) -> MutexGuard<'a, Sim> {
        while sim.life == self.life && sim.is_held(number) {
            sim.waiting += 1;
            self.files.0.changed.notify_all();
            let woken = self.files.0.changed.wait(sim);
            sim = woken.unwrap_or_else(PoisonError::into_inner);
            sim.waiting -= 1;
        }
        sim
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        let mut sim = self.alive()?;
        sim.ask(Call::Read)?;
        Ok(sim.disk.read(self.inode, buf, pos))
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], pos: u64) -> io::Result<()> {
        let mut sim = self.alive_for_writing()?;
        let mut bytes: Vec<u8> = bufs.iter().flat_map(|b| b.iter().copied()).collect();
        let off_before = sim.faults.is_off();
        let verdict = sim.faults.begin(Call::Write);
        if off_before {
            return verdict.answer;
        }
        if verdict.answer.is_err() {
            let keep = sim.faults.below(bytes.len() as u64 + 1) as usize;
            bytes.truncate(keep);
        }
        sim.disk.write(self.inode, pos, bytes)?;
        verdict.answer
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut sim = self.alive_for_writing()?;
        let verdict = sim.faults.begin(Call::Sync);
        if sim.faults.is_off() {
            return verdict.answer;
        }
        // What is written while it waits is another sync's.
        let changes = sim.disk.inode(self.inode).changes();
        let number = sim.faults.calls(Some(Call::Sync));
        let mut sim = self.still_alive(self.wait_for_disk(sim, number))?;
        if sim.faults.is_off() {
            return Err(no_power());
        }
        let Sim {
            disk,
            faults,
            sync_is_noop,
            ..
        } = &mut *sim;
        let inode = disk.inode(self.inode);
        match verdict.answer {
            Err(_) => inode.fail_sync(faults.random()),
            Ok(()) if *sync_is_noop => {}
            Ok(()) => inode.sync(changes),
        }
        verdict.answer
    }

    fn len(&self) -> io::Result<u64> {
        let mut sim = self.alive()?;
        sim.ask(Call::Read)?;
        Ok(sim.disk.inode(self.inode).contents().len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut sim = self.alive_for_writing()?;
        sim.change(Call::Write, |sim| sim.disk.set_len(self.inode, len))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut sim = self.alive_for_writing()?;
        sim.change(Call::Allocate, |sim| sim.disk.allocate(self.inode, len))
    }

    fn forget(&self, _pos: u64, _len: u64) {}
}
