//! Inline commands, split as Redis' `sdssplitargs` splits them.

/// Splits a line into arguments, which may be quoted: `"…"` knows `\xHH`, `\n`, `\r`, `\t`, `\b`, `\a` and
/// takes any other escaped byte as it is; `'…'` knows `\'`. `None` when quotes don't match, or a closing quote
/// is followed by something else than space. As in Redis, a zero byte ends the line.
pub(crate) fn split_args(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let end = line.iter().position(|b| *b == 0).unwrap_or(line.len());
    let mut rest = &line[..end];
    let mut args = Vec::new();
    loop {
        rest = &rest[rest.iter().take_while(|b| is_space(**b)).count()..];
        if rest.is_empty() {
            return Some(args);
        }
        let (arg, behind) = one_arg(rest)?;
        args.push(arg);
        rest = behind;
    }
}

/// C's `isspace`.
fn is_space(byte: u8) -> bool {
    byte == b' ' || (b'\t'..=b'\r').contains(&byte)
}

/// The argument at the start of `rest`, and what is behind it.
fn one_arg(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut arg = Vec::new();
    loop {
        match rest {
            // Outside of quotes Redis ends an argument at these four only, though it skips more between two.
            [] | [b' ' | b'\n' | b'\r' | b'\t', ..] => return Some((arg, rest)),
            // A quote may begin in the middle of an argument, and ends it wherever it began.
            [b'"', tail @ ..] => return double_quoted(tail, arg),
            [b'\'', tail @ ..] => return single_quoted(tail, arg),
            [byte, tail @ ..] => {
                arg.push(*byte);
                rest = tail;
            }
        }
    }
}

fn double_quoted(mut rest: &[u8], mut arg: Vec<u8>) -> Option<(Vec<u8>, &[u8])> {
    loop {
        match rest {
            [b'\\', b'x', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                arg.push(hex(*high) << 4 | hex(*low));
                rest = tail;
            }
            [b'\\', escaped, tail @ ..] => {
                arg.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                rest = tail;
            }
            [b'"', tail @ ..] => return closed(arg, tail),
            [byte, tail @ ..] => {
                arg.push(*byte);
                rest = tail;
            }
            [] => return None,
        }
    }
}

fn single_quoted(mut rest: &[u8], mut arg: Vec<u8>) -> Option<(Vec<u8>, &[u8])> {
    loop {
        match rest {
            [b'\\', b'\'', tail @ ..] => {
                arg.push(b'\'');
                rest = tail;
            }
            [b'\'', tail @ ..] => return closed(arg, tail),
            [byte, tail @ ..] => {
                arg.push(*byte);
                rest = tail;
            }
            [] => return None,
        }
    }
}

fn closed(arg: Vec<u8>, behind: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    behind
        .first()
        .is_none_or(|b| is_space(*b))
        .then_some((arg, behind))
}

fn hex(digit: u8) -> u8 {
    (digit as char).to_digit(16).unwrap_or(0) as u8
}

#[cfg(test)]
mod tests {
    use super::split_args;

    #[test]
    fn lines_are_split_as_redis_splits_them() {
        let cases: [(&str, Option<&[&str]>); 22] = [
            ("", Some(&[])),
            (" \t\x0b\x0c ", Some(&[])),
            ("PING", Some(&["PING"])),
            ("  SET  a\tb  ", Some(&["SET", "a", "b"])),
            ("a\x0bb", Some(&["a\x0bb"])),
            (r#"SET "a b" 'c d'"#, Some(&["SET", "a b", "c d"])),
            (r#""\x41\n\t\"\\\q""#, Some(&["A\n\t\"\\q"])),
            (r#""\r\b\a""#, Some(&["\r\x08\x07"])),
            (r#""\x4""#, Some(&["x4"])),
            (r#""\xZZ""#, Some(&["xZZ"])),
            (r#"'a\'b\n'"#, Some(&["a'b\\n"])),
            (r#"foo"bar baz""#, Some(&["foobar baz"])),
            (r#""" ''"#, Some(&["", ""])),
            (r#""a"b"#, None),
            (r#"'a'b"#, None),
            (r#""a"#, None),
            ("'a", None),
            (r#""a\"#, None),
            (r#"'a\'"#, None),
            ("\"a\" \x0b\"b\"", Some(&["a", "b"])),
            ("a\0b c", Some(&["a"])),
            ("\"a\0\"", None),
        ];
        for (line, want) in cases {
            let got = split_args(line.as_bytes());
            let want = want.map(|args| args.iter().map(|a| a.as_bytes().to_vec()).collect::<Vec<_>>());
            assert_eq!(got, want, "{line:?}");
        }
    }
}
