//! The bytes of a segment file; docs/disk-format.md has the tables.
//!
//! Decides whether bytes are a record of this place in this file. Pure: knows no file. All numbers are
//! little-endian.

use super::model::RecordKind;

/// Version of every file written here.
pub(crate) const FORMAT_VERSION: u32 = 1;
/// Bytes of a segment's header block: one page, so that no record shares a sector with it.
pub(crate) const SEGMENT_HEADER_BYTES: u32 = 4096;
/// Bytes of a record's header.
pub(crate) const RECORD_HEADER_BYTES: u32 = 64;
/// Records begin at multiples of this.
pub(crate) const RECORD_ALIGN: u32 = 8;

const SEGMENT_MAGIC: [u8; 8] = *b"RDBTELOG";
const RECORD_MAGIC: [u8; 4] = *b"RDR\x01";

/// A place in the log: a segment's number and a byte in its file. Ordered as the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
}

impl Position {
    pub(crate) const fn to_u64(self) -> u64 {
        (self.segment as u64) << 32 | self.offset as u64
    }

    pub(crate) const fn from_u64(n: u64) -> Self {
        Position {
            segment: (n >> 32) as u32,
            offset: n as u32,
        }
    }
}

/// How a segment follows the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follows {
    /// It is the log's first.
    Nothing,
    /// The one before was full, and ends with a seal that names this one. The header is written before the
    /// seal is.
    Seal,
    /// The one before had a torn end: the log goes on here from a byte of it, and what lies behind that byte
    /// is dead for ever. The header is written after everything before that byte was synced.
    Cut,
    /// It is a patch: it continues a segment where that can't be read, and the segment goes on behind it.
    Gap,
}

/// A segment's header block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) segment: u32,
    /// Random; seeds every checksum in the file, so that no other file's record is ever valid here.
    pub(crate) generation: u64,
    /// The incarnation whose file this is.
    pub(crate) node: u64,
    pub(crate) follows: Follows,
    /// Where the log ends in the segment before (exclusive).
    pub(crate) previous_end: Position,
    /// The checksum of the last record before `previous_end`.
    pub(crate) previous_link: u32,
    /// Everything before was durable when this was written.
    pub(crate) durable: Position,
    /// The index that the next record has, as of the writing.
    pub(crate) next_index: u64,
    /// What the header before says, in case that its block is lost.
    pub(crate) before: Option<HeaderCopy>,
}

/// What a header block says, without what that says of the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeaderCopy {
    pub(crate) generation: u64,
    pub(crate) follows: Follows,
    pub(crate) previous_end: Position,
    pub(crate) previous_link: u32,
    pub(crate) durable: Position,
    pub(crate) next_index: u64,
    /// The block's checksum, which the segment's first record links to.
    pub(crate) crc: u32,
}

/// Bytes at the front of a header block that say something.
pub(crate) const HEADER_FRONT_BYTES: usize = 128;
/// Where the block has the same bytes once more, and their checksum: what damages few bytes damages one of both only.
const HEADER_AGAIN_AT: usize = 2048;

impl Follows {
    const fn to_u32(self) -> u32 {
        match self {
            Follows::Nothing => 0,
            Follows::Seal => 1,
            Follows::Cut => 2,
            Follows::Gap => 3,
        }
    }

    const fn from_u32(n: u32) -> Option<Self> {
        Some(match n {
            0 => Follows::Nothing,
            1 => Follows::Seal,
            2 => Follows::Cut,
            3 => Follows::Gap,
            _ => return None,
        })
    }
}

/// Why a segment's header block was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    Damaged,
    Version(u32),
}

impl SegmentHeader {
    /// The block, and its checksum, which the first record links to.
    pub(crate) fn encode(&self) -> (Vec<u8>, u32) {
        let mut b = vec![0; SEGMENT_HEADER_BYTES as usize];
        let front = self.encode_front();
        let again = HEADER_AGAIN_AT + HEADER_FRONT_BYTES;
        b[..HEADER_FRONT_BYTES].copy_from_slice(&front);
        b[HEADER_AGAIN_AT..again].copy_from_slice(&front);
        put_u32(&mut b, again, crc32fast::hash(&front));
        let crc = seal_block(&mut b);
        (b, crc)
    }

    /// The bytes that say it all.
    pub(crate) fn encode_front(&self) -> [u8; HEADER_FRONT_BYTES] {
        let mut b = [0; HEADER_FRONT_BYTES];
        b[0..8].copy_from_slice(&SEGMENT_MAGIC);
        put_u32(&mut b, 8, FORMAT_VERSION);
        put_u32(&mut b, 12, self.follows.to_u32());
        put_u64(&mut b, 16, self.segment.into());
        put_u64(&mut b, 24, self.generation);
        put_u64(&mut b, 32, self.node);
        put_u64(&mut b, 40, self.previous_end.to_u64());
        put_u64(&mut b, 48, self.durable.to_u64());
        put_u64(&mut b, 56, self.next_index);
        put_u32(&mut b, 64, self.previous_link);
        if let Some(before) = &self.before {
            put_u32(&mut b, 68, 1);
            put_u32(&mut b, 72, before.crc);
            put_u32(&mut b, 76, before.follows.to_u32());
            put_u64(&mut b, 80, before.generation);
            put_u64(&mut b, 88, before.previous_end.to_u64());
            put_u64(&mut b, 96, before.durable.to_u64());
            put_u64(&mut b, 104, before.next_index);
            put_u32(&mut b, 112, before.previous_link);
        }
        b
    }

    /// Reads [`SegmentHeader::encode_front`]'s bytes, whose checksum was right.
    pub(crate) fn decode_front(b: &[u8]) -> Option<Self> {
        let b = b.get(..HEADER_FRONT_BYTES)?;
        if b[..8] != SEGMENT_MAGIC || get_u32(b, 8) != FORMAT_VERSION {
            return None;
        }
        let before = match get_u32(b, 68) {
            0 => None,
            _ => Some(HeaderCopy {
                crc: get_u32(b, 72),
                follows: Follows::from_u32(get_u32(b, 76))?,
                generation: get_u64(b, 80),
                previous_end: Position::from_u64(get_u64(b, 88)),
                durable: Position::from_u64(get_u64(b, 96)),
                next_index: get_u64(b, 104),
                previous_link: get_u32(b, 112),
            }),
        };
        Some(SegmentHeader {
            follows: Follows::from_u32(get_u32(b, 12))?,
            segment: get_u64(b, 16) as u32,
            generation: get_u64(b, 24),
            node: get_u64(b, 32),
            previous_end: Position::from_u64(get_u64(b, 40)),
            durable: Position::from_u64(get_u64(b, 48)),
            next_index: get_u64(b, 56),
            previous_link: get_u32(b, 64),
            before,
        })
    }

    /// Reads a block; returns it with its checksum.
    pub(crate) fn decode(b: &[u8]) -> Result<(Self, u32), HeaderError> {
        let crc = check_block(b, SEGMENT_HEADER_BYTES as usize, &SEGMENT_MAGIC)?;
        let header = Self::decode_front(b).ok_or(HeaderError::Damaged)?;
        Ok((header, crc))
    }

    /// Reads what a damaged block says a second time.
    pub(crate) fn decode_again(b: &[u8]) -> Option<Self> {
        let again = HEADER_AGAIN_AT + HEADER_FRONT_BYTES;
        let front = b.get(HEADER_AGAIN_AT..again)?;
        let crc = b.get(again..again + 4).map(|b| get_u32(b, 0))?;
        (crc32fast::hash(front) == crc || cfg!(fuzzing)).then(|| Self::decode_front(front))?
    }

    /// What the next segment's header says of this one, whose block has the checksum `crc`.
    pub(crate) const fn copy(&self, crc: u32) -> HeaderCopy {
        HeaderCopy {
            generation: self.generation,
            follows: self.follows,
            previous_end: self.previous_end,
            previous_link: self.previous_link,
            durable: self.durable,
            next_index: self.next_index,
            crc,
        }
    }

    /// The header before this one, from what this one says of it; `before` is what that one said in its turn. `None` if the
    /// block that comes out is not the one that was.
    pub(crate) fn told(&self, before: Option<HeaderCopy>) -> Option<Self> {
        let copy = self.before?;
        let header = SegmentHeader {
            segment: self.segment.checked_sub(1)?,
            generation: copy.generation,
            node: self.node,
            follows: copy.follows,
            previous_end: copy.previous_end,
            previous_link: copy.previous_link,
            durable: copy.durable,
            next_index: copy.next_index,
            before,
        };
        (header.encode().1 == copy.crc).then_some(header)
    }
}

/// Closes a block: its last four bytes become the CRC-32 of all before, which is returned.
pub(crate) fn seal_block(b: &mut [u8]) -> u32 {
    let at = b.len() - 4;
    let crc = crc32fast::hash(&b[..at]);
    put_u32(b, at, crc);
    crc
}

/// Checks a block's length, magic, checksum and version, in this order: magic and checksum lie where they lie
/// in every version, so a rotten version is told from a newer one. Returns the checksum.
pub(crate) fn check_block(b: &[u8], bytes: usize, magic: &[u8; 8]) -> Result<u32, HeaderError> {
    if b.len() != bytes || b[..8] != *magic {
        return Err(HeaderError::Damaged);
    }
    let crc = get_u32(b, bytes - 4);
    if crc32fast::hash(&b[..bytes - 4]) != crc && !cfg!(fuzzing) {
        return Err(HeaderError::Damaged);
    }
    match get_u32(b, 8) {
        FORMAT_VERSION => Ok(crc),
        newer => Err(HeaderError::Version(newer)),
    }
}

/// What a record is. The control records belong to the storage alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A record of the log.
    Log(RecordKind),
    /// Removes every log record from `index` on; what follows replaces them.
    Truncate,
    /// Says only what every header says: durable up to here, committed up to there.
    Mark,
    /// The segment ends; `term` and `leader` hold the number and generation of the next.
    Seal,
}

impl Kind {
    const fn to_u8(self) -> u8 {
        match self {
            Kind::Log(RecordKind::Blank) => 1,
            Kind::Log(RecordKind::Normal) => 2,
            Kind::Log(RecordKind::Membership) => 3,
            Kind::Truncate => 16,
            Kind::Mark => 17,
            Kind::Seal => 18,
        }
    }

    const fn from_u8(n: u8) -> Option<Self> {
        Some(match n {
            1 => Kind::Log(RecordKind::Blank),
            2 => Kind::Log(RecordKind::Normal),
            3 => Kind::Log(RecordKind::Membership),
            16 => Kind::Truncate,
            17 => Kind::Mark,
            18 => Kind::Seal,
            _ => return None,
        })
    }
}

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: Kind,
    pub(crate) payload_bytes: u32,
    pub(crate) payload_crc: u32,
    pub(crate) term: u64,
    pub(crate) leader: u64,
    pub(crate) index: u64,
    /// Everything before was durable when this record's batch was written.
    pub(crate) durable: Position,
    /// Every record below this index was known to be committed then; 0 when none was.
    pub(crate) committed_end: u64,
    /// The checksum of the header before.
    pub(crate) link: u32,
}

impl RecordHeader {
    /// The 64 bytes as they lie at `at` in a segment of `generation`, and their checksum.
    pub(crate) fn encode(&self, generation: u64, at: Position) -> ([u8; RECORD_HEADER_BYTES as usize], u32) {
        let mut b = [0; RECORD_HEADER_BYTES as usize];
        b[0..4].copy_from_slice(&RECORD_MAGIC);
        b[4] = self.kind.to_u8();
        put_u32(&mut b, 8, self.payload_bytes);
        put_u32(&mut b, 12, self.payload_crc);
        put_u64(&mut b, 16, self.term);
        put_u64(&mut b, 24, self.leader);
        put_u64(&mut b, 32, self.index);
        put_u64(&mut b, 40, self.durable.to_u64());
        put_u64(&mut b, 48, self.committed_end);
        put_u32(&mut b, 56, self.link);
        let crc = checksum(generation, at, &b[..60]);
        put_u32(&mut b, 60, crc);
        (b, crc)
    }

    /// The header at the beginning of `b`, if these bytes were written at `at` in a segment of `generation`;
    /// with its checksum.
    pub(crate) fn decode(b: &[u8], generation: u64, at: Position) -> Option<(Self, u32)> {
        let b = b.get(..RECORD_HEADER_BYTES as usize)?;
        if b[..4] != RECORD_MAGIC {
            return None;
        }
        let crc = get_u32(b, 60);
        if checksum(generation, at, &b[..60]) != crc && !cfg!(fuzzing) {
            return None;
        }
        let header = RecordHeader {
            kind: Kind::from_u8(b[4])?,
            payload_bytes: get_u32(b, 8),
            payload_crc: get_u32(b, 12),
            term: get_u64(b, 16),
            leader: get_u64(b, 24),
            index: get_u64(b, 32),
            durable: Position::from_u64(get_u64(b, 40)),
            committed_end: get_u64(b, 48),
            link: get_u32(b, 56),
        };
        Some((header, crc))
    }

    /// Bytes from this record's begin to the next one's.
    pub(crate) const fn span(&self) -> u64 {
        record_span(self.payload_bytes as usize)
    }

    /// Whether `payload` is this record's.
    pub(crate) fn owns(&self, payload: &[u8], generation: u64, at: Position) -> bool {
        payload.len() == self.payload_bytes as usize
            && (checksum(generation, at, payload) == self.payload_crc || cfg!(fuzzing))
    }
}

/// Bytes that a record with a payload of `payload_bytes` takes.
pub(crate) const fn record_span(payload_bytes: usize) -> u64 {
    (RECORD_HEADER_BYTES as u64 + payload_bytes as u64).next_multiple_of(RECORD_ALIGN as u64)
}

/// CRC-32 of `bytes`, seeded with the file that they are in and their record's place in it: an old record
/// that a recycled file, a misdirected write or a copied sector brings back has the wrong seed (H7).
pub(crate) fn checksum(generation: u64, at: Position, bytes: &[u8]) -> u32 {
    let mut seed = [0; 16];
    if !redoubt_env::planted::on("h07_no_generation") {
        put_u64(&mut seed, 0, generation);
    }
    put_u64(&mut seed, 8, at.to_u64());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&seed);
    crc.update(bytes);
    crc.finalize()
}

pub(crate) fn put_u32(b: &mut [u8], at: usize, n: u32) {
    b[at..at + 4].copy_from_slice(&n.to_le_bytes());
}

pub(crate) fn put_u64(b: &mut [u8], at: usize, n: u64) {
    b[at..at + 8].copy_from_slice(&n.to_le_bytes());
}

pub(crate) fn get_u32(b: &[u8], at: usize) -> u32 {
    let mut n = [0; 4];
    n.copy_from_slice(&b[at..at + 4]);
    u32::from_le_bytes(n)
}

pub(crate) fn get_u64(b: &[u8], at: usize) -> u64 {
    let mut n = [0; 8];
    n.copy_from_slice(&b[at..at + 8]);
    u64::from_le_bytes(n)
}
