//! The client path where clients share a connection as long as their commands allow it.
#![expect(clippy::unwrap_used, reason = "helpers of a test: a failure is the test's")]

#[allow(dead_code, reason = "not all helpers are needed here")]
mod lab;
mod path;

use lab::{Client, Lab, SOON};
use redoubt_env::planted::assert_catches;
use std::time::Duration;

const SHARED: bool = true;

/// Runs for 400 ms; the last bytes are its answer.
const SCRIPT: &str = "local t=redis.call('TIME'); local e=t[1]*1000000+t[2]+400000; \
    repeat t=redis.call('TIME') until t[1]*1000000+t[2]>e; return redis.call('INCR','n')";

/// Connections of the server that clients have, the proxy's own among them.
async fn connections(lab: &Lab) -> usize {
    let mut control = lab.server.control(&lab.env).await;
    let list = control
        .call(&[b"CLIENT", b"LIST", b"TYPE", b"normal"], SOON)
        .await;
    list.unwrap().as_str().unwrap().lines().count()
}

async fn eval(client: &mut Client, script: &str) {
    client
        .send(format!(
            "*3\r\n$4\r\nEVAL\r\n${}\r\n{script}\r\n$1\r\n0\r\n",
            script.len()
        ))
        .await;
}

#[test]
fn catches_answers_that_are_not_held() {
    assert_catches(
        "path::client_path::a_reader_never_sees_what_is_not_committed",
        "hold_no_hold",
    );
}

#[tokio::test]
async fn plain_clients_take_no_connection_of_the_server() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut clients = Vec::new();
    for n in 0..50 {
        let mut client = lab.client().await;
        client
            .send(format!(
                "CLIENT SETINFO LIB-NAME x\r\nSELECT 0\r\nSET k:{n} {n}\r\n"
            ))
            .await;
        // 7.0 does not know SETINFO, and says so on a connection of the client's own.
        client.expect("-ERR unknown subcommand").await;
        clients.push(client);
    }
    assert!(connections(&lab).await >= 50, "they have bound themselves");
    clients.clear();
    for n in 0..50 {
        let mut client = lab.client().await;
        client
            .send(format!("SELECT 0\r\nCLIENT SETNAME me\r\nGET k:{n}\r\n"))
            .await;
        client
            .expect(format!("+OK\r\n+OK\r\n${}\r\n{n}\r\n", n.to_string().len()))
            .await;
        clients.push(client);
    }
    let now = connections(&lab).await;
    assert!(now < 10, "{now} connections");
}

#[tokio::test]
async fn a_client_moves_to_a_connection_of_its_own_and_back_and_its_commands_stay_in_order() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut client = lab.client().await;
    let (mut commands, mut answers) = (String::new(), String::new());
    let mut count = 0;
    for round in 0..40 {
        commands += "MULTI\r\nINCR n\r\nEXEC\r\n";
        count += 1;
        answers += &format!("+OK\r\n+QUEUED\r\n*1\r\n:{count}\r\n");
        for _ in 0..round {
            commands += "INCR n\r\n";
            count += 1;
            answers += &format!(":{count}\r\n");
        }
        // At times only once it is quiet, so that it goes back.
        if round % 3 == 0 {
            client.send(std::mem::take(&mut commands)).await;
            client.expect(std::mem::take(&mut answers)).await;
        }
    }
    client.send("MULTI\r\nEXEC\r\n").await;
    client.expect("+OK\r\n*0\r\n").await;
    lab.env.sleep(Duration::from_millis(50)).await;
    let before = connections(&lab).await;
    // Enough of plain commands, one by one.
    for _ in 0..20 {
        client.send("PING\r\n").await;
        client.expect("+PONG\r\n").await;
    }
    lab.env.sleep(Duration::from_millis(50)).await;
    assert!(connections(&lab).await < before, "it has kept its connection");
}

#[tokio::test]
async fn a_name_is_taken_along() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut client = lab.client().await;
    client
        .send("CLIENT SETNAME first\r\nCLIENT SETNAME me\r\nCLIENT GETNAME\r\n")
        .await;
    client.expect("+OK\r\n+OK\r\n$2\r\nme\r\n").await;
}

#[tokio::test]
async fn h11_h25_a_busy_script_delays_those_who_share_its_connection_and_ends_nothing() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let (mut busy, mut other) = (lab.client().await, lab.client().await);
    other.send("PING\r\n").await;
    other.expect("+PONG\r\n").await;
    eval(&mut busy, SCRIPT).await;
    lab.env.sleep(Duration::from_millis(100)).await;
    other.send("GET n\r\n").await;
    other.expect_silence().await;
    other.expect("$1\r\n1\r\n").await;
    busy.expect(":1\r\n").await;
    assert_eq!(lab.session.ended(), None);
}

#[tokio::test]
async fn h11_a_script_that_does_not_end_can_be_ended_by_a_client_that_shared_its_connection() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let (mut busy, mut other) = (lab.client().await, lab.client().await);
    other.send("PING\r\n").await;
    other.expect("+PONG\r\n").await;
    eval(&mut busy, "while true do end").await;
    lab.env.sleep(Duration::from_millis(200)).await;
    other.send("SCRIPT KILL\r\n").await;
    other.expect("+OK\r\n").await;
    busy.expect("-ERR Script killed by user").await;
    assert_eq!(lab.session.ended(), None);
}

#[tokio::test]
async fn who_waits_for_an_answer_when_the_connection_is_lost_is_dropped_and_nobody_else() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let (mut idle, mut waiting) = (lab.client().await, lab.client().await);
    idle.send("SET k v\r\n").await;
    idle.expect("+OK\r\n").await;
    let mut control = lab.server.control(&lab.env).await;
    let pause: &[&[u8]] = &[b"CLIENT", b"PAUSE", b"60000", b"WRITE"];
    control.call(pause, SOON).await.unwrap();
    waiting.send("SET k w\r\n").await;
    waiting.expect_silence().await;
    let kill: &[&[u8]] = &[b"CLIENT", b"KILL", b"TYPE", b"normal"];
    control.call(kill, SOON).await.unwrap();
    control.call(&[b"CLIENT", b"UNPAUSE"], SOON).await.unwrap();
    waiting.expect_end().await;
    idle.send("GET k\r\n").await;
    idle.expect("$1\r\nv\r\n").await;
    assert_eq!(lab.session.ended(), None);
}

#[tokio::test]
async fn hostile_neighbours_change_nothing_for_the_others() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let bad: [&[u8]; 6] = [
        b"*1\r\n$x\r\n",
        b"*2\r\n$3\r\nGET\r\n$1\r\nkk\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100\r\nhalf of it",
        b"\x00\xff\x00\r\n*1\r\n$8\r\nFLUSHALL",
        b"*1\r\n$4\r\nPING\r\n*-7\r\n*1\r\n$1",
        b"*2\r\n$4\r\nECHO\r\n$20\r\n\r\n*1\r\n$8\r\nFLUSHDB\r\n\r\n*",
    ];
    let mut good = lab.client().await;
    for round in 0..50usize {
        let mut neighbour = lab.client().await;
        neighbour.send_as_it_is(bad[round % bad.len()]).await;
        good.send(format!("SET k {round}\r\nGET k\r\nINCR n\r\n")).await;
        let len = round.to_string().len();
        good.expect(format!("+OK\r\n${len}\r\n{round}\r\n:{}\r\n", round + 1))
            .await;
    }
}
