//! The client path over a real server: what is held, in what order it is released, and what is refused.

use crate::lab::{A_WHILE, Lab, Plan, SOON, session_on};
use redoubt_proxy::session::{EndReason, Session};
use redoubt_types::Offset;
use redoubt_types::limits::PASSED_BYTES_MAX;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn a_reply_is_held_until_its_effects_are_committed() {
    let lab = Lab::new().await;
    let mut client = lab.client().await;
    client.send("SET k v\r\n").await;
    client.expect_silence().await;
    let end = lab.offset().await;
    lab.commit(Offset::new(end.get() - 1));
    client.expect_silence().await;
    lab.commit(end);
    client.expect("+OK\r\n").await;
}

#[tokio::test]
async fn a_reader_never_sees_what_is_not_committed() {
    let lab = Lab::new().await;
    let (mut writer, mut reader) = (lab.client().await, lab.client().await);
    reader.send("GET k\r\n").await;
    reader.expect("$-1\r\n").await;
    writer.send("SET k dirty\r\n").await;
    writer.expect_silence().await;
    reader.send("GET k\r\n").await;
    reader.expect_silence().await;
    lab.commit_all().await;
    reader.expect("$5\r\ndirty\r\n").await;
    writer.expect("+OK\r\n").await;
}

#[tokio::test]
async fn errors_and_pushes_are_held_as_well() {
    let lab = Lab::new().await;
    let (mut writer, mut subscriber) = (lab.client().await, lab.client().await);
    subscriber.send("SUBSCRIBE c\r\n").await;
    subscriber
        .expect("*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
        .await;
    writer.send("SET k v\r\nINCR k\r\nPUBLISH c m\r\n").await;
    writer.expect_silence().await;
    subscriber.expect_silence().await;
    lab.commit_all().await;
    writer
        .expect("+OK\r\n-ERR value is not an integer or out of range\r\n:1\r\n")
        .await;
    subscriber
        .expect("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n")
        .await;
}

#[tokio::test]
async fn a_big_value_passes_both_ways() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut client = lab.client().await;
    let value: Vec<u8> = (0..20 * 1024 * 1024u32).map(|i| (i % 251) as u8).collect();
    let header = format!("*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n${}\r\n", value.len());
    client.send(header).await;
    client.send(&value).await;
    client.send("\r\nGET big\r\nSTRLEN big\r\n").await;
    client.expect(format!("+OK\r\n${}\r\n", value.len())).await;
    client.expect(&value).await;
    client.expect(format!("\r\n:{}\r\n", value.len())).await;
}

#[tokio::test]
async fn a_long_pipeline_keeps_its_order() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut client = lab.client().await;
    let n = 20_000;
    let (mut commands, mut replies) = (String::new(), String::new());
    for i in 1..=n {
        commands += &format!(
            "*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n*2\r\n$4\r\nECHO\r\n${}\r\n{i}\r\n",
            i.to_string().len()
        );
        replies += &format!(":{i}\r\n${}\r\n{i}\r\n", i.to_string().len());
    }
    client.send(commands).await;
    client.expect(replies).await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_before_it_has_written_all_gets_all_its_answers() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut client = lab.client().await;
    let value = "v".repeat(100);
    // Far more than what lies in sockets: 20 MB of commands, 2 MB of answers.
    let n = 20_000;
    let (missing, set) = ("x".repeat(1_000), format!("SET k {value}\r\n"));
    client
        .send(set + &format!("MGET k {missing}\r\n").repeat(n))
        .await;
    client
        .expect("+OK\r\n".to_owned() + &format!("*2\r\n$100\r\n{value}\r\n$-1\r\n").repeat(n))
        .await;
    client.send("PING\r\n".repeat(100)).await;
    client.expect("+PONG\r\n".repeat(100)).await;
}

#[tokio::test]
async fn a_script_may_nest_its_answer_as_deep_as_the_server_lets_it() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let (mut client, mut other) = (lab.client().await, lab.client().await);
    let script = "local all={} local t=all for i=1,7000 do t[1]={} t=t[1] end return all";
    for _ in 0..3 {
        client
            .send(format!(
                "*3\r\n$4\r\nEVAL\r\n${}\r\n{script}\r\n$1\r\n0\r\n",
                script.len()
            ))
            .await;
        other.send("PING\r\n").await;
        client.expect("*1\r\n".repeat(7000) + "*0\r\n").await;
        other.expect("+PONG\r\n").await;
    }
}

#[tokio::test]
async fn a_client_that_half_closes_gets_the_replies_that_remain() {
    let lab = Lab::new().await;
    let mut client = lab.client().await;
    client.send("SET k v\r\nGET k\r\n").await;
    client.conn.shutdown().await.unwrap();
    client.expect_silence().await;
    lab.commit_all().await;
    assert_eq!(client.rest().await, b"+OK\r\n$1\r\nv\r\n");
}

#[tokio::test]
async fn when_the_server_closes_what_is_held_is_delivered_first() {
    let lab = Lab::new().await;
    let mut client = lab.client().await;
    client.send("SET k v\r\nQUIT\r\n").await;
    client.expect_silence().await;
    lab.commit_all().await;
    assert_eq!(client.rest().await, b"+OK\r\n+OK\r\n");
}

#[tokio::test]
async fn the_sessions_end_closes_and_writes_nothing() {
    let lab = Lab::new().await;
    let (mut writer, mut idle) = (lab.client().await, lab.client().await);
    idle.send("PING\r\n").await;
    idle.expect("+PONG\r\n").await;
    writer.send("SET k v\r\n").await;
    writer.expect_silence().await;
    lab.session.end(EndReason::Fenced("by the test".to_owned()));
    writer.expect_end().await;
    idle.expect_end().await;
    lab.commit_ever();
}

#[tokio::test]
async fn a_reply_held_past_the_deadline_closes_and_is_never_written() {
    let lab = Lab::with(Plan {
        release_deadline: 2 * A_WHILE,
        ..Plan::default()
    })
    .await;
    let mut client = lab.client().await;
    client.send("PING\r\n").await;
    client.expect("+PONG\r\n").await;
    client.send("SET k v\r\n").await;
    client.expect_silence().await;
    client.expect_end().await;
}

#[tokio::test]
async fn a_client_that_waits_for_its_own_command_is_not_past_the_deadline() {
    let lab = Lab::with(Plan {
        release_deadline: A_WHILE,
        ..Plan::default()
    })
    .await;
    let mut client = lab.client().await;
    client.send("PING\r\n").await;
    client.expect("+PONG\r\n").await;
    client.send("BLPOP l 0.5\r\n").await;
    client.expect_silence().await;
    client.expect_silence().await;
    client.expect("*-1\r\n").await;
}

/// Stops its clients, or lets them go.
fn press(session: &Session, on: bool) {
    let at = session.hold.committed();
    session.pressure.capture(at, at, on);
}

#[tokio::test]
async fn backpressure_stops_requests_but_not_replies() {
    let lab = Lab::new().await;
    let mut client = lab.client().await;
    client.send("SET k v\r\n").await;
    client.expect_silence().await;
    press(&lab.session, true);
    client.send("INCR n\r\n").await;
    lab.commit_ever();
    client.expect("+OK\r\n").await;
    client.expect_silence().await;
    let mut direct = lab.direct().await;
    direct.send("EXISTS n\r\n").await;
    direct.expect(":0\r\n").await;
    press(&lab.session, false);
    client.expect(":1\r\n").await;
    press(&lab.session, true);
    client.send("INCR n\r\n").await;
    client.expect_silence().await;
    press(&lab.session, false);
    client.expect(":2\r\n").await;
}

#[tokio::test]
async fn a_request_that_waits_past_the_deadline_is_never_executed_and_who_says_nothing_may_wait() {
    let lab = Lab::with(Plan {
        release_deadline: 4 * A_WHILE,
        ..Plan::default()
    })
    .await;
    let (mut client, mut silent) = (lab.client().await, lab.client().await);
    for client in [&mut client, &mut silent] {
        client.send("PING\r\n").await;
        client.expect("+PONG\r\n").await;
    }
    press(&lab.session, true);
    client.send("INCR n\r\n").await;
    client.expect_silence().await;
    client.expect_end().await;
    silent.expect_silence().await;
    press(&lab.session, false);
    lab.commit_ever();
    silent.send("EXISTS n\r\n").await;
    silent.expect(":0\r\n").await;
}

#[tokio::test]
async fn requests_before_a_half_close_are_executed_although_they_had_to_wait() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut client = lab.client().await;
    client.send("PING\r\n").await;
    client.expect("+PONG\r\n").await;
    press(&lab.session, true);
    client.send("INCR n\r\n").await;
    client.conn.shutdown().await.unwrap();
    client.expect_silence().await;
    press(&lab.session, false);
    client.expect(":1\r\n").await;
    client.expect_end().await;
}

#[tokio::test]
async fn who_comes_while_nothing_is_served_waits_for_a_session() {
    let lab = Lab::with(Plan {
        serving: false,
        ..Plan::default()
    })
    .await;
    let mut client = lab.client().await;
    client.send("PING\r\n").await;
    client.expect_silence().await;
    lab.serving.send_replace(Some(lab.session.clone()));
    client.expect("+PONG\r\n").await;
}

#[tokio::test]
async fn who_waits_for_a_session_past_the_deadline_is_closed() {
    let lab = Lab::with(Plan {
        serving: false,
        release_deadline: 2 * A_WHILE,
        ..Plan::default()
    })
    .await;
    let mut client = lab.client().await;
    client.expect_silence().await;
    client.expect_end().await;
}

#[tokio::test]
async fn h14_a_lapsed_lease_holds_replies_and_a_renewal_lets_them_go() {
    let lab = Lab::with(Plan {
        lease: Duration::ZERO,
        ..Plan::default()
    })
    .await;
    lab.commit_ever();
    let mut client = lab.client().await;
    client.send("GET k\r\n").await;
    client.expect_silence().await;
    lab.renew(Duration::ZERO);
    client.expect("$-1\r\n").await;
    client.send("GET k\r\n").await;
    client.expect_silence().await;
    lab.renew(SOON);
    client.expect("$-1\r\n").await;
    client.send("GET k\r\n").await;
    client.expect("$-1\r\n").await;
}

#[tokio::test]
async fn h09_another_process_at_the_address_ends_the_session() {
    let lab = Lab::with(Plan {
        serving: false,
        ..Plan::default()
    })
    .await;
    let other = crate::lab::Server::start(&lab.env).await;
    let expected = session_on(&lab.env, &other, SOON).await;
    let hold = lab.session.hold.clone();
    // The session is bound to another process than the one that answers.
    let wrong = Session::new(
        lab.session.epoch,
        lab.session.replid,
        expected.run_id,
        lab.server.upstream(),
        hold,
        u64::MAX,
    );
    let wrong = std::sync::Arc::new(wrong);
    lab.serving.send_replace(Some(wrong.clone()));
    let mut client = lab.client().await;
    client.send("SET k v\r\n").await;
    let reason = lab.env.timeout(SOON, wrong.wait_end()).await.unwrap();
    assert!(matches!(reason, EndReason::ServerChanged(_)), "{reason:?}");
    let mut direct = lab.direct().await;
    direct.send("EXISTS k\r\n").await;
    direct.expect(":0\r\n").await;
}

#[tokio::test]
async fn h09_a_promotion_from_outside_ends_the_session_and_drops_what_is_held() {
    let lab = Lab::new().await;
    let mut client = lab.client().await;
    client.send("SET k v\r\n").await;
    client.expect_silence().await;
    // REPLICAOF somewhere and NO ONE: same process, a new history, an offset that need not be lower.
    let mut control = lab.server.control(&lab.env).await;
    control
        .call(&[b"REPLICAOF", b"127.0.0.1", b"1"], SOON)
        .await
        .unwrap();
    control.call(&[b"REPLICAOF", b"NO", b"ONE"], SOON).await.unwrap();
    let mut reader = lab.client().await;
    reader.send("GET k\r\n").await;
    let reason = lab.env.timeout(SOON, lab.session.wait_end()).await.unwrap();
    assert!(matches!(reason, EndReason::ServerChanged(_)), "{reason:?}");
    lab.commit_ever();
    reader.expect_end().await;
    client.expect_end().await;
}

#[tokio::test]
async fn when_the_server_dies_what_is_held_is_delivered_if_it_gets_committed() {
    let mut lab = Lab::new().await;
    let mut client = lab.client().await;
    client.send("SET k v\r\n").await;
    client.expect_silence().await;
    let end = lab.offset().await;
    lab.server.kill().await;
    client.expect_silence().await;
    lab.commit(end);
    client.expect("+OK\r\n").await;
}

#[tokio::test]
async fn a_server_that_answers_with_no_fence_ends_the_session_after_a_while() {
    let lab = Lab::with(Plan {
        fence_failing_max: 2 * A_WHILE,
        ..Plan::default()
    })
    .await;
    lab.commit_ever();
    let mut client = lab.client().await;
    client.send("SET k v\r\n").await;
    client.expect("+OK\r\n").await;
    let mut control = lab.server.control(&lab.env).await;
    control
        .call(&[b"ACL", b"SETUSER", b"default", b"-info"], SOON)
        .await
        .unwrap();
    client.send("GET k\r\n").await;
    let reason = lab.env.timeout(SOON, lab.session.wait_end()).await.unwrap();
    assert!(
        matches!(&reason, EndReason::ServerChanged(why) if why.contains("NOPERM")),
        "{reason:?}"
    );
    client.expect_end().await;
}

#[tokio::test]
async fn what_is_passed_between_two_fences_is_bounded() {
    let mut lab = Lab::with(Plan {
        fencing: false,
        ..Plan::default()
    })
    .await;
    lab.commit_ever();
    let (mut large, mut small) = (lab.client().await, lab.client().await);
    let value = "x".repeat(PASSED_BYTES_MAX as usize);
    large
        .send(format!(
            "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n{value}\r\n",
            value.len()
        ))
        .await;
    lab.env.sleep(A_WHILE).await;
    small.send("INCR n\r\n").await;
    small.expect_silence().await;
    let mut direct = lab.direct().await;
    direct.send("EXISTS n\r\n").await;
    direct.expect(":0\r\n").await;
    lab.begin_fencing();
    large.expect("+OK\r\n").await;
    small.expect(":1\r\n").await;
}

#[cfg(feature = "planted-bugs")]
#[test]
fn catches_requests_that_are_passed_without_a_bound() {
    redoubt_env::planted::assert_catches(
        "what_is_passed_between_two_fences_is_bounded",
        "passed_without_bound",
    );
}
