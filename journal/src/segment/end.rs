//! A witness beside the log: how far it was durable, and the header of the segment in which it went on.
//!
//! A file that a file system cut short, or lost, has nothing behind the cut that could tell of what was there, and looks as if
//! the log had ended. This file tells. It is written when the log goes on in another segment, before that gets its first
//! record, and every second while there is more to say; so it is never ahead of the log, and behind it by what was written since.
//! A witness only: what it says can turn an end into damage, never the other way round, so it may be old, or lost.

use super::error::{Failure, OpenError};
use super::format::{HEADER_FRONT_BYTES, Position, SegmentHeader};
use super::slots::Slots;
use redoubt_env::files::{Files, is_unreadable};
use std::io;
use std::path::{Path, PathBuf};

/// The file's name.
pub(crate) const END: &str = "end";
const MAGIC: [u8; 8] = *b"RDBTENDS";

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Witness {
    /// Everything before was durable.
    pub(crate) durable: Position,
    /// The header of the last segment.
    pub(crate) header: SegmentHeader,
}

impl Witness {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut b = self.durable.to_u64().to_le_bytes().to_vec();
        b.extend_from_slice(&self.header.encode_front());
        b
    }

    pub(crate) fn decode(b: &[u8]) -> Option<Self> {
        let (durable, front) = b.split_first_chunk::<8>()?;
        (front.len() == HEADER_FRONT_BYTES).then_some(())?;
        let witness = Witness {
            durable: Position::from_u64(u64::from_le_bytes(*durable)),
            header: SegmentHeader::decode_front(front)?,
        };
        // There is nothing behind the last segment.
        (witness.durable.segment <= witness.header.segment).then_some(witness)
    }
}

/// The open file.
pub(crate) struct EndFile {
    slots: Slots,
    said: Witness,
}

/// What stands there, for one who changes nothing: the witness, unless it is lost; and whether a copy of it is.
pub(crate) fn peek(files: &dyn Files, dir: &Path) -> Result<(Option<Witness>, bool), OpenError> {
    match Slots::peek(files, &path(dir), MAGIC) {
        Ok((payload, damaged)) => {
            let witness = Witness::decode(&payload);
            Ok((witness, damaged || witness.is_none()))
        }
        Err(e) if is_lost(&e) => Ok((None, true)),
        Err(e) => Err(e),
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join(END)
}

fn is_lost(e: &OpenError) -> bool {
    match e {
        OpenError::Slots { .. } => true,
        // A page that can't be read; a failed sync is another thing, and final.
        OpenError::Io {
            verb: "read", source, ..
        } => is_unreadable(source),
        OpenError::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

impl EndFile {
    /// Opens the file and has it say `now`; one that is lost is made anew.
    pub(crate) fn open(files: &dyn Files, dir: &Path, now: Witness) -> Result<Self, OpenError> {
        let loaded = match Slots::load(files, &path(dir), MAGIC) {
            Ok((slots, payload)) => Witness::decode(&payload).map(|said| EndFile { slots, said }),
            Err(e) if is_lost(&e) => None,
            Err(e) => return Err(e),
        };
        let Some(mut end) = loaded else {
            tracing::warn!(dir = %dir.display(), "the file that tells where the log ends is lost: it is made anew");
            return Self::create(files, dir, now);
        };
        end.say(now).map_err(super::error::from_failure)?;
        Ok(end)
    }

    /// Makes the file.
    pub(crate) fn create(files: &dyn Files, dir: &Path, now: Witness) -> Result<Self, OpenError> {
        let slots = Slots::create(files, &path(dir), MAGIC, &now.encode())?;
        files.sync_dir(dir).map_err(OpenError::io("sync", dir))?;
        Ok(EndFile { slots, said: now })
    }

    /// Whether it says less than `now`.
    pub(crate) fn is_behind(&self, now: Witness) -> bool {
        self.said != now
    }

    /// Says `now`, durably. Everything before its position MUST be durable.
    ///
    /// # Errors
    /// A failed write or sync, which is final.
    pub(crate) fn say(&mut self, now: Witness) -> Result<(), Failure> {
        if self.said != now {
            self.slots.save(&now.encode())?;
            self.said = now;
        }
        Ok(())
    }

    /// As of [`Slots::mend`].
    pub(crate) fn mend(&mut self) -> Result<bool, Failure> {
        self.slots.mend()
    }
}
