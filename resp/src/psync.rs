//! PSYNC: how a replica and a master agree from where the stream goes on. Pure on both sides.
//!
//! Decides who may continue and from which offset. Promises never to continue a replica beyond what its
//! replid is valid for (H15), and to name the newest replid in every answer. Knows nothing of sockets, of time,
//! or of where the stream's bytes are.

mod master;
mod rdb;
mod replica;

pub use master::{Ack, HandshakeError, MasterHandshake, PsyncRequest, ReplicaAcks};
pub use rdb::{crc64, empty_rdb};
pub use replica::{Auth, HandshakeOutcome, MasterAnswerError, ReplicaHandshake, ReplicaIdentity};

use crate::stream::encode_command;
use bytes::{BufMut, BytesMut};
use redoubt_types::{Lineage, Offset, ReplId};

/// What a replica asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PsyncAsk {
    /// It holds nothing that it could continue from.
    Full,
    /// It holds the history `replid` up to `held`, and asked for the byte behind.
    Partial {
        /// The history, by whichever of its names the replica knows.
        replid: ReplId,
        /// The end of what it holds: `PSYNC replid 135` holds 134.
        held: Offset,
    },
}

/// What a replica is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PsyncAnswer {
    /// It goes on from where it is.
    Continue {
        /// The newest replid, which the replica takes as its own.
        replid: ReplId,
        /// The stream's first byte is the one behind this offset.
        from: Offset,
    },
    /// It takes a base, and the stream from there.
    FullResync {
        /// The newest replid.
        replid: ReplId,
        /// The base's offset; the stream's first byte is the one behind it.
        at: Offset,
    },
}

/// Answers a replica, from a journal that holds the stream from `begin` to `tail` and a base at `base`, which is in between.
///
/// `tail` MUST be quorum-confirmed: a replica that is ahead of a tail that merely lags would get a full resync
/// (H8). What a replica asks is the byte *behind* what it holds, so both ends count. With begin 100, tail 200:
/// held 99 needs byte 100, which is gone: full. Held 100 needs byte 101, the first there is: continue. Held
/// 200 needs 201, the next to come: continue. Held 201 is not of this history: full. Under a replid that ended
/// at 150, held 150 needs byte 151, the first under its successor: continue, and it is told the newest replid.
/// Held 151 has a byte of its own where ours begin: full. A full sync is of the base at `base` and the stream from there on, whatever
/// the stream still has of what is before it.
pub fn answer(lineage: &Lineage, tail: Offset, begin: Offset, base: Offset, ask: &PsyncAsk) -> PsyncAnswer {
    let newest = lineage.last().replid;
    match ask {
        PsyncAsk::Partial { replid, held }
            if begin <= *held && lineage.end_of(replid, tail).is_some_and(|end| *held <= end) =>
        {
            PsyncAnswer::Continue {
                replid: newest,
                from: *held,
            }
        }
        _ => PsyncAnswer::FullResync {
            replid: newest,
            at: base,
        },
    }
}

impl PsyncAnswer {
    /// Appends the answer's line. Nothing but the stream (or the base) may follow it (H15). A replica without
    /// psync2 can't take another replid: it gets a bare `+CONTINUE`, which no supported server needs.
    pub fn encode(&self, psync2: bool, out: &mut BytesMut) {
        match self {
            PsyncAnswer::Continue { .. } if !psync2 => out.put_slice(b"+CONTINUE\r\n"),
            PsyncAnswer::Continue { replid, .. } => {
                out.put_slice(format!("+CONTINUE {replid}\r\n").as_bytes())
            }
            PsyncAnswer::FullResync { replid, at } => {
                out.put_slice(format!("+FULLRESYNC {replid} {at}\r\n").as_bytes());
            }
        }
    }
}

/// Appends `REPLCONF ACK <offset>`: what a replica says it holds. MUST NOT be past what is committed (H12).
pub fn ack_command(offset: Offset, out: &mut BytesMut) {
    encode_command(&[b"REPLCONF", b"ACK", offset.to_string().as_bytes()], out);
}

/// Appends `REPLCONF GETACK *`. On a replication link it is bytes of the stream and counts in its offset, so
/// nobody but the stream's master may send it (H15).
pub fn getack(out: &mut BytesMut) {
    encode_command(&[b"REPLCONF", b"GETACK", b"*"], out);
}

#[cfg(test)]
mod tests;
