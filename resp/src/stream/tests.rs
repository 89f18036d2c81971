use super::*;
use bytes::BytesMut;
use proptest::prelude::*;

fn encode(commands: &[&[&str]]) -> Vec<u8> {
    let mut out = BytesMut::new();
    for command in commands {
        let args: Vec<&[u8]> = command.iter().map(|a| a.as_bytes()).collect();
        encode_command(&args, &mut out);
    }
    out.to_vec()
}

fn scan_all(scanner: &mut StreamScanner, bytes: &[u8]) -> (Vec<(usize, u32)>, Result<(), StreamError>) {
    let mut ends = Vec::new();
    let result = scanner.scan(bytes, |g| ends.push((g.end, g.db.get())));
    (ends, result)
}

#[test]
fn a_group_is_a_command_or_a_transaction() {
    let plain = encode(&[&["SELECT", "3"], &["set", "k", "v"], &["PING"]]);
    let transaction = encode(&[
        &["multi"],
        &["SET", "a", ""],
        &["Select", "7"],
        &["DEL", "b"],
        &["EXEC"],
    ]);
    let getack = encode(&[&["REPLCONF", "GETACK", "*"]]);
    let bytes = [plain.clone(), transaction.clone(), getack].concat();
    let mut scanner = StreamScanner::with_db(Db::new(1));
    let (ends, result) = scan_all(&mut scanner, &bytes);
    assert_eq!(result, Ok(()));
    assert_eq!(
        ends,
        [
            (23, 3),
            (23 + 27, 3),
            (plain.len(), 3),
            (plain.len() + transaction.len(), 7),
            (bytes.len(), 7)
        ]
    );
    assert!(scanner.at_boundary());
    assert_eq!(scanner.db(), Db::new(7));
}

#[test]
fn a_database_selected_in_an_open_transaction_counts_when_it_ends() {
    let mut scanner = StreamScanner::default();
    scan_all(&mut scanner, &encode(&[&["MULTI"], &["SELECT", "5"]]))
        .1
        .unwrap();
    assert_eq!((scanner.db(), scanner.at_boundary()), (Db::new(0), false));
    scan_all(&mut scanner, &encode(&[&["EXEC"]])).1.unwrap();
    assert_eq!((scanner.db(), scanner.at_boundary()), (Db::new(5), true));
}

#[test]
fn whatever_a_master_does_not_send_is_an_error() {
    let too_many = format!("*{}\r\n", RESP_ELEMENTS_MAX + 1);
    let too_long = format!("*1\r\n${}\r\n", BULK_BYTES_MAX + 1);
    let cases: Vec<(Vec<u8>, StreamError)> = vec![
        (b"\n".to_vec(), StreamError::NotAnArray(b'\n')),
        (b"PING\r\n".to_vec(), StreamError::NotAnArray(b'P')),
        (b"+OK\r\n".to_vec(), StreamError::NotAnArray(b'+')),
        (b"*0\r\n".to_vec(), StreamError::BadCount),
        (b"*-1\r\n".to_vec(), StreamError::BadCount),
        (b"*01\r\n".to_vec(), StreamError::BadCount),
        (b"*\r\n".to_vec(), StreamError::BadCount),
        (b"*1\n".to_vec(), StreamError::BadCount),
        (b"*1\rx".to_vec(), StreamError::BadCount),
        (b"*99999999999999999999\r\n".to_vec(), StreamError::BadCount),
        (
            too_many.into_bytes(),
            StreamError::TooManyElements(RESP_ELEMENTS_MAX + 1),
        ),
        (b"*1\r\n*1\r\n".to_vec(), StreamError::NotABulk(b'*')),
        (b"*1\r\n:1\r\n".to_vec(), StreamError::NotABulk(b':')),
        (b"*1\r\n$-1\r\n".to_vec(), StreamError::BadLength),
        (b"*1\r\n$1 \r\n".to_vec(), StreamError::BadLength),
        (b"*1\r\n$EOF:".to_vec(), StreamError::BadLength),
        (
            too_long.into_bytes(),
            StreamError::BulkTooLong(BULK_BYTES_MAX + 1),
        ),
        (b"*1\r\n$1\r\nabc".to_vec(), StreamError::BadTrailer),
        (b"*1\r\n$1\r\na\rb".to_vec(), StreamError::BadTrailer),
        (encode(&[&["MULTI"], &["MULTI"]]), StreamError::NestedMulti),
        (encode(&[&["EXEC"]]), StreamError::ExecWithoutMulti),
        (encode(&[&["MULTI"], &["discard"]]), StreamError::Discard),
        (encode(&[&["MULTI", "x"]]), StreamError::BadArity),
        (encode(&[&["EXEC", "x"]]), StreamError::BadArity),
        (encode(&[&["SELECT"]]), StreamError::BadArity),
        (encode(&[&["SELECT", "1", "2"]]), StreamError::BadArity),
        (encode(&[&["SELECT", "x"]]), StreamError::BadSelect),
        (encode(&[&["SELECT", "2147483648"]]), StreamError::BadSelect),
        (encode(&[&["SELECT", "12345678901"]]), StreamError::BadSelect),
        (encode(&[&["SELECT", ""]]), StreamError::BadSelect),
    ];
    for (bytes, want) in cases {
        for piece in [bytes.len(), 1, 3] {
            let mut scanner = StreamScanner::default();
            let mut result = Ok(());
            for part in bytes.chunks(piece) {
                result = result.and(scanner.scan(part, |_| {}));
            }
            assert_eq!(result, Err(want), "{} in pieces of {piece}", bytes.escape_ascii());
            assert_eq!(scanner.scan(b"", |_| {}), Err(StreamError::Poisoned));
            assert!(!scanner.at_boundary());
        }
    }
}

#[test]
fn nesting_is_an_error_and_no_overflow() {
    let mut scanner = StreamScanner::default();
    assert_eq!(
        scanner.scan(&b"*1\r\n".repeat(100_000), |_| {}),
        Err(StreamError::NotABulk(b'*'))
    );
}

#[test]
fn h03_a_100_mb_value_in_64_kb_pieces_takes_linear_time() {
    let value = vec![b'x'; 100 << 20];
    let mut bytes = BytesMut::new();
    encode_command(&[b"SET", b"k", &value], &mut bytes);
    let mut scanner = StreamScanner::default();
    let mut ends = 0;
    // Payloads are skipped: a scanner that looked at, kept or read them again would take minutes here.
    for _ in 0..100 {
        for part in bytes.chunks(64 * 1024) {
            scanner.scan(part, |_| ends += 1).unwrap();
        }
    }
    assert_eq!(ends, 100);
    assert!(std::mem::size_of::<StreamScanner>() <= 96);
}

#[test]
fn commands_are_iterated_up_to_an_incomplete_one() {
    let bytes = encode(&[&["SET", "k", "v"], &["PING"], &["DEL", "k"]]);
    let mut iter = commands(&bytes[..bytes.len() - 3]);
    let first = iter.next().unwrap().unwrap();
    assert_eq!(first.args, [&b"SET"[..], b"k", b"v"]);
    assert!(first.is("set"));
    assert_eq!(first.raw, &bytes[..27]);
    assert_eq!(iter.next().unwrap().unwrap().name(), b"PING");
    assert!(iter.next().is_none());
    assert_eq!(iter.rest(), &bytes[27 + 14..bytes.len() - 3]);
    let mut bad = commands(b"*1\r\n$4\r\nPING\r\n\n*1\r\n");
    assert!(bad.next().unwrap().is_ok());
    assert_eq!(bad.next(), Some(Err(StreamError::NotAnArray(b'\n'))));
    assert_eq!(bad.next(), None);
    assert_eq!(bad.rest(), b"\n*1\r\n");
}

/// Well-formed commands, transactions and selects, and sometimes a wrong one among them.
fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..20),
        1 => Just(b"MULTI".to_vec()),
        1 => Just(b"exec".to_vec()),
        1 => Just(b"Select".to_vec()),
        1 => Just(b"discard".to_vec()),
        2 => (0u32..20).prop_map(|n| n.to_string().into_bytes()),
    ];
    let command = prop_oneof![
        4 => prop::collection::vec(word, 1..5),
        2 => Just(vec![b"MULTI".to_vec()]),
        2 => Just(vec![b"EXEC".to_vec()]),
        2 => (0u32..100).prop_map(|n| vec![b"SELECT".to_vec(), n.to_string().into_bytes()]),
    ];
    prop::collection::vec(command, 0..12).prop_map(|commands| {
        let mut out = BytesMut::new();
        for command in &commands {
            let args: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
            encode_command(&args, &mut out);
        }
        out.to_vec()
    })
}

type Seen = (Vec<(usize, u32)>, Result<(), StreamError>, StreamScanner);

fn scan_in_pieces(bytes: &[u8], cuts: &[usize]) -> Seen {
    let mut scanner = StreamScanner::default();
    let mut ends = Vec::new();
    let mut cuts: Vec<usize> = cuts.iter().map(|c| c % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    for pair in cuts.windows(2) {
        let result = scanner.scan(&bytes[pair[0]..pair[1]], |g| {
            ends.push((pair[0] + g.end, g.db.get()))
        });
        if result.is_err() {
            return (ends, result, scanner);
        }
    }
    (ends, Ok(()), scanner)
}

proptest! {
    #[test]
    fn any_cutting_gives_the_same_groups_and_the_same_scanner(
        bytes in any_stream(),
        flip in prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>())),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
        upto in any::<prop::sample::Index>(),
    ) {
        let mut bytes = bytes;
        if let Some((at, byte)) = flip && !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(upto.index(bytes.len() + 1));
        let whole = scan_in_pieces(&bytes, &[]);
        prop_assert_eq!(&scan_in_pieces(&bytes, &cuts).0, &whole.0);
        prop_assert_eq!(&scan_in_pieces(&bytes, &cuts).1, &whole.1);
        let each: Vec<usize> = (0..bytes.len()).collect();
        let bytewise = scan_in_pieces(&bytes, &each);
        prop_assert_eq!(&bytewise.0, &whole.0);
        prop_assert_eq!(&bytewise.1, &whole.1);
        if whole.1.is_ok() {
            prop_assert_eq!(&scan_in_pieces(&bytes, &cuts).2, &whole.2);
            prop_assert_eq!(&bytewise.2, &whole.2);
        }
    }

    #[test]
    fn commands_and_scanner_agree(bytes in any_stream(), upto in any::<prop::sample::Index>()) {
        let bytes = &bytes[..upto.index(bytes.len() + 1)];
        let mut scanner = StreamScanner::default();
        let mut iter = commands(bytes);
        let mut at = 0;
        while let Some(Ok(command)) = iter.next() {
            let mut out = BytesMut::new();
            encode_command(&command.args, &mut out);
            prop_assert_eq!(&out[..], command.raw);
            at += command.raw.len();
            if scanner.scan(command.raw, |_| {}).is_err() {
                return Ok(());
            }
            prop_assert_eq!(scanner.phase, Phase::Start);
        }
        prop_assert_eq!(iter.rest(), &bytes[at..]);
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = StreamScanner::default().scan(&bytes, |_| {});
        prop_assert!(commands(&bytes).count() <= bytes.len());
    }
}
