//! The client path where each client has a connection of its own.
#![expect(clippy::unwrap_used, reason = "helpers of a test: a failure is the test's")]

#[allow(dead_code, reason = "not all helpers are needed here")]
mod lab;
mod path;

use lab::{Lab, Plan, SOON};
use redoubt_proxy::session::EndReason;
use std::time::Duration;

const SHARED: bool = false;

#[tokio::test]
async fn h09_a_reply_whose_server_was_restarted_before_its_fence_is_dropped() {
    let mut lab = Lab::with(Plan {
        fencing: false,
        ..Plan::default()
    })
    .await;
    let mut client = lab.client().await;
    client.send("SET k v\r\n").await;
    client.expect_silence().await;
    // Another process answers at the address now, with offsets as plausible as any.
    lab.server.replace(&lab.env).await;
    lab.commit_ever();
    lab.begin_fencing();
    let reason = lab.env.timeout(SOON, lab.session.wait_end()).await.unwrap();
    assert!(matches!(reason, EndReason::ServerChanged(_)), "{reason:?}");
    client.expect_end().await;
}

#[tokio::test]
async fn h11_h25_a_busy_script_delays_fences_and_ends_nothing() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let (mut busy, mut other) = (lab.client().await, lab.client().await);
    other.send("PING\r\n").await;
    other.expect("+PONG\r\n").await;
    let script = "local t=redis.call('TIME'); local e=t[1]*1000000+t[2]+400000; \
                  repeat t=redis.call('TIME') until t[1]*1000000+t[2]>e; return redis.call('INCR','n')";
    busy.send(format!(
        "*3\r\n$4\r\nEVAL\r\n${}\r\n{script}\r\n$1\r\n0\r\n",
        script.len()
    ))
    .await;
    lab.env.sleep(Duration::from_millis(100)).await;
    // Answered with BUSY by the server at once, and held: its fence is answered with BUSY as well.
    other.send("GET n\r\n").await;
    other.expect_silence().await;
    other.expect("-BUSY ").await;
    busy.expect(":1\r\n").await;
    assert_eq!(lab.session.ended(), None);
}

#[tokio::test]
async fn a_client_goes_with_its_connection() {
    let mut lab = Lab::new().await;
    let mut idle = lab.client().await;
    idle.send("PING\r\n").await;
    idle.expect("+PONG\r\n").await;
    lab.server.kill().await;
    idle.expect_end().await;
}
