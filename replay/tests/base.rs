//! Full syncs from a base: what a stock replica gets when the journal has one.
#![allow(clippy::disallowed_methods, reason = "tests run on the real machine")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::bases::{Fault, base_at_tail};
use common::journal::{FakeJournal, replid};
use common::redis::{Redis, until};
use common::{replay, told_full_syncs};
use redoubt_types::limits::BASE_CHUNK_BYTES;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Keys of several kinds in database 3, which stays selected: an RDB of some chunks.
fn write_keys(journal: &FakeJournal) -> u64 {
    journal.append(&[&["SELECT", "3"]]);
    let noise = |i: u64| format!("{:x}", i.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_pow(7));
    for i in 0..200 {
        let large = (0..512).map(|n| noise(i * 512 + n)).collect::<String>();
        journal.append(&[
            &["SET", &format!("k{i}"), &large],
            &["RPUSH", "list", &format!("e{i}")],
            &["SET", &format!("t{i}"), "v", "PXAT", "33000000000000"],
        ]);
    }
    journal.append(&[&["INCR", "count"]])
}

/// Makes what `redis` holds the journal's base, at its tail, and drops what is before it.
async fn fold(journal: &FakeJournal, redis: &Redis) {
    let rdb = redis.rdb().await;
    assert!(rdb.len() > 4 * BASE_CHUNK_BYTES, "{} bytes", rdb.len());
    let base = base_at_tail(journal, &rdb);
    journal.trim(base.at().get());
    journal.bases.set(base, rdb);
}

async fn digest(redis: &Redis) -> String {
    redis.call(&["DEBUG", "DIGEST"]).await
}

const DEBUG: [&str; 2] = ["--enable-debug-command", "local"];

#[tokio::test]
async fn h19_a_replica_begins_from_the_base_and_is_equal_to_one_that_had_every_byte() {
    let journal = FakeJournal::new('a');
    let node = journal.node("journal-1", None).await;
    journal.promote('b');
    let at = write_keys(&journal);
    let replay = replay("127.0.0.1:0", &[&node]).await;
    let master = format!("127.0.0.1 {}", replay.port);
    let args = ["--replicaof", &master, DEBUG[0], DEBUG[1]];
    let first = Redis::start(&args).await;
    first.fed_to(at).await;
    fold(&journal, &first).await;
    journal.promote('c');
    let second = Redis::start(&args).await;
    second.fed_to(at).await;
    // The next command lands in the database that was selected before the base.
    let tail = journal.append(&[&["SET", "after", "1"], &["APPEND", "k7", "tail"]]);
    for redis in [&first, &second] {
        redis.fed_to(tail).await;
        assert_eq!(redis.call(&["-n", "3", "GET", "after"]).await, "1");
        assert_eq!(redis.replication("master_replid").await, replid('c').to_string());
    }
    assert_eq!(digest(&first).await, digest(&second).await);
    assert_eq!(
        second.call(&["-n", "3", "PEXPIRETIME", "t9"]).await,
        "33000000000000"
    );
    assert_eq!((second.full_syncs(), first.full_syncs()), (1, 1));
    until("the journal was told", async || {
        told_full_syncs(&journal, &second) == Some(1)
    })
    .await;
}

#[tokio::test]
async fn h16_a_base_that_is_damaged_or_gone_midway_never_looks_whole() {
    let journal = FakeJournal::new('a');
    let node = journal.node("journal-1", None).await;
    journal.promote('b');
    let replay = replay("127.0.0.1:0", &[&node]).await;
    let first = replay.replica().await;
    first.fed_to(write_keys(&journal)).await;
    fold(&journal, &first).await;
    for fault in [Fault::Corrupt, Fault::Gone] {
        journal.bases.set_fault(Some(fault));
        let before = journal.bases.given();
        let mut conn = tokio::net::TcpStream::connect(&replay.address).await.unwrap();
        conn.write_all(b"REPLCONF capa psync2\r\nPSYNC ? -1\r\n")
            .await
            .unwrap();
        let (mut got, mut buf) = (Vec::new(), [0; 65536]);
        let read = async {
            loop {
                match conn.read(&mut buf).await {
                    Ok(0) | Err(_) => break,
                    Ok(n) => got.extend_from_slice(&buf[..n]),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), read)
            .await
            .expect("the link is closed");
        let base = journal.bases.current().unwrap();
        assert!(journal.bases.given() > before);
        let head = format!("+FULLRESYNC {} {}\r\n${}\r\n", replid('b'), base.at(), base.bytes);
        let at = got
            .windows(head.len())
            .position(|w| w == head.as_bytes())
            .expect("a full sync");
        let given = (got.len() - at - head.len()) as u64;
        assert!(given < base.bytes, "{fault:?}: {given} of {} bytes", base.bytes);
    }
    // A stock replica tries again until it gets one that is right.
    let second = replay.replica().await;
    let before = journal.bases.given();
    until("it has asked twice", async || journal.bases.given() > before + 1).await;
    assert_eq!(second.call(&["DBSIZE"]).await, "0");
    journal.bases.set_fault(None);
    second.fed_to(journal.place().1).await;
    assert_eq!(second.call(&["-n", "3", "GET", "count"]).await, "1");
}

#[tokio::test]
async fn h24_a_base_that_a_replica_cannot_load_is_refused_before_it_gives_up_what_it_has() {
    let journal = FakeJournal::new('a');
    let node = journal.node("journal-1", None).await;
    journal.promote('b');
    let replay = replay("127.0.0.1:0", &[&node]).await;
    let first = replay.replica().await;
    first.fed_to(write_keys(&journal)).await;
    let rdb = first.rdb().await;
    let mut base = base_at_tail(&journal, &rdb);
    (base.rdb_version, base.server) = (12, "redis 7.4.1".to_owned());
    journal.bases.set(base, rdb);
    let ask = async |version: &str| {
        let mut conn = tokio::net::TcpStream::connect(&replay.address).await.unwrap();
        let request = format!("REPLCONF capa psync2\r\n{version}PSYNC ? -1\r\n");
        conn.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        while !text.contains("+FULLRESYNC") && !text.contains("-NOMASTERLINK") {
            let mut buf = [0; 512];
            let n = conn.read(&mut buf).await.unwrap();
            assert!(n > 0, "{text}");
            text.push_str(&String::from_utf8_lossy(&buf[..n]));
        }
        text
    };
    let text = ask("REPLCONF version 8.1.1\r\n").await;
    assert!(
        text.contains("-NOMASTERLINK") && text.contains("redis 7.4.1") && text.contains("8.1.1"),
        "{text}"
    );
    assert!(ask("").await.contains("+FULLRESYNC"));
}

#[tokio::test]
async fn a_base_that_cannot_be_had_costs_a_replica_nothing() {
    let journal = FakeJournal::new('a');
    let node = journal.node("journal-1", None).await;
    journal.promote('b');
    let replay = replay("127.0.0.1:0", &[&node]).await;
    let first = replay.replica().await;
    first.fed_to(write_keys(&journal)).await;
    // No node has it, and the stream behind the replica is gone.
    let mut base = base_at_tail(&journal, &first.rdb().await);
    base.name.checksum ^= 1;
    let at = base.at().get();
    first.call(&["REPLICAOF", "NO", "ONE"]).await;
    first.call(&["SET", "own", "1"]).await;
    journal.bases.set(base, Vec::new());
    journal.trim(at);
    let master = ["REPLICAOF", "127.0.0.1", &replay.port];
    first.call(&master).await;
    until("it was refused", async || first.log().contains("NOMASTERLINK")).await;
    assert_eq!(first.call(&["GET", "own"]).await, "1");
}
