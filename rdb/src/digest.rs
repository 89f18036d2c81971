//! The digest: 128 bits of what a dataset means.
//!
//! SipHash-2-4 with 128 bits of output and a fixed key, over bytes only: every number is written in little
//! endian and every string behind its length, so that the result depends on neither platform nor release.
//! Where order means nothing, hashes are added modulo 2^128. That is for accidents and faults; it is no
//! defence against somebody who chooses the data in order to collide.

use siphasher::sip128::{Hasher128, SipHasher24};
use std::fmt;
use std::hash::Hasher;

/// Changes whenever the digest of any dataset changes. Digests of different versions say nothing about each
/// other.
pub const DIGEST_VERSION: u32 = 1;

const KEY: &[u8; 16] = b"redoubt-rdb-0001";

/// 128 bits of what a dataset or a key means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(u128);

impl Digest {
    /// The digest of nothing.
    pub const EMPTY: Digest = Digest(0);

    /// A digest as it was read from disk or wire.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Digest(u128::from_be_bytes(bytes))
    }

    /// The digest as it goes to disk or wire.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// This and `other`, in either order.
    #[must_use]
    pub const fn and(self, other: Digest) -> Digest {
        Digest(self.0.wrapping_add(other.0))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Hashes a sequence of fields.
#[derive(Clone)]
pub(crate) struct Sip(SipHasher24);

impl Sip {
    /// A hash of something of the kind `tag`.
    pub(crate) fn new(tag: u8) -> Sip {
        let mut sip = SipHasher24::new_with_key(KEY);
        sip.write(&[tag]);
        Sip(sip)
    }

    /// Bytes of a string whose length was written.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// One byte.
    pub(crate) fn byte(&mut self, byte: u8) {
        self.0.write(&[byte]);
    }

    /// A number.
    pub(crate) fn number(&mut self, n: u64) {
        self.0.write(&n.to_le_bytes());
    }

    /// A string.
    pub(crate) fn str(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.raw(bytes);
    }

    /// A time or none, milliseconds.
    pub(crate) fn time(&mut self, time_ms: Option<i64>) {
        self.byte(u8::from(time_ms.is_some()));
        self.number(time_ms.unwrap_or(0).cast_unsigned());
    }

    /// The hash of something else.
    pub(crate) fn digest(&mut self, digest: Digest) {
        self.0.write(&digest.0.to_le_bytes());
    }

    /// The hash.
    pub(crate) fn finish(&self) -> Digest {
        Digest(self.0.finish128().as_u128())
    }
}

/// Digests of parts without an order, and how many they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bag {
    pub(crate) sum: Digest,
    pub(crate) count: u64,
}

impl Bag {
    /// Adds a part.
    pub(crate) fn add(&mut self, part: Digest) {
        self.sum = self.sum.and(part);
        self.count += 1;
    }

    /// Writes the whole into the hash of what has these parts.
    pub(crate) fn write_to(&self, sip: &mut Sip) {
        sip.number(self.count);
        sip.digest(self.sum);
    }
}
