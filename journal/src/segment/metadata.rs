//! A key-value store for what can be rebuilt: summaries of sealed segments, and checkpoints of what the log says.
//!
//! An implementation MUST return a value that was put under the key at some time, or none; callers check
//! what they get, so it SHOULD keep the newest but MAY lose anything at any time, a crash above all. Losing
//! or garbling all of it costs a rescan, never data: nothing that consensus rests on may be kept here.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A key and its value.
pub type KeyValue = (Vec<u8>, Vec<u8>);

/// A store of rebuildable data.
pub trait Metadata: Send + Sync {
    /// The value under `key`.
    ///
    /// # Errors
    /// When the store can't be read; the caller rebuilds.
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>>;

    /// Puts `value` under `key`.
    ///
    /// # Errors
    /// When the store can't be written; the caller goes on without.
    fn put(&self, key: &[u8], value: &[u8]) -> io::Result<()>;

    /// Removes `key`, if it is there.
    ///
    /// # Errors
    /// When the store can't be written; the caller goes on.
    fn remove(&self, key: &[u8]) -> io::Result<()>;

    /// The last of the keys from `from` to `to`, both included, and its value.
    ///
    /// # Errors
    /// When the store can't be read; the caller rebuilds.
    fn last_between(&self, from: &[u8], to: &[u8]) -> io::Result<Option<KeyValue>>;

    /// Hands everything to the operating system. Not a promise of durability.
    ///
    /// # Errors
    /// When the store can't be written.
    fn flush(&self) -> io::Result<()>;
}

/// A map in memory: the twin for tests, and a store that is always lost at a restart.
#[derive(Debug, Default)]
pub struct MapMetadata(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>);

impl MapMetadata {
    fn map(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything in it, in the order of the keys.
    #[cfg(test)]
    pub(crate) fn all(&self) -> Vec<KeyValue> {
        let map = self.map();
        map.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
    }
}

impl Metadata for MapMetadata {
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.map().get(key).cloned())
    }

    fn put(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.map().insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn remove(&self, key: &[u8]) -> io::Result<()> {
        self.map().remove(key);
        Ok(())
    }

    fn last_between(&self, from: &[u8], to: &[u8]) -> io::Result<Option<KeyValue>> {
        if from > to {
            return Ok(None);
        }
        let map = self.map();
        let last = map.range(from.to_vec()..=to.to_vec()).next_back();
        Ok(last.map(|(k, v)| (k.clone(), v.clone())))
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Memory that sled's page cache may take, bytes.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// sled, in a directory of its own.
#[derive(Debug)]
pub struct SledMetadata(sled::Db);

impl SledMetadata {
    /// Opens the store at `dir`. A store that is damaged is removed and begun anew: nothing in it is needed.
    ///
    /// # Errors
    /// When the operating system refuses, or another process has the store open.
    pub fn open(dir: &Path) -> io::Result<Self> {
        match Self::try_open(dir) {
            Ok(db) => return Ok(SledMetadata(db)),
            Err(sled::Error::Io(e)) if e.kind() != io::ErrorKind::InvalidData => return Err(e),
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "the metadata is damaged: it is rebuilt");
            }
        }
        std::fs::remove_dir_all(dir)?;
        Self::try_open(dir).map(SledMetadata).map_err(to_io)
    }

    fn try_open(dir: &Path) -> sled::Result<sled::Db> {
        // sled panics on some kinds of damage. The panic is contained here, before anything shares the store.
        let open = || sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).open();
        std::panic::catch_unwind(open).unwrap_or_else(|_| {
            let what = io::Error::new(io::ErrorKind::InvalidData, "sled panicked");
            Err(sled::Error::Io(what))
        })
    }
}

fn to_io(e: sled::Error) -> io::Error {
    match e {
        sled::Error::Io(e) => e,
        other => io::Error::other(other),
    }
}

impl Metadata for SledMetadata {
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.get(key).map_err(to_io)?.map(|v| v.to_vec()))
    }

    fn put(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.0.insert(key, value).map(drop).map_err(to_io)
    }

    fn remove(&self, key: &[u8]) -> io::Result<()> {
        self.0.remove(key).map(drop).map_err(to_io)
    }

    fn last_between(&self, from: &[u8], to: &[u8]) -> io::Result<Option<KeyValue>> {
        if from > to {
            return Ok(None);
        }
        let last = self.0.range(from..=to).next_back();
        last.map(|kv| kv.map(|(k, v)| (k.to_vec(), v.to_vec())).map_err(to_io))
            .transpose()
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush().map(drop).map_err(to_io)
    }
}
