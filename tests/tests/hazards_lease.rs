//! H14 over real processes: a proxy that was stopped past its lease shows nothing of the past.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

use redoubt_tests::{
    DevCluster, Options, Raw, assert_catches, config_set, connect, eventually, take_over_and_write,
    try_connect, wait_equal,
};
use rustix::process::Signal;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn h14_a_proxy_stopped_past_its_lease_releases_no_read() {
    let mut cluster = DevCluster::start(Options::default()).await;
    let port = cluster.port("proxy-1");
    // No byte moves the server's offset while the proxy is stopped: a read depends on nothing uncommitted, and
    // only the lease keeps it back.
    let mut master = connect(cluster.port("master-1")).await;
    config_set(&mut master, "repl-ping-replica-period", "3600").await;
    let mut reader = Raw::connect(port).await;
    reader.send(&[b"SET", b"k", b"old"]).await;
    reader.expect("+OK\r\n", DEADLINE).await;
    reader.send(&[b"GET", b"k"]).await;
    reader.expect("$3\r\nold\r\n", DEADLINE).await;

    cluster.signal("proxy-1", Signal::STOP);
    assert!(reader.send(&[b"GET", b"k"]).await);
    take_over_and_write(&cluster.journal(), b"k", b"new").await;
    // The proxy can't be told that it is fenced: it must know by itself that it can't know.
    let journals = cluster.of_kind("journal");
    for node in &journals {
        cluster.signal(&node.name, Signal::STOP);
    }
    cluster.signal("proxy-1", Signal::CONT);
    reader
        .stays_silent(Duration::from_secs(3), "a read that may be of the past")
        .await;
    for node in &journals {
        cluster.signal(&node.name, Signal::CONT);
    }
    reader
        .closes_without_a_byte(Duration::from_secs(20), "a read under an epoch that was fenced")
        .await;
    eventually(
        "the proxy learns that it is fenced",
        Duration::from_secs(5),
        || async {
            let log = cluster.log("proxy-1");
            let told = log.contains("the session ended") && log.contains("fenced: epoch");
            if told { Ok(()) } else { Err(log) }
        },
    )
    .await;

    // It takes the next epoch by itself, and whoever reads then reads what the other cell wrote.
    eventually("a read through the proxy", Duration::from_secs(60), || async {
        let mut conn = try_connect(port).await?;
        let read: String = redis::cmd("GET").arg("k").query_async(&mut conn).await?;
        assert_eq!(read, "new");
        redis::RedisResult::Ok(())
    })
    .await;
    let mut replica = connect(cluster.port("replica-1")).await;
    wait_equal(&mut connect(cluster.port("master-1")).await, &mut replica).await;
    cluster.down().await;
}

#[test]
fn catches_a_release_without_a_lease() {
    assert_catches(
        "h14_a_proxy_stopped_past_its_lease_releases_no_read",
        "h14_release_without_lease",
    );
}
