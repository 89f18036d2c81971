//! How fast the scanners are, on pipelined small SETs and their answers: `cargo run --release -p redoubt-resp
//! --example speed`. Prints MB/s and nanoseconds per command for each scanner.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a stopwatch on a single thread"
)]

use bytes::BytesMut;
use redoubt_resp::reply::{ReplyRewriter, ReplyScanner};
use redoubt_resp::request::{RequestEvent, RequestScanner};
use redoubt_resp::stream::{StreamScanner, commands, encode_command};
use std::hint::black_box;
use std::time::Instant;

/// Commands in one round.
const COMMANDS: usize = 100_000;
const ROUNDS: u32 = 20;
/// Bytes of one read from a socket.
const CHUNK: usize = 64 * 1024;

fn measure(name: &str, bytes: &[u8], mut round: impl FnMut(&[u8]) -> usize) {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let seen = black_box(round(black_box(bytes)));
        best = best.min(begin.elapsed().as_secs_f64());
        assert_eq!(seen, COMMANDS, "{name}");
    }
    let mb = bytes.len() as f64 / 1e6;
    println!(
        "{name:<44} {:>7.0} MB/s {:>6.1} ns each",
        mb / best,
        best * 1e9 / COMMANDS as f64
    );
}

fn requests(input: &[u8], chunk: usize) -> usize {
    let mut scanner = RequestScanner::new();
    let mut buffer = BytesMut::with_capacity(chunk);
    let mut ended = 0;
    for part in input.chunks(chunk) {
        buffer.extend_from_slice(part);
        while let Some(event) = scanner.next(&mut buffer).unwrap() {
            match event {
                RequestEvent::Head(head) => drop(black_box(head)),
                RequestEvent::Body { bytes, last } => {
                    black_box(bytes);
                    ended += usize::from(last);
                }
            }
        }
    }
    ended
}

fn main() {
    for size in [3, 100, 4096] {
        let (mut sets, value) = (BytesMut::new(), vec![b'x'; size]);
        for i in 0..COMMANDS {
            encode_command(&[b"SET", format!("key:{i:012}").as_bytes(), &value], &mut sets);
        }
        measure(&format!("stream, SET of {size} B"), &sets, |bytes| {
            let (mut scanner, mut groups) = (StreamScanner::default(), 0);
            for part in bytes.chunks(CHUNK) {
                scanner.scan(part, |_| groups += 1).unwrap();
            }
            groups
        });
        measure(&format!("stream::commands, SET of {size} B"), &sets, |bytes| {
            commands(bytes).count()
        });
        measure(
            &format!("request, SET of {size} B, 64 KiB reads"),
            &sets,
            |bytes| requests(bytes, CHUNK),
        );
        measure(
            &format!("request, SET of {size} B, 2 KiB reads"),
            &sets,
            |bytes| requests(bytes, 2048),
        );
    }
    let oks = b"+OK\r\n".repeat(COMMANDS);
    let mut bulks = BytesMut::new();
    for _ in 0..COMMANDS {
        bulks.extend_from_slice(format!("$100\r\n{}\r\n", "x".repeat(100)).as_bytes());
    }
    for (name, bytes) in [("+OK", &oks[..]), ("bulk of 100 B", &bulks[..])] {
        measure(&format!("reply, {name}"), bytes, |bytes| {
            let (mut scanner, mut frames) = (ReplyScanner::new(), 0);
            for part in bytes.chunks(CHUNK) {
                scanner.scan(part, |_| frames += 1).unwrap();
            }
            frames
        });
        measure(&format!("reply rewritten, {name}"), bytes, |bytes| {
            let (mut rewriter, mut frames) = (ReplyRewriter::new("rdbt:"), 0);
            let mut out = BytesMut::with_capacity(CHUNK);
            for part in bytes.chunks(CHUNK) {
                out.clear();
                rewriter
                    .rewrite(part, &mut out, |_| None, |_| frames += 1)
                    .unwrap();
            }
            frames
        });
    }
}
