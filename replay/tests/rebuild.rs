//! An empty server becomes equal to the journal, over a replica link, and is let go.
#![allow(clippy::disallowed_methods, reason = "tests run on the real machine")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::journal::{FakeJournal, FakeNode, replid};
use common::redis::{Redis, free_port, until};
use redoubt_client::{Client, ClientConfig};
use redoubt_env::Env;
use redoubt_replay::{RebuildError, RebuildReport, Unfit, rebuild};
use redoubt_types::Offset;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

async fn rebuild_into(node: &FakeNode, into: &str) -> Result<RebuildReport, RebuildError> {
    let env = Env::real();
    let config = ClientConfig {
        endpoints: vec![node.endpoint.clone()],
        journal: Default::default(),
        cluster: None,
    };
    rebuild(env.clone(), Client::new(env, config), into, |_| {}).await
}

fn address(redis: &Redis) -> String {
    format!("127.0.0.1:{}", redis.port)
}

async fn filled() -> (FakeJournal, FakeNode, u64) {
    let journal = FakeJournal::new('a');
    let node = journal.node("journal-1", None).await;
    journal.promote('b');
    journal.append(&[
        &["SELECT", "0"],
        &["SET", "a", "1"],
        &["MULTI"],
        &["SET", "b", "2"],
        &["EXEC"],
    ]);
    let tail = journal.append(&[&["SELECT", "5"], &["RPUSH", "list", "x", "y"]]);
    (journal, node, tail)
}

#[tokio::test]
async fn an_empty_server_becomes_equal_to_the_tail() {
    let (journal, node, tail) = filled().await;
    let redis = Redis::start(&[]).await;
    let report = rebuild_into(&node, &address(&redis)).await.unwrap();
    assert_eq!(
        report,
        RebuildReport {
            tail: Offset::new(tail),
            replid: replid('b'),
            keys: 3
        }
    );
    assert_eq!(redis.call(&["GET", "b"]).await, "2");
    assert_eq!(
        redis.call(&["-n", "5", "LRANGE", "list", "0", "-1"]).await,
        "x\ny"
    );
    assert_eq!(redis.replication("role").await, "master");
    assert_eq!(redis.replication("master_repl_offset").await, tail.to_string());
    // It is nobody's replica any more, so what comes later does not reach it.
    journal.append(&[&["SELECT", "0"], &["SET", "later", "1"]]);
    assert_eq!(redis.call(&["EXISTS", "later"]).await, "0");
}

#[tokio::test]
async fn an_empty_journal_gives_an_empty_server() {
    let journal = FakeJournal::new('a');
    let node = journal.node("journal-1", None).await;
    let redis = Redis::start(&[]).await;
    let report = rebuild_into(&node, &address(&redis)).await.unwrap();
    assert_eq!(
        (report.tail, report.replid, report.keys),
        (Offset::ZERO, replid('a'), 0)
    );
    assert_eq!(redis.replication("role").await, "master");
}

#[tokio::test]
async fn an_emptied_replica_is_not_continued_but_rebuilt() {
    let (_journal, node, tail) = filled().await;
    let redis = Redis::start(&[]).await;
    rebuild_into(&node, &address(&redis)).await.unwrap();
    // It knows the journal's replid up to the tail, and would be answered +CONTINUE.
    redis.call(&["FLUSHALL"]).await;
    let report = rebuild_into(&node, &address(&redis)).await.unwrap();
    assert_eq!((report.tail, report.keys), (Offset::new(tail), 3));
    assert_eq!(redis.full_syncs(), 2);
}

#[tokio::test]
async fn h22_a_server_that_holds_anything_is_left_as_it_was() {
    let (_journal, node, _) = filled().await;
    let redis = Redis::start(&[]).await;
    redis.call(&["-n", "9", "SET", "mine", "1"]).await;
    let unfit = async || match rebuild_into(&node, &address(&redis)).await {
        Err(RebuildError::Unfit { why, .. }) => why,
        other => panic!("not refused: {other:?}"),
    };
    assert_eq!(unfit().await, Unfit::HasKeys(1));
    assert_eq!(redis.call(&["-n", "9", "GET", "mine"]).await, "1");
    redis.call(&["FLUSHALL"]).await;
    let library = "#!lua name=lib\nredis.register_function('f', function() return 1 end)";
    redis.call(&["FUNCTION", "LOAD", library]).await;
    assert_eq!(unfit().await, Unfit::HasFunctions(1));
    assert_eq!(redis.call(&["FCALL", "f", "0"]).await, "1");
    redis.call(&["FUNCTION", "FLUSH"]).await;
    redis.call(&["REPLICAOF", "127.0.0.1", "1"]).await;
    assert_eq!(unfit().await, Unfit::IsReplica("127.0.0.1:1".to_owned()));
    assert_eq!(redis.full_syncs(), 0);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_to_be_so() {
    let (_journal, node, _) = filled().await;
    let nowhere = format!("127.0.0.1:{}", free_port());
    assert!(matches!(
        rebuild_into(&node, &nowhere).await,
        Err(RebuildError::Unreachable { .. })
    ));
}

#[tokio::test]
async fn a_live_journal_is_cut_at_the_tail_of_the_start() {
    let (journal, node, _) = filled().await;
    let redis = Redis::start(&[]).await;
    let counts = Mutex::new(BTreeMap::new());
    let writing = async {
        for n in 1.. {
            let tail = journal.append(&[&["INCR", "count"]]);
            counts.lock().unwrap().insert(tail, n);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let target = address(&redis);
    let report = tokio::select! {
        biased; // the end of the rebuild first
        report = rebuild_into(&node, &target) => report.unwrap(),
        () = writing => unreachable!(),
    };
    let counts = counts.into_inner().unwrap();
    let expected = counts.get(&report.tail.get()).copied().unwrap_or(0);
    let held: u64 = redis
        .call(&["-n", "5", "GET", "count"])
        .await
        .parse()
        .unwrap_or(0);
    assert_eq!(held, expected);
    assert!(
        counts.len() as u64 > expected,
        "nothing was written meanwhile: this proves nothing"
    );
}

#[tokio::test]
async fn a_rebuild_that_fails_midway_lets_the_server_go_and_says_so() {
    let journal = FakeJournal::new('a');
    // The only copy of the second record is damaged: the server can't be fed to the tail.
    let node = journal.node("journal-1", Some(1)).await;
    journal.promote('b');
    journal.append(&[&["SET", "a", "1"]]);
    journal.append(&[&["SET", "b", "1"]]);
    let redis = Redis::start(&[]).await;
    let target = address(&redis);
    let cut = async {
        let fed = async || redis.call(&["EXISTS", "a"]).await == "1";
        until("the first record is there", fed).await;
        // The rebuild loses its connection to the server.
        redis.call(&["CLIENT", "KILL", "TYPE", "NORMAL"]).await;
        std::future::pending::<()>().await;
    };
    let failed = tokio::select! {
        biased; // the end of the rebuild first
        report = rebuild_into(&node, &target) => report.unwrap_err(),
        () = cut => unreachable!(),
    };
    let text = failed.to_string();
    assert!(
        text.contains("NOT equal to the journal") && text.contains("told REPLICAOF NO ONE"),
        "{text}"
    );
    assert_eq!(redis.replication("role").await, "master");
    assert_eq!(redis.call(&["EXISTS", "b"]).await, "0");
}
