//! Stock redis-servers follow the journal through a replay: one full sync in a replica's life.
#![allow(clippy::disallowed_methods, reason = "tests run on the real machine")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::journal::{FakeJournal, replid};
use common::redis::until;
use common::{replay, told_full_syncs};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Ten keys' worth of a master's stream: single commands, two databases and a transaction.
fn write(journal: &FakeJournal, tag: &str) -> u64 {
    journal.append(&[
        &["SELECT", "0"],
        &["SET", &format!("a{tag}"), "1"],
        &["SET", &format!("b{tag}"), "2"],
    ]);
    journal.append(&[&["MULTI"], &["INCR", "count"], &["LPUSH", "list", tag], &["EXEC"]]);
    journal.append(&[&["SELECT", "3"], &["SET", &format!("c{tag}"), "3"], &["PING"]])
}

async fn holds(redis: &common::redis::Redis, tag: &str) {
    assert_eq!(redis.call(&["GET", &format!("a{tag}")]).await, "1");
    assert_eq!(redis.call(&["GET", &format!("b{tag}")]).await, "2");
    assert_eq!(redis.call(&["-n", "3", "GET", &format!("c{tag}")]).await, "3");
}

#[tokio::test]
async fn a_stock_server_is_fed_the_journal() {
    let journal = FakeJournal::new('a');
    let node = journal.node("journal-1", None).await;
    journal.promote('b');
    write(&journal, "1");
    let replay = replay("127.0.0.1:0", &[&node]).await;
    let redis = replay.replica().await;
    // What was there before and what comes later, under the newest replid.
    redis.fed_to(write(&journal, "2")).await;
    holds(&redis, "1").await;
    holds(&redis, "2").await;
    assert_eq!(redis.call(&["GET", "count"]).await, "2");
    assert_eq!(redis.replication("master_replid").await, replid('b').to_string());
    until("the journal was told", async || {
        told_full_syncs(&journal, &redis) == Some(1)
    })
    .await;
    let tail = write(&journal, "3");
    let shown = || {
        journal
            .reports()
            .iter()
            .any(|r| r.acked == tail && r.sent == tail && r.state == "online")
    };
    until("the acknowledged offset was told", async || shown()).await;
}

#[tokio::test]
async fn a_cut_link_continues_without_a_full_sync() {
    let journal = FakeJournal::new('a');
    let node = journal.node("journal-1", None).await;
    journal.promote('b');
    let first = replay("127.0.0.1:0", &[&node]).await;
    let mut redis = first.replica().await;
    redis.fed_to(write(&journal, "1")).await;

    // The replica cuts it.
    redis.call(&["CLIENT", "KILL", "TYPE", "MASTER"]).await;
    redis.fed_to(write(&journal, "2")).await;
    assert_eq!((redis.full_syncs(), redis.continues()), (1, 1));

    // The replay goes away and comes back.
    let (address, port) = (first.address.clone(), first.port.clone());
    drop(first);
    until("the link is down", async || {
        redis.replication("master_link_status").await == "down"
    })
    .await;
    let tail = write(&journal, "3");
    let _second = replay(&address, &[&node]).await;
    redis.fed_to(tail).await;
    assert_eq!((redis.full_syncs(), redis.continues()), (1, 2));
    until("the journal was told", async || {
        told_full_syncs(&journal, &redis) == Some(0)
    })
    .await;

    // The replica is stopped in order and comes back.
    redis
        .restart(&["--replicaof", &format!("127.0.0.1 {port}")])
        .await;
    redis.fed_to(write(&journal, "4")).await;
    holds(&redis, "4").await;
    assert_eq!(redis.call(&["GET", "count"]).await, "4");
    assert_eq!((redis.full_syncs(), redis.continues()), (1, 3));
}

#[tokio::test]
async fn h15_a_replica_across_two_promotions_one_without_bytes_takes_one_full_sync() {
    let journal = FakeJournal::new('a');
    let node = journal.node("journal-1", None).await;
    journal.promote('b');
    let replay = replay("127.0.0.1:0", &[&node]).await;
    let redis = replay.replica().await;
    let ended_b = write(&journal, "1");
    redis.fed_to(ended_b).await;

    // An epoch that never writes: the replica must learn of it all the same.
    journal.promote('c');
    let learnt = async |digit| redis.replication("master_replid").await == replid(digit).to_string();
    until("the replica has the replid that wrote nothing", async || {
        learnt('c').await
    })
    .await;
    // Another promotion, with bytes that come at once behind it.
    journal.promote('d');
    let tail = write(&journal, "2");
    until("the replica has the newest replid", async || learnt('d').await).await;
    redis.fed_to(tail).await;
    holds(&redis, "2").await;
    assert_eq!((redis.full_syncs(), redis.continues()), (1, 2));
    until("the journal was told", async || {
        told_full_syncs(&journal, &redis) == Some(1)
    })
    .await;
    // The old replid ends exactly where the new one began: what a later promotion of this replica rests on.
    assert_eq!(redis.replication("master_replid2").await, replid('c').to_string());
    assert_eq!(
        redis.replication("second_repl_offset").await,
        (ended_b + 1).to_string()
    );

    // Promoted, it continues its past under the newest replid.
    redis.call(&["REPLICAOF", "NO", "ONE"]).await;
    assert_eq!(redis.replication("master_replid2").await, replid('d').to_string());
    assert_eq!(
        redis.replication("second_repl_offset").await,
        (tail + 1).to_string()
    );
}

#[tokio::test]
async fn h08_without_a_quorum_a_replica_waits_and_takes_no_full_sync() {
    let journal = FakeJournal::new('a');
    let node = journal.node("journal-1", None).await;
    journal.promote('b');
    let replay = replay("127.0.0.1:0", &[&node]).await;
    write(&journal, "1");
    let redis = replay.replica().await;
    let tail = write(&journal, "2");
    redis.fed_to(tail).await;

    // The nodes come back with less than what was served, and without a quorum.
    journal.set_quorum(false);
    journal.show(Some(3));
    redis.call(&["CLIENT", "KILL", "TYPE", "MASTER"]).await;
    // Longer than the 5 s that a stock server waits for a silent master here.
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(redis.replication("master_link_status").await, "down");
    assert_eq!(redis.full_syncs(), 1);
    assert!(
        !redis.log().contains("Master did not reply to PSYNC"),
        "newlines kept the replica waiting"
    );

    journal.show(None);
    journal.set_quorum(true);
    redis.fed_to(tail).await;
    redis.fed_to(write(&journal, "3")).await;
    holds(&redis, "3").await;
    assert_eq!((redis.full_syncs(), redis.continues()), (1, 1));
}

#[tokio::test]
async fn h07_a_damaged_record_is_read_from_another_node() {
    let journal = FakeJournal::new('a');
    // Each holds one record that the other one must be asked for, wherever the tail begins.
    let (one, two) = (
        journal.node("journal-1", Some(1)).await,
        journal.node("journal-2", Some(4)).await,
    );
    journal.promote('b');
    write(&journal, "1");
    let replay = replay("127.0.0.1:0", &[&one, &two]).await;
    let redis = replay.replica().await;
    for tag in ["2", "3", "4"] {
        redis.fed_to(write(&journal, tag)).await;
        holds(&redis, tag).await;
    }
    assert!(
        one.damage_sent() + two.damage_sent() > 0,
        "no node sent its bad record: this proves nothing"
    );
    assert_eq!(redis.full_syncs(), 1);
}

#[tokio::test]
async fn a_foreign_replica_takes_a_full_sync() {
    let journal = FakeJournal::new('a');
    let node = journal.node("journal-1", None).await;
    journal.promote('b');
    let replay = replay("127.0.0.1:0", &[&node]).await;
    let redis = common::redis::Redis::start(&[]).await;
    redis.call(&["SET", "stale", "1"]).await;
    redis.call(&["REPLICAOF", "127.0.0.1", &replay.port]).await;
    redis.fed_to(write(&journal, "1")).await;
    holds(&redis, "1").await;
    assert_eq!(redis.call(&["EXISTS", "stale"]).await, "0");
}

#[tokio::test]
async fn garbage_on_the_port_is_answered_or_closed_and_harms_nobody() {
    let journal = FakeJournal::new('a');
    let node = journal.node("journal-1", None).await;
    journal.promote('b');
    let replay = replay("127.0.0.1:0", &[&node]).await;
    let redis = replay.replica().await;
    let deep = "*1\r\n".repeat(100_000);
    let garbage: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"*1000000000\r\n",
        b"*3\r\n$5\r\nPSYNC\r\n$999999999\r\n",
        b"*3\r\n$5\r\nPSYNC\r\n$3\r\nabc\r\n$3\r\nxyz\r\n",
        b"\x00\xff\x16\x03\x01*$-:",
        deep.as_bytes(),
        b"*1\r\n$4\r\nSYNC\r\n",
    ];
    for bytes in garbage {
        let mut conn = tokio::net::TcpStream::connect(&replay.address).await.unwrap();
        // It may be closed before all is written.
        let _ = conn.write_all(bytes).await;
        let _ = conn.shutdown().await;
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), conn.read_to_end(&mut answer)).await;
        assert!(
            ended.is_ok(),
            "not closed after {:?}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(40)])
        );
        assert!(!answer.starts_with(b"+FULLRESYNC"));
    }
    redis.fed_to(write(&journal, "1")).await;
    assert_eq!((redis.full_syncs(), redis.continues()), (1, 0));
}
