//! What exactly goes over a link, seen by a replica that counts bytes.
#![allow(clippy::disallowed_methods, reason = "tests run on the real machine")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::journal::{FakeJournal, replid};
use common::redis::until;
use common::{Running, replay};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A replica of bare sockets.
struct Raw(TcpStream);

impl Raw {
    /// Connects, shakes hands and sends PSYNC.
    async fn ask(replay: &Running, psync: &str) -> Raw {
        let mut raw = Raw(TcpStream::connect(&replay.address).await.unwrap());
        for (line, answer) in [
            ("PING", "+PONG"),
            ("REPLCONF listening-port 7777", "+OK"),
            ("REPLCONF capa eof capa psync2", "+OK"),
        ] {
            raw.0.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
            assert_eq!(raw.line().await, answer);
        }
        raw.0
            .write_all(format!("PSYNC {psync}\r\n").as_bytes())
            .await
            .unwrap();
        raw
    }

    async fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(self.0.read_u8().await.unwrap());
        }
        String::from_utf8(line).unwrap().trim().to_owned()
    }

    /// Takes the answer of a full sync, and its base.
    async fn takes_base(&mut self, digit: char) {
        assert_eq!(self.line().await, format!("+FULLRESYNC {} 0", replid(digit)));
        assert_eq!(self.line().await, "$18");
        self.takes(b"REDIS0009").await;
        self.0.read_exact(&mut [0; 9]).await.unwrap();
    }

    async fn takes(&mut self, expected: &[u8]) {
        let mut got = vec![0; expected.len()];
        self.0.read_exact(&mut got).await.unwrap();
        assert!(got == expected, "the stream's bytes differ");
    }

    /// Nothing arrives for `d`.
    async fn silent_for(&mut self, d: Duration) {
        let mut byte = [0];
        let read = tokio::time::timeout(d, self.0.read(&mut byte)).await;
        assert!(read.is_err(), "got {read:?} {byte:?}");
    }

    /// The link is closed, with no byte before that.
    async fn closed(&mut self) {
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(5), self.0.read_to_end(&mut rest)).await;
        closed.expect("the link was not closed").unwrap();
        assert_eq!(rest, b"");
    }
}

#[tokio::test]
async fn h15_no_byte_is_added_to_a_stream_and_its_link_closes_behind_the_last_one_of_its_replid() {
    let journal = FakeJournal::new('a');
    let node = journal.node("journal-1", None).await;
    journal.promote('b');
    journal.append(&[&["SELECT", "0"], &["SET", "a", "1"]]);
    let replay = replay("127.0.0.1:0", &[&node]).await;
    let mut raw = Raw::ask(&replay, "? -1").await;
    raw.takes_base('b').await;
    raw.takes(&journal.bytes()).await;
    // Longer than any keepalive of ours, a master's PING every second included.
    raw.silent_for(Duration::from_millis(3500)).await;
    let (before, middle) = (
        journal.bytes().len(),
        journal.append(&[&["SET", "b", "2"]]) as usize,
    );
    journal.promote('c');
    journal.append(&[&["SET", "c", "3"]]);
    raw.takes(&journal.bytes()[before..middle]).await;
    raw.closed().await;

    // Back at the end of its replid, it goes on under the newest one.
    let mut raw = Raw::ask(&replay, &format!("{} {}", replid('b'), middle + 1)).await;
    assert_eq!(raw.line().await, format!("+CONTINUE {}", replid('c')));
    raw.takes(&journal.bytes()[middle..]).await;
    raw.silent_for(Duration::from_millis(1500)).await;
}

#[tokio::test]
async fn h15_a_full_sync_goes_through_all_replids_under_the_newest() {
    let journal = FakeJournal::new('a');
    let node = journal.node("journal-1", None).await;
    for digit in ['b', 'c', 'd'] {
        journal.promote(digit);
        journal.append(&[&["SET", "k", "v"]]);
    }
    let replay = replay("127.0.0.1:0", &[&node]).await;
    let mut raw = Raw::ask(&replay, "? -1").await;
    raw.takes_base('d').await;
    raw.takes(&journal.bytes()).await;
    raw.silent_for(Duration::from_millis(300)).await;
}

#[tokio::test]
async fn a_replica_that_holds_what_the_history_does_not_takes_a_full_sync() {
    let journal = FakeJournal::new('a');
    let node = journal.node("journal-1", None).await;
    journal.promote('b');
    let end_of_b = journal.append(&[&["SET", "k", "v"]]);
    journal.promote('c');
    let tail = journal.append(&[&["SET", "k", "w"]]);
    let replay = replay("127.0.0.1:0", &[&node]).await;
    // Past the end of a replid, beyond the tail, under a replid nobody knows.
    for (digit, next) in [('b', end_of_b + 2), ('c', tail + 2), ('e', 1)] {
        let mut raw = Raw::ask(&replay, &format!("{} {next}", replid(digit))).await;
        raw.takes_base('c').await;
    }
    let mut raw = Raw::ask(&replay, &format!("{} {}", replid('c'), tail + 1)).await;
    assert_eq!(raw.line().await, format!("+CONTINUE {}", replid('c')));
}

#[tokio::test]
async fn a_replica_that_does_not_read_is_not_read_ahead_for() {
    let journal = FakeJournal::new('a');
    let node = journal.node("journal-1", None).await;
    journal.promote('b');
    let value = "x".repeat(64 * 1024 - 100);
    for _ in 0..1000 {
        journal.append(&[&["SET", "k", &value]]);
    }
    let replay = replay("127.0.0.1:0", &[&node]).await;
    let mut raw = Raw::ask(&replay, "? -1").await;
    raw.takes_base('b').await;
    let mut sent = 0;
    // Until nothing moves any more.
    loop {
        tokio::time::sleep(Duration::from_millis(700)).await;
        if std::mem::replace(&mut sent, node.entries_sent()) == node.entries_sent() {
            break;
        }
    }
    // Two sockets' buffers, two windows and one tail's prefetch, of 64 MB.
    assert!(
        sent < 700,
        "{sent} entries of 64 KB were read for a replica that takes none"
    );
    raw.takes(&journal.bytes()).await;
}

#[tokio::test]
async fn many_replicas_are_served_and_one_that_goes_away_is_forgotten() {
    let journal = FakeJournal::new('a');
    let node = journal.node("journal-1", None).await;
    journal.promote('b');
    journal.append(&[&["SET", "k", "v"]]);
    let replay = replay("127.0.0.1:0", &[&node]).await;
    let mut raws = Vec::new();
    for _ in 0..50 {
        raws.push(Raw::ask(&replay, "? -1").await);
    }
    for raw in &mut raws {
        raw.takes_base('b').await;
        raw.takes(&journal.bytes()).await;
    }
    until("the address is told once", async || journal.reports().len() == 1).await;
    assert_eq!(journal.reports()[0].address, "127.0.0.1:7777");
    assert_eq!(journal.reports()[0].full_syncs, 50);
    drop(raws);
    until("none is told", async || journal.reports().is_empty()).await;
}

#[tokio::test]
async fn idle_connections_are_bounded_in_number_and_time() {
    let journal = FakeJournal::new('a');
    let node = journal.node("journal-1", None).await;
    journal.promote('b');
    let replay = replay("127.0.0.1:0", &[&node]).await;
    let connect = async || TcpStream::connect(&replay.address).await.unwrap();
    let closed_within = async |conn: &mut TcpStream, d| {
        let read = tokio::time::timeout(d, conn.read(&mut [0])).await;
        matches!(read, Ok(Ok(0) | Err(_)))
    };
    let mut idle = Vec::new();
    for _ in 0..256 {
        idle.push(connect().await);
    }
    assert!(
        closed_within(&mut connect().await, Duration::from_secs(2)).await,
        "one more is too many"
    );
    assert!(!closed_within(&mut idle[0], Duration::from_millis(300)).await);
    // Those that ask for nothing make room again.
    assert!(
        closed_within(&mut idle[255], Duration::from_secs(12)).await,
        "the handshake has a deadline"
    );
    let mut raw = Raw::ask(&replay, "? -1").await;
    raw.takes_base('b').await;
}
