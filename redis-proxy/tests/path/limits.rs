//! What is too much is the server's to say: its limits, as it has them now, in its own words.

use crate::lab::{A_WHILE, Client, Lab};

async fn config(direct: &mut Client, name: &str, value: &str) {
    direct.send(format!("CONFIG SET {name} {value}\r\n")).await;
    direct.expect("+OK\r\n").await;
}

/// The beginning of an ECHO of so many bytes, long enough to be passed on.
fn echo(bytes: usize) -> Vec<u8> {
    let mut out = format!("*2\r\n$4\r\nECHO\r\n${bytes}\r\n").into_bytes();
    out.resize(out.len() + bytes.min(70_000), b'x');
    out
}

#[tokio::test]
async fn how_long_an_argument_may_be_is_what_the_server_is_set_to() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut direct = lab.direct().await;
    for (limit, bytes, takes) in [
        ("512mb", 512 * 1024 * 1024, true),
        ("512mb", 512 * 1024 * 1024 + 1, false),
        ("1mb", 1024 * 1024 + 1, false),
        ("1gb", 600_000_000, true),
        ("4gb", 3_000_000_000, true),
    ] {
        config(&mut direct, "proto-max-bulk-len", limit).await;
        let mut client = lab.client().await;
        client.send("PING\r\n").await;
        client.expect("+PONG\r\n").await;
        client.send_as_it_is(echo(bytes)).await;
        if takes {
            client.expect_silence().await;
        } else {
            assert_eq!(
                client.rest().await,
                b"-ERR Protocol error: invalid bulk length\r\n"
            );
        }
    }
}

#[tokio::test]
async fn a_command_may_have_as_many_arguments_as_the_server_takes() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut client = lab.client().await;
    let keys = 1_200_000;
    let mut bytes = format!("SET k v\r\n*{}\r\n$3\r\nDEL\r\n", keys + 1).into_bytes();
    bytes.extend(b"$1\r\nk\r\n".repeat(keys));
    client.send_as_it_is(bytes).await;
    client.expect("+OK\r\n:1\r\n").await;
    let (mut direct, mut client) = (lab.direct().await, lab.client().await);
    for bad in [
        "*2147483648\r\n",
        "*-2147483649\r\nPING\r\n*99999999999999999999\r\n",
    ] {
        direct.send_as_it_is(bad).await;
        client.send_as_it_is(bad).await;
        let want = direct.rest().await;
        assert!(want.ends_with(b"-ERR Protocol error: invalid multibulk length\r\n"));
        assert_eq!(client.rest().await, want);
        (direct, client) = (lab.direct().await, lab.client().await);
    }
}

#[tokio::test]
async fn a_query_beyond_the_servers_buffer_closes_as_there() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut direct = lab.direct().await;
    config(&mut direct, "client-query-buffer-limit", "1mb").await;
    for mut client in [lab.direct().await, lab.client().await] {
        let mut bytes = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4000000\r\n".to_vec();
        bytes.resize(bytes.len() + 3_000_000, b'x');
        client.send_some(&bytes).await;
        client.expect_end().await;
    }
    direct.send("EXISTS k\r\n").await;
    direct.expect(":0\r\n").await;
}

#[tokio::test]
async fn who_is_one_too_many_for_the_server_is_told_so() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut served = lab.client().await;
    served.send("SUBSCRIBE c\r\n").await;
    served.expect("*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n").await;
    lab.env.sleep(A_WHILE).await;
    let mut direct = lab.direct().await;
    direct.send("INFO clients\r\n").await;
    let connected = loop {
        if let Some(n) = direct.line().await.strip_prefix("connected_clients:") {
            break n.to_owned();
        }
    };
    while !direct.line().await.is_empty() {}
    config(&mut direct, "maxclients", &connected).await;
    // Where clients share a connection, one more is kept at hand.
    let mut others = Vec::new();
    loop {
        let mut other = lab.client().await;
        other.send_some(b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nd\r\n").await;
        let line = other.line().await;
        if line.starts_with('-') {
            assert_eq!(line, "-ERR max number of clients reached");
            other.expect_end().await;
            break;
        }
        others.push(other);
        assert!(others.len() < 3, "nobody is turned away");
    }
    config(&mut direct, "maxclients", "1000").await;
    let mut other = lab.client().await;
    other.send("SUBSCRIBE d\r\n").await;
    other.expect("*3\r\n").await;
}

#[tokio::test]
async fn a_server_without_memory_says_so() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let (mut direct, mut client) = (lab.direct().await, lab.client().await);
    client.send("SET k v\r\n").await;
    client.expect("+OK\r\n").await;
    config(&mut direct, "maxmemory", "1").await;
    direct.send("SET k w\r\n").await;
    let want = direct.line().await;
    assert!(want.starts_with("-OOM "), "{want}");
    client
        .send("SET k w\r\nGET k\r\nWAIT 1 0\r\nMULTI\r\nSET k w\r\nEXEC\r\n")
        .await;
    assert_eq!(client.line().await, want);
    client.expect("$1\r\nv\r\n:1\r\n+OK\r\n").await;
    assert_eq!(client.line().await, want);
    client.expect("-EXECABORT ").await;
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_is_dropped_by_the_server_and_no_sooner() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut direct = lab.direct().await;
    direct
        .send_as_it_is("CONFIG SET client-output-buffer-limit \"pubsub 8mb 0 0\"\r\n")
        .await;
    direct.expect("+OK\r\n").await;
    let mut slow = lab.client().await;
    slow.send("SUBSCRIBE c\r\n").await;
    slow.expect("*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n").await;
    let message = format!(
        "*3\r\n$7\r\nPUBLISH\r\n$1\r\nc\r\n$1000000\r\n{}\r\n",
        "m".repeat(1_000_000)
    );
    let mut dropped = 0;
    for n in 1..200 {
        direct.send(&message).await;
        if direct.line().await == ":0" {
            dropped = n;
            break;
        }
    }
    // What sockets hold comes on top.
    assert!((8..100).contains(&dropped), "it was dropped at {dropped} MB");
    let got = slow.rest().await;
    assert!(got.starts_with(b"*3\r\n$7\r\nmessage\r\n"));
    assert!(got.len() < dropped * 1_000_100, "{} bytes", got.len());
}
