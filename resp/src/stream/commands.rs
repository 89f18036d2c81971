//! Whole commands of a slice, with their arguments: for those who read content (replay's sinks, the CLI, tests).

use super::{StreamError, StreamScanner, check_length};
use crate::number::whole_header;
use bytes::{BufMut, BytesMut};
use redoubt_types::limits::RESP_ELEMENTS_MAX;

/// One command of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// Its bytes, from `*` to the last LF.
    pub raw: &'a [u8],
    /// Its name and arguments; at least one.
    pub args: Vec<&'a [u8]>,
}

impl<'a> Command<'a> {
    /// The command's name, in the case it was sent in.
    pub fn name(&self) -> &'a [u8] {
        self.args.first().copied().unwrap_or_default()
    }

    /// Whether this is the command `name`, in any case.
    pub fn is(&self, name: &str) -> bool {
        self.name().eq_ignore_ascii_case(name.as_bytes())
    }
}

/// The whole commands of a slice. Ends before an incomplete one, and behind the first error.
#[derive(Clone, Debug)]
pub struct Commands<'a> {
    rest: &'a [u8],
    failed: bool,
}

/// Iterates over the whole top-level commands of `bytes`, which begin at a command's first byte. MULTI, EXEC
/// and what stands between them are commands of their own here.
pub fn commands(bytes: &[u8]) -> Commands<'_> {
    Commands {
        rest: bytes,
        failed: false,
    }
}

impl<'a> Commands<'a> {
    /// The bytes that no item covered yet: at the end, an incomplete command or what was malformed.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Commands<'a> {
    type Item = Result<Command<'a>, StreamError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        if let Some(command) = whole_command(self.rest) {
            self.rest = &self.rest[command.raw.len()..];
            return Some(Ok(command));
        }
        // Incomplete or malformed: the scanner knows, and words the error.
        let first_only = StreamScanner::default().scan(self.rest, |_| {});
        let error = first_only.err()?;
        self.failed = true;
        Some(Err(error))
    }
}

/// The command at the start of `bytes`, if all of it is there and well-formed.
fn whole_command(bytes: &[u8]) -> Option<Command<'_>> {
    let (count, mut pos) = whole_header(b'*', bytes)?;
    if count == 0 || count > RESP_ELEMENTS_MAX {
        return None;
    }
    // The count is a stranger's: an argument takes at least 6 bytes, so this can't reserve more than is here.
    let mut args = Vec::with_capacity((count as usize).min(bytes.len() / 6 + 1));
    for _ in 0..count {
        let (length, header) = whole_header(b'$', &bytes[pos..])?;
        check_length(length).ok()?;
        let start = pos + header;
        let end = start + length as usize;
        if bytes.get(end..end + 2)? != b"\r\n" {
            return None;
        }
        args.push(&bytes[start..end]);
        pos = end + 2;
    }
    Some(Command {
        raw: &bytes[..pos],
        args,
    })
}

/// Appends a command to `out`, as an array of bulk strings.
pub fn encode_command(args: &[&[u8]], out: &mut BytesMut) {
    put_header(b'*', args.len(), out);
    for arg in args {
        out.reserve(arg.len() + 16);
        put_header(b'$', arg.len(), out);
        out.put_slice(arg);
        out.put_slice(b"\r\n");
    }
}

fn put_header(kind: u8, n: usize, out: &mut BytesMut) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut n = n;
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.put_u8(kind);
    out.put_slice(&digits[at..]);
    out.put_slice(b"\r\n");
}
