//! The replication stream: where its commands and groups end, and which database is selected.
//!
//! Decides what a *group* is: one top-level command, or one MULTI … EXEC. Promises the same groups for the
//! same bytes however they are cut, linear time, and constant memory: payloads are skipped, never looked at
//! or kept. A master sends its replicas only arrays of bulk strings, so anything else is an error, never
//! guessed at. Knows nothing of offsets, entries or where the bytes come from.

mod commands;

pub use commands::{Command, Commands, commands, encode_command};

use crate::number::{Digits, unsigned, whole_header};
use redoubt_types::Db;
use redoubt_types::limits::{BULK_BYTES_MAX, RESP_ELEMENTS_MAX};

/// Why bytes can't be a master's replication stream. All of them are final: the bytes are not what they are
/// thought to be, and no boundary behind them can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// A command began with something else than `*`.
    #[error("a command of the stream must begin with '*', not {}", shown(*.0))]
    NotAnArray(u8),
    /// An argument began with something else than `$`.
    #[error("an argument in the stream must begin with '$', not {}", shown(*.0))]
    NotABulk(u8),
    /// The number of arguments is missing, not a plain decimal, or 0.
    #[error("a command of the stream has a malformed number of arguments")]
    BadCount,
    /// The number of arguments is above [`RESP_ELEMENTS_MAX`].
    #[error("a command of the stream has {0} arguments, more than {RESP_ELEMENTS_MAX}")]
    TooManyElements(u64),
    /// The length of an argument is missing or not a plain decimal.
    #[error("an argument in the stream has a malformed length")]
    BadLength,
    /// The length of an argument is above [`BULK_BYTES_MAX`].
    #[error("an argument in the stream has {0} bytes, more than {BULK_BYTES_MAX}")]
    BulkTooLong(u64),
    /// An argument is not followed by CR LF.
    #[error("an argument in the stream does not end where its length says")]
    BadTrailer,
    /// MULTI inside MULTI.
    #[error("MULTI inside MULTI in the stream")]
    NestedMulti,
    /// EXEC without MULTI.
    #[error("EXEC without MULTI in the stream")]
    ExecWithoutMulti,
    /// DISCARD, which a master never propagates.
    #[error("DISCARD in the stream")]
    Discard,
    /// MULTI, EXEC or SELECT with a wrong number of arguments: a replica would not do what it says.
    #[error("MULTI, EXEC or SELECT with a wrong number of arguments in the stream")]
    BadArity,
    /// SELECT of something that is no database number.
    #[error("SELECT of something that is not a database number in the stream")]
    BadSelect,
    /// The scanner was used after an error.
    #[error("the stream was malformed earlier on")]
    Poisoned,
}

fn shown(byte: u8) -> String {
    format!("'{}'", byte.escape_ascii())
}

/// Where a group ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupEnd {
    /// Index behind the group's last byte in the slice given to [`StreamScanner::scan`].
    pub end: usize,
    /// The database that is selected after it.
    pub db: Db,
}

/// Names of up to 7 bytes and database numbers of up to 10 digits are all that is ever looked at. One more is
/// kept, so that what is longer is neither of them after it was cut.
const WORD_BYTES_MAX: usize = 11;
/// Redis counts its databases in an `int`.
const DB_MAX: u64 = i32::MAX as u64;

/// Where in a command the scanner stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Before a command's first byte.
    #[default]
    Start,
    /// Within the digits behind `*`.
    Count(Digits),
    /// Behind the CR of the count.
    CountLf(u64),
    /// Before an argument's first byte.
    Bulk,
    /// Within the digits behind `$`.
    Length(Digits),
    /// Behind the CR of the length.
    LengthLf(u64),
    /// Within an argument of which this many bytes (at least 1) are missing.
    Body(u64),
    /// Behind an argument's last byte.
    BodyCr,
    /// Behind the CR that follows an argument.
    BodyLf,
    /// An error was returned.
    Poisoned,
}

/// What the command in progress is, as far as is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    /// Its first argument is not complete.
    #[default]
    Unnamed,
    Plain,
    Multi,
    Exec,
    /// SELECT, with its database once that was read.
    Select(Option<Db>),
}

/// An argument's beginning, kept across cuts when the argument may matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Word {
    bytes: [u8; WORD_BYTES_MAX],
    len: u8,
}

impl Word {
    fn extend(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(slot) = self.bytes.get_mut(usize::from(self.len)) {
                *slot = *byte;
                self.len += 1;
            }
        }
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// A resumable scanner of the replication stream.
///
/// Two scanners that have seen the same bytes since the same beginning are equal, however the bytes were cut.
///
/// After an error the scanner is poisoned: every further call returns [`StreamError::Poisoned`], and
/// [`StreamScanner::at_boundary`] is false. The groups reported before the error stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamScanner {
    phase: Phase,
    /// Arguments of the command in progress that are not complete.
    args_left: u64,
    kind: Kind,
    /// The argument in progress, while it may matter and is cut.
    word: Word,
    in_multi: bool,
    /// Selected by the last complete group.
    db: Db,
    /// Selected by the last complete command, which may stand in an open MULTI.
    db_within: Db,
}

impl StreamScanner {
    /// A scanner at a group boundary where `db` is selected.
    pub fn with_db(db: Db) -> Self {
        StreamScanner {
            db,
            db_within: db,
            ..StreamScanner::default()
        }
    }

    /// Whether everything scanned so far is whole groups.
    pub fn at_boundary(&self) -> bool {
        self.phase == Phase::Start && !self.in_multi
    }

    /// The database that was selected when the last whole group ended.
    pub fn db(&self) -> Db {
        self.db
    }

    /// Goes over `bytes`, which follow those of the last call, and reports the end of every group in order.
    /// Takes time linear in `bytes` and skips payloads unseen.
    ///
    /// # Errors
    /// When the bytes can't be a replication stream; the scanner is poisoned then.
    pub fn scan(&mut self, bytes: &[u8], mut on_group: impl FnMut(GroupEnd)) -> Result<(), StreamError> {
        if self.phase == Phase::Poisoned {
            return Err(StreamError::Poisoned);
        }
        let mut pos = 0;
        while pos < bytes.len() {
            match self.step(&bytes[pos..]) {
                Ok(Step { used, command_ended }) => {
                    pos += used;
                    if command_ended && !self.in_multi {
                        self.db = self.db_within;
                        on_group(GroupEnd {
                            end: pos,
                            db: self.db,
                        });
                    }
                }
                Err(e) => {
                    self.phase = Phase::Poisoned;
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    /// Consumes at least one of `bytes`, which are not empty.
    #[inline(always)]
    fn step(&mut self, bytes: &[u8]) -> Result<Step, StreamError> {
        match self.phase {
            Phase::Start => {
                if let Some((count, used)) = whole_header(b'*', bytes) {
                    self.begin_command(count)?;
                    return Ok(Step::within(used));
                }
                if bytes[0] != b'*' {
                    return Err(StreamError::NotAnArray(bytes[0]));
                }
                self.phase = Phase::Count(Digits::default());
                Ok(Step::within(1))
            }
            Phase::Bulk => self.step_bulk(bytes),
            Phase::Body(left) => {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                if self.word_matters() {
                    self.word.extend(&bytes[..here]);
                }
                let left = left - here as u64;
                self.phase = if left == 0 {
                    Phase::BodyCr
                } else {
                    Phase::Body(left)
                };
                Ok(Step::within(here))
            }
            _ => self.step_byte(bytes[0]),
        }
    }

    /// An argument from its `$` on: in one go if it is all here, which it nearly always is.
    #[inline(always)]
    fn step_bulk(&mut self, bytes: &[u8]) -> Result<Step, StreamError> {
        if let Some((length, header)) = whole_header(b'$', bytes) {
            check_length(length)?;
            let end = header + length as usize;
            if let Some(trailer) = bytes.get(end..end + 2) {
                if trailer != b"\r\n" {
                    return Err(StreamError::BadTrailer);
                }
                let command_ended = self.end_argument(&bytes[header..end])?;
                return Ok(Step {
                    used: end + 2,
                    command_ended,
                });
            }
            self.begin_body(length);
            return Ok(Step::within(header));
        }
        if bytes[0] != b'$' {
            return Err(StreamError::NotABulk(bytes[0]));
        }
        self.phase = Phase::Length(Digits::default());
        Ok(Step::within(1))
    }

    /// The phases that only a cut (or an error) makes visible, a byte at a time.
    #[inline(never)]
    fn step_byte(&mut self, byte: u8) -> Result<Step, StreamError> {
        match self.phase {
            Phase::Count(digits) => {
                self.phase = if byte == b'\r' {
                    Phase::CountLf(digits.value().ok_or(StreamError::BadCount)?)
                } else {
                    Phase::Count(digits.push(byte).ok_or(StreamError::BadCount)?)
                };
            }
            Phase::CountLf(count) => {
                if byte != b'\n' {
                    return Err(StreamError::BadCount);
                }
                self.begin_command(count)?;
            }
            Phase::Length(digits) => {
                self.phase = if byte == b'\r' {
                    Phase::LengthLf(digits.value().ok_or(StreamError::BadLength)?)
                } else {
                    Phase::Length(digits.push(byte).ok_or(StreamError::BadLength)?)
                };
            }
            Phase::LengthLf(length) => {
                if byte != b'\n' {
                    return Err(StreamError::BadLength);
                }
                check_length(length)?;
                self.begin_body(length);
            }
            Phase::BodyCr => {
                if byte != b'\r' {
                    return Err(StreamError::BadTrailer);
                }
                self.phase = Phase::BodyLf;
            }
            Phase::BodyLf => {
                if byte != b'\n' {
                    return Err(StreamError::BadTrailer);
                }
                let word = std::mem::take(&mut self.word);
                let command_ended = self.end_argument(word.as_slice())?;
                return Ok(Step {
                    used: 1,
                    command_ended,
                });
            }
            // The other phases never come here.
            Phase::Start | Phase::Bulk | Phase::Body(_) | Phase::Poisoned => {
                return Err(StreamError::Poisoned);
            }
        }
        Ok(Step::within(1))
    }

    fn begin_command(&mut self, count: u64) -> Result<(), StreamError> {
        if count == 0 {
            return Err(StreamError::BadCount);
        }
        if count > RESP_ELEMENTS_MAX {
            return Err(StreamError::TooManyElements(count));
        }
        self.args_left = count;
        self.phase = Phase::Bulk;
        Ok(())
    }

    fn begin_body(&mut self, length: u64) {
        self.phase = if length == 0 {
            Phase::BodyCr
        } else {
            Phase::Body(length)
        };
    }

    /// Whether the argument in progress is a command's name or SELECT's database.
    fn word_matters(&self) -> bool {
        matches!(self.kind, Kind::Unnamed | Kind::Select(None))
    }

    /// Takes note of a complete argument; `arg` is its content if that matters, cut to what fits a word.
    /// Returns whether the command is complete.
    #[inline(always)]
    fn end_argument(&mut self, arg: &[u8]) -> Result<bool, StreamError> {
        self.args_left -= 1;
        match self.kind {
            Kind::Plain => {}
            Kind::Unnamed => self.kind = name_command(arg, self.args_left)?,
            Kind::Select(_) => {
                let db = unsigned(arg)
                    .filter(|n| *n <= DB_MAX)
                    .ok_or(StreamError::BadSelect)?;
                self.kind = Kind::Select(Some(Db::new(db as u32)));
            }
            Kind::Multi | Kind::Exec => return Err(StreamError::BadArity),
        }
        if self.args_left > 0 {
            self.phase = Phase::Bulk;
            return Ok(false);
        }
        self.phase = Phase::Start;
        match std::mem::take(&mut self.kind) {
            Kind::Multi if self.in_multi => return Err(StreamError::NestedMulti),
            Kind::Multi => self.in_multi = true,
            Kind::Exec if !self.in_multi => return Err(StreamError::ExecWithoutMulti),
            Kind::Exec => self.in_multi = false,
            Kind::Select(db) => self.db_within = db.ok_or(StreamError::BadSelect)?,
            Kind::Plain | Kind::Unnamed => {}
        }
        Ok(true)
    }
}

/// What one step did.
struct Step {
    used: usize,
    command_ended: bool,
}

impl Step {
    fn within(used: usize) -> Self {
        Step {
            used,
            command_ended: false,
        }
    }
}

fn check_length(length: u64) -> Result<(), StreamError> {
    if length > BULK_BYTES_MAX {
        Err(StreamError::BulkTooLong(length))
    } else {
        Ok(())
    }
}

/// The kind of a command from its name (which comes in any case) and the number of arguments behind it.
#[inline(always)]
fn name_command(name: &[u8], args: u64) -> Result<Kind, StreamError> {
    // Four lengths only, and most commands have another or another first letter.
    let (kind, want) = match name.len() {
        4 if name.eq_ignore_ascii_case(b"exec") => (Kind::Exec, 0),
        5 if name.eq_ignore_ascii_case(b"multi") => (Kind::Multi, 0),
        6 if name.eq_ignore_ascii_case(b"select") => (Kind::Select(None), 1),
        7 if name.eq_ignore_ascii_case(b"discard") => return Err(StreamError::Discard),
        _ => return Ok(Kind::Plain),
    };
    if args == want {
        Ok(kind)
    } else {
        Err(StreamError::BadArity)
    }
}

#[cfg(test)]
mod tests;
