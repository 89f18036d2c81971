//! What the log holds, and its bytes. The tables are in docs/disk-format.md.

use super::Session;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use redoubt_types::{
    Base, BaseName, Chain, ClusterId, Db, Epoch, HolderId, LineageStep, Offset, ReplId, RunId, WallTime,
};
use std::time::Duration;

/// Version of the encoding, the second byte of every command.
const VERSION: u8 = 1;
/// Bytes of an append before its payload.
pub(super) const APPEND_HEADER_BYTES: usize = 2 + 8 + 40 + 8 + 8 + 4 + 8 + 4;
/// A name for people, bytes at most.
const NAME_BYTES_MAX: usize = 256;

/// The first entry of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// The cluster.
    pub cluster: ClusterId,
    /// The replid of the empty history.
    pub replid: ReplId,
}

/// Bytes of the master's stream, with the position that their writer gave them.
#[derive(Clone, PartialEq, Eq)]
pub struct AppendEntry {
    /// The writer.
    pub epoch: Epoch,
    /// The replid that the bytes were written under.
    pub replid: ReplId,
    /// Offset of the first byte.
    pub start: Offset,
    /// Chain of the stream before it.
    pub chain: Chain,
    /// CRC-32 of the payload, as its writer computed it.
    pub payload_crc: u32,
    /// When the writer captured it.
    pub captured: WallTime,
    /// The bytes.
    pub payload: Bytes,
}

impl std::fmt::Debug for AppendEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "AppendEntry {{ epoch: {}, replid: {}, start: {}, chain: {}, bytes: {} }}",
            self.epoch,
            self.replid,
            self.start,
            self.chain,
            self.payload.len()
        )
    }
}

impl AppendEntry {
    /// Offset behind the last byte.
    pub fn end(&self) -> Offset {
        self.start.advance(self.payload.len() as u64)
    }
}

/// A claim to be the writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acquire {
    /// Who claims.
    pub holder: HolderId,
    /// Its name, for people.
    pub name: String,
    /// How long the lease lasts from each renewal. In the entry, so that every node counts the same (H14).
    pub lease: Duration,
    /// Renewals applied when the leader decided that the old lease was over. A later one refuses the claim (H1).
    pub seen_renewals: u64,
    /// The claimant's wall clock.
    pub sent: WallTime,
}

/// A base that is to be the journal's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBase {
    /// Its manifest.
    pub base: Base,
    /// The base that it was made from, `None` for a journal's first. Two folds at once begin with the same one, and only one of them
    /// can be in its place.
    pub previous: Option<BaseName>,
}

/// An application entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The journal begins.
    Genesis(Genesis),
    /// Bytes of the stream.
    Append(AppendEntry),
    /// A new writer.
    Acquire(Acquire),
    /// The writer lives.
    Renew {
        /// Its epoch.
        epoch: Epoch,
        /// Who says so.
        holder: HolderId,
        /// Its wall clock.
        sent: WallTime,
    },
    /// The writer gives its lease back.
    Release {
        /// Its epoch.
        epoch: Epoch,
        /// Who says so.
        holder: HolderId,
    },
    /// The epoch is about to promote this server process.
    Session(Session),
    /// The promoted server took this replid.
    Lineage(LineageStep),
    /// A base becomes the journal's.
    Base(NewBase),
}

/// Bytes that are no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a log entry can't be read: {0}")]
pub struct DecodeError(String);

mod kind {
    pub(super) const GENESIS: u8 = 1;
    pub(super) const APPEND: u8 = 2;
    pub(super) const ACQUIRE: u8 = 3;
    pub(super) const RENEW: u8 = 4;
    pub(super) const RELEASE: u8 = 5;
    pub(super) const SESSION: u8 = 6;
    pub(super) const LINEAGE: u8 = 7;
    pub(super) const BASE: u8 = 8;
}

impl Command {
    /// The command as bytes.
    pub fn encode(&self) -> Bytes {
        let payload = if let Command::Append(a) = self {
            a.payload.len()
        } else {
            0
        };
        let mut out = BytesMut::with_capacity(APPEND_HEADER_BYTES + payload);
        let mut head = |kind| {
            out.put_u8(kind);
            out.put_u8(VERSION);
        };
        match self {
            Command::Genesis(g) => {
                head(kind::GENESIS);
                out.put_slice(g.cluster.as_bytes());
                out.put_slice(g.replid.as_bytes());
            }
            Command::Append(a) => {
                head(kind::APPEND);
                out.put_u64_le(a.epoch.get());
                out.put_slice(a.replid.as_bytes());
                out.put_u64_le(a.start.get());
                out.put_u64_le(a.chain.get());
                out.put_u32_le(a.payload_crc);
                out.put_u64_le(a.captured.ms());
                out.put_u32_le(a.payload.len() as u32);
                out.put_slice(&a.payload);
            }
            Command::Acquire(a) => {
                head(kind::ACQUIRE);
                out.put_u64_le(a.holder.get());
                out.put_u64_le(a.lease.as_millis() as u64);
                out.put_u64_le(a.seen_renewals);
                out.put_u64_le(a.sent.ms());
                put_text(&mut out, &a.name);
            }
            Command::Renew { epoch, holder, sent } => {
                head(kind::RENEW);
                out.put_u64_le(epoch.get());
                out.put_u64_le(holder.get());
                out.put_u64_le(sent.ms());
            }
            Command::Release { epoch, holder } => {
                head(kind::RELEASE);
                out.put_u64_le(epoch.get());
                out.put_u64_le(holder.get());
            }
            Command::Session(s) => {
                head(kind::SESSION);
                out.put_u64_le(s.epoch.get());
                out.put_slice(s.run_id.as_bytes());
                out.put_u64_le(s.at.get());
                put_text(&mut out, &s.server);
            }
            Command::Lineage(l) => {
                head(kind::LINEAGE);
                out.put_u64_le(l.epoch.map_or(0, Epoch::get));
                out.put_slice(l.replid.as_bytes());
                out.put_u64_le(l.from.get());
            }
            Command::Base(NewBase { base, previous }) => {
                head(kind::BASE);
                out.put_u8(previous.is_some().into());
                if let Some(previous) = previous {
                    put_name(&mut out, *previous);
                }
                put_name(&mut out, base.name);
                out.put_slice(base.replid.as_bytes());
                out.put_u64_le(base.chain.get());
                out.put_u64_le(base.groups);
                out.put_u32_le(base.db.get());
                out.put_u64_le(base.captured.ms());
                out.put_u64_le(base.bytes);
                out.put_u32_le(base.rdb_version);
                out.put_u64_le(base.keys);
                out.put_u128_le(base.digest);
                put_text(&mut out, &base.server);
            }
        }
        out.freeze()
    }

    /// Reads a command. The payload of an append is a slice of `bytes`, not a copy.
    ///
    /// # Errors
    /// When `bytes` is not exactly one command of a version that is known here.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader(bytes.clone());
        let kind = r.u8()?;
        let version = r.u8()?;
        if version != VERSION {
            return Err(DecodeError(format!(
                "kind {kind} has version {version}, known is {VERSION}"
            )));
        }
        let command = match kind {
            kind::GENESIS => Command::Genesis(Genesis {
                cluster: ClusterId::new(r.array()?),
                replid: r.replid()?,
            }),
            kind::APPEND => Command::Append(AppendEntry {
                epoch: r.epoch()?,
                replid: r.replid()?,
                start: Offset::new(r.u64()?),
                chain: Chain::from_u64(r.u64()?),
                payload_crc: r.u32()?,
                captured: WallTime::from_ms(r.u64()?),
                payload: {
                    let len = r.u32()? as usize;
                    r.bytes(len)?
                },
            }),
            kind::ACQUIRE => Command::Acquire(Acquire {
                holder: r.holder()?,
                lease: Duration::from_millis(r.u64()?),
                seen_renewals: r.u64()?,
                sent: WallTime::from_ms(r.u64()?),
                name: r.text()?,
            }),
            kind::RENEW => Command::Renew {
                epoch: r.epoch()?,
                holder: r.holder()?,
                sent: WallTime::from_ms(r.u64()?),
            },
            kind::RELEASE => Command::Release {
                epoch: r.epoch()?,
                holder: r.holder()?,
            },
            kind::SESSION => Command::Session(Session {
                epoch: r.epoch()?,
                run_id: RunId::parse(&r.array::<40>()?).map_err(|e| DecodeError(e.to_string()))?,
                at: Offset::new(r.u64()?),
                server: r.text()?,
            }),
            kind::LINEAGE => Command::Lineage(LineageStep {
                epoch: Epoch::new(r.u64()?),
                replid: r.replid()?,
                from: Offset::new(r.u64()?),
            }),
            kind::BASE => Command::Base(NewBase {
                previous: match r.u8()? {
                    0 => None,
                    1 => Some(r.name()?),
                    other => return Err(DecodeError(format!("a flag is {other}"))),
                },
                base: Base {
                    name: r.name()?,
                    replid: r.replid()?,
                    chain: Chain::from_u64(r.u64()?),
                    groups: r.u64()?,
                    db: Db::new(r.u32()?),
                    captured: WallTime::from_ms(r.u64()?),
                    bytes: r.u64()?,
                    rdb_version: r.u32()?,
                    keys: r.u64()?,
                    digest: u128::from_le_bytes(r.array()?),
                    server: r.text()?,
                },
            }),
            other => return Err(DecodeError(format!("kind {other} is unknown"))),
        };
        if r.0.has_remaining() {
            return Err(DecodeError(format!(
                "{} bytes follow a command of kind {kind}",
                r.0.remaining()
            )));
        }
        Ok(command)
    }
}

fn put_name(out: &mut BytesMut, name: BaseName) {
    out.put_u64_le(name.at.get());
    out.put_u64_le(name.checksum);
}

fn put_text(out: &mut BytesMut, text: &str) {
    let mut end = text.len().min(NAME_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.put_u16_le(end as u16);
    out.put_slice(&text.as_bytes()[..end]);
}

struct Reader(Bytes);

impl Reader {
    fn bytes(&mut self, n: usize) -> Result<Bytes, DecodeError> {
        if self.0.remaining() < n {
            return Err(DecodeError(format!(
                "{n} bytes are wanted where {} are left",
                self.0.remaining()
            )));
        }
        Ok(self.0.split_to(n))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut a = [0; N];
        a.copy_from_slice(&self.bytes(N)?);
        Ok(a)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn epoch(&mut self) -> Result<Epoch, DecodeError> {
        Epoch::new(self.u64()?).ok_or_else(|| DecodeError("an epoch is 0".into()))
    }

    fn holder(&mut self) -> Result<HolderId, DecodeError> {
        HolderId::new(self.u64()?).ok_or_else(|| DecodeError("a holder is 0".into()))
    }

    fn replid(&mut self) -> Result<ReplId, DecodeError> {
        ReplId::parse(&self.array::<40>()?).map_err(|e| DecodeError(e.to_string()))
    }

    fn name(&mut self) -> Result<BaseName, DecodeError> {
        Ok(BaseName {
            at: Offset::new(self.u64()?),
            checksum: self.u64()?,
        })
    }

    fn text(&mut self) -> Result<String, DecodeError> {
        let len = u16::from_le_bytes(self.array()?) as usize;
        String::from_utf8(self.bytes(len)?.to_vec()).map_err(|e| DecodeError(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn base(at: u64) -> Base {
        Base {
            name: BaseName {
                at: Offset::new(at),
                checksum: at * 7,
            },
            replid: ReplId::from_random([1; 20]),
            chain: Chain::from_u64(9),
            groups: 3,
            db: Db::new(2),
            captured: WallTime::from_ms(5),
            bytes: 100,
            rdb_version: 11,
            server: "redis 7.2.4".into(),
            keys: 4,
            digest: 1 << 100,
        }
    }

    fn samples() -> Vec<Command> {
        let replid = ReplId::from_random([1; 20]);
        let holder = HolderId::new(77).unwrap();
        vec![
            Command::Genesis(Genesis {
                cluster: ClusterId::new([3; 16]),
                replid,
            }),
            Command::Append(AppendEntry {
                epoch: Epoch::FIRST,
                replid,
                start: Offset::new(5),
                chain: Chain::from_u64(9),
                payload_crc: 4,
                captured: WallTime::from_ms(1),
                payload: Bytes::from_static(b"*1\r\n$4\r\nPING\r\n"),
            }),
            Command::Acquire(Acquire {
                holder,
                name: "cell-1".into(),
                lease: Duration::from_millis(3000),
                seen_renewals: 8,
                sent: WallTime::from_ms(2),
            }),
            Command::Renew {
                epoch: Epoch::FIRST,
                holder,
                sent: WallTime::from_ms(3),
            },
            Command::Release {
                epoch: Epoch::FIRST,
                holder,
            },
            Command::Session(Session {
                epoch: Epoch::FIRST,
                run_id: RunId::from_random([2; 20]),
                at: Offset::new(6),
                server: "redis 7.0.15".into(),
            }),
            Command::Lineage(LineageStep {
                replid,
                from: Offset::new(6),
                epoch: Some(Epoch::FIRST),
            }),
            Command::Base(NewBase {
                base: base(6),
                previous: None,
            }),
            Command::Base(NewBase {
                base: base(60),
                previous: Some(base(6).name),
            }),
        ]
    }

    #[test]
    fn every_command_reads_back() {
        for c in samples() {
            assert_eq!(Command::decode(&c.encode()), Ok(c));
        }
    }

    #[test]
    fn anything_cut_short_or_longer_is_refused() {
        for c in samples() {
            let bytes = c.encode();
            for n in 0..bytes.len() {
                assert!(Command::decode(&bytes.slice(..n)).is_err(), "{c:?} cut at {n}");
            }
            let mut longer = bytes.to_vec();
            longer.push(0);
            assert!(Command::decode(&longer.into()).is_err());
        }
    }

    #[test]
    fn an_unknown_version_is_refused_by_name() {
        let mut bytes = samples()[0].encode().to_vec();
        bytes[1] = 9;
        let e = Command::decode(&bytes.into()).unwrap_err();
        assert!(e.to_string().contains("version 9"), "{e}");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Command::decode(&bytes.into());
        }
    }
}
