//! Where the log begins, once what was before is trimmed.
//!
//! ```text
//! beginning-SEGMENT    twice the same, each with a checksum of its own:
//! 0   magic "RDBTBEGN"
//! 8   version, u32
//! 12  the first segment, u32
//! 16  the last record that is trimmed: term, leader, index, u64 each
//! 40  bytes of the state, u32
//! 44  what the log up to there had made of the state machine
//! ..  CRC-32 of all before
//! ```
//!
//! It is published before anything is removed, and the newest counts; so a crash at any step leaves either the old beginning and all
//! behind it, or the new one and files that the next opening removes. Without it what is trimmed would be missing, which is damage.
//! It holds what nothing else on this node has: so it holds it twice, and is made again when one of the two is damaged.

use super::error::{Failure, OpenError};
use super::file;
use super::format::{get_u32, get_u64};
use super::model::LogId;
use redoubt_env::files::{Files, Mode};
use std::io::{ErrorKind, IoSlice};
use std::path::{Path, PathBuf};

/// What the file is called, for people.
pub(crate) const BEGINNING: &str = "beginning";
const MAGIC: &[u8; 8] = b"RDBTBEGN";
const VERSION: u32 = 1;
const PREFIX: &str = "beginning-";
const STATE_AT: usize = 44;
/// Bytes of a state at most.
const STATE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Where a log begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Beginning {
    /// Its first segment.
    pub(crate) segment: u32,
    /// The last record that is trimmed. It may lie in that segment.
    pub(crate) trimmed: LogId,
    /// What the log up to there had made of the state machine.
    pub(crate) state: Vec<u8>,
}

/// Whether a file's name is that of a beginning, also of one that was being made.
pub(crate) fn is_one(name: &str) -> bool {
    segment_of(name.strip_suffix(".new").unwrap_or(name)).is_some()
}

fn segment_of(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

fn path_of(dir: &Path, segment: u32) -> PathBuf {
    dir.join(format!("{PREFIX}{segment:010}"))
}

impl Beginning {
    /// One of the two copies.
    fn encode(&self) -> Vec<u8> {
        let mut b = MAGIC.to_vec();
        b.extend_from_slice(&VERSION.to_le_bytes());
        b.extend_from_slice(&self.segment.to_le_bytes());
        for n in [self.trimmed.term, self.trimmed.leader, self.trimmed.index] {
            b.extend_from_slice(&n.to_le_bytes());
        }
        b.extend_from_slice(&(self.state.len() as u32).to_le_bytes());
        b.extend_from_slice(&self.state);
        let crc = crc32fast::hash(&b);
        b.extend_from_slice(&crc.to_le_bytes());
        b
    }

    fn decode(b: &[u8]) -> Option<Self> {
        let (b, crc) = b.split_last_chunk::<4>()?;
        let whole = crc32fast::hash(b) == u32::from_le_bytes(*crc);
        if !whole || b.len() < STATE_AT || b[..8] != *MAGIC || get_u32(b, 8) != VERSION {
            return None;
        }
        let state = &b[STATE_AT..];
        (state.len() == get_u32(b, STATE_AT - 4) as usize).then_some(())?;
        Some(Beginning {
            segment: get_u32(b, 12),
            trimmed: LogId {
                term: get_u64(b, 16),
                leader: get_u64(b, 24),
                index: get_u64(b, 32),
            },
            state: state.to_vec(),
        })
    }

    /// Makes it the log's beginning: durable when this returns.
    pub(crate) fn publish(&self, files: &dyn Files, dir: &Path) -> Result<(), Failure> {
        let path = path_of(dir, self.segment);
        let fresh = path.with_extension("new");
        file::remove(files, &fresh)?;
        let new = files
            .open(&fresh, Mode::CreateNew)
            .map_err(Failure::new("create", &fresh))?;
        let copy = self.encode();
        new.write_at(&[IoSlice::new(&copy), IoSlice::new(&copy)], 0)
            .map_err(Failure::new("write", &fresh))?;
        if !redoubt_env::planted::on("beginning_not_synced") {
            file::sync(&*new, &fresh)?;
        }
        files
            .rename(&fresh, &path)
            .map_err(Failure::new("rename", &path))?;
        files.sync_dir(dir).map_err(Failure::new(file::SYNC, dir))
    }
}

/// What tells where the log in a directory begins.
pub(crate) struct Told {
    /// `None`: nothing was trimmed yet.
    pub(crate) beginning: Option<Beginning>,
    /// One of its two copies is damaged.
    pub(crate) is_spoilt: bool,
    /// Names of files that count no more.
    pub(crate) leftovers: Vec<String>,
}

/// Looks for the beginning among the `names` of `dir`. Changes nothing.
///
/// # Errors
/// When both copies of the newest one are damaged: what is before it may be gone, and the state there is.
pub(crate) fn find(files: &dyn Files, dir: &Path, names: &[String]) -> Result<Told, OpenError> {
    let newest = names.iter().filter_map(|n| segment_of(n)).max();
    let leftovers = names
        .iter()
        .filter(|n| is_one(n) && segment_of(n) != newest)
        .cloned()
        .collect();
    let Some(segment) = newest else {
        return Ok(Told {
            beginning: None,
            is_spoilt: false,
            leftovers,
        });
    };
    let path = path_of(dir, segment);
    let opened = files
        .open(&path, Mode::Write)
        .map_err(OpenError::io("open", &path))?;
    // What is read here may never have reached the disk: from here on it counts as durable.
    opened.sync_data().map_err(OpenError::io("sync", &path))?;
    let bytes = file::read_what_can_be(&*opened, &path)?;
    let rot = || OpenError::Rot {
        path: path.clone(),
        segment,
        position: 0,
        index: 0,
    };
    if bytes.len() > 2 * (STATE_AT + STATE_BYTES_MAX + 4) {
        return Err(rot());
    }
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let (first, second) = (Beginning::decode(first), Beginning::decode(second));
    let is_spoilt = first.is_none() || first != second;
    let found = first
        .or(second)
        .filter(|b| b.segment == segment)
        .ok_or_else(rot)?;
    Ok(Told {
        beginning: Some(found),
        is_spoilt,
        leftovers,
    })
}

/// Removes the files of earlier beginnings than that at `segment`.
pub(crate) fn remove_earlier(files: &dyn Files, dir: &Path, segment: u32) -> Result<(), Failure> {
    let names = match files.list(dir) {
        Ok(names) => names,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Failure::new("list", dir)(e)),
    };
    for name in names {
        if segment_of(&name).is_some_and(|n| n < segment) {
            file::remove(files, &dir.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use redoubt_env::sim_files::SimFiles;

    fn id(index: u64) -> LogId {
        LogId {
            term: 0,
            leader: 2,
            index,
        }
    }

    fn beginning(segment: u32) -> Beginning {
        Beginning {
            segment,
            trimmed: id(9),
            state: vec![segment as u8; 5],
        }
    }

    fn found(files: &SimFiles) -> Result<Told, OpenError> {
        let dir = Path::new("/node");
        find(files, dir, &files.list(dir).unwrap())
    }

    #[test]
    fn the_newest_counts_and_one_damaged_copy_is_told() {
        let (files, dir) = (SimFiles::new(1), Path::new("/node"));
        files.create_dir(dir).unwrap();
        assert_eq!(found(&files).unwrap().beginning, None);
        for segment in [1, 7] {
            beginning(segment).publish(&files, dir).unwrap();
        }
        let told = found(&files).unwrap();
        assert_eq!(told.beginning, Some(beginning(7)));
        assert!(!told.is_spoilt);
        assert_eq!(told.leftovers, ["beginning-0000000001"]);
        let path = path_of(dir, 7);
        let half = files.contents(&path).unwrap().len() as u64 / 2;
        for byte in [0, half - 1] {
            files.flip_bit(&path, byte, 2);
            let told = found(&files).unwrap();
            assert_eq!(
                (told.beginning, told.is_spoilt),
                (Some(beginning(7)), true),
                "{byte}"
            );
            files.flip_bit(&path, half + byte, 2);
            assert!(
                matches!(found(&files), Err(OpenError::Rot { .. })),
                "both, {byte}"
            );
            files.flip_bit(&path, byte, 2);
            files.flip_bit(&path, half + byte, 2);
        }
        remove_earlier(&files, dir, 7).unwrap();
        assert_eq!(files.paths(), [path]);
    }
}
