//! The client path where clients share a connection as long as their commands allow it.
#![expect(clippy::unwrap_used, reason = "helpers of a test: a failure is the test's")]

#[allow(dead_code, reason = "not all helpers are needed here")]
mod lab;
mod path;

use lab::{A_WHILE, Client, Lab, Plan, SOON};
use redoubt_env::planted::assert_catches;
use redoubt_types::limits::{GUEST_UNANSWERED_FIRST, SPARES_MAX};
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

/// An answer to HELLO: its version of RESP, and the connection's id.
async fn hello(client: &mut Client, words: &str) -> (u32, String) {
    client.send(format!("{words}\r\n")).await;
    let first = client.line().await;
    let items = match first.as_bytes()[0] {
        b'%' => 2 * first[1..].parse::<usize>().unwrap(),
        _ => first[1..].parse().unwrap(),
    };
    let mut flat = Vec::new();
    for _ in 0..items {
        let header = client.line().await;
        flat.push(match header.as_bytes()[0] {
            b'$' => client.line().await,
            b'*' => "[]".to_owned(),
            _ => header[1..].to_owned(),
        });
    }
    let field = |name: &str| flat[flat.iter().position(|f| f == name).unwrap() + 1].clone();
    (field("proto").parse().unwrap(), field("id"))
}

/// Enough of plain commands, one by one, to be given up to a shared connection.
async fn settle(client: &mut Client) {
    for _ in 0..20 {
        client.send("PING\r\n").await;
        client.expect("+PONG\r\n").await;
    }
}

#[tokio::test]
async fn clients_of_both_versions_of_resp_share_and_each_is_answered_in_its_own() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut old = lab.client().await;
    old.send("HSET h f 1\r\nGET none\r\n").await;
    old.expect(":1\r\n$-1\r\n").await;
    let mut clients = Vec::new();
    for n in 0..20 {
        let mut client = lab.client().await;
        assert_eq!(hello(&mut client, &format!("HELLO 3 SETNAME c{n}")).await.0, 3);
        client.send("CLIENT SETINFO LIB-NAME x\r\n").await;
        client.line().await;
        client.send("HGETALL h\r\nGET none\r\n").await;
        client.expect("%1\r\n$1\r\nf\r\n$1\r\n1\r\n_\r\n").await;
        settle(&mut client).await;
        clients.push(client);
    }
    lab.env.sleep(Duration::from_millis(100)).await;
    let now = connections(&lab).await;
    assert!(now < 15, "{now} connections");
    for client in &mut clients {
        client.send("HGETALL h\r\nGET none\r\n").await;
    }
    old.send("HGETALL h\r\nGET none\r\n").await;
    old.expect("*2\r\n$1\r\nf\r\n$1\r\n1\r\n$-1\r\n").await;
    for (n, client) in clients.iter_mut().enumerate() {
        client.expect("%1\r\n$1\r\nf\r\n$1\r\n1\r\n_\r\n").await;
        // Over connections of their own again, which begin with RESP2, and no name.
        client.send("CLIENT GETNAME\r\nHGETALL h\r\n").await;
        let name = format!("c{n}");
        client
            .expect(format!(
                "${}\r\n{name}\r\n%1\r\n$1\r\nf\r\n$1\r\n1\r\n",
                name.len()
            ))
            .await;
    }
    assert_eq!(lab.session.ended(), None);
}

#[tokio::test]
async fn a_client_may_change_its_version_of_resp_and_back() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut client = lab.client().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        for (version, nothing) in [(3, "_\r\n"), (2, "$-1\r\n")] {
            let (told, id) = hello(&mut client, &format!("HELLO {version}")).await;
            assert_eq!(told, version);
            ids.push(id);
            client.send("GET none\r\n").await;
            client.expect(nothing).await;
            settle(&mut client).await;
            lab.env.sleep(Duration::from_millis(50)).await;
            client.send("GET none\r\n").await;
            client.expect(nothing).await;
            // What is refused changes nothing.
            client.send("HELLO 7\r\n").await;
            client.expect("-NOPROTO unsupported protocol version\r\n").await;
            settle(&mut client).await;
            client.send("GET none\r\n").await;
            client.expect(nothing).await;
        }
    }
    ids.dedup();
    assert_eq!(ids.len(), 6, "it did not share in between: {ids:?}");
}

#[tokio::test]
async fn h11_a_client_of_resp3_that_shared_its_connection_can_end_a_script() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut killer = lab.client().await;
    hello(&mut killer, "HELLO 3").await;
    settle(&mut killer).await;
    lab.env.sleep(Duration::from_millis(100)).await;
    let mut busy = lab.client().await;
    hello(&mut busy, "HELLO 3").await;
    settle(&mut busy).await;
    lab.env.sleep(Duration::from_millis(100)).await;
    eval(&mut busy, "while true do end").await;
    lab.env.sleep(Duration::from_millis(200)).await;
    killer.send("SCRIPT KILL\r\n").await;
    killer.expect("+OK\r\n").await;
    busy.expect("-ERR Script killed by user").await;
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

/// Two flights in the air that do not land: a script that does not end, and a reader behind it.
async fn stall(lab: &Lab) -> (Client, Client) {
    let (mut busy, mut reader) = (lab.client().await, lab.client().await);
    for client in [&mut busy, &mut reader] {
        client.send("PING\r\n").await;
        client.expect("+PONG\r\n").await;
    }
    eval(&mut busy, "while true do end").await;
    lab.env.sleep(Duration::from_millis(100)).await;
    reader.send("GET n\r\n").await;
    lab.env.sleep(Duration::from_millis(100)).await;
    (busy, reader)
}

async fn end_stall(lab: &Lab, killer: &mut Client, (mut busy, mut reader): (Client, Client)) {
    killer.send("SCRIPT KILL\r\n").await;
    killer.expect("+OK\r\n").await;
    busy.expect("-ERR Script killed by user").await;
    reader.expect("$-1\r\n").await;
    assert_eq!(lab.session.ended(), None);
}

#[tokio::test]
async fn h11_a_script_can_be_ended_although_others_wait_behind_it() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut killer = lab.client().await;
    killer.send("PING\r\n").await;
    killer.expect("+PONG\r\n").await;
    let stalled = stall(&lab).await;
    end_stall(&lab, &mut killer, stalled).await;
}

#[tokio::test]
async fn h11_a_script_can_be_ended_although_others_took_the_connections_that_were_kept() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let stalled = stall(&lab).await;
    let mut waiting = Vec::new();
    for _ in 0..2 * SPARES_MAX {
        let mut client = lab.client().await;
        client.send("BLPOP l 0.1\r\n").await;
        waiting.push(client);
    }
    lab.env.sleep(Duration::from_millis(200)).await;
    let mut killer = lab.client().await;
    end_stall(&lab, &mut killer, stalled).await;
}

#[tokio::test]
async fn h11_a_script_can_be_ended_although_the_shared_connection_is_lost_and_none_can_be_made() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let (mut killer, mut other) = (lab.client().await, lab.client().await);
    for client in [&mut killer, &mut other] {
        client.send("PING\r\n").await;
        client.expect("+PONG\r\n").await;
    }
    lab.env.sleep(Duration::from_millis(100)).await;
    let mut control = lab.server.control(&lab.env).await;
    let list = control.call(&[b"CLIENT", b"LIST"], SOON).await.unwrap();
    let list = list.as_str().unwrap();
    let shared = list.lines().find(|l| l.contains("name=redoubt-shared")).unwrap();
    let id = shared.split(' ').next().unwrap().strip_prefix("id=").unwrap();
    let mut direct = lab.direct().await;
    let script = "while true do end";
    direct
        .send(format!(
            "CLIENT KILL ID {id}\r\n*3\r\n$4\r\nEVAL\r\n${}\r\n{script}\r\n$1\r\n0\r\n",
            script.len()
        ))
        .await;
    lab.env.sleep(Duration::from_millis(100)).await;
    other.send("GET n\r\n").await;
    lab.env.sleep(Duration::from_millis(100)).await;
    killer.send("SCRIPT KILL\r\n").await;
    killer.expect("+OK\r\n").await;
    direct.expect(":1\r\n-ERR Script killed by user").await;
    other.expect("$-1\r\n").await;
    assert_eq!(lab.session.ended(), None);
}

#[tokio::test]
async fn who_goes_while_nothing_can_be_sent_is_seen_to_go() {
    let lab = Lab::with(Plan {
        clients_max: 3,
        ..Plan::default()
    })
    .await;
    lab.commit_ever();
    let mut idle = lab.client().await;
    idle.send("PING\r\n").await;
    idle.expect("+PONG\r\n").await;
    let stalled = stall(&lab).await;
    drop(idle);
    lab.env.sleep(Duration::from_millis(500)).await;
    // It had the last place.
    let mut killer = lab.client().await;
    end_stall(&lab, &mut killer, stalled).await;
}

#[tokio::test]
async fn a_request_behind_a_script_that_does_not_end_is_dropped_at_the_deadline_and_never_executed() {
    let lab = Lab::with(Plan {
        release_deadline: 4 * A_WHILE,
        ..Plan::default()
    })
    .await;
    lab.commit_ever();
    let stalled = stall(&lab).await;
    let (mut waits, mut killer) = (lab.client().await, lab.client().await);
    waits.send("INCR n\r\n").await;
    waits.expect_silence().await;
    waits.expect_end().await;
    end_stall(&lab, &mut killer, stalled).await;
    killer.send("EXISTS n\r\n").await;
    killer.expect(":0\r\n").await;
}

#[tokio::test]
async fn a_client_whose_commands_no_shared_connection_takes_keeps_its_own() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let before = connections(&lab).await;
    let mut client = lab.client().await;
    for _ in 0..40 {
        client.send_as_it_is("GET k\r\n").await;
        client.expect("$-1\r\n").await;
    }
    lab.env.sleep(Duration::from_millis(50)).await;
    assert!(connections(&lab).await > before);
    for _ in 0..40 {
        client.send("GET k\r\n").await;
        client.expect("$-1\r\n").await;
    }
}

/// What this process has in memory, in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    let kb: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kb * 1024
}

#[tokio::test]
async fn a_pipeline_of_large_answers_takes_little_memory() {
    const VALUE: usize = 10 * 1024 * 1024;
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut control = lab.server.control(&lab.env).await;
    let value = vec![b'x'; VALUE];
    let set: &[&[u8]] = &[b"SET", b"k", &value];
    control.call(set, SOON).await.unwrap();
    let mut client = lab.client().await;
    client.send("PING\r\n").await;
    client.expect("+PONG\r\n").await;
    let before = memory();
    // 600 MB.
    client.send("GET k\r\n".repeat(60)).await;
    let mut most = 0;
    for _ in 0..150 {
        lab.env.sleep(Duration::from_millis(10)).await;
        most = most.max(memory().saturating_sub(before));
    }
    println!("{} MB more in memory at most", most / 1024 / 1024);
    // A buffer is doubled when it is full, and what it held is copied.
    let bound = 3 * GUEST_UNANSWERED_FIRST * VALUE;
    assert!(most < bound as u64, "{most} bytes, more than {bound}");
    for _ in 0..20 {
        client.expect(format!("${VALUE}\r\n")).await;
        client.expect(&value).await;
        client.expect("\r\n").await;
    }
}

#[tokio::test]
async fn a_server_that_closes_idle_connections_leaves_the_shared_one() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut control = lab.server.control(&lab.env).await;
    let mut shared = async || {
        let list = control.call(&[b"CLIENT", b"LIST"], SOON).await.unwrap();
        let list = list.as_str().unwrap().to_owned();
        let line = list.lines().find(|l| l.contains("name=redoubt-shared"));
        line.map(|l| l.split(' ').next().unwrap().to_owned())
    };
    let mut client = lab.client().await;
    client.send("PING\r\n").await;
    client.expect("+PONG\r\n").await;
    let before = shared().await;
    assert!(before.is_some());
    let mut other = lab.server.control(&lab.env).await;
    let timeout: &[&[u8]] = &[b"CONFIG", b"SET", b"timeout", b"5"];
    other.call(timeout, SOON).await.unwrap();
    // A server looks at each client once a second or so; whoever asks must not be idle for too long either.
    for _ in 0..4 {
        lab.env.sleep(Duration::from_secs(2)).await;
        assert_eq!(shared().await, before);
    }
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

#[tokio::test]
async fn who_needs_a_connection_of_its_own_when_there_may_be_no_more_is_told_so() {
    let plan = Plan {
        own_max: 1,
        ..Plan::default()
    };
    let lab = Lab::with(plan).await;
    lab.commit_ever();
    let (mut first, mut second) = (lab.client().await, lab.client().await);
    first.send("WATCH k\r\n").await;
    first.expect("+OK\r\n").await;
    second.send("WATCH k\r\n").await;
    assert_eq!(second.rest().await, b"-ERR max number of clients reached\r\n");
    drop(first);
    lab.env.sleep(A_WHILE).await;
    let mut third = lab.client().await;
    third.send("WATCH k\r\n").await;
    third.expect("+OK\r\n").await;
}

#[tokio::test]
async fn an_error_about_its_connection_does_not_stand_among_a_clients_answers() {
    let plan = Plan {
        own_max: 0,
        ..Plan::default()
    };
    let lab = Lab::with(plan).await;
    lab.commit_ever();
    let mut client = lab.client().await;
    let value = "v".repeat(60_000);
    client
        .send_as_it_is(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$60000\r\n{value}\r\n"))
        .await;
    client.expect("+OK\r\n").await;
    let answer = format!("$60000\r\n{value}\r\n");
    // More than lies in sockets, none of which is read: it has to move, and can't.
    client
        .send_as_it_is("*2\r\n$3\r\nGET\r\n$1\r\nk\r\n".repeat(1200))
        .await;
    lab.env.sleep(A_WHILE).await;
    let got = client.rest().await;
    let whole = answer.repeat(got.len() / answer.len() + 1);
    assert!(got.len() < 1200 * answer.len(), "it was not closed");
    assert!(
        whole.as_bytes().starts_with(&got),
        "something else than its answers came"
    );
}
