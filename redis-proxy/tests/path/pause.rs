//! CLIENT PAUSE and UNPAUSE: what waits, what does not, and for how long; over a real server, which knows nothing of it.

use crate::lab::{A_WHILE, Client, Lab, Plan};
use redoubt_proxy::session::EndReason;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

async fn two(lab: &Lab) -> (Client, Client) {
    lab.commit_ever();
    let (mut one, mut other) = (lab.client().await, lab.client().await);
    for client in [&mut one, &mut other] {
        client.send("PING\r\n").await;
        client.expect("+PONG\r\n").await;
    }
    (one, other)
}

#[tokio::test]
async fn a_pause_of_all_keeps_every_command_until_its_end() {
    let lab = Lab::new().await;
    let (mut one, mut other) = two(&lab).await;
    let begun = lab.env.now();
    one.send("CLIENT PAUSE 600\r\nGET k\r\n").await;
    one.expect("+OK\r\n").await;
    other.send("PING\r\nSET k v\r\n").await;
    // Who comes meanwhile waits too, and so does who asks for its end: as with Redis.
    let mut third = lab.client().await;
    third.send("CLIENT UNPAUSE\r\n").await;
    for client in [&mut one, &mut other, &mut third] {
        client.expect_silence().await;
    }
    other.expect("+PONG\r\n+OK\r\n").await;
    assert!(lab.env.now().since(begun) >= Duration::from_millis(600));
    third.expect("+OK\r\n").await;
    one.expect("$").await;
}

#[tokio::test]
async fn a_pause_of_writes_keeps_what_may_write_until_it_is_ended() {
    let lab = Lab::new().await;
    let (mut one, mut other) = two(&lab).await;
    let mut watching = lab.client().await;
    watching.send("SET k v\r\nSUBSCRIBE c\r\n").await;
    watching
        .expect("+OK\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
        .await;
    one.send("CLIENT PAUSE 60000 write\r\nGET k\r\nSET k w\r\nGET k\r\n")
        .await;
    one.expect("+OK\r\n$1\r\nv\r\n").await;
    one.expect_silence().await;
    other
        .send("GET k\r\nEXISTS k\r\nEVAL_RO return(1) 0\r\nWATCH other\r\nSCRIPT EXISTS x\r\n")
        .await;
    other.expect("$1\r\nv\r\n:1\r\n:1\r\n+OK\r\n*1\r\n:0\r\n").await;
    let mut waiting = Vec::new();
    for command in [
        "PUBLISH c m",
        "EVAL return(1) 0",
        "PFCOUNT p",
        "EXPIRE k 100",
        "FUNCTION FLUSH",
        "SORT l",
        "BLPOP l 0.01",
        "FCALL f 0",
    ] {
        let mut client = lab.client().await;
        client.send(format!("{command}\r\n")).await;
        waiting.push((client, command));
    }
    // Nothing of a transaction that writes is executed either, whenever it was begun.
    other.send("MULTI\r\nGET k\r\n").await;
    other.expect("+OK\r\n+QUEUED\r\n").await;
    other.send("DEL k\r\nEXEC\r\n").await;
    for (client, _) in &mut waiting {
        client.expect_silence().await;
    }
    other.expect_silence().await;
    watching.expect_silence().await;
    let mut last = lab.client().await;
    last.send("CLIENT UNPAUSE\r\n").await;
    last.expect("+OK\r\n").await;
    for (client, command) in &mut waiting {
        let answer = client.line().await;
        assert!(!answer.is_empty(), "{command}");
    }
    // Who waited first need not be first.
    let queued = other.line().await;
    assert_eq!(queued, "+QUEUED");
    other.expect("*2\r\n$1\r\n").await;
    one.expect("+OK\r\n").await;
}

#[tokio::test]
async fn a_transaction_with_a_write_from_before_the_pause_waits_with_its_exec() {
    let lab = Lab::new().await;
    let (mut one, mut other) = two(&lab).await;
    other.send("MULTI\r\nSET k v\r\n").await;
    other.expect("+OK\r\n+QUEUED\r\n").await;
    one.send("CLIENT PAUSE 60000 WRITE\r\nPING\r\n").await;
    one.expect("+OK\r\n+PONG\r\n").await;
    other.send("EXEC\r\n").await;
    other.expect_silence().await;
    one.send("CLIENT UNPAUSE\r\n").await;
    one.expect("+OK\r\n").await;
    other.expect("*1\r\n+OK\r\n").await;
}

#[tokio::test]
async fn the_latest_end_and_the_stronger_kind_win() {
    let lab = Lab::new().await;
    let (mut one, mut other) = two(&lab).await;
    let begun = lab.env.now();
    one.send("CLIENT PAUSE 700 WRITE\r\n").await;
    one.expect("+OK\r\n").await;
    one.send("CLIENT PAUSE 50 ALL\r\n").await;
    one.expect("+OK\r\n").await;
    other.send("GET k\r\n").await;
    other.expect("$-1\r\n").await;
    assert!(lab.env.now().since(begun) >= Duration::from_millis(700));
}

#[tokio::test]
async fn who_waits_for_a_pause_is_not_past_the_deadline_and_a_session_that_ends_drops_it() {
    let lab = Lab::with(Plan {
        release_deadline: 2 * A_WHILE,
        ..Plan::default()
    })
    .await;
    let (mut one, mut other) = two(&lab).await;
    for kind in ["WRITE", "ALL"] {
        one.send(format!("CLIENT PAUSE 1000 {kind}\r\n")).await;
        one.expect("+OK\r\n").await;
        other.send("INCR n\r\n").await;
        other.expect_silence().await;
        other.expect(":").await;
        other.line().await;
    }
    one.send("CLIENT PAUSE 60000\r\n").await;
    one.expect("+OK\r\n").await;
    other.send("INCR n\r\n").await;
    other.expect_silence().await;
    lab.session.end(EndReason::Fenced("by the test".to_owned()));
    other.expect_end().await;
    let mut direct = lab.direct().await;
    direct.send("GET n\r\n").await;
    direct.expect("$1\r\n2\r\n").await;
}

#[tokio::test]
async fn replies_of_what_was_executed_before_a_pause_leave_during_it() {
    let lab = Lab::new().await;
    let (mut one, mut other) = (lab.client().await, lab.client().await);
    other.send("SET k v\r\n").await;
    other.expect_silence().await;
    one.send("CLIENT PAUSE 60000\r\n").await;
    one.expect_silence().await;
    lab.commit_all().await;
    other.expect("+OK\r\n").await;
    one.expect("+OK\r\n").await;
    // The proxy's own are not paused, nor the server.
    let mut direct = lab.direct().await;
    direct.send("SET k w\r\n").await;
    direct.expect("+OK\r\n").await;
}

#[tokio::test]
async fn who_closes_while_it_waits_is_executed_all_the_same() {
    let lab = Lab::new().await;
    let (mut one, mut other) = two(&lab).await;
    one.send("CLIENT PAUSE 400\r\n").await;
    one.expect("+OK\r\n").await;
    other.send("INCR n\r\nINCR n\r\n").await;
    other.conn.shutdown().await.unwrap();
    other.expect_silence().await;
    assert_eq!(other.rest().await, b":1\r\n:2\r\n");
}

#[tokio::test]
async fn what_is_wrong_is_told_by_the_server_and_pauses_nothing() {
    let lab = Lab::new().await;
    let (mut one, mut other) = two(&lab).await;
    let mut direct = lab.direct().await;
    for wrong in [
        "CLIENT PAUSE",
        "CLIENT PAUSE x",
        "CLIENT PAUSE -1",
        "CLIENT PAUSE 01 ALL",
        "CLIENT PAUSE 1000 SOME",
        "CLIENT PAUSE 99999999999999999999",
        "CLIENT UNPAUSE now",
    ] {
        direct.send(format!("{wrong}\r\n")).await;
        let want = direct.line().await;
        assert!(want.starts_with("-ERR "), "{want}");
        one.send(format!("{wrong}\r\n")).await;
        assert_eq!(one.line().await, want);
    }
    one.send("MULTI\r\nCLIENT PAUSE 60000\r\nEXEC\r\n").await;
    one.expect("+OK\r\n-ERR CLIENT PAUSE in a transaction").await;
    one.line().await;
    one.expect("-EXECABORT").await;
    one.line().await;
    one.send("CLIENT PAUSE 60000 ALL x\r\n").await;
    one.expect("-ERR CLIENT PAUSE in a transaction, or with more")
        .await;
    one.line().await;
    other.send("SET k v\r\n").await;
    other.expect("+OK\r\n").await;
    // Past every clock: as long as it is not ended.
    one.send("CLIENT PAUSE 9223372036854775807 WRITE\r\n").await;
    one.expect("+OK\r\n").await;
    other.send("INCR n\r\n").await;
    other.expect_silence().await;
    one.send("CLIENT UNPAUSE\r\n").await;
    one.expect("+OK\r\n").await;
    other.expect(":1\r\n").await;
}

#[tokio::test]
async fn who_may_not_pause_does_not() {
    let lab = Lab::new().await;
    let (mut one, mut other) = two(&lab).await;
    let mut direct = lab.direct().await;
    direct
        .send("ACL SETUSER few on nopass ~* +@all -client|kill\r\n")
        .await;
    direct.expect("+OK\r\n").await;
    one.send("AUTH few x\r\nCLIENT PAUSE 60000\r\nPING\r\n").await;
    one.expect("+OK\r\n-NOPERM ").await;
    one.line().await;
    one.expect("+PONG\r\n").await;
    other.send("SET k v\r\n").await;
    other.expect("+OK\r\n").await;
    // Nor does who wants no answer: without one it is not known whether it may.
    other
        .send("CLIENT REPLY OFF\r\nCLIENT PAUSE 60000\r\nINCR n\r\nCLIENT REPLY ON\r\nGET n\r\n")
        .await;
    other.expect("+OK\r\n$1\r\n1\r\n").await;
}
