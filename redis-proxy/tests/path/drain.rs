//! What clients see when the proxy is told to stop: over a real server.

use crate::lab::{Lab, SOON};
use redoubt_types::limits::DRAIN_CLIENTS_MAX;

#[tokio::test]
async fn a_drain_gives_what_was_asked_for_and_nothing_else_and_closes() {
    let lab = Lab::new().await;
    let (mut writer, mut midway) = (lab.client().await, lab.client().await);
    let (mut idle, mut blocked, mut listener) = (lab.client().await, lab.client().await, lab.client().await);
    listener.send("SUBSCRIBE c\r\n").await;
    lab.commit_all().await;
    listener
        .expect("*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
        .await;
    idle.send("PING\r\n").await;
    idle.expect("+PONG\r\n").await;
    blocked.send("BLPOP list 0\r\n").await;
    midway
        .send_as_it_is("*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$100\r\nx")
        .await;
    midway.expect("+PONG\r\n").await;
    writer.send("SET k v\r\n").await;
    writer.send("GET k\r\n").await;
    writer.expect_silence().await;

    lab.drain.send_replace(true);
    for client in [&mut idle, &mut midway, &mut blocked, &mut listener] {
        client.expect_end().await;
    }
    assert!(
        lab.env.net().connect(&lab.addr).await.is_err(),
        "somebody new is let in"
    );
    // Too late: not executed.
    writer.send("SET k later\r\n").await;
    writer.expect_silence().await;
    lab.commit_ever();
    writer.expect("+OK\r\n$1\r\nv\r\n").await;
    writer.expect_end().await;
    let mut direct = lab.direct().await;
    direct.send_as_it_is("GET k\r\n").await;
    direct.expect("$1\r\nv\r\n").await;
    lab.drained(DRAIN_CLIENTS_MAX).await;
}

#[tokio::test]
async fn a_drain_waits_for_a_slow_command() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut client = lab.client().await;
    let script = "local t=redis.call('TIME'); local e=t[1]*1000000+t[2]+900000; \
                  repeat t=redis.call('TIME') until t[1]*1000000+t[2]>e; return redis.call('INCR','n')";
    let eval = format!("*3\r\n$4\r\nEVAL\r\n${}\r\n{script}\r\n$1\r\n0\r\n", script.len());
    client.send(format!("*1\r\n$4\r\nPING\r\n{eval}")).await;
    client.expect("+PONG\r\n").await;
    lab.drain.send_replace(true);
    client.expect(":1\r\n").await;
    client.expect_end().await;
}

#[tokio::test]
async fn a_drain_reads_what_has_arrived_and_lets_a_client_take_it_slowly() {
    let lab = Lab::new().await;
    let mut client = lab.client().await;
    client.send("PING\r\n").await;
    client.expect("+PONG\r\n").await;
    // Within what is read at once, so that all of it is there.
    let value = "v".repeat(20_000);
    client
        .send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$20000\r\n{value}\r\n"))
        .await;
    client.send("GET k\r\n".repeat(100)).await;
    lab.drain.send_replace(true);
    client.expect_silence().await;
    lab.commit_ever();
    client.expect("+OK\r\n").await;
    for _ in 0..100 {
        client.expect(format!("$20000\r\n{value}\r\n")).await;
    }
    client.expect_end().await;
    lab.drained(SOON).await;
}
