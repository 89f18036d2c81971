//! What an RDB says, read as it streams by: whether it is whole, and a digest of what it *means*.
//!
//! A base is trusted only when RDB's own checksum holds, its structure is whole, and it says the same as the
//! RDB of a live replica at the same offset (H16, H19). Two servers that hold the same write different
//! files: encodings, the order of keys and of hash tables, LRU fields and compression all differ. The
//! [`Digest`] is the same for all of them, and differs when anything differs that a client could see
//! (`value` lists what counts).
//!
//! Everything here is bytes in, decisions out: no I/O, no clock, no task, no randomness. An RDB may be cut
//! anywhere; it is read in linear time, and memory is bounded by one element (`lexer` says which are held
//! whole) however long the strings are and whatever lengths the file claims.
//!
//! In data-path order: primitives of the format (`lexer`, `lzf`), packed encodings (`listpack`, `ziplist`,
//! `intset`), one key's value (`value`), and the whole file ([`RdbReader`], [`Summary`]).
//!
//! Facts about the format are those of `rdb.c` and `rdb.h` of Redis 7.4 and of Valkey 9.0, seen in files of
//! the servers that the tests run.
#![forbid(unsafe_code)]

mod lexer;
mod lzf;

mod intset;
mod listpack;
mod number;
mod ziplist;

mod value;

mod digest;
mod error;
mod reader;
mod summary;

pub use digest::{DIGEST_VERSION, Digest};
pub use error::RdbError;
pub use reader::RdbReader;
pub use summary::{KeySeen, Kind, Magic, Summary};
