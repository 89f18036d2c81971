//! A master that is killed, alone or with its proxy, is served again by itself: fed to the journal's tail,
//! promoted under a new epoch, with nothing missing that was acknowledged to anybody or seen by anybody.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

use redoubt_client::Description;
use redoubt_tests::{
    DevCluster, Marker, Options, Tokens, assert_catches, connect, eventually, info_field, wait_equal,
};
use redoubt_types::Epoch;
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);
/// Restart, feeding and promotion, on two shared cores.
const AGAIN: Duration = Duration::from_secs(60);

async fn described(cluster: &DevCluster) -> Description {
    let journal = cluster.journal();
    journal.describe(SOON).await.expect("the journal answers")
}

async fn epoch(cluster: &DevCluster) -> Epoch {
    described(cluster).await.writer.epoch.expect("a writer")
}

async fn run_id(cluster: &DevCluster) -> String {
    let mut master = connect(cluster.port("master-1")).await;
    info_field(&mut master, "server", "run_id").await
}

/// The longest time in which nothing was acknowledged, from `began` on.
struct Gap {
    stop: Arc<AtomicBool>,
    longest: tokio::task::JoinHandle<Duration>,
}

impl Gap {
    fn began(acked: impl Fn() -> u64 + Send + 'static) -> Gap {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let longest = tokio::spawn(async move {
            let (mut last, mut since, mut longest) = (acked(), Instant::now(), Duration::ZERO);
            while !stopped.load(Ordering::SeqCst) {
                let now = acked();
                if now != last {
                    longest = longest.max(since.elapsed());
                    (last, since) = (now, Instant::now());
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            longest.max(since.elapsed())
        });
        Gap { stop, longest }
    }

    async fn end(self) -> Duration {
        self.stop.store(true, Ordering::SeqCst);
        self.longest.await.expect("no panic")
    }
}

/// What is hurt in one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Master,
    Proxy,
    Both,
}

impl Victim {
    fn names(self) -> &'static [&'static str] {
        match self {
            Victim::Master => &["master-1"],
            Victim::Proxy => &["proxy-1"],
            Victim::Both => &["master-1", "proxy-1"],
        }
    }
}

/// Takes the quorum from the journal for this long: what is written then reaches the master and nobody's disk, and
/// nothing may be acknowledged. Returns the nodes that are stopped.
async fn take_quorum(cluster: &DevCluster, tokens: &Tokens, lasting: Duration) -> Vec<String> {
    if lasting.is_zero() {
        return Vec::new();
    }
    let leader = cluster.leader().await;
    let journals = cluster.of_kind("journal");
    let followers: Vec<String> = journals
        .into_iter()
        .map(|j| j.name)
        .filter(|name| *name != leader)
        .collect();
    for node in &followers {
        cluster.signal(node, Signal::STOP);
    }
    // What a quorum had before that may still be on its way to clients.
    let acked = eventually("no acknowledgement without a quorum", SOON, || async {
        let before = tokens.acked();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let acked = tokens.acked();
        if acked == before {
            Ok(acked)
        } else {
            Err(format!("{acked} after {before}"))
        }
    })
    .await;
    tokio::time::sleep(lasting).await;
    assert_eq!(tokens.acked(), acked, "a write was acknowledged without a quorum");
    followers
}

/// Kills the victim under load, and waits until clients are served again under a new epoch. Returns the outage.
async fn kill_and_wait(
    cluster: &DevCluster,
    tokens: &Tokens,
    victim: Victim,
    quorum_gone: Duration,
) -> Duration {
    tokens.progress(100, AGAIN).await;
    let (before, run_before) = (described(cluster).await, run_id(cluster).await);
    let gap = Gap::began(tokens.counter());
    let stopped = take_quorum(cluster, tokens, quorum_gone).await;
    let killed: Vec<u32> = victim.names().iter().map(|name| cluster.kill(name)).collect();
    for node in &stopped {
        cluster.signal(node, Signal::CONT);
    }
    for (name, pid) in victim.names().iter().zip(killed) {
        cluster.restarted(name, pid).await;
    }
    let epoch_before = before.writer.epoch;
    eventually("a new epoch", AGAIN, || async {
        let now = described(cluster).await.writer.epoch;
        if now > epoch_before {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    })
    .await;
    // What was killed acknowledges nothing any more: this is the new epoch's.
    tokens.progress(100, AGAIN).await;
    let outage = gap.end().await;

    let (after, run_after) = (described(cluster).await, run_id(cluster).await);
    let session = after.writer.session.expect("a session");
    assert_eq!(
        session.run_id.to_string(),
        run_after,
        "what serves is not what was recorded"
    );
    assert_eq!(
        Some(session.epoch),
        after.writer.epoch,
        "the epoch serves without having named its server"
    );
    let mut master = connect(cluster.port("master-1")).await;
    let replid = info_field(&mut master, "replication", "master_replid").await;
    assert_eq!(
        after.lineage.last().replid.to_string(),
        replid,
        "what serves has no name in the lineage"
    );
    if victim == Victim::Proxy {
        assert_eq!(run_before, run_after, "the master was not touched");
        assert_eq!(
            before.lineage, after.lineage,
            "a live master is resumed, not promoted again"
        );
    } else {
        assert_ne!(run_before, run_after);
        let grown = after.lineage.len() > before.lineage.len();
        assert!(
            grown,
            "a server that was fed and promoted has a replid of its own"
        );
    }
    outage
}

/// Stops the load, and looks for everything that was acknowledged or seen: in the master, on the replica, and in a
/// server made from the journal alone.
async fn nothing_is_missing(cluster: &DevCluster, tokens: Tokens) {
    let outcome = tokens.stop().await;
    println!(
        "{} tokens acknowledged, {} connections broken",
        outcome.acked_count(),
        outcome.broken
    );
    let mut proxy = connect(cluster.port("proxy-1")).await;
    outcome.assert_kept_by(&mut proxy).await;
    let mut master = connect(cluster.port("master-1")).await;
    wait_equal(&mut master, &mut connect(cluster.port("replica-1")).await).await;
    let fresh = cluster.rebuilt().await;
    let mut fresh = fresh.connect().await;
    outcome.assert_kept_by(&mut fresh).await;
    wait_equal(&mut master, &mut fresh).await;
}

async fn killed_under_load(victim: Victim) {
    let mut cluster = DevCluster::start(Options::default()).await;
    let tokens = Tokens::start(cluster.port("proxy-1"), 8, "failover");
    for quorum_gone in [Duration::ZERO, Duration::from_millis(300), Duration::ZERO] {
        let outage = kill_and_wait(&cluster, &tokens, victim, quorum_gone).await;
        println!("{victim:?} killed, {quorum_gone:?} after the quorum was gone: outage {outage:?}");
    }
    nothing_is_missing(&cluster, tokens).await;
    cluster.down().await;
}

#[tokio::test]
async fn a_killed_master_is_served_again_by_itself_and_nothing_is_missing() {
    killed_under_load(Victim::Master).await;
}

#[test]
fn catches_a_killed_master_whose_replies_were_not_held() {
    assert_catches(
        "a_killed_master_is_served_again_by_itself_and_nothing_is_missing",
        "hold_no_hold",
    );
}

#[tokio::test]
async fn master_and_proxy_killed_together_are_served_again_and_nothing_is_missing() {
    killed_under_load(Victim::Both).await;
}

#[test]
fn catches_master_and_proxy_whose_replies_were_not_held() {
    assert_catches(
        "master_and_proxy_killed_together_are_served_again_and_nothing_is_missing",
        "hold_no_hold",
    );
}

/// Kills the master; the proxy promotes it again, and is killed between REPLICAOF NO ONE and the lineage record.
async fn proxy_killed_before_the_lineage_record(cluster: &DevCluster, tokens: &Tokens, pause: &Marker) {
    const HELD: &str = "held before the lineage record";
    let before = described(cluster).await;
    let (held_before, run_before) = (
        cluster.log("proxy-1").matches(HELD).count(),
        run_id(cluster).await,
    );
    pause.hold();
    cluster.kill("master-1");
    eventually("a promotion without a name", AGAIN, || async {
        let held = cluster.log("proxy-1").matches(HELD).count() > held_before;
        if held {
            Ok(())
        } else {
            Err("the proxy is not there yet")
        }
    })
    .await;
    let mut master = connect(cluster.port("master-1")).await;
    let (promoted, replid) = (
        info_field(&mut master, "server", "run_id").await,
        info_field(&mut master, "replication", "master_replid").await,
    );
    assert_ne!(promoted, run_before);
    assert_eq!(info_field(&mut master, "replication", "role").await, "master");
    assert_eq!(
        described(cluster).await.lineage,
        before.lineage,
        "the lineage knows it already"
    );
    let acked = tokens.acked();
    let (syncs, killed) = (cluster.full_syncs(), cluster.kill("proxy-1"));
    pause.let_go();
    cluster.restarted("proxy-1", killed).await;
    tokens.progress(100, AGAIN).await;

    assert!(tokens.acked() > acked);
    let after = described(cluster).await;
    let session = after.writer.session.expect("a session");
    assert_eq!(
        session.run_id.to_string(),
        promoted,
        "the next proxy finishes what the last one began"
    );
    assert_eq!(info_field(&mut master, "server", "run_id").await, promoted);
    let named = after.lineage.last();
    assert_eq!(
        named.replid.to_string(),
        replid,
        "the promoted server's replid is named"
    );
    assert_eq!(named.from, before.position.tail.max(named.from));
    assert!(after.writer.epoch > before.writer.epoch);
    assert_eq!(
        cluster.full_syncs(),
        syncs,
        "the promoted server is not fed again"
    );
}

#[tokio::test]
async fn a_proxy_killed_between_no_one_and_the_lineage_record_is_finished_by_the_next() {
    let pause = Marker::new("pause_before_lineage");
    let options = Options {
        bugs: pause.planted(),
        ..Options::default()
    };
    let mut cluster = DevCluster::start(options).await;
    let tokens = Tokens::start(cluster.port("proxy-1"), 8, "failover");
    for _ in 0..2 {
        tokens.progress(100, AGAIN).await;
        let gap = Gap::began(tokens.counter());
        proxy_killed_before_the_lineage_record(&cluster, &tokens, &pause).await;
        println!(
            "the proxy was killed before the lineage record: outage {:?}",
            gap.end().await
        );
    }
    nothing_is_missing(&cluster, tokens).await;
    cluster.down().await;
}

#[test]
fn catches_a_promotion_that_is_not_finished_by_the_next() {
    assert_catches(
        "a_proxy_killed_between_no_one_and_the_lineage_record_is_finished_by_the_next",
        "resume_only_what_is_named",
    );
}

/// What a random round does.
#[derive(Clone, Copy, Debug)]
enum Round {
    Kill(Victim, Duration),
    BeforeLineage,
}

/// A splitmix64 sequence: the same seed gives the same rounds.
fn random_rounds(mut seed: u64, count: usize) -> Vec<Round> {
    let mut next = |below: u64| {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    };
    let mut round = || {
        let victim = match next(4) {
            0 => Victim::Master,
            1 => Victim::Proxy,
            2 => Victim::Both,
            _ => return Round::BeforeLineage,
        };
        let gone = if next(2) == 0 { 0 } else { next(800) };
        Round::Kill(victim, Duration::from_millis(gone))
    };
    (0..count).map(|_| round()).collect()
}

/// `REDOUBT_TEST_SEED` repeats a run.
#[tokio::test]
async fn a_random_mix_of_kills_loses_nothing() {
    let given = std::env::var("REDOUBT_TEST_SEED").ok();
    let seed = given.map_or_else(
        || {
            std::time::UNIX_EPOCH
                .elapsed()
                .expect("a clock after 1970")
                .as_nanos() as u64
        },
        |s| s.parse().expect("REDOUBT_TEST_SEED is a number"),
    );
    println!("REDOUBT_TEST_SEED={seed}");
    let pause = Marker::new("pause_before_lineage");
    let options = Options {
        bugs: pause.planted(),
        restart: "200ms",
        ..Options::default()
    };
    let mut cluster = DevCluster::start(options).await;
    let tokens = Tokens::start(cluster.port("proxy-1"), 8, "mix");
    for round in random_rounds(seed, 6) {
        let began = epoch(&cluster).await;
        match round {
            Round::Kill(victim, gone) => {
                let outage = kill_and_wait(&cluster, &tokens, victim, gone).await;
                println!("{round:?} in epoch {began}: outage {outage:?}");
            }
            Round::BeforeLineage => {
                tokens.progress(100, AGAIN).await;
                let gap = Gap::began(tokens.counter());
                proxy_killed_before_the_lineage_record(&cluster, &tokens, &pause).await;
                println!("{round:?} in epoch {began}: outage {:?}", gap.end().await);
            }
        }
    }
    nothing_is_missing(&cluster, tokens).await;
    cluster.down().await;
}
