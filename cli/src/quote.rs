//! Bytes as redis-cli and MONITOR print them: in double quotes, with what is not printable escaped.

use std::fmt::Write;

/// Appends `bytes` to `out`, quoted as Redis' `sdscatrepr` does: `"\\`, `"\""`, `\n`, `\r`, `\t`, `\a`, `\b`, and
/// `\x1f` for every other byte that is not printable ASCII.
pub(crate) fn quote(bytes: &[u8], out: &mut String) {
    out.push('"');
    for &byte in bytes {
        match byte {
            b'\\' | b'"' => {
                out.push('\\');
                out.push(byte.into());
            }
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            0x07 => out.push_str("\\a"),
            0x08 => out.push_str("\\b"),
            b' '..=b'~' => out.push(byte.into()),
            // Writing to a String can't fail.
            _ => drop(write!(out, "\\x{byte:02x}")),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(bytes: &[u8]) -> String {
        let mut out = String::new();
        quote(bytes, &mut out);
        out
    }

    #[test]
    fn quotes_as_redis_cli_does() {
        assert_eq!(quoted(b"plain 'text'"), r#""plain 'text'""#);
        assert_eq!(quoted(b"a\\b\"c"), r#""a\\b\"c""#);
        assert_eq!(
            quoted(b"\n\r\t\x07\x08\x00\x7f\xff"),
            r#""\n\r\t\a\b\x00\x7f\xff""#
        );
        assert_eq!(quoted(b""), r#""""#);
    }
}
