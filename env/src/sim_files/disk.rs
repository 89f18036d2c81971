//! Files by name, the room for them, and which names a power cut leaves.

use super::faults::{Fault, Random};
use super::inode::{BLOCK_BYTES, Inode, space_of};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

enum NameChange {
    Create(PathBuf, u64),
    Rename(PathBuf, PathBuf, u64),
    Remove(PathBuf),
}

/// Files, their names, and what of both is durable.
#[derive(Default)]
pub(super) struct Disk {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// Of all directories, in the order of the calls.
    unsynced_names: Vec<NameChange>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeMap<PathBuf, u64>,
    /// Bytes; `None` for no end of them.
    capacity: Option<u64>,
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

impl NameChange {
    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        let (one, other) = match self {
            NameChange::Create(path, _) | NameChange::Remove(path) => (path, None),
            NameChange::Rename(from, to, _) => (from, Some(to)),
        };
        std::iter::once(one).chain(other)
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            NameChange::Create(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            NameChange::Rename(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
            NameChange::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

impl Disk {
    pub(super) fn find(&self, path: &Path) -> io::Result<u64> {
        self.names
            .get(path)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<u64> {
        if self.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !self.dirs.contains(parent(path)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if self.free_space() < BLOCK_BYTES {
            return Err(Fault::NoSpace.error());
        }
        let inode = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(inode, Inode::default());
        self.change_name(NameChange::Create(path.to_owned(), inode));
        Ok(inode)
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if !self.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = self.names.keys().filter(|p| parent(p) == dir);
        Ok(inside
            .filter_map(|p| p.file_name()?.to_str().map(str::to_owned))
            .collect())
    }

    pub(super) fn create_dir(&mut self, dir: &Path) {
        self.dirs.extend(dir.ancestors().map(Path::to_owned));
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self.find(from)?;
        self.change_name(NameChange::Rename(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.find(path)?;
        self.change_name(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    /// Makes the changes in `dir` durable, with the earlier ones of the same names that they rest on.
    pub(super) fn sync_dir(&mut self, dir: &Path) {
        let mut wanted: BTreeSet<PathBuf> = BTreeSet::new();
        let mut kept = Vec::new();
        let mut synced = Vec::new();
        for change in std::mem::take(&mut self.unsynced_names).into_iter().rev() {
            if change.paths().any(|p| parent(p) == dir || wanted.contains(p)) {
                wanted.extend(change.paths().cloned());
                synced.push(change);
            } else {
                kept.push(change);
            }
        }
        synced.iter().rev().for_each(|c| c.apply(&mut self.durable_names));
        kept.reverse();
        self.unsynced_names = kept;
    }

    pub(super) fn lock(&mut self, dir: &Path, life: u64) -> bool {
        if self.locks.get(dir) == Some(&life) {
            return false;
        }
        self.locks.insert(dir.to_owned(), life);
        true
    }

    pub(super) fn unlock(&mut self, dir: &Path, life: u64) {
        if self.locks.get(dir) == Some(&life) {
            self.locks.remove(dir);
        }
    }

    pub(super) fn inode(&mut self, inode: u64) -> &mut Inode {
        self.inodes.entry(inode).or_default()
    }

    pub(super) fn read(&mut self, inode: u64, buf: &mut [u8], pos: u64) -> usize {
        let now = self.inode(inode).contents();
        let from = now.get(pos as usize..).unwrap_or_default();
        let len = from.len().min(buf.len());
        buf[..len].copy_from_slice(&from[..len]);
        len
    }

    /// Writes as much of `bytes` as there is room for.
    pub(super) fn write(&mut self, inode: u64, pos: u64, mut bytes: Vec<u8>) -> io::Result<()> {
        let wanted = bytes.len() as u64;
        let fits = self.reach(inode).saturating_sub(pos).min(wanted);
        bytes.truncate(fits as usize);
        self.inode(inode).write(pos, bytes);
        if fits < wanted {
            return Err(Fault::NoSpace.error());
        }
        Ok(())
    }

    pub(super) fn set_len(&mut self, inode: u64, len: u64) -> io::Result<()> {
        if len > self.reach(inode) {
            return Err(Fault::NoSpace.error());
        }
        self.inode(inode).set_len(len);
        Ok(())
    }

    pub(super) fn allocate(&mut self, inode: u64, len: u64) -> io::Result<()> {
        if len > self.reach(inode) {
            return Err(Fault::NoSpace.error());
        }
        self.inode(inode).allocate(len);
        Ok(())
    }

    /// How long the file can become.
    fn reach(&mut self, inode: u64) -> u64 {
        let free = self.free_space();
        self.inode(inode).space().saturating_add(free) - space_of(0)
    }

    pub(super) fn set_capacity(&mut self, capacity: Option<u64>) {
        self.capacity = capacity;
    }

    /// Bytes in whole blocks.
    pub(super) fn free_space(&self) -> u64 {
        let Some(capacity) = self.capacity else {
            return u64::MAX;
        };
        capacity.saturating_sub(self.used_space()) / BLOCK_BYTES * BLOCK_BYTES
    }

    pub(super) fn used_space(&self) -> u64 {
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        let taking = self
            .inodes
            .iter()
            .filter(|(id, i)| i.handles > 0 || named.contains(id));
        taking.map(|(_, i)| i.space()).sum()
    }

    pub(super) fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let inode = self.inodes.get(self.names.get(path)?)?;
        Some(inode.contents().to_vec())
    }

    pub(super) fn put(&mut self, path: &Path, bytes: &[u8]) {
        self.create_dir(parent(path));
        let inode = match self.find(path) {
            Ok(inode) => inode,
            Err(_) => {
                self.next_inode += 1;
                self.next_inode - 1
            }
        };
        self.settle_name(path);
        self.names.insert(path.to_owned(), inode);
        self.durable_names.insert(path.to_owned(), inode);
        self.inode(inode).put(bytes);
    }

    pub(super) fn lose(&mut self, path: &Path) {
        self.settle_name(path);
        self.names.remove(path);
        self.durable_names.remove(path);
    }

    /// What was still open of this name no longer is.
    fn settle_name(&mut self, path: &Path) {
        self.unsynced_names.retain(|c| c.paths().all(|p| p != path));
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.names.keys().cloned().collect()
    }

    pub(super) fn kill(&mut self) {
        self.inodes.values_mut().for_each(|i| i.handles = 0);
    }

    pub(super) fn power_cut(&mut self, seed: u64) {
        let mut random = Random::new(seed);
        self.names_after_cut(&mut random);
        for inode in self.inodes.values_mut() {
            inode.power_cut(&mut random);
        }
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|inode, _| named.contains(inode));
        self.locks.clear();
    }

    /// Keeps any of the unsynced changes, in whatever order they were made, but none of a name of which an earlier
    /// change is lost.
    fn names_after_cut(&mut self, random: &mut Random) {
        let (of, out_of) = [(0, 1), (1, 1), (1, 2), (15, 16), (1, 16)][random.below(5) as usize];
        let mut lost: BTreeSet<PathBuf> = BTreeSet::new();
        for change in std::mem::take(&mut self.unsynced_names) {
            if random.below(out_of) < of && change.paths().all(|p| !lost.contains(p)) {
                change.apply(&mut self.durable_names);
            } else {
                lost.extend(change.paths().cloned());
            }
        }
        self.names = self.durable_names.clone();
    }
}
