//! A small value in a file with two slots, each a checksummed block of its own.
//!
//! Promises: what [`Slots::save`] returned `Ok` for is read again at every later start, whatever *one* of the
//! two blocks suffers (H5); a crash within a save leaves the old or the new value. To promise the first, both
//! slots hold the newest value before a save returns; with one synced slot per save, rot of that slot would
//! bring back the value before it, which for a vote means voting twice in a term.

use super::error::{Failure, OpenError, from_failure};
use super::file;
use super::format::{
    FORMAT_VERSION, HeaderError, check_block, get_u32, get_u64, put_u32, put_u64, seal_block,
};
use redoubt_env::files::{File, Files, Mode, is_unreadable};
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a slot, and its distance to the other: a page, so that no sector and no page holds both.
pub(crate) const SLOT_BYTES: usize = 4096;
/// Payload of a slot at most, bytes.
pub(crate) const SLOT_PAYLOAD_BYTES_MAX: usize = SLOT_BYTES - PAYLOAD_AT - 4;

const PAYLOAD_AT: usize = 24;

/// One slot's block.
pub(crate) fn encode(magic: &[u8; 8], sequence: u64, payload: &[u8]) -> Vec<u8> {
    let mut b = vec![0; SLOT_BYTES];
    b[..8].copy_from_slice(magic);
    put_u32(&mut b, 8, FORMAT_VERSION);
    put_u32(&mut b, 12, payload.len() as u32);
    put_u64(&mut b, 16, sequence);
    b[PAYLOAD_AT..PAYLOAD_AT + payload.len()].copy_from_slice(payload);
    seal_block(&mut b);
    b
}

/// A slot's sequence number and payload.
pub(crate) fn decode(magic: &[u8; 8], block: &[u8]) -> Result<(u64, Vec<u8>), HeaderError> {
    check_block(block, SLOT_BYTES, magic)?;
    let end = PAYLOAD_AT + get_u32(block, 12) as usize;
    let payload = block[..SLOT_BYTES - 4]
        .get(PAYLOAD_AT..end)
        .ok_or(HeaderError::Damaged)?;
    Ok((get_u64(block, 16), payload.to_vec()))
}

/// An open two-slot file.
pub(crate) struct Slots {
    path: PathBuf,
    file: Arc<dyn File>,
    magic: [u8; 8],
    sequence: u64,
    /// The slot that is written first: never the only good one.
    first: usize,
    /// The value that both slots hold.
    payload: Vec<u8>,
}

impl Slots {
    /// Makes the file at `path` with `payload` in both slots, so that it is there whole or not at all; what a
    /// crashed call left is replaced. The caller syncs the directory.
    pub(crate) fn create(
        files: &dyn Files,
        path: &Path,
        magic: [u8; 8],
        payload: &[u8],
    ) -> Result<Self, OpenError> {
        let fresh = path.with_extension("new");
        let io = |verb| OpenError::io(verb, &fresh);
        match files.remove(&fresh) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io("remove")(e)),
            _ => {}
        }
        let file = files.open(&fresh, Mode::CreateNew).map_err(io("create"))?;
        let block = encode(&magic, 1, payload);
        file.write_at(&[IoSlice::new(&block), IoSlice::new(&block)], 0)
            .map_err(io("write"))?;
        file.sync_data().map_err(io("sync"))?;
        files
            .rename(&fresh, path)
            .map_err(OpenError::io("rename", path))?;
        Ok(Slots {
            path: path.to_owned(),
            file,
            magic,
            sequence: 1,
            first: 0,
            payload: payload.to_vec(),
        })
    }

    /// Opens the file and returns the newest value. When the slots differ, a crash came between them or one
    /// is damaged: both hold the newest value again before this returns, since the process will act on it.
    pub(crate) fn load(files: &dyn Files, path: &Path, magic: [u8; 8]) -> Result<(Self, Vec<u8>), OpenError> {
        let io = |verb| OpenError::io(verb, path);
        let file = files.open(path, Mode::Write).map_err(io("open"))?;
        let read = read(&*file, path, magic)?;
        let slots = Slots {
            path: path.to_owned(),
            file,
            magic,
            sequence: read.sequence,
            first: read.stale.unwrap_or(0),
            payload: read.payload,
        };
        // What was read may never have reached the disk: a process that was killed within a save leaves it in the page
        // cache. It is durable before the other slot is touched, or a power cut could take both.
        if read.stale.is_none() || !redoubt_env::planted::on("h05_vote_copied_before_it_is_durable") {
            slots.file.sync_data().map_err(io("sync"))?;
        }
        if let Some(stale) = read.stale {
            let block = encode(&magic, read.sequence, &slots.payload);
            slots.write(stale, &block).map_err(from_failure)?;
        }
        let payload = slots.payload.clone();
        Ok((slots, payload))
    }

    /// The newest value, and whether one of the slots is damaged. Changes nothing: whoever acts on the value MUST
    /// [`Slots::load`] it.
    pub(crate) fn peek(files: &dyn Files, path: &Path, magic: [u8; 8]) -> Result<(Vec<u8>, bool), OpenError> {
        let file = files
            .open(path, Mode::Read)
            .map_err(OpenError::io("open", path))?;
        let read = read(&*file, path, magic)?;
        Ok((read.payload, read.damaged))
    }

    /// Saves `payload` in both slots, one after the other, each synced before the next is touched.
    ///
    /// # Errors
    /// When a write or sync fails, which is final.
    pub(crate) fn save(&mut self, payload: &[u8]) -> Result<(), Failure> {
        self.sequence += 1;
        self.payload = payload.to_vec();
        let block = encode(&self.magic, self.sequence, payload);
        if redoubt_env::planted::on("h05_vote_one_slot") {
            self.write(self.sequence as usize % 2, &block)?;
            return Ok(());
        }
        self.write(self.first, &block)?;
        self.write(1 - self.first, &block)
    }

    /// Reads both slots again, and writes anew what differs from the value that was saved last. Returns whether any did.
    ///
    /// # Errors
    /// When a write or sync fails, which is final.
    pub(crate) fn mend(&mut self) -> Result<bool, Failure> {
        let block = encode(&self.magic, self.sequence, &self.payload);
        let mut mended = false;
        for slot in 0..2 {
            let mut found = vec![0; SLOT_BYTES];
            let read = self.file.read_at(&mut found, (slot * SLOT_BYTES) as u64);
            match read {
                Ok(SLOT_BYTES) if found == block => continue,
                Ok(_) => {}
                Err(e) if is_unreadable(&e) => {}
                Err(e) => return Err(Failure::new("read", &self.path)(e)),
            }
            self.write(slot, &block)?;
            mended = true;
        }
        Ok(mended)
    }

    fn write(&self, slot: usize, block: &[u8]) -> Result<(), Failure> {
        let at = (slot * SLOT_BYTES) as u64;
        self.file
            .write_at(&[IoSlice::new(block)], at)
            .map_err(Failure::new("write", &self.path))?;
        file::sync(&*self.file, &self.path)
    }
}

/// What the two slots hold.
struct Read {
    /// Of the newest value.
    sequence: u64,
    payload: Vec<u8>,
    /// The slot that does not hold it.
    stale: Option<usize>,
    /// That one is damaged, and not just older.
    damaged: bool,
}

fn read(file: &dyn File, path: &Path, magic: [u8; 8]) -> Result<Read, OpenError> {
    let mut both = vec![0; 2 * SLOT_BYTES];
    let read = file.read_at(&mut both, 0).map_err(OpenError::io("read", path))?;
    both.truncate(read);
    let slot = |i: usize| {
        let block = both
            .get(i * SLOT_BYTES..(i + 1) * SLOT_BYTES)
            .ok_or(HeaderError::Damaged);
        block.and_then(|b| decode(&magic, b))
    };
    let (a, b) = (slot(0), slot(1));
    // A slot of a newer version must not be taken for damage: the other one may be older.
    for s in [&a, &b] {
        if let Err(HeaderError::Version(found)) = s {
            let path = path.to_owned();
            return Err(OpenError::Version {
                path,
                found: *found,
                supported: FORMAT_VERSION,
            });
        }
    }
    let damaged = a.is_err() || b.is_err();
    let (newest, stale) = match (a, b) {
        (Ok(a), Ok(b)) if a == b => (a, None),
        (Ok(a), Ok(b)) if b.0 > a.0 => (b, Some(0)),
        (Ok(a), _) => (a, Some(1)),
        (_, Ok(b)) => (b, Some(0)),
        _ => {
            return Err(OpenError::Slots {
                path: path.to_owned(),
            });
        }
    };
    let (sequence, payload) = newest;
    Ok(Read {
        sequence,
        payload,
        stale,
        damaged,
    })
}
