//! What `cargo fuzz` calls: everything that reads bytes of a connection, given any bytes (`fuzz/`).
//!
//! Each target cuts its bytes as the input says, and asks for the same outcome as for the bytes in one piece, and for that
//! of a reader which is written as simply as can be and sees all bytes at once. Each function panics, or takes for ever,
//! where the code under it has a fault.

mod psync;
mod reply;
mod request;
mod stream;
#[path = "../../fuzz/target.rs"]
pub mod target;

use target::Target;

/// All of them.
pub const TARGETS: [Target; 4] = [
    Target {
        name: "request",
        run: request::run,
        seeds: request::seeds,
    },
    Target {
        name: "reply",
        run: reply::run,
        seeds: reply::seeds,
    },
    Target {
        name: "stream",
        run: stream::run,
        seeds: stream::seeds,
    },
    Target {
        name: "psync",
        run: psync::run,
        seeds: psync::seeds,
    },
];

/// Runs the target `name`.
///
/// # Panics
/// When there is none of that name, or it finds a fault.
pub fn run(name: &str, bytes: &[u8]) {
    target::run(&TARGETS, name, bytes);
}

/// Bytes of an input that say how the others are cut.
pub const CUT_BYTES: usize = 4;
/// Stands for many bytes of one value: the next byte says how many, the one behind it which.
const MANY: u8 = 0xf5;
/// Bytes that [`MANY`] stands for, per count: beyond 64 KB, where limits lie, with two of them.
const MANY_BYTES: usize = 500;
/// What an input may grow to, bytes: some times what is held of a command.
const BYTES_MAX: usize = 300_000;

/// An input: bytes, and how they are cut.
pub struct Cut {
    /// The bytes.
    pub bytes: Vec<u8>,
    lengths: [usize; CUT_BYTES],
}

impl Cut {
    /// Reads an input. Small ones may stand for large ones: the fuzzer is quick with small ones.
    pub fn of(input: &[u8]) -> Option<Self> {
        let (cuts, mut rest) = input.split_first_chunk::<CUT_BYTES>()?;
        let mut bytes = Vec::new();
        while let [first, tail @ ..] = rest
            && bytes.len() < BYTES_MAX
        {
            rest = match tail {
                [count, byte, behind @ ..] if *first == MANY => {
                    bytes.resize(bytes.len() + usize::from(*count) * MANY_BYTES, *byte);
                    behind
                }
                _ => {
                    bytes.push(*first);
                    tail
                }
            };
        }
        let mut lengths = cuts.map(|n| usize::from(n) + 1);
        // Pieces of one byte alone would make large inputs slow, and show nothing else.
        lengths[CUT_BYTES - 1] *= 1 + bytes.len() / 500;
        Some(Cut { bytes, lengths })
    }

    /// The pieces.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.as_slice();
        let mut lengths = self.lengths.iter().cycle();
        std::iter::from_fn(move || {
            let n = (*lengths.next()?).min(rest.len());
            let (piece, behind) = rest.split_at(n);
            rest = behind;
            (n > 0).then_some(piece)
        })
    }
}

/// An input with these bytes, cut into small pieces and larger ones.
fn seed(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    [&[0, 6, 2, 40], bytes.as_ref()].concat()
}

/// The text of a number in a header, as strictly as servers read it: digits without a leading zero. `None` for one that no
/// more bytes could complete.
fn plain_number(text: &[u8]) -> Option<u64> {
    let plain = text.iter().all(u8::is_ascii_digit) && (text.len() < 2 || text[0] != b'0');
    if !plain || text.len() > 10 {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_corpus_is_there_and_every_target_takes_it() {
        target::take_seeds(&TARGETS);
    }

    #[test]
    fn pieces_are_the_bytes() {
        let cut = Cut::of(&[0, 6, 2, 40, b'a', MANY, 3, b'b', b'c', MANY]).unwrap();
        assert_eq!(cut.bytes.len(), 1 + 3 * MANY_BYTES + 2);
        assert_eq!(cut.pieces().collect::<Vec<_>>().concat(), cut.bytes);
        assert!(cut.pieces().count() > 4);
    }
}
