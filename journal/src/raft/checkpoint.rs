//! Checkpoints: what the log has made of the journal up to one of its entries, so that neither a start nor a reader of an
//! old offset has to replay the log from its beginning.
//!
//! They lie in the metadata, which may lose, garble or mix up everything, and consensus must not rest on it. So a checkpoint
//! is believed only for the very log that made it: the log holds, at its index, the entry of its term. Two logs that agree
//! in term and index of an entry agree in all before it (Raft's log matching), so what was made of them is the same. At a
//! start it must besides not lie beyond what the log itself says is committed: an entry is never taken for committed
//! because the metadata says so (H8). `h08_a_checkpoint_of_another_log_is_not_believed` dies without the first,
//! `h08_a_checkpoint_beyond_what_is_committed_is_not_believed` without the second. A checkpoint that is not believed costs
//! a replay from an older one, in the end from the beginning.

use super::types::{
    LogId, StoredMembership, log_id_from_wire, log_id_to_disk, log_id_to_wire, membership_from_wire,
    membership_to_wire,
};
use crate::append::{Admission, Command, Seek, Standing, WriterState};
use crate::segment::Storage;
use prost::Message;
use redoubt_env::planted;
use redoubt_proto::v1;
use redoubt_types::{Chain, ClusterId, Db, Epoch, HolderId, Offset, WallTime};
use std::time::Duration;

/// The first byte of a checkpoint.
const VERSION: u8 = 1;
/// `checkpoint/INDEX` has the checkpoint behind entry INDEX.
const BY_INDEX: &str = "checkpoint/";
/// `checkpoint-at/TAIL/INDEX` says that the checkpoint behind entry INDEX was made where the tail was TAIL.
const BY_TAIL: &str = "checkpoint-at/";

/// How much of the log lies between two checkpoints. Both count, whichever is reached first; the checkpoint is made at the
/// next place between two groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointEvery {
    /// Entries of the log.
    pub entries: u64,
    /// Bytes of their payload.
    pub bytes: u64,
}

impl Default for CheckpointEvery {
    /// Half a minute of small entries, a fraction of a second of large ones: about 100 ms of replay.
    fn default() -> Self {
        CheckpointEvery {
            entries: 32 * 1024,
            bytes: 16 * 1024 * 1024,
        }
    }
}

/// The state behind one entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub(super) applied: LogId,
    pub(super) membership: StoredMembership,
    pub(super) standing: Standing,
}

fn key(index: u64) -> Vec<u8> {
    format!("{BY_INDEX}{index:020}").into_bytes()
}

fn key_at(tail: Offset, index: u64) -> Vec<u8> {
    format!("{BY_TAIL}{:020}/{index:020}", tail.get()).into_bytes()
}

/// The index that a key of either kind ends with.
fn index_of(key: &[u8]) -> Option<u64> {
    std::str::from_utf8(key).ok()?.rsplit('/').next()?.parse().ok()
}

impl Checkpoint {
    /// Keeps it in the metadata of `storage`.
    pub(super) fn keep(&self, storage: &Storage) {
        let index = self.applied.index;
        storage.keep(key(index), self.encode());
        storage.keep(key_at(self.standing.tail, index), Vec::new());
    }

    /// The newest one to start from, `committed` being what the log itself says is committed.
    pub(super) fn newest(storage: &Storage, committed: Option<LogId>, cluster: ClusterId) -> Option<Self> {
        let most = if planted::on("h08_checkpoint_beyond_committed") {
            u64::MAX
        } else {
            committed?.index
        };
        Self::at_or_before(storage, most, cluster)
    }

    /// The newest one that lies before what `seek` wants.
    pub(super) fn before(storage: &Storage, seek: Seek, cluster: ClusterId) -> Option<Self> {
        let most = match seek {
            Seek::Log(index) => index.checked_sub(1)?,
            Seek::Offset(offset) => {
                let last = storage.kept(&key_at(Offset::ZERO, 0), &key_at(offset, u64::MAX));
                index_of(&last?.0)?
            }
        };
        let found = Self::at_or_before(storage, most, cluster)?;
        // The second key is the metadata's word too.
        let lies_before = match seek {
            Seek::Log(_) => true,
            Seek::Offset(offset) => found.standing.tail <= offset,
        };
        lies_before.then_some(found)
    }

    /// Forgets those that are of no use once the log begins behind entry `index`.
    pub(super) fn forget_before(storage: &Storage, index: u64) {
        while let Some((found, value)) = storage.kept(&key(0), &key(index)) {
            // One that can't be read takes its second key with it only when the log is written anew: it says nothing.
            if let Some(found) = Self::decode(&value) {
                storage.forget(key_at(found.standing.tail, found.applied.index));
            }
            storage.forget(found);
        }
    }

    fn at_or_before(storage: &Storage, mut most: u64, cluster: ClusterId) -> Option<Self> {
        // What is older is not of any log that is here; where it was trimmed, the beginning says more.
        let least = storage.trimmed().map_or(0, |id| id.index + 1);
        loop {
            let (key, value) = storage.kept(&key(least), &key(most))?;
            let index = index_of(&key)?;
            let found = Self::decode(&value).filter(|c| c.is_of(storage, index, cluster));
            if found.is_some() {
                return found;
            }
            tracing::warn!(
                index,
                "a checkpoint is not of this log, or damaged: an older one is used"
            );
            most = index.checked_sub(1)?;
        }
    }

    /// Whether it was made of the log that `storage` holds.
    fn is_of(&self, storage: &Storage, index: u64, cluster: ClusterId) -> bool {
        let in_log = storage.log_id_at(index) == Some(log_id_to_disk(&self.applied))
            || planted::on("h08_checkpoint_of_any_log");
        self.applied.index == index && self.standing.cluster == cluster && in_log
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let s = &self.standing;
        let membership = self.membership.membership();
        let message = v1::Checkpoint {
            applied: Some(log_id_to_wire(&self.applied)),
            membership_at: self.membership.log_id().as_ref().map(log_id_to_wire),
            membership: Some(membership_to_wire(membership)),
            cluster_id: s.cluster.to_string(),
            lineage: redoubt_proto::lineage_to(&s.lineage),
            tail: s.tail.get(),
            tail_chain: s.tail_chain.get(),
            groups: s.groups,
            db: s.db.get(),
            writer: s.writer.as_ref().map(|w| v1::CheckpointWriter {
                epoch: w.epoch.get(),
                holder: w.holder.get(),
                holder_name: w.name.clone(),
                lease_ms: w.lease.as_millis() as u64,
                released: w.released,
                renewed_wall_ms: w.renewed_wall.ms(),
            }),
            session: s.session.as_ref().map(|s| Command::Session(s.clone()).encode()),
            renewals: s.renewals,
            boundaries: s
                .boundaries
                .iter()
                .flat_map(|(end, chain)| [end.get(), chain.get()])
                .collect(),
            base: s.base.as_ref().map(redoubt_proto::base),
        };
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&message.encode_to_vec());
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads it; `None` when the bytes are damaged, or of another version.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (bytes, crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(bytes) != u32::from_le_bytes(*crc) && !cfg!(fuzzing) {
            return None;
        }
        let (version, message) = bytes.split_first()?;
        if *version != VERSION {
            return None;
        }
        let m = v1::Checkpoint::decode(message).ok()?;
        let session = match m.session {
            None => None,
            Some(bytes) => match Command::decode(&bytes).ok()? {
                Command::Session(s) => Some(s),
                _ => return None,
            },
        };
        let writer = match m.writer {
            None => None,
            Some(w) => Some(WriterState {
                epoch: Epoch::new(w.epoch)?,
                holder: HolderId::new(w.holder)?,
                name: w.holder_name,
                lease: Duration::from_millis(w.lease_ms),
                released: w.released,
                renewed_wall: WallTime::from_ms(w.renewed_wall_ms),
            }),
        };
        let boundaries = m.boundaries.chunks_exact(2);
        Some(Checkpoint {
            applied: log_id_from_wire(&m.applied?),
            membership: StoredMembership::new(
                m.membership_at.as_ref().map(log_id_from_wire),
                membership_from_wire(m.membership?).ok()?,
            ),
            standing: Standing {
                cluster: redoubt_proto::cluster_id("cluster_id", &m.cluster_id).ok()?,
                lineage: redoubt_proto::lineage_from(&m.lineage).ok()?,
                tail: Offset::new(m.tail),
                tail_chain: Chain::from_u64(m.tail_chain),
                groups: m.groups,
                db: Db::new(m.db),
                writer,
                session,
                renewals: m.renewals,
                boundaries: boundaries
                    .map(|b| (Offset::new(b[0]), Chain::from_u64(b[1])))
                    .collect(),
                base: match &m.base {
                    Some(base) => Some(redoubt_proto::base_from(base).ok()?),
                    None => None,
                },
            },
        })
    }
}

/// The state that a log begins behind, from its bytes, and the place of the first record; `None` when they are no state.
pub(crate) fn admission_at(beginning: &[u8]) -> Option<(Admission, u64)> {
    let checkpoint = Checkpoint::decode(beginning)?;
    Some((checkpoint.standing.into(), checkpoint.applied.index + 1))
}

/// For `cargo fuzz`: bytes as a checkpoint.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Some(checkpoint) = Checkpoint::decode(bytes) {
        let again = Checkpoint::decode(&checkpoint.encode());
        assert_eq!(again, Some(checkpoint), "what is read is not what is written");
    }
}

#[cfg(test)]
mod tests;
