//! H12 over real processes: what a master with `min-replicas-to-write` hears of its capture.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

use redis::aio::MultiplexedConnection;
use redoubt_tests::{
    DevCluster, Marker, Options, Raw, assert_catches, connect, eventually, info_field, try_connect,
    wait_equal,
};
use rustix::process::Signal;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);
/// So long a master here goes on without hearing of a replica, seconds.
const MAX_LAG: u64 = 3;

/// A cluster whose master takes writes only while it hears of a replica, and sends no byte of its own accord.
async fn start(max_lag: u64, bugs: &'static str) -> DevCluster {
    let settings = [
        ("--min-replicas-to-write", "1".to_owned()),
        ("--min-replicas-max-lag", max_lag.to_string()),
        ("--repl-ping-replica-period", "3600".to_owned()),
    ];
    let args = settings
        .into_iter()
        .flat_map(|(name, value)| [("master", name.to_owned()), ("master", value)])
        .chain([("proxy", "--release-deadline-ms=60000".to_owned())]);
    let options = Options {
        bugs,
        args: args.collect(),
        ..Options::default()
    };
    DevCluster::start(options).await
}

async fn client_of(cluster: &DevCluster) -> Raw {
    let mut client = Raw::connect(cluster.port("proxy-1")).await;
    client.send(&[b"SET", b"k", b"v"]).await;
    client.expect("+OK\r\n", SOON).await;
    client
}

/// Stops two of three nodes without killing them, or lets them go on.
fn quorum_stopped(cluster: &DevCluster, stopped: bool) {
    for name in ["journal-1", "journal-2"] {
        cluster.signal(name, if stopped { Signal::STOP } else { Signal::CONT });
    }
}

async fn is_there(master: &mut MultiplexedConnection, key: &str) -> bool {
    redis::cmd("EXISTS")
        .arg(key)
        .query_async(master)
        .await
        .expect("EXISTS")
}

async fn until_there(master: &MultiplexedConnection, key: &str) {
    eventually(key, SOON, || {
        let mut master = master.clone();
        async move {
            if is_there(&mut master, key).await {
                Ok(())
            } else {
                Err("not there")
            }
        }
    })
    .await;
}

/// What the master says of its capture: the offset that it has heard, and how long ago, seconds.
async fn heard(master: &mut MultiplexedConnection) -> (u64, u64) {
    let capture = info_field(master, "replication", "slave0").await;
    let field = |name: &str| {
        let value = capture
            .split(',')
            .find_map(|f| f.strip_prefix(name)?.strip_prefix('='));
        value
            .and_then(|v| v.parse().ok())
            .unwrap_or_else(|| panic!("no {name} in {capture}"))
    };
    (field("offset"), field("lag"))
}

async fn written(master: &mut MultiplexedConnection) -> u64 {
    let offset = info_field(master, "replication", "master_repl_offset").await;
    offset.parse().expect("an offset")
}

#[tokio::test]
async fn h12_a_master_that_wants_replicas_takes_writes_as_long_as_capture_is_up() {
    let mut cluster = start(MAX_LAG, "").await;
    let mut client = client_of(&cluster).await;
    let mut master = connect(cluster.port("master-1")).await;
    for n in 0..2 {
        // Nothing is committed for longer than the master's patience, and there is nothing to commit.
        tokio::time::sleep(Duration::from_secs(MAX_LAG + 1)).await;
        let (_, lag) = heard(&mut master).await;
        assert!(lag <= MAX_LAG, "it was last heard {lag} s ago");
        client.send(&[b"SET", b"idle", n.to_string().as_bytes()]).await;
        client.expect("+OK\r\n", SOON).await;
    }
    assert_eq!(
        info_field(&mut master, "replication", "connected_slaves").await,
        "1"
    );
    let mut replica = connect(cluster.port("replica-1")).await;
    wait_equal(&mut master, &mut replica).await;
    cluster.down().await;
}

#[test]
fn catches_a_capture_that_is_silent_when_idle() {
    assert_catches(
        "h12_a_master_that_wants_replicas_takes_writes_as_long_as_capture_is_up",
        "h12_acks_not_repeated",
    );
}

#[tokio::test]
async fn h12_the_master_never_hears_of_more_than_is_committed() {
    let mut cluster = start(10, "").await;
    let mut client = client_of(&cluster).await;
    let mut master = connect(cluster.port("master-1")).await;
    let described = cluster.journal().describe(SOON).await.expect("a quorum");
    let committed = described.position.tail.get();
    assert_eq!(committed, written(&mut master).await, "an idle master");

    quorum_stopped(&cluster, true);
    client.send(&[b"SET", b"waits", b"1"]).await;
    until_there(&master, "waits").await;
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        let (offset, lag) = heard(&mut master).await;
        assert!(
            offset <= committed,
            "{offset} was acknowledged, {committed} is committed"
        );
        assert!(
            lag <= 3,
            "it was last heard {lag} s ago, and its patience is longer"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(written(&mut master).await > committed);
    client
        .stays_silent(Duration::from_millis(100), "a write without a quorum")
        .await;

    quorum_stopped(&cluster, false);
    client.expect("+OK\r\n", SOON).await;
    let end = written(&mut master).await;
    eventually("the master hears of all of it", SOON, || {
        let mut master = master.clone();
        async move {
            let (offset, _) = heard(&mut master).await;
            if offset == end {
                Ok(())
            } else {
                Err(format!("{offset} of {end}"))
            }
        }
    })
    .await;
    cluster.down().await;
}

#[test]
fn catches_an_acknowledgement_of_what_was_only_captured() {
    assert_catches(
        "h12_the_master_never_hears_of_more_than_is_committed",
        "h12_ack_captured",
    );
}

#[tokio::test]
async fn h12_a_master_that_wants_replicas_hears_nothing_while_bytes_wait_too_long() {
    let mut cluster = start(MAX_LAG, "").await;
    let (mut first, mut second) = (client_of(&cluster).await, client_of(&cluster).await);
    let mut master = connect(cluster.port("master-1")).await;
    quorum_stopped(&cluster, true);
    first.send(&[b"SET", b"first", b"1"]).await;
    until_there(&master, "first").await;
    // Two patiences and some: ours until nothing is repeated, and then its own.
    eventually("the master misses its replica", SOON, || {
        let mut master = master.clone();
        async move {
            let good = info_field(&mut master, "replication", "min_slaves_good_slaves").await;
            if good == "0" {
                Ok(())
            } else {
                Err(format!("{:?}", heard(&mut master).await))
            }
        }
    })
    .await;
    second.send(&[b"SET", b"second", b"1"]).await;
    second
        .stays_silent(
            Duration::from_secs(1),
            "a refusal behind a write that is not durable",
        )
        .await;
    first
        .stays_silent(Duration::from_millis(100), "a write without a quorum")
        .await;
    assert!(
        !is_there(&mut master, "second").await,
        "written although nothing becomes durable"
    );

    quorum_stopped(&cluster, false);
    first.expect("+OK\r\n", SOON).await;
    second.begins("-NOREPLICAS", SOON).await;
    // The master counts its replicas once a second.
    let proxy = cluster.port("proxy-1");
    eventually("writes are taken again", SOON, || async {
        let mut conn = try_connect(proxy).await?;
        redis::cmd("SET")
            .arg(&["second", "2"])
            .exec_async(&mut conn)
            .await
    })
    .await;
    let cuts = cluster.log("proxy-1").matches("the capture link is cut").count();
    assert_eq!(cuts, 0, "silence within repl-timeout cuts nothing");
    cluster.down().await;
}

#[test]
fn catches_acknowledgements_that_go_on_without_commits() {
    assert_catches(
        "h12_a_master_that_wants_replicas_hears_nothing_while_bytes_wait_too_long",
        "h12_acks_without_commits",
    );
}

#[tokio::test]
async fn h12_nothing_is_forwarded_while_capture_is_down() {
    let attach = Marker::new("pause_before_attach");
    let mut cluster = start(10, attach.planted()).await;
    let (mut writer, mut reader) = (client_of(&cluster).await, client_of(&cluster).await);
    let mut master = connect(cluster.port("master-1")).await;
    attach.hold();
    let mut kill = redis::cmd("CLIENT");
    kill.arg(&["KILL", "TYPE", "replica"])
        .exec_async(&mut master)
        .await
        .expect("CLIENT KILL");
    eventually("the cut is noticed", SOON, || async {
        let log = cluster.log("proxy-1");
        if log.contains("the capture link is cut") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
    // Forwarded now, it would be refused for want of replicas, or be where nothing captures it.
    writer.send(&[b"SET", b"held-back", b"1"]).await;
    reader.send(&[b"GET", b"k"]).await;
    writer
        .stays_silent(Duration::from_secs(2), "a write while capture is down")
        .await;
    reader
        .stays_silent(Duration::from_millis(100), "a read while capture is down")
        .await;
    assert!(!is_there(&mut master, "held-back").await, "it was forwarded");
    assert_eq!(
        info_field(&mut master, "replication", "connected_slaves").await,
        "0"
    );
    attach.let_go();
    writer.expect("+OK\r\n", SOON).await;
    reader.expect("$1\r\nv\r\n", SOON).await;
    wait_equal(&mut master, &mut connect(cluster.port("replica-1")).await).await;
    cluster.down().await;
}

#[test]
fn catches_commands_that_are_forwarded_while_capture_is_down() {
    assert_catches(
        "h12_nothing_is_forwarded_while_capture_is_down",
        "h12_forward_while_down",
    );
}
