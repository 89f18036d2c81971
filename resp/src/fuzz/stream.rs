//! What a master sends its replicas.

use super::{Cut, seed};
use crate::stream::{StreamError, StreamScanner, commands, encode_command};
use bytes::BytesMut;
use redoubt_types::Db;

/// Bytes of a master.
pub(super) fn run(input: &[u8]) {
    let Some(cut) = Cut::of(input) else {
        return;
    };
    let whole = scan([cut.bytes.as_slice()]);
    assert_eq!(scan(cut.pieces()), whole, "the cutting is seen");
    let (ends, error) = whole;
    let (simple, fails) = simply(&cut.bytes);
    assert_eq!((&ends, error.is_some()), (&simple, fails), "{error:?}");
    let (mut start, mut db) = (0, Db::default());
    for (end, behind) in ends {
        // Each group by itself is one, and its commands are what their arguments are encoded to.
        let group = &cut.bytes[start..end];
        let mut scanner = StreamScanner::with_db(db);
        let mut found = Vec::new();
        let again = scanner.scan(group, |g| found.push((g.end, g.db)));
        assert_eq!((again, found), (Ok(()), vec![(group.len(), behind)]));
        assert!(scanner.at_boundary());
        let mut encoded = BytesMut::new();
        for command in commands(group) {
            match command {
                Ok(command) => encode_command(&command.args, &mut encoded),
                Err(e) => panic!("a group that ended has {e}"),
            }
        }
        assert!(encoded == group);
        (start, db) = (end, behind);
    }
}

type Ends = Vec<(usize, Db)>;

fn scan<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Ends, Option<StreamError>) {
    let (mut scanner, mut ends, mut base) = (StreamScanner::default(), Vec::new(), 0);
    for piece in pieces {
        if let Err(e) = scanner.scan(piece, |g| ends.push((base + g.end, g.db))) {
            assert_eq!(scanner.scan(b"*", |_| {}), Err(StreamError::Poisoned));
            return (ends, Some(e));
        }
        base += piece.len();
        // What is known of the last group is what the last one told.
        assert_eq!(scanner.db(), ends.last().map_or(Db::default(), |(_, db)| *db));
    }
    (ends, None)
}

/// Where the groups of `bytes` end, and whether an error follows.
fn simply(bytes: &[u8]) -> (Ends, bool) {
    let (mut ends, mut at) = (Vec::new(), 0);
    let (mut in_multi, mut db) = (false, Db::default());
    let mut all = commands(bytes);
    for command in all.by_ref() {
        let Ok(command) = command else {
            return (ends, true);
        };
        at += command.raw.len();
        let arity = |n: usize| command.args.len() == n;
        match () {
            () if command.is("multi") => {
                if in_multi || !arity(1) {
                    return (ends, true);
                }
                in_multi = true;
            }
            () if command.is("exec") => {
                if !in_multi || !arity(1) {
                    return (ends, true);
                }
                in_multi = false;
            }
            () if command.is("discard") => return (ends, true),
            () if command.is("select") => {
                let number = command.args.get(1).and_then(|a| super::plain_number(a));
                match number.filter(|n| arity(2) && *n <= i32::MAX as u64) {
                    Some(n) => db = Db::new(n as u32),
                    None => return (ends, true),
                }
            }
            () => {}
        }
        if !in_multi {
            ends.push((at, db));
        }
    }
    // Of one that is not complete as much is judged as is there.
    let mut scanner = StreamScanner::default();
    let begun = if in_multi {
        &b"*1\r\n$5\r\nMULTI\r\n"[..]
    } else {
        b""
    };
    let judged = scanner
        .scan(begun, |_| {})
        .and_then(|()| scanner.scan(all.rest(), |_| {}));
    (ends, judged.is_err())
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    vec![
        seed(
            "*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\r\n\r\n*1\r\n$4\r\nPING\r\n",
        ),
        seed(
            "*1\r\n$5\r\nMULTI\r\n*2\r\n$6\r\nselect\r\n$2\r\n11\r\n*2\r\n$3\r\nDEL\r\n$1\r\nk\r\n*1\r\n$4\r\nEXEC\r\n",
        ),
        seed("*3\r\n$8\r\nREPLCONF\r\n$6\r\nGETACK\r\n$1\r\n*\r\n*1\r\n$4\r\nexec\r\n"),
        seed(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$80000\r\n\xf5\xa0v\r\n*1\r\n$4\r\nPING\r\n"),
        seed("*2\r\n$6\r\nSELECT\r\n$10\r\n2147483647\r\n*2\r\n$6\r\nSELECT\r\n$10\r\n2147483648\r\n"),
        seed("*1\r\n$7\r\nDISCARD\r\n"),
    ]
}
