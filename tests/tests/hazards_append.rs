//! H1 and H3 over real processes: who may write, and what becomes of a group that is larger than any buffer.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

use futures_util::future::join_all;
use redoubt_client::{AppendError, AppendStart, Grant, Position, WriterError};
use redoubt_resp::stream::encode_command;
use redoubt_tests::{
    DevCluster, Options, Raw, Tokens, assert_catches, connect, eventually, served, wait_equal,
};
use redoubt_types::{HolderId, WallTime};
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// So many bytes of a group are journalled when its writer is killed: more than a writer's window.
const MIDWAY: u64 = 8 << 20;

async fn position(cluster: &DevCluster) -> Position {
    let described = cluster.journal().describe(Duration::from_secs(20)).await;
    described.expect("a quorum").position
}

/// Returns as soon as [`MIDWAY`] bytes behind `start` are journalled.
async fn until_midway(cluster: &DevCluster, start: u64) {
    let (journal, leader) = (cluster.journal(), cluster.leader().await);
    let leader = cluster.component(&leader).address;
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let described = journal.describe_node(&leader, false).await;
        let position = described.expect("the leader describes the journal").position;
        if position.pending_end.get() >= start + MIDWAY {
            return;
        }
        assert!(Instant::now() < end, "no fragments come: {position:?}");
    }
}

/// The fragments of the killed writer are in the journal, and nobody is shown them.
async fn assert_unfinished(cluster: &DevCluster) {
    let position = position(cluster).await;
    let bytes = served(&cluster.journal()).await;
    assert!(
        position.pending_end.get() >= position.tail.get() + MIDWAY,
        "the writer was not killed between fragments: {position:?}"
    );
    assert_eq!(bytes.len() as u64, position.tail.get());
}

/// What every h03 test ends with: acknowledged tokens are on the master, on the replica and in a server that
/// was rebuilt from the journal alone, and the three are equal.
async fn assert_all_kept(cluster: &DevCluster, tokens: Tokens) {
    let outcome = tokens.stop().await;
    assert!(outcome.acked_count() > 0);
    let mut master = connect(cluster.port("master-1")).await;
    let mut replica = connect(cluster.port("replica-1")).await;
    wait_equal(&mut master, &mut replica).await;
    let fresh = cluster.rebuilt().await;
    let mut fresh = fresh.connect().await;
    wait_equal(&mut master, &mut fresh).await;
    outcome.assert_kept_by(&mut fresh).await;
}

#[tokio::test]
async fn h03_a_value_of_100_mb_survives_its_proxy_killed_between_fragments() {
    const BYTES: usize = 100 << 20;
    let mut cluster = DevCluster::start(Options::default()).await;
    let tokens = Tokens::start(cluster.port("proxy-1"), 2, "h03");
    tokens.progress(20, Duration::from_secs(20)).await;
    let before = position(&cluster).await.tail.get();
    let full_syncs = cluster.full_syncs();

    let mut writer = Raw::connect(cluster.port("proxy-1")).await;
    let sending = tokio::spawn(async move {
        let sent = writer.send(&[b"SET", b"big", &vec![b'x'; BYTES]]).await;
        (writer, sent)
    });
    until_midway(&cluster, before).await;
    let killed = cluster.kill("proxy-1");
    assert_unfinished(&cluster).await;
    let (mut writer, _) = sending.await.expect("no panic");
    let what = "the value, before it was journalled";
    writer.closes_without_a_byte(Duration::from_secs(5), what).await;

    // The server lives and has the value: the new proxy takes it over from there.
    cluster.restarted("proxy-1", killed).await;
    tokens.progress(20, Duration::from_secs(90)).await;
    let mut master = connect(cluster.port("master-1")).await;
    let held: usize = redis::cmd("STRLEN")
        .arg("big")
        .query_async(&mut master)
        .await
        .unwrap();
    assert_eq!(held, BYTES);
    assert_eq!(cluster.full_syncs(), full_syncs, "a live master was fed anew");
    assert_all_kept(&cluster, tokens).await;
    cluster.down().await;
}

#[test]
fn catches_fragments_that_are_served() {
    assert_catches(
        "h03_a_value_of_100_mb_survives_its_proxy_killed_between_fragments",
        "h03_serve_fragments",
    );
}

#[tokio::test]
async fn h03_a_huge_transaction_whose_writer_dies_midway_is_there_as_a_whole_or_not_at_all() {
    const COMMANDS: usize = 6000;
    let mut cluster = DevCluster::start(Options::default()).await;
    let tokens = Tokens::start(cluster.port("proxy-1"), 2, "h03");
    tokens.progress(20, Duration::from_secs(20)).await;
    let before = position(&cluster).await.tail.get();

    let mut writer = Raw::connect(cluster.port("proxy-1")).await;
    let sending = tokio::spawn(async move {
        let value = vec![b'x'; 10 * 1024];
        writer.send(&[b"MULTI"]).await;
        for n in 0..COMMANDS {
            writer
                .send(&[b"RPUSH", b"huge", format!("{n}:").as_bytes(), &value])
                .await;
        }
        writer.send(&[b"EXEC"]).await;
        writer
    });
    until_midway(&cluster, before).await;
    let proxy = cluster.kill("proxy-1");
    let master = cluster.kill("master-1");
    assert_unfinished(&cluster).await;
    drop(sending.await.expect("no panic"));

    // The server has lost it, and the journal never had all of it.
    cluster.restarted("proxy-1", proxy).await;
    cluster.restarted("master-1", master).await;
    tokens.progress(20, Duration::from_secs(90)).await;
    let mut master = connect(cluster.port("master-1")).await;
    let held: usize = redis::cmd("LLEN")
        .arg("huge")
        .query_async(&mut master)
        .await
        .unwrap();
    assert_eq!(held, 0, "a part of a transaction is there");
    let position = position(&cluster).await;
    assert!(
        position.pending_end.get() < position.tail.get() + MIDWAY,
        "{position:?}"
    );
    assert_all_kept(&cluster, tokens).await;
    cluster.down().await;
}

#[test]
fn catches_a_transaction_that_is_served_in_part() {
    assert_catches(
        "h03_a_huge_transaction_whose_writer_dies_midway_is_there_as_a_whole_or_not_at_all",
        "h03_serve_fragments",
    );
}

/// Sixteen would-be writers ask at the same time; returns those that were told yes.
async fn race(cluster: &DevCluster, lease: Duration) -> Vec<(HolderId, Grant)> {
    let askers = (1..=16).map(|n| {
        let journal = cluster.journal();
        async move {
            let holder = HolderId::new(1000 + n).unwrap();
            // Each has a connection of its own before the race begins.
            journal.describe(Duration::from_secs(10)).await.expect("a quorum");
            tokio::task::yield_now().await;
            let granted = journal
                .acquire(holder, "racer", lease, Duration::from_secs(10))
                .await;
            match granted {
                Ok(grant) => Some((holder, grant)),
                Err(WriterError::LeaseHeld { .. } | WriterError::LeaseRenewed) => None,
                Err(e) => panic!("an acquisition failed otherwise: {e}"),
            }
        }
    });
    join_all(askers).await.into_iter().flatten().collect()
}

#[tokio::test]
async fn h01_of_writers_that_race_for_the_epoch_one_gets_it_and_the_others_are_fenced() {
    let mut cluster = DevCluster::start(Options::default()).await;
    let tokens = Tokens::start(cluster.port("proxy-1"), 2, "h01");
    tokens.progress(50, Duration::from_secs(20)).await;
    cluster.signal("proxy-1", Signal::STOP);
    let journal = cluster.journal();
    let leader = cluster.component(&cluster.leader().await).address;
    eventually("the lease lapses", Duration::from_secs(20), || async {
        let described = journal.describe_node(&leader, true).await;
        match described.map(|d| d.writer.lease_remaining) {
            Ok(Some(Duration::ZERO)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    let mut epochs = Vec::new();
    for round in 0..5 {
        let granted = race(&cluster, Duration::from_secs(30)).await;
        let winners: Vec<_> = granted
            .iter()
            .map(|(holder, grant)| (holder, grant.epoch))
            .collect();
        assert_eq!(
            winners.len(),
            1,
            "round {round}: one lease at a time, and one there is: {winners:?}"
        );
        let (holder, grant) = &granted[0];
        assert!(epochs.last().is_none_or(|last: &Grant| last.epoch < grant.epoch));
        epochs.push(grant.clone());
        journal
            .release(grant.epoch, *holder, Duration::from_secs(10))
            .await
            .expect("released");
    }
    // An earlier epoch may not write any more, not even at the right place.
    let old = &epochs[0];
    let start = AppendStart {
        epoch: old.epoch,
        replid: old.lineage.last().replid,
        start: old.position.tail,
        chain: old.position.tail_chain,
    };
    let mut bytes = bytes::BytesMut::new();
    encode_command(&[b"SET", b"stolen", b"1"], &mut bytes);
    let mut appender = journal.appender(start);
    appender.push(bytes.freeze(), WallTime::from_ms(1));
    match appender.next().await {
        Err(AppendError::Fenced(_)) => {}
        other => panic!("a fenced epoch wrote: {other:?}"),
    }

    cluster.signal("proxy-1", Signal::CONT);
    tokens.progress(50, Duration::from_secs(60)).await;
    let outcome = tokens.stop().await;
    let fresh = cluster.rebuilt().await;
    let mut fresh = fresh.connect().await;
    outcome.assert_kept_by(&mut fresh).await;
    let stolen: bool = redis::cmd("EXISTS")
        .arg("stolen")
        .query_async(&mut fresh)
        .await
        .unwrap();
    assert!(!stolen);
    cluster.down().await;
}

#[test]
fn catches_two_leases_at_the_same_time() {
    assert_catches(
        "h01_of_writers_that_race_for_the_epoch_one_gets_it_and_the_others_are_fenced",
        "h01_acquire_ignores_renewals",
    );
}
