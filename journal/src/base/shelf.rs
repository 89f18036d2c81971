//! The bases in a data directory, under `bases/`. All calls block.
//!
//! ```text
//! AT-CHECKSUM.part   an RDB that is on its way; what is there of it up to a multiple of a chunk is gone on from
//! AT-CHECKSUM.rdb    one that is whole
//! AT-CHECKSUM.sums   what it is, and a checksum of each chunk; written last: without it nothing is held
//! ```
//!
//! A crash leaves any prefix of these steps, each of which is gone on from or begun anew: `part` is written and synced, its checksum
//! compared, renamed to `rdb`, then `sums` is published. What a checksum does not confirm is removed and never shown.

use super::sums;
use bytes::{Bytes, BytesMut};
use redoubt_env::files::{File, Files, Mode, read_small};
use redoubt_env::planted;
use redoubt_types::limits::BASE_CHUNK_BYTES;
use redoubt_types::{Base, BaseChecksum, BaseName, Offset, payload_crc};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

/// Under the data directory.
pub(crate) const BASES: &str = "bases";
/// How much of an RDB is written between two syncs: what a cut connection costs at most.
const SYNC_BYTES: u64 = 8 * 1024 * 1024;
/// RDBs on their way, and whole ones that are newer than the journal's base, of each at most: a fold that came to nothing leaves one.
const STRANGERS_MAX: usize = 2;
/// Bytes of a `sums` file at most: those of an RDB of 16 TiB.
const SUMS_BYTES_MAX: usize = 256 * 1024 * 1024 + 64 * 1024;

/// Why a base was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// What came is not what its manifest says.
    #[error("base {name}: {why}")]
    Bad {
        /// The base.
        name: BaseName,
        /// What is wrong.
        why: String,
    },
    /// Somebody else is giving it to this node.
    #[error("base {0} is being given to this node by somebody else")]
    Busy(BaseName),
    /// What an earlier transfer had left was not what it should have been: a crash can do that to what was not synced.
    #[error(
        "what an earlier transfer had left of base {0} was damaged: it has to come again from its beginning"
    )]
    Again(BaseName),
    /// There is no room for it.
    #[error("there is no room on this node's disk for base {0}")]
    NoRoom(BaseName),
    /// It could not be written.
    #[error("base {name} can't be written: {source}")]
    Io {
        /// The base.
        name: BaseName,
        /// What went wrong.
        source: io::Error,
    },
}

/// Why a base can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadBaseError {
    /// It is not here.
    #[error("base {0} is not held here")]
    NotHeld(BaseName),
    /// This copy is not what it was.
    #[error("base {name} is damaged here at byte {at}")]
    Damaged {
        /// The base.
        name: BaseName,
        /// Where.
        at: u64,
    },
    /// The operating system does not give it.
    #[error("base {name} can't be read: {source}")]
    Io {
        /// The base.
        name: BaseName,
        /// What went wrong.
        source: io::Error,
    },
}

/// A base that is held whole.
struct Held {
    base: Base,
    sums: Vec<u32>,
}

/// An RDB on its way.
pub(super) struct Part {
    base: Base,
    file: Arc<dyn File>,
    path: PathBuf,
    /// Whole chunks that were written, their checksums, and the checksum of them all.
    sums: Vec<u32>,
    checksum: BaseChecksum,
    /// Came behind them and is no whole chunk yet.
    rest: BytesMut,
    /// Written and not synced.
    unsynced: u64,
    /// Some of it came in an earlier transfer.
    is_resumed: bool,
    token: Arc<()>,
}

/// The directory.
pub(super) struct Shelf {
    files: Arc<dyn Files>,
    dir: PathBuf,
    held: BTreeMap<BaseName, Held>,
    /// On their way: alive as long as whoever takes them.
    taken: BTreeMap<BaseName, Weak<()>>,
}

fn stem(name: BaseName) -> String {
    format!("{:020}-{:016x}", name.at.get(), name.checksum)
}

/// The base that a file is of, and its ending.
fn parsed(file: &str) -> Option<(BaseName, &str)> {
    let (stem, ending) = file.split_once('.')?;
    let (at, checksum) = stem.split_once('-')?;
    let name = BaseName {
        at: Offset::new(at.parse().ok()?),
        checksum: u64::from_str_radix(checksum, 16).ok()?,
    };
    (self::stem(name) == stem).then_some((name, ending))
}

impl Shelf {
    /// Looks what is there. What is neither whole nor can be gone on from is removed.
    ///
    /// # Errors
    /// When the directory can't be made, read or cleaned.
    pub(super) fn open(files: Arc<dyn Files>, data: &Path) -> io::Result<Self> {
        let dir = data.join(BASES);
        files.create_dir(&dir)?;
        let mut shelf = Shelf {
            files,
            dir,
            held: BTreeMap::new(),
            taken: BTreeMap::new(),
        };
        let mut rest = Vec::new();
        for file in shelf.files.list(&shelf.dir)? {
            match parsed(&file) {
                Some((name, "sums")) => match shelf.load(name) {
                    Ok(Some(held)) => drop(shelf.held.insert(name, held)),
                    Ok(None) => rest.push(file),
                    Err(e) => return Err(e),
                },
                Some((_, "rdb" | "part")) => {}
                // Somebody else's are left alone.
                Some(_) => rest.push(file),
                None => tracing::warn!(file, "a file among the bases is none of ours"),
            }
        }
        for file in shelf.files.list(&shelf.dir)? {
            if let Some((name, "rdb")) = parsed(&file)
                && !shelf.held.contains_key(&name)
            {
                // Renamed, and the crash came before its sums: begun anew from what is there.
                shelf
                    .files
                    .rename(&shelf.path(name, "rdb"), &shelf.path(name, "part"))?;
            }
        }
        for file in rest {
            shelf.files.remove(&shelf.dir.join(file))?;
        }
        shelf.files.sync_dir(&shelf.dir)?;
        Ok(shelf)
    }

    fn path(&self, name: BaseName, ending: &str) -> PathBuf {
        self.dir.join(format!("{}.{ending}", stem(name)))
    }

    /// The base as its `sums` say, if both files are there and of the right length.
    fn load(&self, name: BaseName) -> io::Result<Option<Held>> {
        let bytes = read_small(&*self.files, &self.path(name, "sums"), SUMS_BYTES_MAX)?;
        let Some((base, sums)) = sums::decode(&bytes).filter(|(base, _)| base.name == name) else {
            tracing::error!(base = %name, "what tells of a base is damaged: it is fetched again");
            return Ok(None);
        };
        let len = match self.files.open(&self.path(name, "rdb"), Mode::Read) {
            Ok(file) => file.len()?,
            Err(e) if e.kind() == ErrorKind::NotFound => 0,
            Err(e) => return Err(e),
        };
        if len != base.bytes {
            tracing::error!(base = %name, len, expected = base.bytes, "a base is cut short or lost: it is fetched again");
            return Ok(None);
        }
        Ok(Some(Held { base, sums }))
    }

    /// What is held, oldest first.
    pub(super) fn held(&self) -> Vec<Base> {
        self.held.values().map(|h| h.base.clone()).collect()
    }

    /// Begins to take `base`, or goes on with what there is of it. `None` when it is held already.
    pub(super) fn begin(&mut self, base: &Base) -> Result<Option<Part>, PutError> {
        if self.held.get(&base.name).is_some_and(|h| h.base == *base) {
            return Ok(None);
        }
        if self.held.contains_key(&base.name) {
            let why = "another manifest of it is held here".to_owned();
            return Err(PutError::Bad { name: base.name, why });
        }
        // Two that write to one file, of which one ends and publishes it, would leave the other writing to what is held.
        if self
            .taken
            .get(&base.name)
            .is_some_and(|token| token.strong_count() > 0)
        {
            return Err(PutError::Busy(base.name));
        }
        let part = self.open_part(base).map_err(|e| put_error(base.name, e))?;
        self.taken.insert(base.name, Arc::downgrade(&part.token));
        Ok(Some(part))
    }

    fn open_part(&self, base: &Base) -> io::Result<Part> {
        let path = self.path(base.name, "part");
        let file = match self.files.open(&path, Mode::Write) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                self.make_way("part")?;
                self.files.open(&path, Mode::CreateNew)?
            }
            opened => opened?,
        };
        file.allocate(base.bytes)?;
        let mut part = Part {
            base: base.clone(),
            file,
            path,
            sums: Vec::new(),
            checksum: BaseChecksum::default(),
            rest: BytesMut::new(),
            unsynced: 0,
            is_resumed: false,
            token: Arc::new(()),
        };
        // What a process that was killed wrote may not have reached the disk.
        part.file.sync_data()?;
        let there = part.file.len()?.min(base.bytes);
        let mut chunk = vec![0; BASE_CHUNK_BYTES];
        while part.stored() + BASE_CHUNK_BYTES as u64 <= there {
            let read = part.file.read_at(&mut chunk, part.stored())?;
            if read < chunk.len() {
                break;
            }
            part.note(&chunk);
        }
        part.is_resumed = !part.sums.is_empty();
        Ok(part)
    }

    /// Removes the oldest ones with this ending of which none is held, but for as many as may stay beside a new one.
    fn make_way(&self, ending: &str) -> io::Result<()> {
        let all = self.files.list(&self.dir)?;
        let of = all.iter().filter(|f| parsed(f).is_some_and(|(_, e)| e == ending));
        let of: Vec<_> = of.collect();
        for file in of.iter().take((of.len() + 1).saturating_sub(STRANGERS_MAX)) {
            self.files.remove(&self.dir.join(file))?;
        }
        Ok(())
    }

    /// Ends the transfer of a base: it is held from now on.
    pub(super) fn finish(&mut self, mut part: Part) -> Result<(), PutError> {
        let name = part.base.name;
        let finished = part.write_rest().and_then(|()| {
            part.file.set_len(part.base.bytes)?;
            part.file.sync_data()
        });
        finished.map_err(|e| put_error(name, e))?;
        let found = part.checksum.get();
        if found != name.checksum && !planted::on("h19_unverified_base") {
            // Begun anew by the next attempt: what is here is not it.
            self.files.remove(&part.path).map_err(|e| put_error(name, e))?;
            if part.is_resumed {
                return Err(PutError::Again(name));
            }
            let why = format!("its checksum is {found:016x}");
            return Err(PutError::Bad { name, why });
        }
        part.file.forget(0, part.base.bytes);
        self.publish(&part).map_err(|e| put_error(name, e))?;
        let Part { base, sums, .. } = part;
        self.held.insert(name, Held { base, sums });
        Ok(())
    }

    fn publish(&self, part: &Part) -> io::Result<()> {
        let (base, files) = (&part.base, &*self.files);
        files.rename(&part.path, &self.path(base.name, "rdb"))?;
        let (new, sums) = (self.path(base.name, "sums.new"), self.path(base.name, "sums"));
        match files.remove(&new) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let file = files.open(&new, Mode::CreateNew)?;
        file.write_at(&[IoSlice::new(&sums::encode(base, &part.sums))], 0)?;
        file.sync_data()?;
        files.rename(&new, &sums)?;
        files.sync_dir(&self.dir)
    }

    /// The rest of the chunk that byte `from` of a base lies in; empty behind its end.
    pub(super) fn read(&self, name: BaseName, from: u64) -> Result<Bytes, ReadBaseError> {
        let held = self.held.get(&name).ok_or(ReadBaseError::NotHeld(name))?;
        let io = |source| ReadBaseError::Io { name, source };
        if from >= held.base.bytes {
            return Ok(Bytes::new());
        }
        let number = from / BASE_CHUNK_BYTES as u64;
        let begin = number * BASE_CHUNK_BYTES as u64;
        let len = (held.base.bytes - begin).min(BASE_CHUNK_BYTES as u64);
        let file = self.files.open(&self.path(name, "rdb"), Mode::Read).map_err(io)?;
        let mut chunk = vec![0; len as usize];
        let read = file.read_at(&mut chunk, begin).map_err(io)?;
        if read < chunk.len() || held.sums.get(number as usize) != Some(&payload_crc(&chunk)) {
            return Err(ReadBaseError::Damaged { name, at: begin });
        }
        file.forget(begin, len);
        Ok(Bytes::from(chunk).slice((from - begin) as usize..))
    }

    /// Removes a base, or what there is of it.
    pub(super) fn remove(&mut self, name: BaseName) -> io::Result<()> {
        self.held.remove(&name);
        // The sums first: without them nothing is held.
        for ending in ["sums", "rdb", "part"] {
            match self.files.remove(&self.path(name, ending)) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        self.files.sync_dir(&self.dir)
    }

    /// Removes everything of which `keep` says no, whole or on its way; returns the names.
    pub(super) fn retain(&mut self, keep: impl Fn(BaseName) -> bool) -> io::Result<Vec<BaseName>> {
        let mut gone = Vec::new();
        for file in self.files.list(&self.dir)? {
            if let Some((name, _)) = parsed(&file)
                && !keep(name)
                && !gone.contains(&name)
            {
                gone.push(name);
            }
        }
        for name in &gone {
            self.remove(*name)?;
        }
        Ok(gone)
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.held.values().map(|h| h.base.bytes).sum()
    }
}

fn put_error(name: BaseName, source: io::Error) -> PutError {
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => PutError::NoRoom(name),
        _ => PutError::Io { name, source },
    }
}

impl Part {
    /// Whole chunks that were written, bytes.
    pub(super) fn stored(&self) -> u64 {
        let chunks = self.sums.len() as u64;
        (chunks * BASE_CHUNK_BYTES as u64).min(self.base.bytes)
    }

    /// Bytes that came.
    pub(super) fn came(&self) -> u64 {
        self.stored() + self.rest.len() as u64
    }

    /// Whether all came.
    pub(super) fn is_whole(&self) -> bool {
        self.came() == self.base.bytes
    }

    fn note(&mut self, chunk: &[u8]) {
        self.sums.push(payload_crc(chunk));
        self.checksum = self.checksum.extend(chunk);
    }

    /// Takes the bytes that follow. Returns whether what was stored before is durable now.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<bool, PutError> {
        let name = self.base.name;
        if self.came() + bytes.len() as u64 > self.base.bytes {
            let why = format!("more than its {} bytes came", self.base.bytes);
            return Err(PutError::Bad { name, why });
        }
        self.rest.extend_from_slice(bytes);
        let write = |part: &mut Part| {
            while part.rest.len() >= BASE_CHUNK_BYTES {
                let chunk = part.rest.split_to(BASE_CHUNK_BYTES);
                part.put(&chunk)?;
            }
            if part.unsynced < SYNC_BYTES {
                return Ok(false);
            }
            part.file.sync_data()?;
            part.unsynced = 0;
            Ok(true)
        };
        write(self).map_err(|e| put_error(name, e))
    }

    fn put(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.file.write_at(&[IoSlice::new(chunk)], self.stored())?;
        self.unsynced += chunk.len() as u64;
        self.note(chunk);
        Ok(())
    }

    fn write_rest(&mut self) -> io::Result<()> {
        let rest = self.rest.split();
        if rest.is_empty() {
            return Ok(());
        }
        self.put(&rest)
    }
}

#[cfg(test)]
pub(super) mod tests;
