//! Checks what a node holds: here, a directory that no node runs on, nothing in it being changed; in [`live`], a node that
//! runs.
//!
//! Every checksum of every file is looked at, and what is committed is replayed through admission, which checks each
//! entry's own checksum and the chain over the stream.

mod live;

pub use live::{Found, live};

use crate::append::{Admission, Command, Position};
use crate::segment::{MapMetadata, OpenError, ReadError, RecordKind, Salvage};
use redoubt_env::Env;
use redoubt_types::{ClusterId, NodeId};
use std::path::Path;

/// Bytes of records that are read at once.
const READ_BYTES: u64 = 4 * 1024 * 1024;

/// What a directory holds.
#[derive(Clone, Debug)]
pub struct Report {
    /// The node's label.
    pub name: String,
    /// Its incarnation.
    pub node: NodeId,
    /// Its cluster, once it is bootstrapped.
    pub cluster: Option<ClusterId>,
    /// Bytes of editlogs.
    pub bytes: u64,
    /// Behind the log's last record.
    pub log_end: u64,
    /// Behind the last record that is known here to be committed.
    pub committed_end: u64,
    /// Where the journal stands with what is committed; `None` when not all of it can be read.
    pub position: Option<Position>,
    /// What is damaged, a sentence each.
    pub damage: Vec<String>,
}

/// How far a check is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Bytes of files that were read.
    pub bytes: u64,
    /// All that there are.
    pub of: u64,
    /// Records that were replayed.
    pub replayed: u64,
}

/// Checks the directory `dir`. Blocks, and holds it locked meanwhile.
///
/// # Errors
/// When it could not be checked ([`is_damage`] is false for that), or is damaged in a way that no start mends.
pub fn directory(env: &Env, dir: &Path, mut progress: impl FnMut(Progress)) -> Result<Report, OpenError> {
    // What can't be listed is told when it is read.
    let of = Salvage::bytes_in(env, dir).unwrap_or_default();
    let mut bytes = 0;
    let mut scanned = |more| {
        bytes += more;
        progress(Progress {
            bytes,
            of,
            replayed: 0,
        });
    };
    let salvage = Salvage::open(env, dir, &MapMetadata::default(), &mut scanned)?;
    let mended = "; the next start fetches what is missing from the other nodes";
    let gaps = salvage.gaps().iter().map(|g| g.describe() + mended);
    let copies = salvage.spoilt_copies().iter();
    let copies = copies.map(|f| format!("one of the two copies in {f} is damaged; the next start mends it"));
    let headers = salvage.spoilt_headers().iter();
    let headers = headers
        .map(|n| format!("the header of editlog {n} is damaged or lost; the next start makes it again"));
    let mut damage: Vec<String> = copies.chain(headers).chain(gaps).collect();
    let position = match replay(&salvage, |replayed| progress(Progress { bytes, of, replayed })) {
        Ok(position) => position.filter(|_| salvage.gaps().is_empty()),
        Err(what) => {
            damage.push(what);
            None
        }
    };
    let identity = salvage.identity();
    Ok(Report {
        name: identity.name.clone(),
        node: identity.node,
        cluster: identity.cluster.as_ref().map(|seed| seed.cluster),
        bytes,
        log_end: salvage.end(),
        committed_end: salvage.committed_end(),
        position,
        damage,
    })
}

/// Whether `error` says that the directory is damaged, and not that it could not be checked.
pub fn is_damage(error: &OpenError) -> bool {
    match error {
        OpenError::Rot { .. } | OpenError::Slots { .. } | OpenError::Contradiction { .. } => true,
        OpenError::Missing { .. } => true,
        OpenError::Locked { .. } | OpenError::Io { .. } | OpenError::Version { .. } => false,
        OpenError::Foreign { .. } | OpenError::NotOurs { .. } => false,
    }
}

/// Replays what is committed. `None` where a gap ends it.
fn replay(salvage: &Salvage, mut replayed: impl FnMut(u64)) -> Result<Option<Position>, String> {
    let (mut admission, mut next) = match salvage.beginning() {
        None => (Admission::new(), 0),
        Some(state) => crate::raft::admission_at(state)
            .ok_or("the state that the log begins behind can't be read by this version")?,
    };
    while next < salvage.committed_end() {
        let records = match salvage.read(next, salvage.committed_end(), READ_BYTES) {
            Ok(records) => records,
            Err(ReadError::Damaged { .. }) => return Ok(None),
            Err(e) => return Err(e.to_string()),
        };
        for record in records {
            next = record.id.index + 1;
            if record.kind == RecordKind::Normal {
                let command = Command::decode(&record.payload);
                let command =
                    command.map_err(|e| format!("record {} is no command: {e}", record.id.index))?;
                admission.apply(&command);
            }
        }
        replayed(next);
    }
    Ok(Some(admission.position()))
}
