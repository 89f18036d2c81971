//! No client sees a write that could still be lost.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

use redoubt_tests::{DevCluster, Options, Raw, Tokens, assert_catches, connect, eventually};
use rustix::process::Signal;
use std::time::{Duration, Instant, SystemTime};

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

/// A run of misfortunes, each a function of the seed.
struct Dice(u64);

impl Dice {
    /// Below `n`.
    fn roll(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }

    async fn pause(&mut self, ms_min: u64, ms_max: u64) {
        let ms = ms_min + self.roll(ms_max - ms_min);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

/// The leader and another node stand still, the master goes on writing, and then all that may know of it dies.
async fn disaster(cluster: &DevCluster, dice: &mut Dice) {
    let leader = cluster.leader().await;
    let nodes = ["journal-1", "journal-2", "journal-3"];
    let others: Vec<_> = nodes.into_iter().filter(|name| *name != leader).collect();
    let other = others[dice.roll(2) as usize];
    for name in [&leader, other] {
        cluster.signal(name, Signal::STOP);
    }
    dice.pause(300, 2000).await;
    cluster.kill_all(&["master-1", "proxy-1", &leader, other]).await;
}

#[tokio::test]
async fn no_reader_ever_sees_what_the_journal_does_not_hold() {
    let given = std::env::var("REDOUBT_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = given.unwrap_or(now.as_nanos() as u64);
    println!("REDOUBT_SEED={seed}");
    let mut dice = Dice(seed);
    let mut cluster = DevCluster::start(Options::default()).await;
    let tokens = Tokens::start(cluster.port("proxy-1"), 12, "hunt");
    tokens.progress(200, SOON).await;
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        let first = 1 + dice.roll(3);
        let (one, next) = (format!("journal-{first}"), format!("journal-{}", 1 + first % 3));
        match dice.roll(8) {
            0 => disaster(&cluster, &mut dice).await,
            1 | 2 => {
                cluster.kill_all(&[&one]).await;
            }
            3 | 4 => {
                cluster.signal(&one, Signal::STOP);
                dice.pause(500, 3500).await;
                cluster.signal(&one, Signal::CONT);
            }
            5 | 6 => {
                cluster.signal(&one, Signal::STOP);
                cluster.signal(&next, Signal::STOP);
                dice.pause(300, 3000).await;
                cluster.signal(&one, Signal::CONT);
                cluster.signal(&next, Signal::CONT);
            }
            _ => cluster.kill_all(&[&one, &next]).await,
        }
        tokens.progress(100, Duration::from_secs(60)).await;
    }
    disaster(&cluster, &mut dice).await;
    tokens.progress(100, Duration::from_secs(60)).await;
    let outcome = tokens.stop().await;
    let seen: usize = outcome.seen.values().map(|s| s.len()).sum();
    println!(
        "{} acknowledged, {seen} tokens seen by readers, longest gap {:?}",
        outcome.acked_count(),
        outcome.outage
    );
    cluster.assert_nothing_lost(&outcome).await;
    cluster.down().await;
}

#[test]
fn catches_readers_that_see_what_is_lost() {
    assert_catches(
        "no_reader_ever_sees_what_the_journal_does_not_hold",
        "hold_no_hold",
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
