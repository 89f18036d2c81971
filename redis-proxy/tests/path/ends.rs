//! What a connection may do besides asking: say that it wants no answers, begin anew, end, half-close, and stop reading.

use crate::lab::{A_WHILE, Lab};
use std::fmt::Write;
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn no_answers_come_to_who_wants_none_and_the_others_stay_in_order() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut client = lab.client().await;
    let mut commands = "INCR n\r\nCLIENT REPLY SKIP\r\nINCR n\r\nINCR n\r\nCLIENT REPLY OFF\r\n".to_owned();
    commands += &"INCR n\r\n".repeat(1000);
    commands += "MULTI\r\nINCR n\r\nEXEC\r\nSHUTDOWN\r\nNOSUCH\r\nCLIENT REPLY ON\r\nINCR n\r\nCLIENT NO-EVICT on\r\n";
    client.send(commands).await;
    client.expect(":1\r\n:3\r\n+OK\r\n:1005\r\n+OK\r\n").await;
}

#[tokio::test]
async fn reset_begins_anew() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut client = lab.client().await;
    client
        .send("SELECT 3\r\nSET k v\r\nWATCH k\r\nMULTI\r\nINCR n\r\nRESET\r\nEXEC\r\nGET k\r\nGET n\r\n")
        .await;
    client
        .expect("+OK\r\n+OK\r\n+OK\r\n+OK\r\n+QUEUED\r\n+RESET\r\n-ERR EXEC without MULTI\r\n$-1\r\n$-1\r\n")
        .await;
    client.send("SUBSCRIBE c\r\nRESET\r\nPING\r\n").await;
    client
        .expect("*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n+RESET\r\n+PONG\r\n")
        .await;
    client.send("HELLO 3\r\nRESET\r\nGET none\r\n").await;
    while client.line().await != "+RESET" {}
    client.expect("$-1\r\n").await;
}

#[tokio::test]
async fn nothing_behind_a_quit_is_executed() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut client = lab.client().await;
    client.send("INCR n\r\nQUIT\r\nINCR n\r\n").await;
    assert_eq!(client.rest().await, b":1\r\n+OK\r\n");
    let mut client = lab.client().await;
    client.send("GET n\r\n").await;
    client.expect("$1\r\n1\r\n").await;
}

#[tokio::test]
async fn every_answer_of_a_pipeline_comes_before_the_end_to_who_half_closes() {
    let lab = Lab::new().await;
    lab.commit_ever();
    for own in [false, true] {
        let (mut client, n) = (lab.client().await, 5_000);
        let (mut commands, mut answers) = ("DEL n\r\n".to_owned(), ":".to_owned());
        if own {
            commands = "MULTI\r\nDEL n\r\nEXEC\r\n".to_owned();
            answers = "+OK\r\n+QUEUED\r\n*1\r\n:1\r\n".to_owned();
        } else {
            answers += "0\r\n";
        }
        for i in 1..=n {
            commands += "INCR n\r\n";
            write!(answers, ":{i}\r\n").unwrap();
        }
        client.send(commands).await;
        client.conn.shutdown().await.unwrap();
        assert!(client.rest().await == answers.as_bytes());
    }
}

/// The commands of a value's `SET` and its `GET`, and its answer.
fn large(len: usize) -> (String, &'static str, String) {
    let value = "v".repeat(len);
    let set = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${len}\r\n{value}\r\n");
    (
        set,
        "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
        format!("${len}\r\n{value}\r\n"),
    )
}

#[tokio::test]
async fn who_is_owed_megabytes_may_write_megabytes_before_it_reads() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let (set, get, answer) = large(1_000_000);
    let mut client = lab.client().await;
    client.send_as_it_is(set.as_bytes()).await;
    client.expect("+OK\r\n").await;
    client.send_as_it_is(get.repeat(8) + &set.repeat(12)).await;
    client.expect(answer.repeat(8) + &"+OK\r\n".repeat(12)).await;
}

#[tokio::test]
async fn who_stops_reading_is_waited_for_and_hinders_nobody() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let (mut slow, mut other) = (lab.client().await, lab.client().await);
    let value = "v".repeat(1_000_000);
    other
        .send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\n{value}\r\n"))
        .await;
    other.expect("+OK\r\n").await;
    slow.send("GET k\r\n".repeat(60)).await;
    lab.env.sleep(2 * A_WHILE).await;
    for n in 1..=100 {
        other.send("INCR n\r\n").await;
        other.expect(format!(":{n}\r\n")).await;
    }
    for _ in 0..60 {
        slow.expect("$1000000\r\n").await;
        slow.expect(&value).await;
        slow.expect("\r\n").await;
    }
    slow.send("PING\r\n").await;
    slow.expect("+PONG\r\n").await;
}
