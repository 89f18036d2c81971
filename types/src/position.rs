//! Positions in the journal and the two clocks that order its writers.

use std::fmt;

/// A byte count in the master's replication stream: the journal's offset *is* the replication offset.
///
/// Offset `n` lies behind the `n`-th byte, so the byte at index 0 covers offsets `0..1`. A stock server that
/// holds everything up to offset `n` asks for byte `n + 1` in `PSYNC`: see [`Offset::psync`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(u64);

impl Offset {
    /// The beginning of every history.
    pub const ZERO: Offset = Offset(0);

    /// The offset behind `bytes` bytes of stream.
    pub const fn new(bytes: u64) -> Self {
        Offset(bytes)
    }

    /// Bytes of stream before this offset.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The offset `bytes` further on.
    ///
    /// # Panics
    /// When the stream would exceed 2^64 bytes, which only a bug can cause.
    #[must_use]
    pub const fn advance(self, bytes: u64) -> Self {
        match self.0.checked_add(bytes) {
            Some(n) => Offset(n),
            None => panic!("a replication offset overflowed 64 bits"),
        }
    }

    /// Bytes from `earlier` to here, or `None` when `earlier` is not earlier.
    pub const fn since(self, earlier: Offset) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }

    /// The number that stands in `PSYNC replid <n>` and asks for everything after this offset.
    pub const fn psync(self) -> u64 {
        self.0 + 1
    }

    /// The offset that a `PSYNC replid <n>` already holds: the inverse of [`Offset::psync`].
    /// `None` for numbers below 1, which name no byte.
    pub const fn from_psync(n: i64) -> Option<Self> {
        if n < 1 { None } else { Some(Offset(n as u64 - 1)) }
    }
}

/// A dense count of groups: the first group of a journal has txid 1.
///
/// A *group* is one top-level command of the stream (SELECT, PING and REPLCONF GETACK too) or one
/// `MULTI … EXEC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Txid(u64);

impl Txid {
    /// The txid of a journal's first group.
    pub const FIRST: Txid = Txid(1);

    /// The txid of the `n`-th group, counting from 1; `None` for 0.
    pub const fn new(n: u64) -> Option<Self> {
        if n == 0 { None } else { Some(Txid(n)) }
    }

    /// The count, 1 for the first group.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The txid `groups` later.
    #[must_use]
    pub const fn advance(self, groups: u64) -> Self {
        Txid(self.0 + groups)
    }
}

/// The incarnation of the *writer*. A higher epoch fences the lower ones for ever. The first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u64);

impl Epoch {
    /// The epoch of a journal's first writer.
    pub const FIRST: Epoch = Epoch(1);

    /// Epoch `n`; `None` for 0, which no writer ever held.
    pub const fn new(n: u64) -> Option<Self> {
        if n == 0 { None } else { Some(Epoch(n)) }
    }

    /// The number, 1 for the first writer.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The epoch that fences this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Epoch(self.0 + 1)
    }
}

/// A Redis database number, as `SELECT` names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Db(u32);

impl Db {
    /// Database `n`.
    pub const fn new(n: u32) -> Self {
        Db(n)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Milliseconds since the Unix epoch, by some machine's wall clock. Carried for people and for
/// point-in-time restore; nothing about safety is ever decided by comparing two of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(u64);

impl WallTime {
    /// A time `ms` milliseconds after the Unix epoch.
    pub const fn from_ms(ms: u64) -> Self {
        WallTime(ms)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn ms(self) -> u64 {
        self.0
    }
}

macro_rules! display_number {
    ($($t:ty),*) => {$(
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
display_number!(Offset, Txid, Epoch, Db, WallTime);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn psync_asks_for_the_byte_after_what_is_held() {
        assert_eq!(Offset::new(134).psync(), 135);
        assert_eq!(Offset::from_psync(135), Some(Offset::new(134)));
        assert_eq!(Offset::from_psync(1), Some(Offset::ZERO));
        assert_eq!(Offset::from_psync(0), None);
        assert_eq!(Offset::from_psync(-1), None);
    }

    #[test]
    fn distances_never_wrap() {
        assert_eq!(Offset::new(5).since(Offset::new(7)), None);
        assert_eq!(Offset::new(7).since(Offset::new(5)), Some(2));
    }
}
