//! The chain: a running checksum of the stream's bytes up to an offset.

use crc_fast::{CrcAlgorithm, Digest};
use std::fmt;

/// CRC-64/NVME of every byte of the stream from offset 0 up to some offset.
///
/// It does not depend on how the bytes were cut into entries, and goes on across replids and epochs, so two
/// parties whose offset and chain agree hold the same history (up to a 2^-64 accident; it is no defence
/// against an adversary). Parameters: polynomial 0xad93d23594c93659, reflected, initial value and final xor
/// all ones (NVM Express base specification, 64-bit guard).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Chain(u64);

impl Chain {
    /// The chain of no bytes, at [`crate::Offset::ZERO`].
    pub const EMPTY: Chain = Chain(0);

    /// A chain as it was read from disk or wire.
    pub const fn from_u64(sum: u64) -> Self {
        Chain(sum)
    }

    /// The chain as it goes to disk or wire.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The chain behind `bytes`, when this one stands before them.
    #[must_use]
    pub fn extend(self, bytes: &[u8]) -> Self {
        // A finished CRC is the register xor all ones, so the register continues from its complement.
        let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc64Nvme, !self.0);
        digest.update(bytes);
        Chain(digest.finalize())
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// CRC-32 (IEEE) of one entry's payload: computed by the writer, checked at every station up to replay.
pub fn payload_crc(payload: &[u8]) -> u32 {
    crc32fast::hash(payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn matches_the_published_check_value() {
        assert_eq!(Chain::EMPTY.extend(b"123456789").get(), 0xae8b_1486_0a79_9888);
        assert_eq!(Chain::EMPTY.extend(b""), Chain::EMPTY);
    }

    proptest! {
        #[test]
        fn does_not_depend_on_the_cuts(a in prop::collection::vec(any::<u8>(), 0..600), cut in 0usize..600) {
            let cut = cut.min(a.len());
            let whole = Chain::EMPTY.extend(&a);
            prop_assert_eq!(Chain::EMPTY.extend(&a[..cut]).extend(&a[cut..]), whole);
        }

        #[test]
        fn a_flipped_bit_changes_it(mut a in prop::collection::vec(any::<u8>(), 1..600), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let before = Chain::EMPTY.extend(&a);
            let i = at.index(a.len());
            a[i] ^= 1 << bit;
            prop_assert_ne!(Chain::EMPTY.extend(&a), before);
        }
    }
}
