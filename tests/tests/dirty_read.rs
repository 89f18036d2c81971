//! No client sees a write that could still be lost.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

mod hunt;

use hunt::{Plan, hunt};
use redoubt_tests::{DevCluster, Options, Raw, assert_catches, connect, eventually};
use rustix::process::Signal;
use std::time::{Duration, SystemTime};

const SOON: Duration = Duration::from_secs(20);

/// Stops two of three nodes without killing them; `false` lets them go on.
fn quorum_stopped(cluster: &DevCluster, stopped: bool) {
    for name in ["journal-1", "journal-2"] {
        cluster.signal(name, if stopped { Signal::STOP } else { Signal::CONT });
    }
}

/// Waits until the master itself holds `value` under `key`: the command was executed.
async fn executed(cluster: &DevCluster, key: &str, value: &str) {
    let master = connect(cluster.port("master-1")).await;
    eventually("execution by the master", SOON, || {
        let mut master = master.clone();
        async move {
            let held: Option<String> = redis::cmd("GET").arg(key).query_async(&mut master).await.unwrap();
            if held.as_deref() == Some(value) {
                Ok(())
            } else {
                Err(format!("{held:?}"))
            }
        }
    })
    .await;
}

async fn client(cluster: &DevCluster) -> Raw {
    let mut client = Raw::connect(cluster.port("proxy-1")).await;
    client.send(&[b"PING"]).await;
    client.expect("+PONG\r\n", SOON).await;
    client
}

#[tokio::test]
async fn a_read_of_an_unacknowledged_write_is_held_until_the_quorum_returns() {
    let mut cluster = DevCluster::start(Options::default()).await;
    let (mut writer, mut reader) = (client(&cluster).await, client(&cluster).await);
    let (mut subscriber, mut multi) = (client(&cluster).await, client(&cluster).await);
    writer.send(&[b"SET", b"k", b"old"]).await;
    writer.expect("+OK\r\n", SOON).await;
    subscriber.send(&[b"SUBSCRIBE", b"c"]).await;
    subscriber
        .expect("*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n", SOON)
        .await;

    quorum_stopped(&cluster, true);
    writer.send(&[b"SET", b"k", b"new"]).await;
    executed(&cluster, "k", "new").await;
    reader.send(&[b"GET", b"k"]).await;
    multi.send(&[b"MULTI"]).await;
    multi.send(&[b"GET", b"k"]).await;
    multi.send(&[b"PUBLISH", b"c", b"m"]).await;
    multi.send(&[b"EXEC"]).await;
    multi.send(&[b"INCR", b"k"]).await;
    let silence = Duration::from_secs(2);
    writer.stays_silent(silence, "the write").await;
    reader.stays_silent(silence, "a read of it").await;
    multi.stays_silent(silence, "a transaction that read it").await;
    subscriber
        .stays_silent(silence, "a message published behind it")
        .await;

    quorum_stopped(&cluster, false);
    writer.expect("+OK\r\n", SOON).await;
    reader.expect("$3\r\nnew\r\n", SOON).await;
    let answers = "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n$3\r\nnew\r\n:1\r\n-ERR value is not an integer or out of range\r\n";
    multi.expect(answers, SOON).await;
    subscriber
        .expect("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n", SOON)
        .await;
    cluster.down().await;
}

#[tokio::test]
async fn past_the_deadline_the_reader_is_closed_and_shown_nothing() {
    let args = vec![("proxy", "--release-deadline-ms=3000".to_owned())];
    let mut cluster = DevCluster::start(Options {
        args,
        ..Options::default()
    })
    .await;
    let (mut writer, mut reader) = (client(&cluster).await, client(&cluster).await);
    quorum_stopped(&cluster, true);
    writer.send(&[b"SET", b"k", b"new"]).await;
    executed(&cluster, "k", "new").await;
    reader.send(&[b"GET", b"k"]).await;
    writer
        .closes_without_a_byte(Duration::from_secs(8), "the write")
        .await;
    reader
        .closes_without_a_byte(Duration::from_secs(8), "a read of it")
        .await;
    quorum_stopped(&cluster, false);
    // The write was never acknowledged and may be there or not; who reads it now reads what is durable.
    let mut later = client(&cluster).await;
    later.send(&[b"GET", b"k"]).await;
    later.expect("$3\r\nnew\r\n", SOON).await;
    cluster.down().await;
}

/// Reads of a hunt in a run of the whole suite. `make hunt` asks for as many as it is told.
const READS: u64 = 100_000;
/// Misfortunes of such a hunt.
const BLOWS: u64 = 7;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{variable}={text}: {e}")))
}

fn plan(shared: bool) -> Plan {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Plan {
        seed: number("HUNT_SEED").unwrap_or(now.as_nanos() as u64),
        reads: number("HUNT_READS").unwrap_or(READS),
        blows: BLOWS,
        shared,
        unclear: true,
    }
}

#[tokio::test]
async fn no_reader_ever_sees_what_the_journal_does_not_hold() {
    hunt(plan(false)).await;
}

#[tokio::test]
async fn no_reader_of_those_who_share_ever_sees_what_the_journal_does_not_hold() {
    hunt(plan(true)).await;
}

#[tokio::test]
async fn no_clean_reader_ever_sees_what_the_journal_does_not_hold() {
    let unclear = false;
    hunt(Plan {
        unclear,
        ..plan(true)
    })
    .await;
}

#[test]
fn catches_readers_that_see_what_is_lost() {
    assert_catches(
        "no_reader_ever_sees_what_the_journal_does_not_hold",
        "hold_no_hold",
    );
}

#[test]
fn catches_readers_who_share_and_see_what_is_lost() {
    assert_catches(
        "no_reader_of_those_who_share_ever_sees_what_the_journal_does_not_hold",
        "hold_no_hold",
    );
}

#[test]
fn catches_clean_reads_that_do_not_ask_for_their_keys() {
    assert_catches(
        "no_clean_reader_ever_sees_what_the_journal_does_not_hold",
        "h21_keys_are_not_asked",
    );
}

#[test]
fn catches_connections_that_are_held_for_ever() {
    assert_catches(
        "past_the_deadline_the_reader_is_closed_and_shown_nothing",
        "no_deadline",
    );
}

#[test]
fn catches_reads_that_are_not_held() {
    assert_catches(
        "a_read_of_an_unacknowledged_write_is_held_until_the_quorum_returns",
        "hold_no_hold",
    );
}
