//! The file beside a base's RDB: its manifest, and a checksum of each chunk, so that a reader is never given a byte that rotted.
//!
//! ```text
//! 0   magic "RDBTBSUM"
//! 8   version, u32
//! 12  bytes of the manifest, u32
//! 16  the manifest, as of redoubt.v1.Base
//! ..  CRC-32 of each chunk of BASE_CHUNK_BYTES, the last one shorter
//! ..  CRC-32 of all before
//! ```

use prost::Message;
use redoubt_proto::v1;
use redoubt_types::Base;
use redoubt_types::limits::BASE_CHUNK_BYTES;

const MAGIC: &[u8; 8] = b"RDBTBSUM";
const VERSION: u32 = 1;
const MANIFEST_AT: usize = 16;

/// Chunks that an RDB of so many bytes has.
fn chunks_of(bytes: u64) -> u64 {
    bytes.div_ceil(BASE_CHUNK_BYTES as u64)
}

/// The file's bytes.
pub(super) fn encode(base: &Base, sums: &[u32]) -> Vec<u8> {
    let manifest = redoubt_proto::base(base).encode_to_vec();
    let mut b = Vec::with_capacity(MANIFEST_AT + manifest.len() + 4 * sums.len() + 4);
    b.extend_from_slice(MAGIC);
    b.extend_from_slice(&VERSION.to_le_bytes());
    b.extend_from_slice(&(manifest.len() as u32).to_le_bytes());
    b.extend_from_slice(&manifest);
    for sum in sums {
        b.extend_from_slice(&sum.to_le_bytes());
    }
    let crc = crc32fast::hash(&b);
    b.extend_from_slice(&crc.to_le_bytes());
    b
}

/// Reads them; `None` when they are damaged, or of another version.
pub(super) fn decode(b: &[u8]) -> Option<(Base, Vec<u32>)> {
    let (b, crc) = b.split_last_chunk::<4>()?;
    if crc32fast::hash(b) != u32::from_le_bytes(*crc) && !cfg!(fuzzing) {
        return None;
    }
    let (head, rest) = b.split_at_checked(MANIFEST_AT)?;
    let word = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
    if head[..8] != *MAGIC || word(8)? != VERSION {
        return None;
    }
    let (manifest, sums) = rest.split_at_checked(word(12)? as usize)?;
    let base = redoubt_proto::base_from(&v1::Base::decode(manifest).ok()?).ok()?;
    let (sums, odd) = sums.as_chunks::<4>();
    if !odd.is_empty() || sums.len() as u64 != chunks_of(base.bytes) {
        return None;
    }
    Some((base, sums.iter().map(|s| u32::from_le_bytes(*s)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::shelf::tests::base_of;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let bytes = vec![7; BASE_CHUNK_BYTES + 1];
        let base = base_of(5, &bytes);
        let file = encode(&base, &[1, 2]);
        assert_eq!(decode(&file), Some((base, vec![1, 2])));
        for n in 0..file.len() {
            assert_eq!(decode(&file[..n]), None, "cut at {n}");
            let mut flipped = file.clone();
            flipped[n] ^= 1;
            assert_eq!(decode(&flipped), None, "byte {n} flipped");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }
    }
}
