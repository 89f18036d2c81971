//! The empty RDB: the base of a journal that begins at offset 0.

/// Version 9 is read by every server from Redis 5 and Valkey 7.2 on, whatever it writes itself.
const HEAD: &[u8; 10] = b"REDIS0009\xff";

/// An RDB without keys and functions: magic, version 9, end mark, CRC-64 (little-endian). It has no
/// `repl-stream-db`, so the stream behind it begins with database 0 selected.
pub fn empty_rdb() -> &'static [u8] {
    const RDB: [u8; 18] = {
        let mut rdb = [0; 18];
        let mut i = 0;
        while i < HEAD.len() {
            rdb[i] = HEAD[i];
            i += 1;
        }
        let crc = crc64(0, HEAD).to_le_bytes();
        while i < rdb.len() {
            rdb[i] = crc[i - HEAD.len()];
            i += 1;
        }
        rdb
    };
    &RDB
}

/// Redis' CRC-64 (Jones: polynomial 0xad93d23594c935a9, reflected, initial value and final xor 0) of `bytes`
/// behind those whose CRC is `crc`. Bit by bit: for small things only.
pub const fn crc64(mut crc: u64, bytes: &[u8]) -> u64 {
    /// The polynomial with its bits reversed.
    const POLY: u64 = 0xad93_d235_94c9_35a9_u64.reverse_bits();
    let mut i = 0;
    while i < bytes.len() {
        crc ^= bytes[i] as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLY } else { crc >> 1 };
            bit += 1;
        }
        i += 1;
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_is_the_one_that_redis_publishes() {
        // From the test at the end of Redis' crc64.c.
        assert_eq!(crc64(0, b"123456789"), 0xe9c6_d914_c4b8_d9ca);
        assert_eq!(crc64(crc64(0, b"1234"), b"56789"), 0xe9c6_d914_c4b8_d9ca);
    }

    #[test]
    fn the_empty_rdb_ends_with_its_own_crc() {
        let rdb = empty_rdb();
        assert_eq!(rdb.len(), 18);
        assert_eq!(&rdb[..10], b"REDIS0009\xff");
        // A message followed by its CRC has the CRC 0.
        assert_eq!(crc64(0, rdb), 0);
        assert_ne!(crc64(0, &rdb[..10]), 0);
    }
}
