//! What clients send.

use super::{Cut, seed};
use crate::request::{RequestError, RequestEvent, RequestScanner, split_line};
use crate::stream::{commands, encode_command};
use bytes::BytesMut;
use redoubt_types::limits::{
    BULK_BYTES_MAX, LINE_BYTES_MAX, REQUEST_HEAD_ARG_BYTES_MAX, REQUEST_HEAD_ARGS_MAX,
    REQUEST_HOLD_BYTES_MAX, RESP_ELEMENTS_MAX,
};

/// A command as the scanner tells of it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    args: Vec<Vec<u8>>,
    arg_count: usize,
    body: Vec<u8>,
    ended: bool,
}

/// Bytes of a client.
pub(super) fn run(input: &[u8]) {
    let Some(cut) = Cut::of(input) else {
        return;
    };
    let whole = scan([cut.bytes.as_slice()]);
    assert!(scan(cut.pieces()) == whole, "the cutting is seen");
    let (seen, error) = whole;
    let (ended, open): (Vec<&Seen>, Vec<&Seen>) = seen.iter().partition(|s| s.ended);
    assert!(open.len() <= 1);
    for command in &ended {
        read_again(command);
    }
    let (simple, fails) = simply(&cut.bytes);
    assert_eq!(error.is_some(), fails, "{error:?}");
    assert_eq!(ended.len(), simple.len());
    for (command, (args, raw)) in ended.iter().zip(simple) {
        assert!(command.body == raw);
        assert_eq!(command.arg_count, args.len());
        // Of a large command only what lies in its beginning is shown.
        for (shown, arg) in command.args.iter().zip(&args) {
            assert!(*shown == arg[..arg.len().min(REQUEST_HEAD_ARG_BYTES_MAX)]);
        }
        if raw.len() <= REQUEST_HOLD_BYTES_MAX {
            assert_eq!(command.args.len(), args.len().min(REQUEST_HEAD_ARGS_MAX));
        }
        assert!(!command.args.is_empty(), "the name is always shown");
    }
}

/// A whole command gives itself when it is read again, and an array is what its arguments are encoded to.
fn read_again(command: &Seen) {
    let (again, error) = scan([command.body.as_slice()]);
    assert!(error.is_none() && again.len() == 1 && again[0] == *command);
    if command.body[0] == b'*' {
        let mut parsed = commands(&command.body);
        let Some(Ok(found)) = parsed.next() else {
            panic!("it is no command of a stream")
        };
        assert!(parsed.rest().is_empty() && found.args.len() == command.arg_count);
        let mut encoded = BytesMut::new();
        encode_command(&found.args, &mut encoded);
        assert!(encoded == command.body);
    }
}

fn scan<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Seen>, Option<RequestError>) {
    let mut scanner = RequestScanner::new();
    let (mut input, mut seen) = (BytesMut::new(), Vec::<Seen>::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match scanner.next(&mut input) {
                Ok(None) => break,
                Ok(Some(RequestEvent::Head(head))) => {
                    assert!(seen.last().is_none_or(|s| s.ended));
                    seen.push(Seen {
                        args: head.args.iter().map(|a| a.to_vec()).collect(),
                        arg_count: head.arg_count,
                        ..Seen::default()
                    });
                }
                Ok(Some(RequestEvent::Body { bytes, last })) => {
                    let Some(now) = seen.last_mut().filter(|s| !s.ended) else {
                        panic!("bytes before their head")
                    };
                    assert!(!bytes.is_empty() && (!last || scanner.at_boundary()));
                    now.body.extend_from_slice(&bytes);
                    now.ended = last;
                }
                Err(e) => {
                    assert_eq!(scanner.next(&mut input), Err(e));
                    return (seen, Some(e));
                }
            }
        }
        assert!(input.len() <= REQUEST_HOLD_BYTES_MAX, "{} are held", input.len());
    }
    (seen, None)
}

type Command<'a> = (Vec<Vec<u8>>, &'a [u8]);

/// The whole commands of `bytes`, and whether an error follows.
fn simply(bytes: &[u8]) -> (Vec<Command<'_>>, bool) {
    let (mut found, mut at) = (Vec::new(), 0);
    loop {
        match one(&bytes[at..]) {
            Ok(Some((args, len))) => {
                if !args.is_empty() {
                    found.push((args, &bytes[at..at + len]));
                }
                at += len;
            }
            Ok(None) => return (found, false),
            Err(()) => return (found, true),
        }
    }
}

/// A command's arguments, and its length.
type Whole = (Vec<Vec<u8>>, usize);

/// The command at the front and its length; `None` when more bytes are needed.
fn one(bytes: &[u8]) -> Result<Option<Whole>, ()> {
    match bytes.first() {
        None => return Ok(None),
        Some(b'*') => {}
        Some(_) => {
            return match bytes.iter().position(|b| *b == b'\n') {
                Some(lf) if lf <= LINE_BYTES_MAX => {
                    let line = bytes[..lf].strip_suffix(b"\r").unwrap_or(&bytes[..lf]);
                    Ok(Some((split_line(line).ok_or(())?, lf + 1)))
                }
                None if bytes.len() <= LINE_BYTES_MAX => Ok(None),
                _ => Err(()),
            };
        }
    }
    let Some((count, mut at)) = number(bytes)? else {
        return Ok(None);
    };
    let mut args = Vec::new();
    if count > RESP_ELEMENTS_MAX as i64 {
        return Err(());
    }
    for _ in 0..count {
        let Some((len, header)) = number(&bytes[at..])? else {
            return Ok(None);
        };
        if bytes[at] != b'$' || !(0..=BULK_BYTES_MAX as i64).contains(&len) {
            return Err(());
        }
        let start = at + header;
        at = start + len as usize + 2;
        match bytes.get(at - 2..at) {
            Some(b"\r\n") => args.push(bytes[start..at - 2].to_vec()),
            Some(_) => return Err(()),
            None => return Ok(None),
        }
    }
    Ok(Some((args, at)))
}

/// The number behind the first byte, and the header's length.
fn number(bytes: &[u8]) -> Result<Option<(i64, usize)>, ()> {
    let near = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(cr) = near.iter().position(|b| *b == b'\r') else {
        return if bytes.len() > LINE_BYTES_MAX {
            Err(())
        } else {
            Ok(None)
        };
    };
    let Some(lf) = bytes.get(cr + 1) else {
        return Ok(None);
    };
    let text = std::str::from_utf8(bytes.get(1..cr).ok_or(())?).map_err(|_| ())?;
    let n: i64 = text.parse().map_err(|_| ())?;
    if n.to_string() != text || *lf != b'\n' {
        return Err(());
    }
    Ok(Some((n, cr + 2)))
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    vec![
        seed("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\r\n\r\n*1\r\n$4\r\nPING\r\n*0\r\n*-1\r\n\r\n"),
        seed("PING\r\nSET \"a \\x41\" 'b\\''\n  \r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"),
        // One that is larger than what is held: 80,000 bytes, and what lies behind it.
        seed(b"*4\r\n$3\r\nSET\r\n$5\r\nlarge\r\n$80000\r\n\xf5\xa0v\r\n$2\r\nNX\r\n*1\r\n$4\r\nPING\r\n"),
        seed(b"*1\r\n$80000\r\n\xf5\xa0v\rx"),
        // Lines that do not end.
        seed(b"\xf5\xa0x\r\n"),
        seed(b"*\xf5\xa01"),
        seed(b"*1\r\n$\xf5\xa01"),
        seed(
            "*12\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n\
              $1\r\na\r\n$1\r\na\r\n$0\r\n\r\n",
        ),
    ]
}
