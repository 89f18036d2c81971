//! H14 over real processes: a proxy that was stopped past its lease shows nothing of the past.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

use bytes::BytesMut;
use redoubt_client::{AppendStart, Client, Session, WriterError};
use redoubt_resp::stream::encode_command;
use redoubt_tests::{DevCluster, Options, Raw, assert_catches, connect, eventually, try_connect, wait_equal};
use redoubt_types::{HolderId, LineageStep, ReplId, RunId, WallTime};
use rustix::process::Signal;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(10);

/// Another cell: takes the next epoch as soon as it may, and writes `key` as a lawful writer does.
async fn take_over_and_write(journal: &Client, key: &[u8], value: &[u8]) {
    let holder = HolderId::new(77).unwrap();
    let grant = eventually(
        "the lease is given to another",
        Duration::from_secs(20),
        || async {
            match journal
                .acquire(holder, "other cell", Duration::from_secs(2), DEADLINE)
                .await
            {
                Ok(grant) => Ok(grant),
                Err(e @ WriterError::LeaseHeld { .. }) => Err(e.to_string()),
                Err(e) => panic!("the epoch can't be had: {e}"),
            }
        },
    )
    .await;
    let at = grant.position.tail;
    let session = Session {
        epoch: grant.epoch,
        run_id: RunId::from_random([8; 20]),
        at,
        server: "redis 7.0.15".into(),
    };
    journal
        .record_session(&session, DEADLINE)
        .await
        .expect("a session record");
    let step = LineageStep {
        replid: ReplId::from_random([9; 20]),
        from: at,
        epoch: Some(grant.epoch),
    };
    journal
        .record_lineage(&step, DEADLINE)
        .await
        .expect("a lineage record");
    let mut bytes = BytesMut::new();
    encode_command(&[b"SELECT", b"0"], &mut bytes);
    encode_command(&[b"SET", key, value], &mut bytes);
    let mut appender = journal.appender(AppendStart {
        epoch: grant.epoch,
        replid: step.replid,
        start: at,
        chain: grant.position.tail_chain,
    });
    appender.push(bytes.freeze(), WallTime::from_ms(1));
    let appended = appender.next().await.expect("the lawful writer writes");
    assert_eq!(appended.end, appender.end());
}

#[tokio::test]
async fn h14_a_proxy_stopped_past_its_lease_releases_no_read() {
    let mut cluster = DevCluster::start(Options::default()).await;
    let port = cluster.port("proxy-1");
    // No byte moves the server's offset while the proxy is stopped: a read depends on nothing uncommitted, and
    // only the lease keeps it back.
    let mut master = connect(cluster.port("master-1")).await;
    redis::cmd("CONFIG")
        .arg(&["SET", "repl-ping-replica-period", "3600"])
        .exec_async(&mut master)
        .await
        .unwrap();
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
