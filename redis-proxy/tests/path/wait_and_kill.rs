//! What the client path answers in the server's stead, and whom a client may end: over a real server.

use crate::lab::{Lab, Plan, SOON};
use redoubt_env::planted::assert_catches;
use std::time::Duration;

#[tokio::test]
async fn h12_a_wait_is_answered_when_all_before_it_is_committed() {
    let lab = Lab::new().await;
    let mut client = lab.client().await;
    client.send("SET k v\r\nWAIT 1 0\r\nWAITAOF 1 1 0\r\n").await;
    client.expect_silence().await;
    lab.commit_all().await;
    client.expect("+OK\r\n:1\r\n*2\r\n:1\r\n:1\r\n").await;
    // It writes nothing itself.
    let before = lab.offset().await;
    client.send("WAIT 1 0\r\nWAIT 0 100\r\n").await;
    client.expect(":1\r\n:1\r\n").await;
    assert_eq!(lab.offset().await, before);
}

#[tokio::test]
async fn h12_who_waits_for_more_replicas_than_there_are_waits_no_longer_than_it_said() {
    let lab = Lab::with(Plan {
        release_deadline: Duration::from_secs(2),
        ..Plan::default()
    })
    .await;
    lab.commit_ever();
    let (mut client, mut other) = (lab.client().await, lab.client().await);
    client.send("INCR n\r\nWAIT 3 300\r\nINCR n\r\n").await;
    client.expect(":1\r\n").await;
    other.send("GET n\r\n").await;
    other.expect("$1\r\n1\r\n").await;
    client.expect_silence().await;
    client.expect(":1\r\n:2\r\n").await;
    // Without an end of its own it is the release deadline.
    let begun = lab.env.now();
    client.send("WAIT 3 0\r\n").await;
    client.expect(":1\r\n").await;
    let took = lab.env.now().since(begun);
    assert!(took >= Duration::from_secs(2) && took < SOON, "{took:?}");
}

#[tokio::test]
async fn a_wait_within_a_transaction_is_answered_in_its_place() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut client = lab.client().await;
    client
        .send("MULTI\r\nSET k v\r\nWAIT 1 0\r\nWAITAOF 0 1 0\r\nGET k\r\nEXEC\r\n")
        .await;
    let queued = "+QUEUED\r\n".repeat(4);
    client
        .expect(&format!(
            "+OK\r\n{queued}*4\r\n+OK\r\n:1\r\n*2\r\n:1\r\n:1\r\n$1\r\nv\r\n"
        ))
        .await;
}

#[tokio::test]
async fn a_wait_that_is_wrong_is_told_so_by_the_server() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut client = lab.client().await;
    for (wrong, error) in [
        ("WAIT 1", "-ERR wrong number of arguments for 'wait' command\r\n"),
        ("WAIT x 0", "-ERR value is not an integer or out of range\r\n"),
        ("WAIT 1 -1", "-ERR timeout is negative\r\n"),
    ] {
        client.send(format!("{wrong}\r\n")).await;
        client.expect(error).await;
    }
}

#[tokio::test]
async fn h11_a_client_may_end_clients_and_nothing_else() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let (mut client, mut other, mut third) = (lab.client().await, lab.client().await, lab.client().await);
    client.send("CLIENT ID\r\n").await;
    let id: u64 = client.line().await[1..].parse().unwrap();
    third.send("SUBSCRIBE c\r\n").await;
    third.expect("*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n").await;

    // Everything of the server's that is no client of the proxy: capture's link, and whoever asks for fences.
    let mut direct = lab.direct().await;
    direct.send("CLIENT ID\r\n").await;
    let of_another: u64 = direct.line().await[1..].parse().unwrap();
    for refused in [
        format!("CLIENT KILL ID {of_another}"),
        "CLIENT KILL TYPE replica".to_owned(),
        "CLIENT KILL TYPE normal".to_owned(),
        "CLIENT KILL USER default SKIPME yes".to_owned(),
    ] {
        other.send(format!("{refused}\r\n")).await;
        other
            .expect("-ERR CLIENT KILL of what may not be a client is refused by Redoubt: ")
            .await;
        other.line().await;
    }
    direct.send("PING\r\n").await;
    direct.expect("+PONG\r\n").await;

    other.send(format!("CLIENT KILL ID {id}\r\n")).await;
    other.expect(":1\r\n").await;
    client.expect_end().await;
    // It is nobody's any more, and was nobody's but a client's.
    for of_the_gone in ["KILL ID", "UNBLOCK"] {
        other.send(format!("CLIENT {of_the_gone} {id}\r\n")).await;
        other.expect(":0\r\n").await;
    }
    other.send("CLIENT KILL TYPE pubsub\r\n").await;
    other.expect(":1\r\n").await;
    third.expect_end().await;

    other.send("CLIENT ID\r\n").await;
    let own: u64 = other.line().await[1..].parse().unwrap();
    other.send(format!("CLIENT KILL ID {own} SKIPME no\r\n")).await;
    other.expect(":1\r\n").await;
    other.expect_end().await;
}

#[test]
fn catches_waits_that_are_left_to_the_server() {
    assert_catches(
        "h12_who_waits_for_more_replicas_than_there_are_waits_no_longer_than_it_said",
        "h12_wait_is_the_servers",
    );
}
