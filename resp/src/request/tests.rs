use super::*;
use proptest::prelude::*;

/// A command as it was seen: head (arguments, count) and body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    args: Vec<Vec<u8>>,
    arg_count: usize,
    body: Vec<u8>,
    ended: bool,
}

type Outcome = (Vec<Seen>, Option<RequestError>);

/// Feeds `bytes` cut at `cuts` (sorted), checking that no more is held than is promised.
fn scan_at(bytes: &[u8], cuts: &[usize]) -> Outcome {
    let mut scanner = RequestScanner::new();
    let mut input = BytesMut::new();
    let mut seen: Vec<Seen> = Vec::new();
    let mut from = 0;
    for to in cuts.iter().copied().chain([bytes.len()]) {
        input.extend_from_slice(&bytes[from..to]);
        from = to;
        loop {
            match scanner.next(&mut input) {
                Ok(None) => break,
                Ok(Some(RequestEvent::Head(head))) => {
                    assert!(seen.last().is_none_or(|s| s.ended));
                    let args = head.args.iter().map(|a| a.to_vec()).collect();
                    seen.push(Seen {
                        args,
                        arg_count: head.arg_count,
                        ..Seen::default()
                    });
                }
                Ok(Some(RequestEvent::Body { bytes, last })) => {
                    assert!(!bytes.is_empty());
                    let now = seen.last_mut().unwrap();
                    assert!(!now.ended);
                    now.body.extend_from_slice(&bytes);
                    now.ended = last;
                    assert!(!last || scanner.at_boundary());
                }
                Err(e) => {
                    assert_eq!(scanner.next(&mut input), Err(e));
                    return (seen, Some(e));
                }
            }
        }
        assert!(
            input.len() <= REQUEST_HOLD_BYTES_MAX,
            "{} bytes are held",
            input.len()
        );
    }
    (seen, None)
}

fn scan_in_pieces(bytes: &[u8], piece: usize) -> Outcome {
    let cuts: Vec<usize> = (0..bytes.len()).step_by(piece).collect();
    scan_at(bytes, &cuts)
}

/// The outcome, which must not depend on the cutting.
fn scan(bytes: &[u8]) -> Outcome {
    let whole = scan_at(bytes, &[]);
    for piece in [1, 3, 1000, 70_000] {
        if bytes.len() / piece > 400_000 {
            continue;
        }
        assert!(scan_in_pieces(bytes, piece) == whole, "in pieces of {piece}");
    }
    whole
}

fn multibulk(args: &[&[u8]]) -> Vec<u8> {
    let mut out = BytesMut::new();
    crate::stream::encode_command(args, &mut out);
    out.to_vec()
}

fn small(args: &[&str], body: &[u8]) -> Seen {
    let args: Vec<Vec<u8>> = args.iter().map(|a| a.as_bytes().to_vec()).collect();
    Seen {
        arg_count: args.len(),
        args,
        body: body.to_vec(),
        ended: true,
    }
}

#[test]
fn a_small_command_is_a_head_and_one_body() {
    let bytes = multibulk(&[b"SET", b"Key", b"v"]);
    let mut scanner = RequestScanner::new();
    let mut input = BytesMut::from(&bytes[..bytes.len() - 1]);
    assert_eq!(scanner.next(&mut input), Ok(None));
    input.extend_from_slice(b"\n*1");
    let Ok(Some(RequestEvent::Head(head))) = scanner.next(&mut input) else {
        panic!("no head")
    };
    assert_eq!(
        (head.args.as_slice(), head.arg_count),
        (&["SET", "Key", "v"].map(Bytes::from)[..], 3)
    );
    assert!(head.is(0, "set") && !head.is(3, "x") && !head.is_partial());
    assert_eq!(
        (head.name(), head.arg(1), head.arg(9)),
        (&b"SET"[..], &b"Key"[..], &b""[..])
    );
    assert!(!scanner.at_boundary());
    assert_eq!(
        scanner.next(&mut input),
        Ok(Some(RequestEvent::Body {
            bytes: bytes.into(),
            last: true
        }))
    );
    assert!(scanner.at_boundary());
    assert_eq!((scanner.next(&mut input), &input[..]), (Ok(None), &b"*1"[..]));
}

#[test]
fn pipelines_mix_forms_and_what_has_no_answer_is_swallowed() {
    let set = multibulk(&[b"SET", b"k", b"\r\n"]);
    let many: Vec<&[u8]> = vec![b"x"; 20];
    let mset = multibulk(&many);
    let bytes = [
        b"PING\r\n\r\n\n*0\r\n*-1\r\n*-7\r\n  \r\n".to_vec(),
        set.clone(),
        b"GET \"a b\"\n".to_vec(),
        mset.clone(),
    ];
    let (seen, error) = scan(&bytes.concat());
    assert_eq!(error, None);
    let last = Seen {
        arg_count: 20,
        ..small(&["x"; 8], &mset)
    };
    assert_eq!(
        seen,
        [
            small(&["PING"], b"PING\r\n"),
            small(&["SET", "k", "\r\n"], &set),
            small(&["GET", "a b"], b"GET \"a b\"\n"),
            last
        ]
    );
}

#[test]
fn errors_are_redis_own_texts() {
    let long = |kind: &str| format!("{kind}{}", "1".repeat(LINE_BYTES_MAX + 1));
    for (bytes, want) in [
        ("*x\r\n".to_string(), "Protocol error: invalid multibulk length"),
        (
            "*2147483648\r\n".into(),
            "Protocol error: invalid multibulk length",
        ),
        (
            "*99999999999999999999999\r\n".into(),
            "Protocol error: invalid multibulk length",
        ),
        ("*03\r\n".into(), "Protocol error: invalid multibulk length"),
        ("*\r\n".into(), "Protocol error: invalid multibulk length"),
        ("*1\rx".into(), "Protocol error: invalid multibulk length"),
        ("*1\r\n$x\r\n".into(), "Protocol error: invalid bulk length"),
        ("*1\r\n$-1\r\n".into(), "Protocol error: invalid bulk length"),
        (
            "*1\r\n$8589934593\r\n".into(),
            "Protocol error: invalid bulk length",
        ),
        ("*1\r\n$1\rx".into(), "Protocol error: invalid bulk length"),
        ("*1\r\n$1\r\nabc".into(), "Protocol error: invalid bulk length"),
        ("*1\r\nxyz\r\n".into(), "Protocol error: expected '$', got 'x'"),
        ("*1\r\n\r\n".into(), "Protocol error: expected '$', got '\\r'"),
        (long("*"), "Protocol error: too big mbulk count string"),
        (long("*1\r\n$"), "Protocol error: too big bulk count string"),
        (long(""), "Protocol error: too big inline request"),
        (
            "SET \"a\r\n".into(),
            "Protocol error: unbalanced quotes in request",
        ),
    ] {
        let bytes = format!("PING\r\n{bytes}");
        let (seen, error) = scan(bytes.as_bytes());
        assert_eq!(
            error.map(|e| e.to_string()).as_deref(),
            Some(want),
            "{:?}",
            &bytes[..bytes.len().min(40)]
        );
        // What came before the error is whole.
        assert_eq!(seen[0], small(&["PING"], b"PING\r\n"));
    }
}

#[test]
fn nesting_is_an_error_and_no_overflow() {
    assert_eq!(
        scan(&b"*1\r\n".repeat(100_000)).1,
        Some(RequestError::ExpectedDollar(b'*'))
    );
}

#[test]
fn a_large_command_shows_its_head_and_streams_through() {
    let value = vec![b'v'; 300_000];
    let bytes = multibulk(&[b"MSET", &[b'k'; 5000], &value, b"other", b"x"]);
    let (seen, error) = scan(&bytes);
    assert_eq!((seen.len(), error), (1, None));
    // The value's beginning is shown; what lies behind it can't be.
    let want = [b"MSET".to_vec(), vec![b'k'; 1024], vec![b'v'; 1024]];
    assert_eq!(
        (&seen[0].args[..], seen[0].arg_count, seen[0].ended),
        (&want[..], 5, true)
    );
    assert!(seen[0].body == bytes);
    let mut input = BytesMut::from(&bytes[..]);
    let Ok(Some(RequestEvent::Head(head))) = RequestScanner::new().next(&mut input) else {
        panic!("no head")
    };
    assert!(head.is_partial());
}

#[test]
fn arguments_behind_a_large_one_are_not_shown() {
    let mut bytes = b"*2\r\n".to_vec();
    bytes.extend_from_slice(format!("${}\r\n", 1 << 20).as_bytes());
    bytes.resize(bytes.len() + (1 << 20), b'n');
    bytes.extend_from_slice(b"\r\n$1\r\nx\r\n");
    let (seen, error) = scan(&bytes);
    assert_eq!(error, None);
    assert_eq!(
        (seen[0].args.as_slice(), seen[0].arg_count),
        (&[vec![b'n'; 1024]][..], 2)
    );
}

#[test]
fn an_error_within_a_large_command_comes_behind_its_head() {
    let mut bytes = multibulk(&[b"SET", b"k", &vec![b'v'; 100_000]]);
    let end = bytes.len();
    bytes[end - 1] = b'x';
    let (seen, error) = scan(&bytes);
    assert_eq!(error, Some(RequestError::InvalidBulkLength));
    assert_eq!((seen.len(), seen[0].ended), (1, false));
    assert!(seen[0].body == bytes[..end - 2]);
}

#[test]
fn an_inline_command_may_be_as_long_as_a_line() {
    let fits = format!("ECHO {}\r\n", "x".repeat(LINE_BYTES_MAX - 6));
    let (seen, error) = scan(fits.as_bytes());
    assert_eq!(
        (error, seen[0].args[1].len(), seen[0].body.len()),
        (None, 1024, fits.len())
    );
}

#[test]
fn h03_a_100_mb_value_in_64_kb_pieces_takes_linear_time_and_bounded_memory() {
    let len = 100 << 20;
    let piece = vec![b'x'; 64 * 1024];
    let mut scanner = RequestScanner::new();
    let mut input = BytesMut::from(&format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${len}\r\n")[..]);
    let (mut body, mut ended) = (input.len() as u64, false);
    let mut total = 0u64;
    let mut left = len;
    while !ended {
        let now = piece.len().min(left);
        input.extend_from_slice(&piece[..now]);
        left -= now;
        if left == 0 {
            input.extend_from_slice(b"\r\n");
        }
        while let Some(event) = scanner.next(&mut input).unwrap() {
            if let RequestEvent::Body { bytes, last } = event {
                total += bytes.len() as u64;
                ended = last;
            }
        }
        assert!(input.len() <= REQUEST_HOLD_BYTES_MAX && input.capacity() <= 8 * REQUEST_HOLD_BYTES_MAX);
    }
    body += len as u64 + 2;
    assert_eq!(total, body);
}

#[test]
fn a_line_that_trickles_in_is_searched_once() {
    // 64 KiB byte by byte, many times: searching each from its start at every byte takes fifty times longer.
    let mut line = vec![b'x'; LINE_BYTES_MAX - 2];
    line.push(b'\n');
    let mut count = vec![b'1'; LINE_BYTES_MAX - 2];
    count[0] = b'*';
    for _ in 0..20 {
        assert_eq!(scan_in_pieces(&line, 1).1, None);
        assert_eq!(scan_in_pieces(&count, 1).1, None);
    }
}

fn any_requests() -> impl Strategy<Value = Vec<u8>> {
    let arg = prop_oneof![
        6 => prop::collection::vec(any::<u8>(), 0..12),
        1 => (500usize..3000).prop_map(|n| vec![b'm'; n]),
        1 => (20_000usize..80_000).prop_map(|n| vec![b'b'; n]),
    ];
    let command = prop_oneof![
        6 => prop::collection::vec(arg, 1..12).prop_map(|args| {
            multibulk(&args.iter().map(Vec::as_slice).collect::<Vec<_>>())
        }),
        2 => prop::collection::vec(
            prop::sample::select(b"ab \t\"'\\x4".to_vec()), 0..12).prop_map(|mut line| { line.push(b'\n'); line }),
        1 => Just(b"*0\r\n".to_vec()),
        1 => Just(b"*-1\r\n".to_vec()),
        1 => Just(b"\r\n".to_vec()),
    ];
    prop::collection::vec(command, 0..6).prop_map(|commands| commands.concat())
}

proptest! {
    #[test]
    fn any_cutting_gives_the_same_commands(
        mut bytes in any_requests(),
        flip in prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>())),
        mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        near in prop::collection::vec((0usize..4, -3i64..4), 0..6),
        upto in prop::option::weighted(0.5, any::<prop::sample::Index>()),
    ) {
        if let Some((at, byte)) = flip && !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(upto) = upto {
            bytes.truncate(upto.index(bytes.len() + 1));
        }
        let mut cuts: Vec<usize> = cuts.drain(..).map(|c| c.index(bytes.len() + 1)).collect();
        // Cuts around multiples of what is held are where mistakes would be.
        cuts.extend(near.iter().map(|(n, d)| {
            (n * REQUEST_HOLD_BYTES_MAX).saturating_add_signed(*d as isize).min(bytes.len())
        }));
        cuts.sort_unstable();
        let whole = scan_at(&bytes, &[]);
        prop_assert!(scan_at(&bytes, &cuts) == whole);
        let total: usize = whole.0.iter().map(|s| s.body.len()).sum();
        prop_assert!(total <= bytes.len());
    }

    #[test]
    fn heads_show_the_first_arguments(args in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1500), 1..12)) {
        let bytes = multibulk(&args.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let (seen, error) = scan_at(&bytes, &[]);
        prop_assert_eq!((seen.len(), error), (1, None));
        prop_assert_eq!(&seen[0].body, &bytes);
        prop_assert_eq!(seen[0].arg_count, args.len());
        prop_assert_eq!(seen[0].args.len(), args.len().min(8));
        for (got, sent) in seen[0].args.iter().zip(&args) {
            prop_assert_eq!(&got[..], &sent[..sent.len().min(1024)]);
        }
    }

    #[test]
    fn garbage_never_panics(
        bytes in prop::collection::vec(
            prop_oneof![3 => prop::sample::select(b"*$-0123\r\n\"'\\x".to_vec()), 1 => any::<u8>()], 0..300),
    ) {
        scan(&bytes);
    }
}
