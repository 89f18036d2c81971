//! From the journal's entries to lines: one command each, with the txid of its group, its offset and its time.
//!
//! Pure: entries in, text out. Joins the fragments of a large group, but holds no more than [`JOIN_BYTES_MAX`] of a
//! command that is not complete; a larger one is printed cut off, and what follows it in its group is not shown.

use crate::quote::quote;
use crate::wall;
use bytes::{Buf, BytesMut};
use redoubt_client::TailedEntry;
use redoubt_resp::stream::{Command, StreamError, commands};
use redoubt_types::{Offset, Txid, WallTime};

/// Bytes of an incomplete command that are held at most.
const JOIN_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of each argument that are shown of a command that is cut off.
const CUT_ARGUMENT_BYTES: usize = 64;
/// Arguments that are shown of a command that is cut off.
const CUT_ARGUMENTS: usize = 16;

/// The journal holds what can't be a replication stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at offset {at} the journal holds what is no replication stream: {why}")]
pub(crate) struct Malformed {
    at: Offset,
    why: StreamError,
}

/// What is done with the next bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Skipped until an entry begins a group: no command's beginning is known.
    Unaligned,
    /// Printed.
    Aligned,
    /// Skipped until the group that was cut off has ended.
    CutOff,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Printer {
    /// Commands before this offset are not printed.
    from: Offset,
    state: State,
    /// The beginning of a command whose end has not come.
    joined: BytesMut,
    joined_at: Offset,
    /// Of the group that the next command belongs to.
    txid: Txid,
    in_multi: bool,
    join_bytes_max: usize,
    printed: bool,
    note: Option<String>,
}

impl Printer {
    /// Prints the commands that begin at `from` or later.
    pub(crate) fn new(from: Offset) -> Self {
        Printer {
            from,
            state: State::Unaligned,
            joined: BytesMut::new(),
            joined_at: Offset::ZERO,
            txid: Txid::FIRST,
            in_multi: false,
            join_bytes_max: JOIN_BYTES_MAX,
            printed: false,
            note: None,
        }
    }

    /// Something that the user should know besides the lines.
    pub(crate) fn take_note(&mut self) -> Option<String> {
        self.note.take()
    }

    /// The lines of the commands that end in `entry`.
    ///
    /// # Errors
    /// When the bytes are no replication stream.
    pub(crate) fn entry(&mut self, entry: &TailedEntry) -> Result<String, Malformed> {
        if self.state == State::CutOff {
            // Only its last fragment ends a group, and that one holds nothing else.
            if entry.groups > 0 {
                self.state = State::Unaligned;
            }
            return Ok(String::new());
        }
        if self.state == State::Unaligned {
            if entry.trimmed || !entry.at_group_start {
                return Ok(String::new());
            }
            self.begin(entry);
        }
        self.joined.extend_from_slice(&entry.bytes);
        self.take_commands(entry.captured)
    }

    fn begin(&mut self, entry: &TailedEntry) {
        self.state = State::Aligned;
        self.joined_at = entry.start;
        self.txid = entry.first_txid;
        self.in_multi = false;
        if entry.start > self.from && !self.printed {
            self.note = Some(format!(
                "# offset {} lies within a large group; the next group begins at {}",
                self.from, entry.start
            ));
        }
    }

    fn take_commands(&mut self, captured: WallTime) -> Result<String, Malformed> {
        let mut lines = String::new();
        let joined = std::mem::take(&mut self.joined);
        let mut whole = commands(&joined);
        let mut at = self.joined_at;
        for command in whole.by_ref() {
            let command = command.map_err(|why| Malformed { at, why })?;
            if at >= self.from {
                self.printed = true;
                write_head(self.txid, at, captured, &mut lines);
                for arg in &command.args {
                    lines.push(' ');
                    quote(arg, &mut lines);
                }
                lines.push('\n');
            }
            at = at.advance(command.raw.len() as u64);
            self.pass(&command);
        }
        let rest = whole.rest().len();
        self.joined_at = at;
        self.joined = joined;
        self.joined.advance(self.joined.len() - rest);
        if rest > self.join_bytes_max {
            self.cut_off(captured, &mut lines);
        }
        Ok(lines)
    }

    /// Takes note of a command's part in its group.
    fn pass(&mut self, command: &Command<'_>) {
        if command.is("MULTI") {
            self.in_multi = true;
        } else if !self.in_multi || command.is("EXEC") {
            self.in_multi = false;
            self.txid = self.txid.advance(1);
        }
    }

    fn cut_off(&mut self, captured: WallTime, lines: &mut String) {
        if self.joined_at >= self.from {
            self.printed = true;
            write_head(self.txid, self.joined_at, captured, lines);
            write_beginning(&self.joined, lines);
            lines.push_str(" ... (cut off; the rest of this group is not shown)\n");
        }
        self.joined = BytesMut::new();
        self.state = State::CutOff;
    }
}

fn write_head(txid: Txid, at: Offset, captured: WallTime, out: &mut String) {
    out.push_str(&format!("{txid} {at} {}", wall::shown(captured)));
}

/// Writes the arguments of an incomplete command as far as they are there, each cut to what is legible.
fn write_beginning(mut bytes: &[u8], out: &mut String) {
    // Past the number of arguments.
    let Some(_) = take_header(&mut bytes) else { return };
    for _ in 0..CUT_ARGUMENTS {
        let Some(length) = take_header(&mut bytes) else {
            return;
        };
        let here = length.min(bytes.len());
        out.push(' ');
        quote(&bytes[..here.min(CUT_ARGUMENT_BYTES)], out);
        if length > CUT_ARGUMENT_BYTES {
            out.push_str(&format!("... ({length} bytes)"));
        }
        bytes = bytes.get(here + 2..).unwrap_or_default();
    }
}

/// The number in a `*N` or `$N` line, and `bytes` past it.
fn take_header(bytes: &mut &[u8]) -> Option<usize> {
    let end = bytes.windows(2).take(32).position(|w| w == b"\r\n")?;
    let number = std::str::from_utf8(bytes.get(1..end)?).ok()?.parse().ok()?;
    *bytes = &bytes[end + 2..];
    Some(number)
}

#[cfg(test)]
mod tests;
