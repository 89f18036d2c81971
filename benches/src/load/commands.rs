//! What a client sends, and whether the answers are right.
//!
//! Pure: bytes out, bytes in. Every value begins with its key's number, so that an answer is known to be that of its
//! question.

use std::collections::VecDeque;

/// Digits of a key's number, and of what a value begins with.
const DIGITS: usize = 12;
/// Begins a key: not as `redis-benchmark` begins its own, whose values are others.
const PREFIX: &[u8] = b"row:";

/// What an answer counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Set,
    Get,
}

/// An answer that is waited for.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// To a SET. Without a WAIT behind it, it is what the write waits for.
    Stored { counts: bool },
    /// To a GET of this key.
    Value(u64),
    /// To the WAIT behind a SET: at least one replica.
    Replicas,
}

/// The requests that a client has on their way.
pub(crate) struct Requests {
    set: Vec<u8>,
    /// Where the digits of key and value stand in `set`.
    set_digits: [usize; 2],
    get: Vec<u8>,
    /// How an answer to a GET begins.
    head: Vec<u8>,
    /// Length of a value.
    bytes: usize,
    /// Sent behind each SET, if anything is.
    wait: &'static [u8],
    expected: VecDeque<Expected>,
}

impl Requests {
    /// For values of `bytes` bytes; `waits` for one replica to have each write.
    pub(crate) fn new(bytes: usize, waits: bool) -> Self {
        assert!(bytes >= DIGITS, "a value has room for its key's number");
        let key = [PREFIX, &[b'0'; DIGITS]].concat();
        let key = [format!("${}\r\n", key.len()).as_bytes(), &key, b"\r\n"].concat();
        let head = format!("${bytes}\r\n").into_bytes();
        let set_head = [&b"*3\r\n$3\r\nSET\r\n"[..], &key, &head].concat();
        let get = [&b"*2\r\n$3\r\nGET\r\n"[..], &key].concat();
        Requests {
            set_digits: [set_head.len() - head.len() - 2 - DIGITS, set_head.len()],
            set: [&set_head[..], &vec![b'x'; bytes], b"\r\n"].concat(),
            get,
            head,
            bytes,
            wait: if waits {
                b"*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$1\r\n0\r\n"
            } else {
                b""
            },
            expected: VecDeque::new(),
        }
    }

    /// Adds a write to `out`.
    pub(crate) fn set(&mut self, key: u64, out: &mut Vec<u8>) {
        let digits = digits(key);
        for at in self.set_digits {
            self.set[at..at + DIGITS].copy_from_slice(&digits);
        }
        out.extend_from_slice(&self.set);
        let waits = !self.wait.is_empty();
        self.expected.push_back(Expected::Stored { counts: !waits });
        if waits {
            out.extend_from_slice(self.wait);
            self.expected.push_back(Expected::Replicas);
        }
    }

    /// Adds a read to `out`.
    pub(crate) fn get(&mut self, key: u64, out: &mut Vec<u8>) {
        let at = self.get.len() - 2 - DIGITS;
        self.get[at..at + DIGITS].copy_from_slice(&digits(key));
        out.extend_from_slice(&self.get);
        self.expected.push_back(Expected::Value(key));
    }

    /// Whether all is answered.
    pub(crate) fn is_done(&self) -> bool {
        self.expected.is_empty()
    }

    /// Takes the whole answers at the beginning of `input`, and tells `answered` of each operation that is complete. Returns
    /// how many bytes that were.
    ///
    /// # Errors
    /// An answer that is not the one to its question.
    pub(crate) fn take(&mut self, input: &[u8], mut answered: impl FnMut(Kind)) -> Result<usize, String> {
        let mut at = 0;
        while at < input.len() {
            let Some(expected) = self.expected.front() else {
                return Err(format!("an answer to nothing: {}", shown(&input[at..])));
            };
            let rest = &input[at..];
            let (length, kind) = match expected {
                Expected::Stored { counts } => (exactly(rest, b"+OK\r\n")?, counts.then_some(Kind::Set)),
                Expected::Replicas => (replicas(rest)?, Some(Kind::Set)),
                Expected::Value(key) => (self.value(rest, *key)?, Some(Kind::Get)),
            };
            let Some(length) = length else {
                break;
            };
            at += length;
            self.expected.pop_front();
            kind.into_iter().for_each(&mut answered);
        }
        Ok(at)
    }

    /// Length of the answer to a GET of `key`, once it is whole.
    fn value(&self, input: &[u8], key: u64) -> Result<Option<usize>, String> {
        let Some(head) = exactly(input, &self.head)? else {
            return Ok(None);
        };
        let end = head + self.bytes + 2;
        if input.len() < end {
            return Ok(None);
        }
        if input[head..head + DIGITS] != digits(key) || input[end - 2..end] != *b"\r\n" {
            return Err(format!("the value of key {key} is {}", shown(input)));
        }
        Ok(Some(end))
    }
}

/// The length of `wanted`, once `input` begins with it.
fn exactly(input: &[u8], wanted: &[u8]) -> Result<Option<usize>, String> {
    let there = input.len().min(wanted.len());
    if input[..there] != wanted[..there] {
        return Err(format!("{} instead of {}", shown(input), shown(wanted)));
    }
    Ok((there == wanted.len()).then_some(there))
}

/// The length of a number above zero, once it is whole.
fn replicas(input: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = input.iter().position(|b| *b == b'\n') else {
        return exactly(&input[..1], b":").map(|_| None);
    };
    match std::str::from_utf8(&input[..end]).map(str::trim_end) {
        Ok(text) if text.starts_with(':') && text != ":0" => Ok(Some(end + 1)),
        _ => Err(format!("WAIT was answered with {}", shown(input))),
    }
}

/// `number` with leading zeros.
fn digits(mut number: u64) -> [u8; DIGITS] {
    let mut text = [b'0'; DIGITS];
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    text
}

/// What a person is to see of an answer.
fn shown(bytes: &[u8]) -> String {
    let text = bytes[..bytes.len().min(80)].escape_ascii();
    format!("\"{text}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(requests: &mut Requests, input: &[u8]) -> Result<(usize, Vec<Kind>), String> {
        let mut kinds = Vec::new();
        let taken = requests.take(input, |kind| kinds.push(kind))?;
        Ok((taken, kinds))
    }

    #[test]
    fn a_value_begins_with_its_keys_number() {
        let (mut requests, mut out) = (Requests::new(14, false), Vec::new());
        requests.set(42, &mut out);
        requests.get(7, &mut out);
        let wanted = "*3\r\n$3\r\nSET\r\n$16\r\nrow:000000000042\r\n$14\r\n000000000042xx\r\n\
                      *2\r\n$3\r\nGET\r\n$16\r\nrow:000000000007\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), wanted);
    }

    #[test]
    fn answers_are_taken_wherever_they_are_cut() {
        let answers = b"+OK\r\n$14\r\n000000000007xx\r\n+OK\r\n";
        for cut in 0..=answers.len() {
            let mut requests = Requests::new(14, false);
            let mut out = Vec::new();
            requests.set(1, &mut out);
            requests.get(7, &mut out);
            requests.set(2, &mut out);
            let (taken, mut kinds) = all(&mut requests, &answers[..cut]).unwrap();
            let (rest, more) = all(&mut requests, &answers[taken..]).unwrap();
            kinds.extend(more);
            assert_eq!(taken + rest, answers.len());
            assert_eq!(kinds, [Kind::Set, Kind::Get, Kind::Set]);
            assert!(requests.is_done());
        }
    }

    #[test]
    fn a_write_with_a_wait_counts_once_a_replica_has_it() {
        let (mut requests, mut out) = (Requests::new(14, true), Vec::new());
        requests.set(1, &mut out);
        assert!(out.ends_with(b"WAIT\r\n$1\r\n1\r\n$1\r\n0\r\n"));
        assert_eq!(all(&mut requests, b"+OK\r\n:").unwrap(), (5, vec![]));
        assert_eq!(all(&mut requests, b":2\r\n").unwrap(), (4, vec![Kind::Set]));
        requests.set(1, &mut out);
        assert!(all(&mut requests, b"+OK\r\n:0\r\n").is_err(), "no replica has it");
    }

    #[test]
    fn a_wrong_answer_is_an_error() {
        for wrong in [
            &b"$-1\r\n"[..],
            b"-ERR no\r\n",
            b"$14\r\n000000000008xx\r\n",
            b"$14\r\n000000000007xxx\n",
            b"+OK\r\n",
            b"$14\r\n000000000007xx\r\n+OK\r\n",
        ] {
            let mut requests = Requests::new(14, false);
            requests.get(7, &mut Vec::new());
            assert!(all(&mut requests, wrong).is_err(), "{}", shown(wrong));
        }
        let mut requests = Requests::new(14, false);
        requests.set(7, &mut Vec::new());
        assert!(all(&mut requests, b"-READONLY\r\n").is_err());
    }
}
