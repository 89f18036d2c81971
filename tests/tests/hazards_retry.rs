//! H2 over real processes: an append whose answer never came is there once, or it is nobody's.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

use redoubt_tests::{
    DevCluster, Marker, Options, Raw, assert_catches, connect, contains, eventually, info_field, served,
    take_over_and_write, try_connect, wait_equal,
};
use rustix::process::Signal;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);
/// Longer than a restart, a takeover and a full sync together.
const AGAIN: Duration = Duration::from_secs(60);
/// A hold that is longer than any of these tests: only what they are about ends it.
const PATIENT: &str = "--release-deadline-ms=120000";

async fn cluster_with(pause: &Marker, args: &[&str]) -> DevCluster {
    let options = Options {
        bugs: pause.planted(),
        args: args.iter().map(|arg| ("proxy", (*arg).to_owned())).collect(),
        ..Options::default()
    };
    DevCluster::start(options).await
}

/// A client in service, which has pushed `begun`.
async fn client_of(cluster: &DevCluster) -> Raw {
    let mut client = Raw::connect(cluster.port("proxy-1")).await;
    client.send(&[b"RPUSH", b"list", b"begun"]).await;
    client.expect(":1\r\n", SOON).await;
    client
}

async fn list_of(port: u16) -> Vec<String> {
    let mut server = connect(port).await;
    let mut ask = redis::cmd("LRANGE");
    ask.arg(&["list", "0", "-1"]);
    ask.query_async(&mut server).await.expect("LRANGE")
}

/// Waits until the server at `port` has `pushed` at the end of the list.
async fn until_pushed(port: u16, pushed: &str) {
    eventually(pushed, SOON, || async {
        let list = list_of(port).await;
        if list.last().is_some_and(|last| last == pushed) {
            Ok(())
        } else {
            Err(format!("{list:?}"))
        }
    })
    .await;
}

/// Waits until a client of the proxy is served.
async fn until_served(cluster: &DevCluster) {
    let port = cluster.port("proxy-1");
    eventually("service", AGAIN, || async {
        let mut conn = try_connect(port).await?;
        redis::cmd("SET").arg(&["again", "1"]).exec_async(&mut conn).await
    })
    .await;
}

/// The list holds exactly `wanted` on the master, on the replica, and in a server rebuilt from the journal alone.
async fn assert_list(cluster: &DevCluster, wanted: &[&str]) {
    let (master, replica) = (cluster.port("master-1"), cluster.port("replica-1"));
    wait_equal(&mut connect(master).await, &mut connect(replica).await).await;
    let fresh = cluster.rebuilt().await;
    wait_equal(&mut connect(master).await, &mut fresh.connect().await).await;
    for port in [master, replica, fresh.port] {
        assert_eq!(list_of(port).await, wanted);
    }
}

#[tokio::test]
async fn h02_an_append_whose_answers_are_lost_is_there_once_and_acknowledged_once() {
    let lost = Marker::new("answers_are_lost");
    let mut cluster = cluster_with(&lost, &[PATIENT]).await;
    let mut client = client_of(&cluster).await;
    lost.hold();
    client.send(&[b"RPUSH", b"list", b"once"]).await;
    // It is committed, and repeated again and again, since its writer can't know that.
    until_pushed(cluster.port("replica-1"), "once").await;
    client
        .stays_silent(Duration::from_secs(2), "a write whose append was not answered")
        .await;
    let tail = cluster
        .journal()
        .describe(SOON)
        .await
        .expect("a quorum")
        .position
        .tail;
    let mut master = connect(cluster.port("master-1")).await;
    let written = info_field(&mut master, "replication", "master_repl_offset").await;
    assert!(
        tail.get() <= written.parse().expect("an offset"),
        "the journal ends at {tail}, and its server has written {written} bytes"
    );
    lost.let_go();
    client.expect(":2\r\n", AGAIN).await;
    client.send(&[b"RPUSH", b"list", b"after"]).await;
    client.expect(":3\r\n", SOON).await;
    assert_list(&cluster, &["begun", "once", "after"]).await;
    cluster.down().await;
}

#[test]
fn catches_a_retry_that_is_admitted_again() {
    assert_catches(
        "h02_an_append_whose_answers_are_lost_is_there_once_and_acknowledged_once",
        "h01_admit_at_proposal",
    );
}

#[tokio::test]
async fn h02_what_a_proxy_killed_between_append_and_answer_wrote_is_there_once() {
    let lost = Marker::new("answers_are_lost");
    let mut cluster = cluster_with(&lost, &[PATIENT]).await;
    let mut client = client_of(&cluster).await;
    let full_syncs = cluster.full_syncs();
    lost.hold();
    client.send(&[b"RPUSH", b"list", b"once"]).await;
    until_pushed(cluster.port("replica-1"), "once").await;
    client
        .stays_silent(
            Duration::from_millis(300),
            "a write whose append was not answered",
        )
        .await;
    let killed = cluster.kill("proxy-1");
    client
        .closes_without_a_byte(SOON, "a write whose proxy was killed")
        .await;
    lost.let_go();
    cluster.restarted("proxy-1", killed).await;
    until_served(&cluster).await;
    assert_eq!(cluster.full_syncs(), full_syncs, "a live master was fed anew");
    let mut client = Raw::connect(cluster.port("proxy-1")).await;
    client.send(&[b"RPUSH", b"list", b"after"]).await;
    client.expect(":3\r\n", SOON).await;
    assert_list(&cluster, &["begun", "once", "after"]).await;
    cluster.down().await;
}

#[tokio::test]
async fn h02_what_stands_now_where_a_write_was_to_be_does_not_acknowledge_it() {
    let renewal = Marker::new("pause_before_renewal");
    let mut cluster = cluster_with(&renewal, &[PATIENT, "--lease-ms=6000"]).await;
    let mut client = client_of(&cluster).await;
    // Only its append can tell this proxy that it is fenced.
    renewal.hold();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let nodes = cluster.of_kind("journal");
    for node in &nodes {
        cluster.signal(&node.name, Signal::STOP);
    }
    client.send(&[b"RPUSH", b"list", b"lost"]).await;
    until_pushed(cluster.port("master-1"), "lost").await;
    // Its fence is received while the lease lasts: only that it is not committed keeps the reply back.
    client
        .stays_silent(Duration::from_millis(500), "a write that no node has")
        .await;
    cluster.signal("proxy-1", Signal::STOP);
    // The append waits in a socket of the leader's: it dies with it.
    for node in &nodes {
        let killed = cluster.kill(&node.name);
        cluster.restarted(&node.name, killed).await;
    }
    let journal = cluster.journal();
    take_over_and_write(&journal, b"other", &[b'x'; 1000]).await;
    assert!(
        !contains(&served(&journal).await, b"lost"),
        "it was admitted: this proves nothing"
    );

    cluster.signal("proxy-1", Signal::CONT);
    client
        .closes_without_a_byte(AGAIN, "a write that is in no journal")
        .await;
    renewal.let_go();
    until_served(&cluster).await;
    assert_list(&cluster, &["begun"]).await;
    cluster.down().await;
}

#[test]
fn catches_a_retry_that_is_known_by_its_offset() {
    assert_catches(
        "h02_what_stands_now_where_a_write_was_to_be_does_not_acknowledge_it",
        "h02_retry_by_offset",
    );
}
