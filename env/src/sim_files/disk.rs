//! What is on the disk, what is only in memory, and what a power cut makes of the difference.

use super::faults::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// What a disk writes as a whole.
const SECTOR_BYTES: u64 = 512;

#[derive(Default)]
struct Inode {
    durable: Vec<u8>,
    now: Vec<u8>,
    unsynced: Vec<Change>,
}

enum Change {
    Write { pos: u64, bytes: Vec<u8> },
    Len(u64),
}

#[derive(Clone)]
enum NameChange {
    Create(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

/// Files, their names, and what of both is durable.
#[derive(Default)]
pub(super) struct Disk {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// By directory, in order.
    unsynced_names: BTreeMap<PathBuf, Vec<NameChange>>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeMap<PathBuf, u64>,
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_owned()
}

fn write(to: &mut Vec<u8>, pos: u64, bytes: &[u8]) {
    let (from, end) = (pos as usize, pos as usize + bytes.len());
    if to.len() < end {
        to.resize(end, 0);
    }
    to[from..end].copy_from_slice(bytes);
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            NameChange::Create(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            NameChange::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
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
        if !self.dirs.contains(&parent(path)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inode = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(inode, Inode::default());
        self.change_name(path, NameChange::Create(path.to_owned(), inode));
        Ok(inode)
    }

    fn change_name(&mut self, path: &Path, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.entry(parent(path)).or_default().push(change);
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
        self.find(from)?;
        self.change_name(to, NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.find(path)?;
        self.change_name(path, NameChange::Remove(path.to_owned()));
        Ok(())
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) {
        for change in self.unsynced_names.remove(dir).unwrap_or_default() {
            change.apply(&mut self.durable_names);
        }
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

    fn inode(&mut self, inode: u64) -> &mut Inode {
        self.inodes.entry(inode).or_default()
    }

    pub(super) fn read(&mut self, inode: u64, buf: &mut [u8], pos: u64) -> usize {
        let now = &self.inode(inode).now;
        let from = now.get(pos as usize..).unwrap_or_default();
        let len = from.len().min(buf.len());
        buf[..len].copy_from_slice(&from[..len]);
        len
    }

    pub(super) fn write(&mut self, inode: u64, pos: u64, bytes: Vec<u8>) {
        let inode = self.inode(inode);
        write(&mut inode.now, pos, &bytes);
        inode.unsynced.push(Change::Write { pos, bytes });
    }

    pub(super) fn len(&mut self, inode: u64) -> u64 {
        self.inode(inode).now.len() as u64
    }

    pub(super) fn set_len(&mut self, inode: u64, len: u64) {
        let inode = self.inode(inode);
        inode.now.resize(len as usize, 0);
        inode.unsynced.push(Change::Len(len));
    }

    pub(super) fn sync(&mut self, inode: u64) {
        let inode = self.inode(inode);
        for change in inode.unsynced.drain(..) {
            match change {
                Change::Write { pos, bytes } => write(&mut inode.durable, pos, &bytes),
                Change::Len(len) => inode.durable.resize(len as usize, 0),
            }
        }
    }

    /// After a failed sync the pages are clean and not on the disk, as on Linux.
    pub(super) fn forget_unsynced(&mut self, inode: u64) {
        self.inode(inode).unsynced.clear();
    }

    pub(super) fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        self.inodes.get(self.names.get(path)?).map(|i| i.now.clone())
    }

    pub(super) fn put(&mut self, path: &Path, bytes: &[u8]) {
        self.create_dir(&parent(path));
        let inode = match self.find(path) {
            Ok(inode) => inode,
            Err(_) => {
                let inode = self.next_inode;
                self.next_inode += 1;
                self.names.insert(path.to_owned(), inode);
                inode
            }
        };
        self.durable_names.insert(path.to_owned(), inode);
        let contents = Inode {
            durable: bytes.to_vec(),
            now: bytes.to_vec(),
            unsynced: Vec::new(),
        };
        self.inodes.insert(inode, contents);
    }

    pub(super) fn lose(&mut self, path: &Path) {
        self.names.remove(path);
        self.durable_names.remove(path);
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.names.keys().cloned().collect()
    }

    pub(super) fn power_cut(&mut self, seed: u64) {
        let mut random = Random::new(seed);
        for (_, changes) in std::mem::take(&mut self.unsynced_names) {
            let kept = random.below(changes.len() as u64 + 1) as usize;
            changes[..kept]
                .iter()
                .for_each(|c| c.apply(&mut self.durable_names));
        }
        self.names = self.durable_names.clone();
        for inode in self.inodes.values_mut() {
            inode.power_cut(&mut random);
        }
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|inode, _| named.contains(inode));
        self.locks.clear();
    }
}

impl Inode {
    fn power_cut(&mut self, random: &mut Random) {
        let changes = std::mem::take(&mut self.unsynced);
        if !changes.is_empty() {
            match random.below(6) {
                0 => {}
                1 => self.keep_first(&changes, changes.len()),
                2 => self.keep_first(&changes, random.below(changes.len() as u64 + 1) as usize),
                // Any sectors, most of them, few of them.
                3 => self.keep_sectors(&changes, random, 1, 2),
                4 => self.keep_sectors(&changes, random, 15, 16),
                _ => self.keep_sectors(&changes, random, 1, 16),
            }
        }
        self.now = self.durable.clone();
    }

    fn keep_first(&mut self, changes: &[Change], count: usize) {
        for change in &changes[..count] {
            match change {
                Change::Write { pos, bytes } => write(&mut self.durable, *pos, bytes),
                Change::Len(len) => self.durable.resize(*len as usize, 0),
            }
        }
    }

    /// Keeps each sector with the chance `of / out_of`, as it was after any of the writes to it: a page goes
    /// to the disk with everything written to it until then, so a later write never survives without an
    /// earlier one to the same sector.
    fn keep_sectors(&mut self, changes: &[Change], random: &mut Random, of: u64, out_of: u64) {
        let mut sectors: BTreeMap<u64, Vec<(u64, &[u8])>> = BTreeMap::new();
        for change in changes {
            match change {
                Change::Len(len) if random.below(out_of) < of => self.durable.resize(*len as usize, 0),
                Change::Len(_) => {}
                Change::Write { pos, bytes } => {
                    let mut at = *pos;
                    let end = at + bytes.len() as u64;
                    while at < end {
                        let stop = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
                        let piece = &bytes[(at - pos) as usize..(stop - pos) as usize];
                        sectors.entry(at / SECTOR_BYTES).or_default().push((at, piece));
                        at = stop;
                    }
                }
            }
        }
        for writes in sectors.values() {
            if random.below(out_of) < of {
                let kept = 1 + random.below(writes.len() as u64) as usize;
                writes[..kept]
                    .iter()
                    .for_each(|(at, piece)| write(&mut self.durable, *at, piece));
            }
        }
    }
}
