//! Journal nodes die under load: nobody who waits less than the deadline notices, nothing acknowledged is lost.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

use redoubt_tests::{DevCluster, Options, Raw, Tokens, Watched, assert_catches, config_set, eventually};
use redoubt_types::limits::{BACKLOG_BYTES, UNCOMMITTED_BYTES_MAX};
use std::time::{Duration, Instant};

const WRITERS: usize = 16;
/// Longer than an election on a busy machine.
const SOON: Duration = Duration::from_secs(20);
/// The release deadline that the proxy has by default.
const DEADLINE: Duration = Duration::from_secs(15);

fn never_restarts() -> Options {
    Options {
        restart: "never",
        ..Options::default()
    }
}

#[tokio::test]
async fn a_follower_dies_and_no_connection_closes() {
    let mut cluster = DevCluster::start(Options::default()).await;
    let leader = cluster.leader().await;
    let tokens = Tokens::start(cluster.port("proxy-1"), WRITERS, "follower");
    tokens.progress(500, SOON).await;
    let follower = cluster
        .of_kind("journal")
        .into_iter()
        .find(|c| c.name != leader)
        .unwrap()
        .name;
    let killed = cluster.kill(&follower);
    tokens.progress(500, SOON).await;
    cluster.restarted(&follower, killed).await;
    tokens.progress(500, SOON).await;
    assert_eq!(tokens.broken(), 0, "a client noticed");
    let outcome = tokens.stop().await;
    println!(
        "follower killed: {} acknowledged, longest gap {:?}",
        outcome.acked_count(),
        outcome.outage
    );
    cluster.assert_nothing_lost(&outcome).await;
    cluster.down().await;
}

#[tokio::test]
async fn the_leader_dies_and_no_connection_closes() {
    let mut cluster = DevCluster::start(Options::default()).await;
    let tokens = Tokens::start(cluster.port("proxy-1"), WRITERS, "leader");
    for _ in 0..2 {
        tokens.progress(500, SOON).await;
        let leader = cluster.leader().await;
        let at = Instant::now();
        let killed = cluster.kill(&leader);
        tokens.progress(500, SOON).await;
        println!(
            "leader killed: 500 further writes acknowledged after {:?}",
            at.elapsed()
        );
        assert!(at.elapsed() < DEADLINE, "no new leader within the deadline");
        cluster.restarted(&leader, killed).await;
    }
    assert_eq!(tokens.broken(), 0, "a client noticed");
    let outcome = tokens.stop().await;
    println!(
        "{} acknowledged, longest gap {:?}",
        outcome.acked_count(),
        outcome.outage
    );
    cluster.assert_nothing_lost(&outcome).await;
    cluster.down().await;
}

#[tokio::test]
async fn without_a_quorum_nothing_is_acknowledged_and_who_waited_less_than_the_deadline_is_answered() {
    let mut cluster = DevCluster::start(never_restarts()).await;
    let tokens = Tokens::start(cluster.port("proxy-1"), WRITERS, "quorum");
    tokens.progress(500, SOON).await;
    cluster.kill("journal-1");
    cluster.kill("journal-2");
    // What was on its way to a majority when they died may still be answered; then nothing is.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let acked = tokens.acked();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(tokens.acked(), acked, "acknowledged without a quorum");
    cluster.dev("start", "journal-1").await;
    tokens.progress(500, SOON).await;
    assert_eq!(
        tokens.broken(),
        0,
        "a connection that waited less than the deadline was closed"
    );
    cluster.dev("start", "journal-2").await;
    let outcome = tokens.stop().await;
    cluster.assert_nothing_lost(&outcome).await;
    cluster.down().await;
}

/// A client that sends a write as soon as it is connected, and cannot know yet what becomes of it.
async fn asking(port: u16, key: &str) -> Raw {
    let mut client = Raw::connect(port).await;
    assert!(client.send(&[b"SET", key.as_bytes(), b"1"]).await);
    client
}

/// Clients that write large values as fast as they are taken, lose patience and come again.
fn impatient_clients(port: u16, clients: usize, patience: Duration) -> Vec<tokio::task::JoinHandle<()>> {
    let client = |n: usize| async move {
        let (key, value) = (format!("flood:{n}"), vec![b'x'; 100 << 10]);
        loop {
            let mut client = Raw::connect(port).await;
            let writing = async { while client.send(&[b"SET", key.as_bytes(), &value]).await {} };
            // What they are answered is of no interest to them.
            let _ = tokio::time::timeout(patience, writing).await;
        }
    };
    (0..clients).map(|n| tokio::spawn(client(n))).collect()
}

#[test]
fn catches_acknowledgements_without_a_quorum() {
    assert_catches(
        "without_a_quorum_nothing_is_acknowledged_and_who_waited_less_than_the_deadline_is_answered",
        "hold_no_hold",
    );
}

#[tokio::test]
async fn an_outage_of_more_than_a_minute_under_load_loses_nothing_and_ends_by_itself() {
    let mut cluster = DevCluster::start(never_restarts()).await;
    let port = cluster.port("proxy-1");
    let tokens = Tokens::start(port, WRITERS, "minute");
    tokens.progress(500, SOON).await;
    let watched = Watched::new(&cluster);
    let outage = Instant::now();
    cluster.kill("journal-1");
    cluster.kill("journal-2");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let acked = tokens.acked();
    let mut early = asking(port, "early").await;
    let asked = Instant::now();
    early
        .closes_without_a_byte(
            DEADLINE + Duration::from_secs(5),
            "a write older than the deadline",
        )
        .await;
    assert!(
        asked.elapsed() > DEADLINE - Duration::from_secs(1),
        "closed after {:?}",
        asked.elapsed()
    );
    let flood = impatient_clients(port, 20, Duration::from_secs(2));
    tokio::time::sleep(Duration::from_secs(60).saturating_sub(outage.elapsed())).await;
    flood.iter().for_each(tokio::task::JoinHandle::abort);
    let mut late = asking(port, "late").await;
    tokio::time::sleep(Duration::from_secs(62).saturating_sub(outage.elapsed())).await;
    assert_eq!(tokens.acked(), acked, "acknowledged without a quorum");

    cluster.dev("start", "journal-2").await;
    late.expect("+OK\r\n", DEADLINE).await;
    tokens.progress(500, SOON).await;
    let mut new = asking(port, "new").await;
    new.expect("+OK\r\n", SOON).await;
    println!(
        "an outage of {:?}; at most, grew: {}",
        outage.elapsed(),
        watched.assert_bounded(&cluster, "proxy-1", 200 << 20)
    );
    cluster.dev("start", "journal-1").await;
    let outcome = tokens.stop().await;
    cluster.assert_nothing_lost(&outcome).await;
    cluster.down().await;
}

#[tokio::test]
async fn clients_that_come_and_go_during_an_outage_do_not_overrun_the_capture() {
    // Nothing is closed for its age: all that was ever sent is there when the quorum returns. The bound on what is
    // uncommitted, and what the server keeps for capture, are an eighth of the defaults: a slow machine overruns those too.
    let args = [
        "--release-deadline-ms=60000".to_owned(),
        format!("--uncommitted-bytes-max={}", UNCOMMITTED_BYTES_MAX / 8),
    ];
    let args = args.map(|arg| ("proxy", arg)).to_vec();
    let mut cluster = DevCluster::start(Options {
        args,
        ..never_restarts()
    })
    .await;
    let port = cluster.port("proxy-1");
    let tokens = Tokens::start(port, WRITERS, "overrun");
    tokens.progress(100, SOON).await;
    let kept = (BACKLOG_BYTES / 8).to_string();
    let mut master = redoubt_tests::connect(cluster.port("master-1")).await;
    config_set(&mut master, "repl-backlog-size", &kept).await;
    // Never less than the backlog, whatever is set.
    let output = format!("replica {kept} {kept} 60");
    config_set(&mut master, "client-output-buffer-limit", &output).await;
    let full_syncs = cluster.full_syncs();
    cluster.kill("journal-1");
    cluster.kill("journal-2");
    let flood = impatient_clients(port, 100, Duration::from_secs(1));
    tokio::time::sleep(Duration::from_secs(10)).await;
    flood.iter().for_each(tokio::task::JoinHandle::abort);
    let mut late = asking(port, "late").await;
    cluster.dev("start", "journal-1").await;
    late.expect("+OK\r\n", 3 * SOON).await;
    tokens.progress(100, 2 * SOON).await;
    assert_eq!(tokens.broken(), 0, "a client noticed");
    let log = cluster.log("proxy-1");
    assert!(!log.contains("the capture link is cut"), "{log}");
    assert_eq!(cluster.full_syncs(), full_syncs, "the master was fed anew");
    cluster.dev("start", "journal-2").await;
    let outcome = tokens.stop().await;
    cluster.assert_nothing_lost(&outcome).await;
    cluster.down().await;
}

#[test]
fn catches_a_pressure_that_knows_only_what_is_captured() {
    assert_catches(
        "clients_that_come_and_go_during_an_outage_do_not_overrun_the_capture",
        "capture_alone_presses",
    );
}

#[tokio::test]
async fn a_rolling_restart_costs_no_full_sync() {
    let mut cluster = DevCluster::start(Options::default()).await;
    let tokens = Tokens::start(cluster.port("proxy-1"), WRITERS, "rolling");
    tokens.progress(300, SOON).await;
    let full_syncs = cluster.full_syncs();
    for name in ["journal-1", "journal-2", "journal-3"] {
        cluster.dev("stop", name).await;
        tokens.progress(100, SOON).await;
        cluster.dev("start", name).await;
        let address = cluster.component(name).address;
        let journal = cluster.journal();
        eventually(&format!("{name} confirmed again"), SOON, || async {
            let node = journal
                .describe_node(&address, true)
                .await
                .map_err(|e| e.to_string())?;
            if node.confirmed {
                Ok(())
            } else {
                Err("not confirmed".to_owned())
            }
        })
        .await;
    }
    tokens.progress(300, SOON).await;
    assert_eq!(tokens.broken(), 0, "a client noticed");
    let outcome = tokens.stop().await;
    assert_eq!(cluster.full_syncs(), full_syncs, "a replica was synced anew");
    cluster.assert_nothing_lost(&outcome).await;
    cluster.down().await;
}

#[tokio::test]
async fn a_follower_that_was_away_under_heavy_load_catches_up_and_counts_again() {
    let mut cluster = DevCluster::start(never_restarts()).await;
    let leader = cluster.leader().await;
    let nodes: Vec<String> = cluster.of_kind("journal").into_iter().map(|c| c.name).collect();
    let mut followers = nodes.into_iter().filter(|n| *n != leader);
    let (first, second) = (followers.next().unwrap(), followers.next().unwrap());
    let port = cluster.port("proxy-1").to_string();
    let mut load = tokio::process::Command::new("redis-benchmark")
        .args([
            "-p", &port, "-t", "set", "-d", "20000", "-c", "20", "-n", "20000", "-q",
        ])
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.kill(&first);
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.dev("start", &first).await;
    assert!(load.wait().await.unwrap().success());

    let journal = cluster.journal();
    let tail = journal.describe(SOON).await.unwrap().position.tail;
    let address = cluster.component(&first).address;
    let at = Instant::now();
    eventually(&format!("{first} at {tail}"), Duration::from_secs(40), || async {
        let node = journal
            .describe_node(&address, true)
            .await
            .map_err(|e| e.to_string())?;
        let there = node.position.tail;
        if node.confirmed && there >= tail {
            Ok(())
        } else {
            Err(format!("{there}, confirmed: {}", node.confirmed))
        }
    })
    .await;
    println!("{tail} bytes: caught up {:?} after the load ended", at.elapsed());
    let tokens = Tokens::start(cluster.port("proxy-1"), WRITERS, "counts");
    tokens.progress(100, SOON).await;
    cluster.kill(&second);
    tokens.progress(500, SOON).await;
    let outcome = tokens.stop().await;
    assert_eq!(outcome.broken, 0, "a client noticed");
    cluster.assert_nothing_lost(&outcome).await;
    cluster.down().await;
}
