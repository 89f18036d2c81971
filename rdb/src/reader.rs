//! The whole file: magic, opcodes, keys, end and checksum.
//!
//! Decides whether an RDB is one; promises the same outcome for any cutting, and that an error stays. Knows no
//! encoding of any value.

use crate::digest::{Digest, Sip};
use crate::error::{Fault, RdbError};
use crate::lexer::{Input, Lexer};
use crate::summary::{KeySeen, Kind, Magic, Summary};
use crate::value::{ModuleData, Value};
use crc_fast::CrcAlgorithm;
use redoubt_types::{Db, Offset, ReplId};
use std::collections::BTreeMap;

/// What the sum of digests has beside keys: the first byte of each.
mod tag {
    pub(super) const KEY: u8 = b'K';
    pub(super) const FUNCTION: u8 = b'F';
    pub(super) const MODULE_AUX: u8 = b'A';
}

/// `RDB_OPCODE_*` of `rdb.h`.
mod opcode {
    pub(super) const SLOT_INFO: u8 = 244;
    pub(super) const FUNCTION2: u8 = 245;
    pub(super) const MODULE_AUX: u8 = 247;
    pub(super) const IDLE: u8 = 248;
    pub(super) const FREQ: u8 = 249;
    pub(super) const AUX: u8 = 250;
    pub(super) const RESIZEDB: u8 = 251;
    pub(super) const EXPIRETIME_MS: u8 = 252;
    pub(super) const EXPIRETIME: u8 = 253;
    pub(super) const SELECTDB: u8 = 254;
    pub(super) const EOF: u8 = 255;
    /// Opcodes are from here on; all below are types. Redis 7.4 has 244 and above, Valkey 9 two more.
    pub(super) const LEAST: u8 = 242;
}

/// Versions of the format that are known: with a checksum, and up to what the servers write that the tests run.
fn known(magic: Magic, version: u32) -> bool {
    match magic {
        Magic::Redis => (5..=12).contains(&version),
        Magic::Valkey => version == 80,
    }
}

enum Stage {
    Magic,
    Opcode,
    AuxName,
    AuxValue,
    SelectDb,
    /// Numbers that mean nothing to us.
    Skip(u8),
    Freq,
    ExpireMs,
    ExpireSeconds,
    Function(Sip),
    ModuleAux(ModuleData),
    KeyName,
    Value(Kind, Value),
    Crc,
    End,
}

/// Reads an RDB that is pushed in pieces, in memory that is bounded by one element.
///
/// After an error every further call returns that error.
pub struct RdbReader {
    stage: Stage,
    lexer: Lexer,
    summary: Summary,
    crc: crc_fast::Digest,
    db: Db,
    /// The type of the key whose name is read.
    type_byte: u8,
    key: Vec<u8>,
    expires_at_ms: Option<i64>,
    aux: Vec<u8>,
    failed: Option<RdbError>,
}

impl Default for RdbReader {
    fn default() -> Self {
        Self::new()
    }
}

impl RdbReader {
    /// A reader before the first byte.
    pub fn new() -> Self {
        RdbReader {
            stage: Stage::Magic,
            lexer: Lexer::default(),
            summary: Summary {
                magic: Magic::Redis,
                version: 0,
                server: None,
                stream_db: None,
                repl_id: None,
                repl_offset: None,
                created_s: None,
                keys: 0,
                expires: 0,
                keys_by_db: BTreeMap::new(),
                functions: 0,
                digest: Digest::EMPTY,
                checksummed: false,
                bytes: 0,
            },
            crc: crc_fast::Digest::new(CrcAlgorithm::Crc64Redis),
            db: Db::new(0),
            type_byte: 0,
            key: Vec::new(),
            expires_at_ms: None,
            aux: Vec::new(),
            failed: None,
        }
    }

    /// Takes all of `bytes`.
    ///
    /// # Errors
    /// When the file is broken, of an unknown version, or has ended before. [`is_finished`](Self::is_finished)
    /// tells when no more may come.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), RdbError> {
        self.feed_with(bytes, |_| {})
    }

    /// The same, and shows each key that has gone by: two files can be compared by what is seen of them, such as
    /// sums in buckets, without holding either.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub fn feed_with(&mut self, bytes: &[u8], mut seen: impl FnMut(&KeySeen<'_>)) -> Result<(), RdbError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut input = Input::new(bytes);
        let ended = self.advance(&mut input, &mut seen);
        self.summary.bytes += input.taken() as u64;
        let ended = match ended {
            Ok(()) if !input.rest().is_empty() => Err(RdbError::BytesBehind {
                at: self.summary.bytes,
            }),
            Ok(()) => Ok(()),
            Err(Stop::Fault(fault)) => Err(fault.at(self.summary.bytes, self.summary.version)),
            Err(Stop::Error(error)) => Err(error),
        };
        self.failed = ended.clone().err();
        ended
    }

    /// Whether the last byte was taken.
    pub fn is_finished(&self) -> bool {
        matches!(self.stage, Stage::End) && self.failed.is_none()
    }

    /// What the file says, after its last byte.
    ///
    /// # Errors
    /// When it has not ended, or as [`feed`](Self::feed) had it.
    pub fn finish(self) -> Result<Summary, RdbError> {
        match (self.failed, self.stage) {
            (Some(error), _) => Err(error),
            (None, Stage::End) => Ok(self.summary),
            (None, _) => Err(RdbError::Truncated {
                bytes: self.summary.bytes,
            }),
        }
    }

    /// Takes all up to the end of the file.
    fn advance(&mut self, input: &mut Input<'_>, seen: &mut dyn FnMut(&KeySeen<'_>)) -> Result<(), Stop> {
        let begin = input.rest();
        let before = input.taken();
        let mut result = Ok(true);
        while matches!(result, Ok(true)) && !matches!(self.stage, Stage::Crc | Stage::End) {
            result = self.step(input, seen);
        }
        // The checksum is of everything before it.
        self.crc.update(&begin[..input.taken() - before]);
        result?;
        if let Stage::Crc = self.stage
            && let Some(stored) = self.lexer.fixed(input).map(u64::from_le_bytes)
        {
            let computed = self.crc.finalize();
            if stored != 0 && stored != computed {
                return Err(Stop::Error(RdbError::WrongCrc { stored, computed }));
            }
            self.summary.checksummed = stored != 0;
            self.stage = Stage::End;
        }
        Ok(())
    }

    /// Reads one primitive, or as much of a value as there is. `false` when it was cut.
    fn step(&mut self, input: &mut Input<'_>, seen: &mut dyn FnMut(&KeySeen<'_>)) -> Result<bool, Stop> {
        match &mut self.stage {
            Stage::Magic => {
                let Some(magic) = self.lexer.fixed::<9>(input) else {
                    return Ok(false);
                };
                self.take_magic(magic)?;
            }
            Stage::Opcode => {
                let Some(byte) = self.lexer.byte(input) else {
                    return Ok(false);
                };
                self.stage = self.begin(byte)?;
            }
            Stage::AuxName => {
                let Some(name) = self.lexer.whole(input)? else {
                    return Ok(false);
                };
                self.aux.clear();
                // No name that means something is longer.
                self.aux.extend_from_slice(&name[..name.len().min(64)]);
                self.stage = Stage::AuxValue;
            }
            Stage::AuxValue => {
                let Some(value) = self.lexer.whole(input)? else {
                    return Ok(false);
                };
                take_aux(&mut self.summary, &self.aux, value)?;
                self.stage = Stage::Opcode;
            }
            Stage::SelectDb => {
                let Some(db) = self.lexer.length(input)? else {
                    return Ok(false);
                };
                let db = u32::try_from(db).map_err(|_| Fault::Broken("a database has no number"))?;
                self.db = Db::new(db);
                self.stage = Stage::Opcode;
            }
            Stage::Skip(left) => {
                if self.lexer.length(input)?.is_none() {
                    return Ok(false);
                }
                *left -= 1;
                if *left == 0 {
                    self.stage = Stage::Opcode;
                }
            }
            Stage::Freq => {
                if self.lexer.byte(input).is_none() {
                    return Ok(false);
                }
                self.stage = Stage::Opcode;
            }
            Stage::ExpireMs => {
                let Some(at_ms) = self.lexer.millis(input) else {
                    return Ok(false);
                };
                self.expires_at_ms = Some(at_ms);
                self.stage = Stage::Opcode;
            }
            Stage::ExpireSeconds => {
                let Some(at_s) = self.lexer.fixed(input).map(i32::from_le_bytes) else {
                    return Ok(false);
                };
                self.expires_at_ms = Some(i64::from(at_s) * 1000);
                self.stage = Stage::Opcode;
            }
            Stage::Function(sip) => {
                if !self.lexer.string(input, sip)? {
                    return Ok(false);
                }
                self.summary.functions += 1;
                self.summary.digest = self.summary.digest.and(sip.finish());
                self.stage = Stage::Opcode;
            }
            Stage::ModuleAux(data) => {
                let Some(digest) = data.advance(&mut self.lexer, input)? else {
                    return Ok(false);
                };
                let mut sip = Sip::new(tag::MODULE_AUX);
                sip.digest(digest);
                self.summary.digest = self.summary.digest.and(sip.finish());
                self.stage = Stage::Opcode;
            }
            Stage::KeyName => {
                let Some(key) = self.lexer.whole(input)? else {
                    return Ok(false);
                };
                self.key.clear();
                self.key.extend_from_slice(key);
                let (kind, value) = Value::new(self.type_byte, self.summary.magic, self.summary.version)?;
                self.stage = Stage::Value(kind, value);
            }
            Stage::Value(kind, value) => {
                let kind = *kind;
                let Some(digest) = value.advance(&mut self.lexer, input)? else {
                    return Ok(false);
                };
                self.end_key(kind, digest, seen);
                self.stage = Stage::Opcode;
            }
            Stage::Crc | Stage::End => return Ok(false),
        }
        Ok(true)
    }

    fn take_magic(&mut self, bytes: [u8; 9]) -> Result<(), Stop> {
        let (magic, digits) = match &bytes {
            [b'R', b'E', b'D', b'I', b'S', digits @ ..] => (Magic::Redis, &digits[..]),
            [b'V', b'A', b'L', b'K', b'E', b'Y', digits @ ..] => (Magic::Valkey, &digits[..]),
            _ => (Magic::Redis, &[][..]),
        };
        let version = digits.iter().try_fold(0, |n, digit| {
            digit.is_ascii_digit().then(|| n * 10 + u32::from(digit - b'0'))
        });
        let Some(version) = version.filter(|_| !digits.is_empty()) else {
            let found = bytes.escape_ascii().to_string();
            return Err(Stop::Error(RdbError::NotAnRdb { found }));
        };
        if !known(magic, version) {
            return Err(Stop::Error(RdbError::UnknownVersion { magic, version }));
        }
        self.summary.magic = magic;
        self.summary.version = version;
        self.stage = Stage::Opcode;
        Ok(())
    }

    /// What follows an opcode or a type.
    fn begin(&mut self, byte: u8) -> Result<Stage, Fault> {
        let of_key = matches!(
            byte,
            opcode::IDLE | opcode::FREQ | opcode::EXPIRETIME | opcode::EXPIRETIME_MS
        );
        if byte >= opcode::LEAST && !of_key && self.expires_at_ms.is_some() {
            return Err(Fault::Broken("an expiry belongs to no key"));
        }
        Ok(match byte {
            opcode::SLOT_INFO => Stage::Skip(3),
            opcode::FUNCTION2 => Stage::Function(Sip::new(tag::FUNCTION)),
            opcode::MODULE_AUX => Stage::ModuleAux(ModuleData::new()),
            opcode::IDLE => Stage::Skip(1),
            opcode::FREQ => Stage::Freq,
            opcode::AUX => Stage::AuxName,
            opcode::RESIZEDB => Stage::Skip(2),
            opcode::EXPIRETIME_MS => Stage::ExpireMs,
            opcode::EXPIRETIME => Stage::ExpireSeconds,
            opcode::SELECTDB => Stage::SelectDb,
            opcode::EOF => Stage::Crc,
            opcode if opcode >= opcode::LEAST => return Err(Fault::UnknownOpcode(opcode)),
            type_byte => {
                // Unknown ones are refused before their name is read.
                Value::new(type_byte, self.summary.magic, self.summary.version)?;
                self.type_byte = type_byte;
                Stage::KeyName
            }
        })
    }

    fn end_key(&mut self, kind: Kind, value: Digest, seen: &mut dyn FnMut(&KeySeen<'_>)) {
        let expires_at_ms = self.expires_at_ms.take();
        let mut sip = Sip::new(tag::KEY);
        sip.number(self.db.get().into());
        sip.str(&self.key);
        sip.byte(kind.code());
        sip.digest(value);
        sip.time(expires_at_ms);
        let digest = sip.finish();
        let summary = &mut self.summary;
        summary.keys += 1;
        summary.expires += u64::from(expires_at_ms.is_some());
        *summary.keys_by_db.entry(self.db).or_default() += 1;
        summary.digest = summary.digest.and(digest);
        seen(&KeySeen {
            db: self.db,
            key: &self.key,
            kind,
            expires_at_ms,
            digest,
        });
    }
}

/// Why reading ends.
enum Stop {
    Fault(Fault),
    Error(RdbError),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Stop {
        Stop::Fault(fault)
    }
}

fn take_aux(summary: &mut Summary, name: &[u8], value: &[u8]) -> Result<(), Fault> {
    let number = || std::str::from_utf8(value).ok()?.parse::<i64>().ok();
    match name {
        b"redis-ver" | b"valkey-ver" => {
            let server = if name == b"redis-ver" { "redis" } else { "valkey" };
            let version = String::from_utf8_lossy(&value[..value.len().min(64)]);
            summary.server = Some(format!("{server} {version}"));
        }
        b"repl-stream-db" => {
            let db = number().ok_or(Fault::Broken("repl-stream-db is no number"))?;
            // -1: the master's stream had selected none yet.
            summary.stream_db = u32::try_from(db).ok().map(Db::new);
        }
        b"repl-id" => {
            let id = ReplId::parse(value).map_err(|_| Fault::Broken("repl-id is no replid"))?;
            summary.repl_id = Some(id);
        }
        b"repl-offset" => {
            let offset = number().and_then(|n| u64::try_from(n).ok());
            summary.repl_offset = Some(Offset::new(
                offset.ok_or(Fault::Broken("repl-offset is no offset"))?,
            ));
        }
        b"ctime" => summary.created_s = number(),
        // Servers skip those that they do not know.
        _ => {}
    }
    Ok(())
}
