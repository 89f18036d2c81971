//! H21: reads that leave before a commit, and those that may not.

#[allow(dead_code, reason = "not all helpers are needed here")]
mod lab;

use lab::{Client, Lab, Plan};
use redoubt_env::planted::assert_catches;
use redoubt_types::Offset;
use std::time::Duration;

const SHARED: bool = true;

/// A writer and a reader, when `a` and `b` are 1 and all is committed and indexed.
async fn committed() -> (Lab, Client, Client) {
    with(Plan::default()).await
}

async fn with(plan: Plan) -> (Lab, Client, Client) {
    let mut lab = Lab::with(plan).await;
    lab.begin_capture().await;
    let (mut writer, mut reader) = (lab.client().await, lab.client().await);
    // Both share the connection by then, so what the server says of its commands is known.
    writer.send("PING\r\n").await;
    writer.expect("+PONG\r\n").await;
    writer.send("MSET a 1 b 1\r\n").await;
    writer.expect_silence().await;
    lab.commit_all().await;
    writer.expect("+OK\r\n").await;
    reader.send("GET b\r\n").await;
    reader.expect("$1\r\n1\r\n").await;
    (lab, writer, reader)
}

#[tokio::test]
async fn h21_a_read_waits_only_for_effects_on_its_keys() {
    let (lab, mut writer, mut reader) = committed().await;
    writer.send("SET a 2\r\n").await;
    writer.expect_silence().await;
    for (ask, answer) in [
        ("GET b", "$1\r\n1\r\n"),
        ("GET none", "$-1\r\n"),
        ("MGET b none", "*2\r\n$1\r\n1\r\n$-1\r\n"),
        ("STRLEN b", ":1\r\n"),
        ("OBJECT ENCODING b", "$3\r\nint\r\n"),
        (
            "LLEN b",
            "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
        ),
    ] {
        reader.send(format!("{ask}\r\n")).await;
        reader.expect(answer).await;
    }
    reader.send("GET a\r\n").await;
    reader.expect_silence().await;
    lab.commit_all().await;
    writer.expect("+OK\r\n").await;
    reader.expect("$1\r\n2\r\n").await;
}

#[tokio::test]
async fn h21_a_read_of_more_than_it_names_waits() {
    let (lab, mut writer, _) = committed().await;
    writer.send("SET a 2\r\n").await;
    writer.expect_silence().await;
    for ask in [
        "DBSIZE",
        "KEYS x*",
        "SCAN 0",
        "RANDOMKEY",
        "SORT_RO none GET a",
        "PFCOUNT none",
        "MGET 1 2 3 4 5 6 7 8",
        "PING",
    ] {
        let mut reader = lab.client().await;
        reader.send(format!("{ask}\r\n")).await;
        reader.expect_silence().await;
    }
    let mut reader = lab.client().await;
    reader
        .send("*3\r\n$7\r\nEVAL_RO\r\n$8\r\nreturn 1\r\n$1\r\n0\r\n")
        .await;
    reader.expect_silence().await;
}

#[tokio::test]
async fn h21_an_effect_on_more_than_it_names_delays_every_read() {
    let (lab, _, mut reader) = committed().await;
    let mut direct = lab.direct().await;
    direct.send_as_it_is("SWAPDB 1 2\r\n").await;
    direct.expect("+OK\r\n").await;
    reader.send("GET b\r\n").await;
    reader.expect_silence().await;
    lab.commit_all().await;
    reader.expect("$1\r\n1\r\n").await;
}

#[tokio::test]
async fn h21_keys_count_in_every_database() {
    let (lab, _, mut reader) = committed().await;
    let mut direct = lab.direct().await;
    direct
        .send_as_it_is("SELECT 3\r\nMOVE none 0\r\nSET c 1\r\nCOPY c b DB 0 REPLACE\r\n")
        .await;
    direct.expect("+OK\r\n:0\r\n+OK\r\n:1\r\n").await;
    reader.send("GET b\r\n").await;
    reader.expect_silence().await;
    lab.commit_all().await;
    reader.expect("$1\r\n1\r\n").await;
}

#[tokio::test]
async fn h21_a_transaction_is_dirty_as_a_whole() {
    let (lab, _, mut reader) = committed().await;
    let mut direct = lab.direct().await;
    direct
        .send_as_it_is("MULTI\r\nSET b 2\r\nSET c 2\r\nEXEC\r\n")
        .await;
    direct
        .expect("+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n+OK\r\n")
        .await;
    // All but its last byte.
    lab.commit(Offset::new(lab.offset().await.get() - 1));
    reader.send("GET b\r\n").await;
    reader.expect_silence().await;
    lab.commit_all().await;
    reader.expect("$1\r\n2\r\n").await;
}

#[tokio::test]
async fn h21_a_read_waits_until_what_it_may_have_seen_is_captured() {
    let (lab, _, mut reader) = committed().await;
    lab.pause_capture();
    let mut direct = lab.direct().await;
    direct.send_as_it_is("SET b 2\r\n").await;
    direct.expect("+OK\r\n").await;
    reader.send("GET b\r\n").await;
    reader.expect_silence().await;
    lab.resume_capture();
    reader.expect_silence().await;
    lab.commit_all().await;
    reader.expect("$1\r\n2\r\n").await;
}

#[tokio::test]
async fn h21_a_read_that_was_only_ahead_of_capture_leaves_when_that_has_come() {
    let (lab, _, mut reader) = committed().await;
    lab.pause_capture();
    let mut direct = lab.direct().await;
    direct.send_as_it_is("SET a 2\r\n").await;
    direct.expect("+OK\r\n").await;
    reader.send("GET b\r\n").await;
    reader.expect_silence().await;
    lab.resume_capture();
    reader.expect("$1\r\n1\r\n").await;
}

#[tokio::test]
async fn a_read_never_passes_what_its_client_sent_before() {
    let (lab, _, mut reader) = committed().await;
    reader.send("SET a 2\r\nGET b\r\n").await;
    reader.expect_silence().await;
    reader.send("GET b\r\n").await;
    reader.expect_silence().await;
    lab.commit_all().await;
    reader.expect("+OK\r\n$1\r\n1\r\n$1\r\n1\r\n").await;
}

#[tokio::test]
async fn reads_behind_a_write_leave_with_it_although_more_was_written_since() {
    let (lab, mut writer, mut reader) = committed().await;
    reader.send("SET c 2\r\nGET b\r\n").await;
    reader.expect_silence().await;
    let written = lab.offset().await;
    writer.send("SET a 3\r\n").await;
    writer.expect_silence().await;
    reader.send("GET b\r\n").await;
    reader.expect_silence().await;
    lab.commit(written);
    // The second GET's fence point lies behind the writer's SET, which does not concern it.
    reader.expect("+OK\r\n$1\r\n1\r\n$1\r\n1\r\n").await;
    writer.expect_silence().await;
}

#[tokio::test]
async fn h14_a_clean_read_is_of_the_present_too() {
    let plan = Plan {
        lease: Duration::from_secs(2),
        ..Plan::default()
    };
    let (lab, mut writer, mut reader) = with(plan).await;
    lab.env.sleep(Duration::from_secs(2)).await;
    writer.send("SET a 2\r\n").await;
    writer.expect_silence().await;
    reader.send("GET b\r\n").await;
    reader.expect_silence().await;
    lab.renew(Duration::from_secs(60));
    reader.expect("$1\r\n1\r\n").await;
    writer.expect_silence().await;
}

#[tokio::test]
async fn without_clean_reads_every_read_waits() {
    let plan = Plan {
        clean_reads: false,
        ..Plan::default()
    };
    let (lab, mut writer, mut reader) = with(plan).await;
    writer.send("SET a 2\r\n").await;
    writer.expect_silence().await;
    reader.send("GET b\r\n").await;
    reader.expect_silence().await;
    lab.commit_all().await;
    reader.expect("$1\r\n1\r\n").await;
}

#[test]
fn catches_reads_that_do_not_ask_for_their_keys() {
    assert_catches(
        "h21_a_read_waits_only_for_effects_on_its_keys",
        "h21_keys_are_not_asked",
    );
}

#[test]
fn catches_unclear_effects_that_touch_nothing() {
    assert_catches(
        "h21_an_effect_on_more_than_it_names_delays_every_read",
        "h21_unclear_touches_nothing",
    );
}

#[test]
fn catches_reads_that_do_not_wait_for_capture() {
    assert_catches(
        "h21_a_read_waits_until_what_it_may_have_seen_is_captured",
        "h21_capture_is_not_awaited",
    );
}

#[test]
fn catches_clean_reads_without_a_lease() {
    assert_catches(
        "h14_a_clean_read_is_of_the_present_too",
        "h14_release_without_lease",
    );
}
