//! What is known of an RDB that was read to its end.

use crate::Digest;
use redoubt_types::{Db, Offset, ReplId};
use std::collections::BTreeMap;
use std::fmt;

/// Whose numbering of versions a file follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Magic {
    /// `REDIS` and four digits: Redis, and Valkey up to 8.
    Redis,
    /// `VALKEY` and three digits: Valkey since 9.0.
    Valkey,
}

impl fmt::Display for Magic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Magic::Redis => "Redis",
            Magic::Valkey => "Valkey",
        })
    }
}

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A string.
    String,
    /// A list.
    List,
    /// A set.
    Set,
    /// A sorted set.
    Zset,
    /// A hash.
    Hash,
    /// A stream.
    Stream,
    /// A module's own type. Its digest is that of what the module wrote: not every module writes the same for
    /// the same content.
    Module,
}

impl Kind {
    /// Goes into digests, so never changes.
    pub(crate) fn code(self) -> u8 {
        match self {
            Kind::String => 1,
            Kind::List => 2,
            Kind::Set => 3,
            Kind::Zset => 4,
            Kind::Hash => 5,
            Kind::Stream => 6,
            Kind::Module => 7,
        }
    }
}

/// One key, when it has gone by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySeen<'a> {
    /// Its database.
    pub db: Db,
    /// Its name.
    pub key: &'a [u8],
    /// What it holds.
    pub kind: Kind,
    /// When it expires, milliseconds since 1970.
    pub expires_at_ms: Option<i64>,
    /// Of database, name, kind, value and expiry. The dataset's digest is the sum of these and of the
    /// functions' and modules' own data.
    pub digest: Digest,
}

/// What is known of an RDB that was read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Whose numbering [`version`](Self::version) follows.
    pub magic: Magic,
    /// The format's version: 11 of `REDIS0011`, 80 of `VALKEY080`.
    pub version: u32,
    /// Who wrote it, such as `redis 7.4.1` or `valkey 9.1.2`.
    pub server: Option<String>,
    /// The database that the replication stream had selected where the RDB was made. Only a replica and a
    /// master with replicas write it; without it the next write of the stream would land in database 0 (H19).
    pub stream_db: Option<Db>,
    /// The history that the RDB is a state of.
    pub repl_id: Option<ReplId>,
    /// The offset at which it is that.
    pub repl_offset: Option<Offset>,
    /// When it was made by its server's clock, seconds since 1970.
    pub created_s: Option<i64>,
    /// Keys, in all databases.
    pub keys: u64,
    /// Keys that have an expiry.
    pub expires: u64,
    /// Keys in each database that has any.
    pub keys_by_db: BTreeMap<Db, u64>,
    /// Function libraries.
    pub functions: u64,
    /// Of everything that counts, in any order.
    pub digest: Digest,
    /// Whether the file has a CRC-64, which then is right. A server with `rdbchecksum no` writes none.
    pub checksummed: bool,
    /// Its length.
    pub bytes: u64,
}
