//! H13, and what is left when capture can't go on: a cut link, over real processes.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

use redis::aio::MultiplexedConnection;
use redoubt_tests::{
    DevCluster, Marker, Options, Raw, Tokens, assert_catches, config_set, connect, eventually, info_field,
    wait_equal,
};
use redoubt_types::Epoch;
use rustix::process::Signal;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);

async fn epoch(cluster: &DevCluster) -> Option<Epoch> {
    let described = cluster.journal().describe(SOON).await;
    described.expect("a quorum").writer.epoch
}

/// Kills the capture link while the proxy stands still, so that it can't be made again yet.
async fn cut_capture(cluster: &DevCluster, master: &mut MultiplexedConnection) {
    cluster.signal("proxy-1", Signal::STOP);
    let mut kill = redis::cmd("CLIENT");
    let killed: u64 = kill
        .arg(&["KILL", "TYPE", "replica"])
        .query_async(master)
        .await
        .unwrap();
    assert_eq!(killed, 1, "capture is the master's only replica");
    eventually("the master has no replica", SOON, || async {
        let mut master = master.clone();
        match info_field(&mut master, "replication", "connected_slaves")
            .await
            .as_str()
        {
            "0" => Ok(()),
            n => Err(n.to_owned()),
        }
    })
    .await;
}

/// Writes `megabytes` past the proxy, as an outsider does.
async fn flood(master: &mut MultiplexedConnection, megabytes: usize) {
    let value = vec![b'x'; 64 << 10];
    for n in 0..megabytes * 16 {
        let told = redis::cmd("SET")
            .arg(format!("direct:{n}"))
            .arg(&value)
            .exec_async(master)
            .await;
        told.expect("SET");
    }
}

#[tokio::test]
async fn h13_a_cut_capture_whose_backlog_was_overrun_ends_in_a_server_that_is_fed_again() {
    let fence = Marker::new("pause_before_fence");
    let options = Options {
        bugs: fence.planted(),
        ..Options::default()
    };
    let mut cluster = DevCluster::start(options).await;
    let port = cluster.port("proxy-1");
    let tokens = Tokens::start(port, 2, "overrun");
    tokens.progress(50, SOON).await;
    let (before, full_syncs) = (epoch(&cluster).await, cluster.full_syncs());
    let mut master = connect(cluster.port("master-1")).await;
    // A read of something that is going to be lost, whose fence is asked behind it.
    let mut reader = Raw::connect(port).await;
    reader.send(&[b"PING"]).await;
    reader.expect("+PONG\r\n", SOON).await;
    fence.hold();
    redis::cmd("SET")
        .arg("direct:0")
        .arg("dirty")
        .exec_async(&mut master)
        .await
        .unwrap();
    reader.send(&[b"GET", b"direct:0"]).await;
    reader
        .stays_silent(Duration::from_millis(300), "a reply without a fence")
        .await;

    cut_capture(&cluster, &mut master).await;
    config_set(&mut master, "repl-backlog-size", "16384").await;
    flood(&mut master, 4).await;
    redis::cmd("SET")
        .arg("after")
        .arg("flood")
        .exec_async(&mut master)
        .await
        .unwrap();
    let began = Instant::now();
    fence.let_go();
    cluster.signal("proxy-1", Signal::CONT);
    reader.closes_without_a_byte(SOON, "a read of what is lost").await;

    tokens.progress(50, Duration::from_secs(60)).await;
    println!("served again {:?} after capture was lost", began.elapsed());
    assert!(epoch(&cluster).await > before);
    assert_eq!(
        cluster.full_syncs(),
        full_syncs + 1,
        "the server is fed anew, once"
    );
    let mut replica = connect(cluster.port("replica-1")).await;
    let outcome = tokens.stop().await;
    let mut master = connect(cluster.port("master-1")).await;
    let lost: u64 = redis::cmd("EXISTS")
        .arg("after")
        .arg("direct:9")
        .query_async(&mut master)
        .await
        .unwrap();
    assert_eq!(lost, 0, "what no journal has is still there");
    // Before it served again it got a backlog that is large enough.
    let backlog = info_field(&mut master, "replication", "repl_backlog_size").await;
    assert_eq!(backlog, (256 << 20).to_string());
    wait_equal(&mut master, &mut replica).await;
    let fresh = cluster.rebuilt().await;
    let mut fresh = fresh.connect().await;
    wait_equal(&mut master, &mut fresh).await;
    outcome.assert_kept_by(&mut fresh).await;
    cluster.down().await;
}

#[test]
fn catches_a_read_of_what_is_lost_and_a_lost_capture_that_is_waited_for() {
    for bug in ["hold_no_hold", "h13_lost_capture_is_waited_for"] {
        assert_catches(
            "h13_a_cut_capture_whose_backlog_was_overrun_ends_in_a_server_that_is_fed_again",
            bug,
        );
    }
}

#[tokio::test]
async fn h13_an_expiry_burst_during_a_cut_is_continued_not_synced_anew() {
    const KEYS: usize = 300_000;
    let mut cluster = DevCluster::start(Options::default()).await;
    let tokens = Tokens::start(cluster.port("proxy-1"), 2, "burst");
    tokens.progress(50, SOON).await;
    let mut master = connect(cluster.port("master-1")).await;
    // All due at the same moment, and not removed before it comes.
    redis::cmd("DEBUG")
        .arg("SET-ACTIVE-EXPIRE")
        .arg(0)
        .exec_async(&mut master)
        .await
        .unwrap();
    let mut proxy = connect(cluster.port("proxy-1")).await;
    let script =
        "for n = 1, 10000 do redis.call('SET', 'due:' .. ARGV[1] .. ':' .. n, 'x', 'PXAT', ARGV[2]) end";
    let due = std::time::SystemTime::now() + Duration::from_secs(12);
    let due_ms = due.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    for n in 0..KEYS / 10_000 {
        let mut eval = redis::cmd("EVAL");
        eval.arg(script).arg(0).arg(n).arg(due_ms);
        eval.exec_async(&mut proxy).await.unwrap();
    }
    let held: usize = redis::cmd("DBSIZE").query_async(&mut master).await.unwrap();
    assert!(held >= KEYS, "this machine is too slow for this test: {held}");
    let mut replica = connect(cluster.port("replica-1")).await;
    eventually("all of them on the replica", SOON, || async {
        let mut replica = replica.clone();
        let held: usize = redis::cmd("DBSIZE").query_async(&mut replica).await.unwrap();
        if held >= KEYS { Ok(()) } else { Err(held) }
    })
    .await;
    let (before, full_syncs) = (epoch(&cluster).await, cluster.full_syncs());
    let offset: u64 = info_field(&mut master, "replication", "master_repl_offset")
        .await
        .parse()
        .unwrap();

    cut_capture(&cluster, &mut master).await;
    let left = due
        .duration_since(std::time::SystemTime::now())
        .unwrap_or_default();
    tokio::time::sleep(left).await;
    config_set(&mut master, "hz", "500").await;
    redis::cmd("DEBUG")
        .arg("SET-ACTIVE-EXPIRE")
        .arg(1)
        .exec_async(&mut master)
        .await
        .unwrap();
    eventually("the burst is over", Duration::from_secs(60), || async {
        let mut master = master.clone();
        let held: usize = redis::cmd("DBSIZE").query_async(&mut master).await.unwrap();
        if held < 100 {
            Ok(())
        } else {
            Err(format!("{held} keys"))
        }
    })
    .await;
    let now: u64 = info_field(&mut master, "replication", "master_repl_offset")
        .await
        .parse()
        .unwrap();
    println!("{} bytes of deletions while capture was cut", now - offset);
    assert!(now - offset > 5 << 20, "that was no burst");
    cluster.signal("proxy-1", Signal::CONT);

    tokens.progress(50, Duration::from_secs(60)).await;
    assert_eq!(epoch(&cluster).await, before, "the session ended");
    assert_eq!(cluster.full_syncs(), full_syncs, "something was synced anew");
    assert_eq!(info_field(&mut master, "stats", "sync_full").await, "0");
    let outcome = tokens.stop().await;
    assert_eq!(outcome.broken, 0, "a client's connection was closed");
    wait_equal(&mut master, &mut replica).await;
    outcome.assert_kept_by(&mut replica).await;
    cluster.down().await;
}

#[test]
fn catches_a_backlog_that_is_too_small() {
    assert_catches(
        "h13_an_expiry_burst_during_a_cut_is_continued_not_synced_anew",
        "h13_no_backlog",
    );
}
