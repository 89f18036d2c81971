//! What servers answer.

use super::{Cut, plain_number, seed};
use crate::reply::{FrameEnd, ReplyError, ReplyRewriter, ReplyScanner, parse_frame};
use bytes::{Bytes, BytesMut};
use redoubt_types::limits::{REPLY_BULK_BYTES_MAX, REPLY_ELEMENTS_MAX};

/// What markers of the target begin with.
const PREFIX: &str = "FZ-";
/// Frames that are decoded at most, bytes: those that the proxy reads are small.
const DECODED_BYTES_MAX: usize = 20_000;

/// Bytes of a server.
pub(super) fn run(input: &[u8]) {
    let Some(cut) = Cut::of(input) else {
        return;
    };
    let whole = scan([cut.bytes.as_slice()]);
    assert_eq!(scan(cut.pieces()), whole, "the cutting is seen");
    let (ends, error) = whole;
    // How deep is too deep is the scanner's to say.
    if error != Some(ReplyError::TooDeep) {
        let (simple, fails) = simply(&cut.bytes);
        assert_eq!((&ends, error.is_some()), (&simple, fails), "{error:?}");
    }
    let mut start = 0;
    for frame in &ends {
        let bytes = &cut.bytes[start..frame.end];
        if bytes.len() <= DECODED_BYTES_MAX {
            match parse_frame(bytes) {
                Ok(Some((_, used))) => assert_eq!(used, bytes.len()),
                Ok(None) => panic!("a frame that ended is incomplete"),
                Err(e) => assert!(matches!(e, ReplyError::BadContent | ReplyError::TooDeep), "{e}"),
            }
        }
        start = frame.end;
    }
    // Nothing is about a marker of which nobody knows.
    let (copy, told, failed) = rewrite(cut.pieces(), |_| None);
    assert_eq!((&told, failed), (&ends, error.is_some()));
    assert!(cut.bytes.starts_with(&copy) && copy.len() >= start);
    let instead = |code: &[u8]| Some(Bytes::from([b"-ERR ", code].concat()));
    let once = rewrite([cut.bytes.as_slice()], instead);
    assert!(rewrite(cut.pieces(), instead) == once, "the cutting is seen");
    assert_eq!(once.1.len(), ends.len());
}

type Ends = Vec<FrameEnd>;

fn scan<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Ends, Option<ReplyError>) {
    let (mut scanner, mut ends, mut base) = (ReplyScanner::new(), Vec::new(), 0);
    for piece in pieces {
        let on_frame = |f: FrameEnd| {
            ends.push(FrameEnd {
                end: base + f.end,
                kind: f.kind,
            });
        };
        if let Err(e) = scanner.scan(piece, on_frame) {
            assert_eq!(scanner.scan(b"+", |_| {}), Err(ReplyError::Poisoned));
            return (ends, Some(e));
        }
        base += piece.len();
    }
    (ends, None)
}

fn rewrite<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    mut instead: impl FnMut(&[u8]) -> Option<Bytes>,
) -> (Vec<u8>, Ends, bool) {
    let mut rewriter = ReplyRewriter::new(PREFIX);
    let (mut out, mut ends) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        let before = out.len();
        let done = rewriter.rewrite(piece, &mut out, &mut instead, |f| ends.push(f));
        if done.is_err() {
            // How much of what lies before an error was copied depends on the cutting, but no frame does.
            out.truncate(ends.last().map_or(0, |f| f.end));
            return (out.to_vec(), ends, true);
        }
        // What it holds back is a line's beginning, and what it puts in its place no longer than that allows.
        assert!(out.len() - before <= piece.len() + 4 * 128);
    }
    if rewriter.at_boundary() {
        assert_eq!(ends.last().map_or(0, |f| f.end), out.len());
    }
    out.truncate(ends.last().map_or(0, |f| f.end));
    (out.to_vec(), ends, false)
}

/// Where the top-level frames of `bytes` end, and whether an error follows.
fn simply(bytes: &[u8]) -> (Ends, bool) {
    let (mut ends, mut at) = (Vec::new(), 0);
    // Values that are missing, with whether they are an attribute's.
    let (mut open, mut kind) = (Vec::<(u64, bool)>::new(), b' ');
    while at < bytes.len() {
        let first = bytes[at];
        if open.is_empty() && first != b'|' {
            kind = first;
        }
        let header = match header(&bytes[at..]) {
            Ok(Some(header)) => header,
            Ok(None) => return (ends, false),
            Err(()) => return (ends, true),
        };
        at += header.len;
        match header.values {
            Some((0, false)) | None => {
                // A value ended, and so may those that it is the last of.
                let top = loop {
                    match open.last_mut() {
                        None => break true,
                        Some((left, _)) if *left > 1 => {
                            *left -= 1;
                            break false;
                        }
                        Some((_, attribute)) => {
                            let attribute = *attribute;
                            open.pop();
                            if attribute {
                                break false;
                            }
                        }
                    }
                };
                if top {
                    ends.push(FrameEnd { end: at, kind });
                }
            }
            Some((0, true)) => {}
            Some(more) => open.push(more),
        }
    }
    (ends, false)
}

/// A value's beginning: all of it, or the header of an aggregate.
struct Header {
    len: usize,
    /// How many values follow, and whether they are an attribute's; `None` for what is no aggregate.
    values: Option<(u64, bool)>,
}

fn header(bytes: &[u8]) -> Result<Option<Header>, ()> {
    let kind = bytes[0];
    let cr = bytes.iter().position(|b| *b == b'\r');
    let line_is_whole = |cr: usize| match bytes.get(cr + 1) {
        None => Ok(false),
        Some(b'\n') => Ok(true),
        Some(_) => Err(()),
    };
    let is_string = matches!(kind, b'$' | b'!' | b'=');
    match kind {
        b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {
            let Some(cr) = cr else {
                return Ok(None);
            };
            return Ok(line_is_whole(cr)?.then_some(Header {
                len: cr + 2,
                values: None,
            }));
        }
        b'*' | b'~' | b'%' | b'>' | b'|' => {}
        _ if is_string => {}
        _ => return Err(()),
    }
    let text = &bytes[1..cr.unwrap_or(bytes.len())];
    let nullable = matches!(kind, b'$' | b'*');
    let is_null = nullable && text == b"-1";
    let n = match plain_number(text) {
        Some(n) => Some(n),
        None if is_null => None,
        None if (nullable && text == b"-" || text.is_empty()) && cr.is_none() => return Ok(None),
        None => return Err(()),
    };
    let Some(cr) = cr else {
        return Ok(None);
    };
    if !line_is_whole(cr)? {
        return Ok(None);
    }
    let mut len = cr + 2;
    let Some(n) = n else {
        return Ok(Some(Header { len, values: None }));
    };
    if is_string {
        if n > REPLY_BULK_BYTES_MAX {
            return Err(());
        }
        len += n as usize + 2;
        return match bytes.get(len - 2..) {
            Some([b'\r', b'\n', ..]) => Ok(Some(Header { len, values: None })),
            Some([] | [b'\r']) | None => Ok(None),
            Some(_) => Err(()),
        };
    }
    if n > REPLY_ELEMENTS_MAX {
        return Err(());
    }
    let values = if matches!(kind, b'%' | b'|') { n * 2 } else { n };
    Ok(Some(Header {
        len,
        values: Some((values, kind == b'|')),
    }))
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    vec![
        seed("+OK\r\n-ERR x\r\n:1\r\n$3\r\na\r\n\r\n$-1\r\n*-1\r\n*2\r\n*1\r\n:1\r\n$0\r\n\r\n*0\r\n"),
        seed("%1\r\n+k\r\n#t\r\n~2\r\n,1.5\r\n(12\r\n_\r\n!3\r\nERR\r\n=5\r\ntxt:x\r\n>2\r\n+a\r\n+b\r\n"),
        seed("|1\r\n+ttl\r\n:5\r\n*2\r\n|0\r\n:1\r\n|1\r\n+a\r\n*1\r\n:1\r\n:2\r\n"),
        seed(
            "+OK\r\n-ERR unknown command 'FZ-07', with args beginning with: \r\n-ERR unknown command `FZ-x`\r\n:1\r\n",
        ),
        seed(
            "-ERR Unknown client type 'FZ-pause'\r\n-ERR Unknown command 'FZ-1'\r\n-ERR unknown client type 'FZ-'\r\n",
        ),
        seed("-ERR unknown command 'FZ-a b'\r\n*1\r\n-ERR unknown command 'FZ-1'\r\n-ERR unknown\r\n"),
        seed(b"*40\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n$1000\r\n\xf5\x02v\r\n"),
        seed("*1\r\n".repeat(40)),
    ]
}
