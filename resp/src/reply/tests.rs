use super::*;
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use redoubt_types::limits::{REPLY_DEPTH_MAX, RESP_DEPTH_MAX};

type Seen = (Vec<(usize, char)>, Result<(), ReplyError>, ReplyScanner);

/// Scans `bytes` cut at `cuts` (taken modulo their length).
fn scan_in_pieces(bytes: &[u8], cuts: &[usize]) -> Seen {
    let mut scanner = ReplyScanner::new();
    let mut ends = Vec::new();
    for (from, to) in pieces(bytes, cuts) {
        let result = scanner.scan(&bytes[from..to], |f| ends.push((from + f.end, f.kind as char)));
        if result.is_err() {
            return (ends, result, scanner);
        }
    }
    (ends, Ok(()), scanner)
}

fn pieces(bytes: &[u8], cuts: &[usize]) -> Vec<(usize, usize)> {
    let mut cuts: Vec<usize> = cuts.iter().map(|c| c % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|w| (w[0], w[1])).collect()
}

fn frames(bytes: &[u8]) -> Seen {
    let whole = scan_in_pieces(bytes, &[]);
    let each: Vec<usize> = (0..bytes.len()).collect();
    let bytewise = scan_in_pieces(bytes, &each);
    assert_eq!(
        (&bytewise.0, &bytewise.1),
        (&whole.0, &whole.1),
        "{}",
        bytes.escape_ascii()
    );
    whole
}

#[test]
fn every_type_of_resp2_and_resp3_is_one_frame() {
    for frame in [
        "+OK\r\n",
        "+\r\n",
        "-ERR x\r\n",
        ":-12\r\n",
        "$0\r\n\r\n",
        "$3\r\na\rb\r\n",
        "$-1\r\n",
        "*-1\r\n",
        "*0\r\n",
        "*2\r\n$1\r\na\r\n*2\r\n:1\r\n*0\r\n",
        "_\r\n",
        ",1.5\r\n",
        "#t\r\n",
        "!5\r\nERR x\r\n",
        "=7\r\ntxt:abc\r\n",
        "(3492890328409238509324850943850943825024385\r\n",
        "%1\r\n+k\r\n~2\r\n:1\r\n:2\r\n",
        "%0\r\n",
        ">2\r\n+pubsub\r\n+x\r\n",
    ] {
        let (ends, result, scanner) = frames(frame.as_bytes());
        let kind = frame.as_bytes()[0] as char;
        assert_eq!((ends, result), (vec![(frame.len(), kind)], Ok(())), "{frame:?}");
        assert!(scanner.at_boundary());
    }
}

#[test]
fn attributes_belong_to_what_they_precede() {
    let frame = "|1\r\n+ttl\r\n*2\r\n:1\r\n:2\r\n*2\r\n|1\r\n+a\r\n:1\r\n:2\r\n|0\r\n:3\r\n+next\r\n";
    let (ends, result, _) = frames(frame.as_bytes());
    assert_eq!(
        (ends, result),
        (vec![(frame.len() - 7, '*'), (frame.len(), '+')], Ok(()))
    );
    let (_, _, scanner) = frames(b"|1\r\n+a\r\n:1\r\n");
    assert!(!scanner.at_boundary());
}

#[test]
fn what_no_stock_server_sends_is_an_error() {
    let deep = "*1\r\n".repeat(100_000);
    for (bytes, want) in [
        ("\r\n", ReplyError::UnknownType(b'\r')),
        ("OK\r\n", ReplyError::UnknownType(b'O')),
        (";4\r\n", ReplyError::UnknownType(b';')),
        ("$?\r\n", ReplyError::BadLength),
        ("*?\r\n", ReplyError::BadLength),
        ("%-1\r\n", ReplyError::BadLength),
        ("$-2\r\n", ReplyError::BadLength),
        ("$01\r\n", ReplyError::BadLength),
        ("$\r\n", ReplyError::BadLength),
        ("$-1x", ReplyError::BadLength),
        ("$99999999999\r\n", ReplyError::BadLength),
        ("*3000000000\r\n", ReplyError::TooManyElements(3_000_000_000)),
        ("$1\r\nabc", ReplyError::BadTrailer),
        ("+a\rb", ReplyError::BadTrailer),
        (deep.as_str(), ReplyError::TooDeep),
    ] {
        assert_eq!(
            frames(bytes.as_bytes()).1,
            Err(want),
            "{:?}",
            &bytes[..bytes.len().min(20)]
        );
    }
    let mut scanner = ReplyScanner::new();
    assert!(scanner.scan(b"x", |_| {}).is_err());
    assert_eq!(scanner.scan(b"+OK\r\n", |_| {}), Err(ReplyError::Poisoned));
    assert!(!scanner.at_boundary());
}

/// An answer as deep as this.
fn nested(depth: usize) -> String {
    format!("{}:1\r\n", "*1\r\n".repeat(depth))
}

#[test]
fn nesting_up_to_the_cap_is_fine() {
    let frame = nested(REPLY_DEPTH_MAX);
    assert_eq!(frames(frame.as_bytes()).0, [(frame.len(), '*')]);
    let over = nested(REPLY_DEPTH_MAX + 1);
    assert_eq!(frames(over.as_bytes()).1, Err(ReplyError::TooDeep));
}

#[test]
fn what_is_decoded_is_shallow() {
    assert!(parse_frame(nested(RESP_DEPTH_MAX).as_bytes()).unwrap().is_some());
    assert_eq!(
        parse_frame(nested(RESP_DEPTH_MAX + 1).as_bytes()),
        Err(ReplyError::TooDeep)
    );
}

fn bulk(text: &str) -> Value {
    Value::Bulk(Bytes::copy_from_slice(text.as_bytes()))
}

#[test]
fn answers_are_decoded_into_values() {
    let parse = |text: &str| parse_frame(text.as_bytes()).unwrap().map(|(value, _)| value);
    assert_eq!(parse("$2\r\nab"), None);
    assert_eq!(parse("$2\r\nab\r\n+x"), Some(bulk("ab")));
    assert_eq!(
        parse_frame(b"+OK\r\n+x").unwrap(),
        Some((Value::Simple("OK".into()), 5))
    );
    assert_eq!(parse("$-1\r\n"), Some(Value::Null));
    assert_eq!(parse("*-1\r\n"), Some(Value::Null));
    assert_eq!(parse("_\r\n"), Some(Value::Null));
    let role = parse("*3\r\n$6\r\nmaster\r\n:303\r\n*0\r\n").unwrap();
    let items = role.as_array().unwrap();
    assert_eq!(
        (items[0].as_str(), items[1].as_int()),
        (Some("master"), Some(303))
    );
    assert_eq!(items[2], Value::Array(Vec::new()));
    let error = parse("-BUSY now\r\n").unwrap();
    assert_eq!((error.as_error(), error.as_str()), (Some("BUSY now"), None));
    let config = parse("*2\r\n$9\r\ndatabases\r\n$2\r\n16\r\n").unwrap();
    assert_eq!(config.field("databases").and_then(Value::as_int), Some(16));
    assert_eq!(config.field("x"), None);
    let map = parse("%2\r\n+b\r\n:1\r\n+a\r\n=6\r\ntxt:hi\r\n").unwrap();
    assert_eq!(map.field("a").and_then(Value::as_str), Some("hi"));
    assert_eq!(map.field("b").and_then(Value::as_int), Some(1));
    assert_eq!(parse("#t\r\n").unwrap().as_int(), Some(1));
    assert!(parse_frame(b":x\r\n").is_err());
}

#[test]
fn a_value_of_100_mb_takes_linear_time() {
    let mut bytes = format!("${}\r\n", 100 << 20).into_bytes();
    bytes.resize(bytes.len() + (100 << 20), b'x');
    bytes.extend_from_slice(b"\r\n");
    let mut scanner = ReplyScanner::new();
    let mut ends = 0;
    for _ in 0..100 {
        bytes
            .chunks(64 * 1024)
            .for_each(|part| scanner.scan(part, |_| ends += 1).unwrap());
    }
    assert_eq!(ends, 100);
    assert!(std::mem::size_of::<ReplyScanner>() <= 128);
}

/// Rewrites `bytes` in pieces; returns the output, its frames and the codes that were asked about.
fn rewrite_in_pieces(bytes: &[u8], cuts: &[usize]) -> (String, Vec<(usize, char)>, Vec<String>) {
    let mut rewriter = ReplyRewriter::new("rdbt:");
    let (mut out, mut ends, mut codes) = (BytesMut::new(), Vec::new(), Vec::new());
    for (from, to) in pieces(bytes, cuts) {
        let replacement = |code: &[u8]| {
            codes.push(String::from_utf8_lossy(code).into_owned());
            (code != b"none").then(|| Bytes::from_static(b"-ERR refused"))
        };
        rewriter
            .rewrite(&bytes[from..to], &mut out, replacement, |f| {
                ends.push((f.end, f.kind as char))
            })
            .unwrap();
    }
    (out.escape_ascii().to_string(), ends, codes)
}

#[test]
fn only_a_top_level_error_about_a_marker_is_replaced() {
    let marker = "-ERR unknown command 'rdbt:3', with args beginning with: 'x' \r\n";
    let cases: Vec<(String, String, Vec<&str>)> = vec![
        (marker.into(), "-ERR refused\r\n".into(), vec!["3"]),
        (
            format!("+OK\r\n{marker}{marker}:1\r\n"),
            "+OK\r\n-ERR refused\r\n-ERR refused\r\n:1\r\n".into(),
            vec!["3", "3"],
        ),
        (marker.replace('\'', "`"), "-ERR refused\r\n".into(), vec!["3"]),
        (
            marker.replace("rdbt:3", "rdbt:none"),
            marker.replace("rdbt:3", "rdbt:none"),
            vec!["none"],
        ),
    ];
    for (input, want, codes) in cases {
        let (out, ends, asked) = rewrite_in_pieces(input.as_bytes(), &[]);
        assert_eq!(out, want.as_bytes().escape_ascii().to_string());
        assert_eq!(asked, codes);
        assert_eq!(ends, frames(want.as_bytes()).0);
    }
    for untouched in [
        marker.replace("rdbt:3", "rdbx:3"),
        marker.replace("rdbt:3", "rdbt:3 "),
        marker.replace("rdbt:3", &format!("rdbt:{}", "x".repeat(65))),
        marker.replace("-ERR unknown", "-err unknown"),
        format!("*1\r\n{marker}"),
        format!("${}\r\n{marker}\r\n", marker.len()),
        format!("+{marker}"),
        "-ERR unknown command\r\n".into(),
        "-\r\n".into(),
        "-E\r\n-ERR unknown command '\r\n".into(),
    ] {
        let (out, ends, asked) = rewrite_in_pieces(untouched.as_bytes(), &[]);
        assert_eq!(out, untouched.as_bytes().escape_ascii().to_string());
        assert_eq!((ends, asked), (frames(untouched.as_bytes()).0, vec![]));
    }
}

#[test]
fn rewriting_and_passing_take_turns_at_boundaries_of_held_lines() {
    let mut rewriter = ReplyRewriter::new("rdbt:");
    let mut ends = Vec::new();
    rewriter.pass(b"+OK\r\n-ERR unk", |f| ends.push(f.end)).unwrap();
    assert!(!rewriter.is_holding() && !rewriter.at_boundary());
    let mut out = BytesMut::new();
    let refuse = |_: &[u8]| Some(Bytes::from_static(b"-ERR refused"));
    // This line began before the refusal went out, so it isn't its answer.
    rewriter
        .rewrite(
            b"nown command 'rdbt:1', \r\n-ERR unknown command 'rdbt:1', wi",
            &mut out,
            refuse,
            |f| ends.push(f.end),
        )
        .unwrap();
    assert_eq!(&out[..], b"nown command 'rdbt:1', \r\n");
    assert!(rewriter.is_holding());
    rewriter
        .rewrite(b"th\r", &mut out, refuse, |f| ends.push(f.end))
        .unwrap();
    assert!(rewriter.is_holding());
    rewriter
        .rewrite(b"\n", &mut out, refuse, |f| ends.push(f.end))
        .unwrap();
    assert!(rewriter.at_boundary());
    assert_eq!(ends, [5, 25, 25 + 14]);
    assert_eq!(
        rewriter.rewrite(b"-ERR unknown command 'rdbt:1'\rx", &mut out, refuse, |_| {}),
        Err(ReplyError::BadTrailer)
    );
    assert_eq!(rewriter.pass(b"+OK\r\n", |_| {}), Err(ReplyError::Poisoned));
}

/// Well-formed answers.
fn any_replies() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let leaf = prop_oneof![
        Just(b"+OK\r\n".to_vec()),
        Just(b"-ERR unknown command 'rdbt:7', with args beginning with: \r\n".to_vec()),
        Just(b"-ERR unknown command 'foo', with args beginning with: \r\n".to_vec()),
        Just(b"-ERR no\r\n".to_vec()),
        Just(b"$-1\r\n".to_vec()),
        Just(b"_\r\n".to_vec()),
        any::<i64>().prop_map(|n| format!(":{n}\r\n").into_bytes()),
        prop::collection::vec(any::<u8>(), 0..30)
            .prop_map(|body| { [format!("${}\r\n", body.len()).as_bytes(), &body, b"\r\n"].concat() }),
    ];
    let tree = leaf.prop_recursive(4, 24, 4, |inner| {
        (
            prop::sample::select(vec!['*', '~', '>', '%', '|']),
            prop::collection::vec(inner, 0..5),
        )
            .prop_map(|(kind, mut items)| {
                let n = match kind {
                    '%' => items.len() / 2,
                    '|' => items.len().saturating_sub(1) / 2,
                    _ => items.len(),
                };
                match kind {
                    '%' => items.truncate(2 * n),
                    '|' => items.resize(2 * n + 1, b":1\r\n".to_vec()),
                    _ => {}
                }
                [format!("{kind}{n}\r\n").into_bytes(), items.concat()].concat()
            })
    });
    prop::collection::vec(tree, 0..6)
}

proptest! {
    /// Levels of any kind and number, each with values before and behind the next.
    #[test]
    fn an_answer_of_any_depth_ends_where_it_ends(
        levels in prop::collection::vec((prop::sample::select(vec!['*', '~', '>', '%']), 0usize..3, 0usize..3), 0..2_000),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let (mut head, mut rest) = (String::new(), Vec::new());
        for (kind, before, behind) in &levels {
            // A map has twice as many values, the next level among them.
            let behind = behind + usize::from(*kind == '%' && (before + behind + 1) % 2 == 1);
            let values = before + behind + 1;
            let n = if *kind == '%' { values / 2 } else { values };
            head += &format!("{kind}{n}\r\n{}", ":1\r\n".repeat(*before));
            rest.push("+x\r\n".repeat(behind));
        }
        rest.reverse();
        let frame = format!("{head}$1\r\na\r\n{}", rest.concat());
        let two = format!("{frame}{frame}");
        let kind = frame.chars().next().unwrap();
        let (ends, result, scanner) = scan_in_pieces(two.as_bytes(), &cuts);
        prop_assert_eq!((ends, result), (vec![(frame.len(), kind), (two.len(), kind)], Ok(())));
        prop_assert!(scanner.at_boundary());
    }

    #[test]
    fn any_cutting_gives_the_same_frames(
        replies in any_replies(),
        flip in prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>())),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let mut bytes = replies.concat();
        if let Some((at, byte)) = flip && !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let whole = frames(&bytes);
        let cut = scan_in_pieces(&bytes, &cuts);
        prop_assert_eq!((&cut.0, &cut.1), (&whole.0, &whole.1));
        if whole.1.is_ok() {
            prop_assert_eq!(cut.2, whole.2);
        }
    }

    #[test]
    fn whole_frames_are_seen_whole(replies in any_replies()) {
        let bytes = replies.concat();
        let (ends, result, scanner) = frames(&bytes);
        prop_assert_eq!(result, Ok(()));
        prop_assert!(scanner.at_boundary());
        let mut at = 0;
        for (reply, (end, _)) in replies.iter().zip(&ends) {
            if let Ok(parsed) = parse_frame(&bytes[at..]) {
                prop_assert_eq!(parsed.map(|(_, used)| used), Some(reply.len()));
            }
            at += reply.len();
            prop_assert_eq!(*end, at);
        }
        prop_assert_eq!(ends.len(), replies.len());
    }

    #[test]
    fn any_cutting_gives_the_same_rewriting(
        replies in any_replies(),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let bytes = replies.concat();
        let whole = rewrite_in_pieces(&bytes, &[]);
        prop_assert_eq!(rewrite_in_pieces(&bytes, &cuts), whole.clone());
        let each: Vec<usize> = (0..bytes.len()).collect();
        prop_assert_eq!(rewrite_in_pieces(&bytes, &each), whole);
    }

    #[test]
    fn garbage_never_panics(
        bytes in prop::collection::vec(
            prop_oneof![3 => prop::sample::select(b"+-:$*_,#!=(%~>|0123\r\n'".to_vec()), 1 => any::<u8>()], 0..200),
    ) {
        let _ = frames(&bytes);
        let _ = parse_frame(&bytes);
        let mut out = BytesMut::new();
        let _ = ReplyRewriter::new("r").rewrite(&bytes, &mut out, |_| None, |_| {});
        prop_assert!(out.len() <= bytes.len());
    }
}
