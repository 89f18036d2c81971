//! A base: the dataset as of one offset, which the editlogs before that offset are no longer needed for.

use crate::{Chain, Db, Offset, ReplId, WallTime};
use std::fmt;

/// What a base is known by. Two bases at the same offset differ in their bytes (a server writes its hash tables in whatever order
/// they have), so the offset alone would mix them up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BaseName {
    /// The offset that it stands at.
    pub at: Offset,
    /// CRC-64/NVME of its RDB.
    pub checksum: u64,
}

impl fmt::Display for BaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.at, self.checksum)
    }
}

/// A base's manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Offset and checksum of the RDB.
    pub name: BaseName,
    /// A replid under which the dataset is valid at that offset.
    pub replid: ReplId,
    /// Chain of the stream before the offset.
    pub chain: Chain,
    /// Groups before the offset.
    pub groups: u64,
    /// The database that the stream had selected there.
    pub db: Db,
    /// The newest time that an entry before the offset was stamped with.
    pub captured: WallTime,
    /// Bytes of the RDB, 1 at least.
    pub bytes: u64,
    /// The RDB's format version, as in its magic.
    pub rdb_version: u32,
    /// What wrote it, such as `redis 7.4.1`.
    pub server: String,
    /// Keys in it.
    pub keys: u64,
    /// Digest of what it means, whatever its encodings.
    pub digest: u128,
}

impl Base {
    /// The offset that it stands at.
    pub fn at(&self) -> Offset {
        self.name.at
    }
}

/// The checksum of a base's RDB, as it streams by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BaseChecksum(Chain);

impl BaseChecksum {
    /// Behind `bytes`.
    #[must_use]
    pub fn extend(self, bytes: &[u8]) -> Self {
        BaseChecksum(self.0.extend(bytes))
    }

    /// The checksum of all that came.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}
