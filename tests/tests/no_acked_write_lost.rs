//! Proxy and all journal nodes die at once: each acknowledged write is there exactly once, and the master
//! needed no full sync.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

use redoubt_tests::{DevCluster, Options, Outcome, Tokens, assert_catches, connect, info_field};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
/// Longer than restarts, an election, the dead proxy's lease and a takeover together.
const AGAIN: Duration = Duration::from_secs(60);
const ROUNDS: usize = 3;
/// The journal first: whoever is acknowledged after that was acknowledged without it.
const JOURNAL_AND_PROXY: [&str; 4] = ["journal-1", "journal-2", "journal-3", "proxy-1"];

/// Which process the master is, and which history it writes.
async fn history(cluster: &DevCluster) -> (String, String) {
    let mut master = connect(cluster.port("master-1")).await;
    let run_id = info_field(&mut master, "server", "run_id").await;
    (
        run_id,
        info_field(&mut master, "replication", "master_replid").await,
    )
}

/// Every acknowledged token is there exactly once, from the journal alone over a replica link, and on the master.
async fn assert_kept(cluster: &DevCluster, outcome: &Outcome) {
    println!(
        "{} acknowledged, longest gap {:?}, {} connections broken",
        outcome.acked_count(),
        outcome.outage,
        outcome.broken
    );
    cluster.assert_nothing_lost(outcome).await;
    outcome
        .assert_kept_by(&mut connect(cluster.port("master-1")).await)
        .await;
}

#[tokio::test]
async fn proxy_and_all_nodes_killed_at_once_lose_nothing_and_cost_no_full_sync() {
    let mut cluster = DevCluster::start(Options::default()).await;
    let tokens = Tokens::start(cluster.port("proxy-1"), 16, "all");
    tokens.progress(500, SOON).await;
    let (full_syncs, before) = (cluster.full_syncs(), history(&cluster).await);
    for round in 0..ROUNDS {
        cluster.kill_all(&JOURNAL_AND_PROXY).await;
        tokens.progress(500, AGAIN).await;
        let acked = tokens.acked();
        println!("round {round}: served again, {acked} acknowledged so far");
        // A master that is promoted anew writes another history: this one was resumed.
        assert_eq!(history(&cluster).await, before, "the master was not resumed");
    }
    let outcome = tokens.stop().await;
    assert_eq!(
        cluster.full_syncs(),
        full_syncs,
        "the master or the replica was synced anew"
    );
    let log = cluster.log("proxy-1");
    assert_eq!(log.matches("next: serve epoch").count(), 1 + ROUNDS, "{log}");
    assert!(!log.contains("a replica of the replay"), "{log}");
    assert_kept(&cluster, &outcome).await;
    cluster.down().await;
}

#[test]
fn catches_a_proxy_that_resumes_nothing() {
    assert_catches(
        "proxy_and_all_nodes_killed_at_once_lose_nothing_and_cost_no_full_sync",
        "resume_nothing",
    );
}

#[tokio::test]
async fn everything_killed_at_once_loses_nothing() {
    let mut cluster = DevCluster::start(Options::default()).await;
    let tokens = Tokens::start(cluster.port("proxy-1"), 16, "everything");
    tokens.progress(500, SOON).await;
    let everything = [&JOURNAL_AND_PROXY[..], &["master-1", "replica-1", "replay-1"]].concat();
    for round in 0..ROUNDS {
        cluster.kill_all(&everything).await;
        tokens.progress(500, AGAIN).await;
        let acked = tokens.acked();
        println!("round {round}: served again, {acked} acknowledged so far");
    }
    let outcome = tokens.stop().await;
    assert_kept(&cluster, &outcome).await;
    cluster.down().await;
}

#[test]
fn catches_replies_that_are_not_held() {
    assert_catches("everything_killed_at_once_loses_nothing", "hold_no_hold");
}
