//! Why an RDB is refused.

use crate::Magic;

/// Why an RDB is refused. None of these can be retried: the same bytes fail in the same way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RdbError {
    /// The first bytes are not those of an RDB.
    #[error("no RDB: it begins with {found:?}")]
    NotAnRdb {
        /// The first nine bytes, escaped.
        found: String,
    },
    /// A version of the format that this reader does not know.
    #[error("RDB version {version} of {magic} is unknown here")]
    UnknownVersion {
        /// Whose numbering it is.
        magic: Magic,
        /// The version in the file.
        version: u32,
    },
    /// A type of value that this reader does not know in this version.
    #[error("RDB version {version}: type {type_byte} is unknown here (at byte {at})")]
    UnknownType {
        /// The version in the file.
        version: u32,
        /// The type.
        type_byte: u8,
        /// Where the byte stands.
        at: u64,
    },
    /// An opcode that this reader does not know, or whose meaning it can't do justice.
    #[error("RDB version {version}: opcode {opcode} is unknown here (at byte {at})")]
    UnknownOpcode {
        /// The version in the file.
        version: u32,
        /// The opcode.
        opcode: u8,
        /// Where the byte stands.
        at: u64,
    },
    /// The structure is broken.
    #[error("the RDB is broken at byte {at}: {what}")]
    Broken {
        /// What is wrong.
        what: &'static str,
        /// How far it had been read.
        at: u64,
    },
    /// Something that has to be held whole is longer than this reader holds.
    #[error("the RDB has an element of {bytes} bytes at byte {at}, of which at most {bytes_max} are held")]
    TooLarge {
        /// Its declared length.
        bytes: u64,
        /// The limit, bytes.
        bytes_max: u64,
        /// How far it had been read.
        at: u64,
    },
    /// The RDB ended, and bytes follow.
    #[error("bytes follow the end of the RDB, which is at byte {at}")]
    BytesBehind {
        /// The length of the RDB.
        at: u64,
    },
    /// The bytes ended before the RDB.
    #[error("the RDB is cut off: it does not end within {bytes} bytes")]
    Truncated {
        /// Bytes that were read.
        bytes: u64,
    },
    /// The RDB's own checksum does not match its bytes.
    #[error("the RDB's CRC-64 is {stored:016x}, its bytes have {computed:016x}")]
    WrongCrc {
        /// As the file has it.
        stored: u64,
        /// As its bytes have it.
        computed: u64,
    },
}

/// What is wrong, before it is known where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// See [`RdbError::Broken`].
    Broken(&'static str),
    /// See [`RdbError::TooLarge`].
    TooLarge { bytes: u64, bytes_max: u64 },
    /// See [`RdbError::UnknownType`].
    UnknownType(u8),
    /// See [`RdbError::UnknownOpcode`].
    UnknownOpcode(u8),
}

impl Fault {
    /// The error, at byte `at` of a file of `version`.
    pub(crate) fn at(self, at: u64, version: u32) -> RdbError {
        match self {
            Fault::Broken(what) => RdbError::Broken { what, at },
            Fault::TooLarge { bytes, bytes_max } => RdbError::TooLarge { bytes, bytes_max, at },
            Fault::UnknownType(type_byte) => RdbError::UnknownType {
                version,
                type_byte,
                at,
            },
            Fault::UnknownOpcode(opcode) => RdbError::UnknownOpcode { version, opcode, at },
        }
    }
}
