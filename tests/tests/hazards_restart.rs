//! H8 over real processes: nodes come back with less than they served, and no replica is synced anew for that.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

use redoubt_tests::{
    DevCluster, Options, Tokens, assert_catches, connect, eventually, info_field, try_connect, wait_equal,
};
use rustix::process::Signal;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
/// A replica tries again every second, and waits 5 s for a silent master here.
const SEVERAL_ATTEMPTS: Duration = Duration::from_secs(7);

async fn start() -> DevCluster {
    let options = Options {
        replicas: 2,
        restart: "never",
        ..Options::default()
    };
    DevCluster::start(options).await
}

/// Cuts the link of every replica to its replay: it asks for the stream's next byte again.
async fn cut_links(cluster: &DevCluster) {
    for replica in cluster.of_kind("replica") {
        let mut conn = connect(cluster.port(&replica.name)).await;
        let mut kill = redis::cmd("CLIENT");
        kill.arg(&["KILL", "TYPE", "master"]);
        kill.exec_async(&mut conn).await.expect("CLIENT KILL");
    }
}

async fn offset_of(cluster: &DevCluster, replica: &str) -> u64 {
    let mut conn = connect(cluster.port(replica)).await;
    let offset = info_field(&mut conn, "replication", "slave_repl_offset").await;
    offset.parse().expect("an offset")
}

/// Waits until every replica's link is up: it was answered, and continues.
async fn all_linked(cluster: &DevCluster) {
    for replica in cluster.of_kind("replica") {
        let port = cluster.port(&replica.name);
        eventually(&format!("the link of {}", replica.name), SOON, || async {
            let mut conn = try_connect(port).await.map_err(|e| e.to_string())?;
            match info_field(&mut conn, "replication", "master_link_status")
                .await
                .as_str()
            {
                "up" => Ok(()),
                other => Err(other.to_owned()),
            }
        })
        .await;
    }
}

/// Ends the writing: the replicas and a server rebuilt from the journal alone are equal to the master, and hold
/// everything that was acknowledged.
async fn assert_nothing_lost(cluster: &DevCluster, tokens: Tokens) {
    let outcome = tokens.stop().await;
    let mut master = connect(cluster.port("master-1")).await;
    for replica in cluster.of_kind("replica") {
        wait_equal(&mut master, &mut connect(cluster.port(&replica.name)).await).await;
    }
    let fresh = cluster.rebuilt().await;
    outcome.assert_kept_by(&mut fresh.connect().await).await;
    wait_equal(&mut master, &mut fresh.connect().await).await;
}

#[tokio::test]
async fn h08_a_replica_that_is_ahead_of_a_restarted_node_waits_and_is_not_synced_anew() {
    let mut cluster = start().await;
    let tokens = Tokens::start(cluster.port("proxy-1"), 8, "h08");
    tokens.progress(100, SOON).await;
    cluster.dev("stop", "journal-1").await;
    tokens.progress(500, SOON).await;
    // The replicas have more than node 1: also if it was what their replay read from.
    let now = cluster.journal().describe(SOON).await.expect("a quorum answers");
    for replica in cluster.of_kind("replica") {
        eventually(&format!("{} ahead of node 1", replica.name), SOON, || async {
            let at = offset_of(&cluster, &replica.name).await;
            (at >= now.position.tail.get()).then_some(()).ok_or(at)
        })
        .await;
    }
    let full_syncs = cluster.full_syncs();

    // Node 1 returns, and nobody is there who could tell it what it missed.
    for name in ["journal-2", "journal-3"] {
        cluster.signal(name, Signal::STOP);
    }
    cluster.dev("start", "journal-1").await;
    let (journal, address) = (cluster.journal(), cluster.component("journal-1").address);
    let behind = eventually("an answer of journal-1", SOON, || async {
        let told = journal.describe_node(&address, false).await;
        told.map(|d| d.position.tail.get()).map_err(|e| e.to_string())
    })
    .await;
    for replica in cluster.of_kind("replica") {
        let ahead = offset_of(&cluster, &replica.name).await;
        assert!(
            ahead > behind,
            "{} is at {ahead}, the node at {behind}: this proves nothing",
            replica.name
        );
    }
    cut_links(&cluster).await;
    tokio::time::sleep(SEVERAL_ATTEMPTS).await;
    assert_eq!(
        cluster.full_syncs(),
        full_syncs,
        "answered by what one node knows"
    );
    for replica in cluster.of_kind("replica") {
        let mut conn = connect(cluster.port(&replica.name)).await;
        assert_eq!(
            info_field(&mut conn, "replication", "master_link_status").await,
            "down"
        );
    }

    for name in ["journal-2", "journal-3"] {
        cluster.signal(name, Signal::CONT);
    }
    tokens.progress(100, SOON).await;
    all_linked(&cluster).await;
    assert_eq!(cluster.full_syncs(), full_syncs, "a replica was synced anew");
    assert_nothing_lost(&cluster, tokens).await;
    cluster.down().await;
}

#[test]
fn catches_an_answer_from_an_unconfirmed_tail() {
    assert_catches(
        "h08_a_replica_that_is_ahead_of_a_restarted_node_waits_and_is_not_synced_anew",
        "h08_unconfirmed_tail",
    );
}

#[tokio::test]
async fn h08_replicas_that_reconnect_all_through_a_rolling_restart_take_no_full_sync() {
    let mut cluster = start().await;
    let tokens = Tokens::start(cluster.port("proxy-1"), 8, "h08");
    tokens.progress(200, SOON).await;
    let full_syncs = cluster.full_syncs();
    for name in ["journal-1", "journal-2", "journal-3"] {
        cluster.dev("stop", name).await;
        cut_links(&cluster).await;
        tokens.progress(200, SOON).await;
        cluster.dev("start", name).await;
        let (journal, address) = (cluster.journal(), cluster.component(name).address);
        eventually(&format!("{name} confirmed again"), SOON, || async {
            // At every moment of its return replicas ask.
            cut_links(&cluster).await;
            let node = journal.describe_node(&address, true).await;
            match node {
                Ok(node) if node.confirmed => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        all_linked(&cluster).await;
    }
    // And all of them at once.
    for name in ["journal-1", "journal-2", "journal-3"] {
        cluster.kill(name);
    }
    cut_links(&cluster).await;
    for name in ["journal-1", "journal-2", "journal-3"] {
        cluster.dev("start", name).await;
        cut_links(&cluster).await;
    }
    tokens.progress(200, Duration::from_secs(40)).await;
    all_linked(&cluster).await;
    assert_eq!(cluster.full_syncs(), full_syncs, "a replica was synced anew");
    assert_nothing_lost(&cluster, tokens).await;
    cluster.down().await;
}
