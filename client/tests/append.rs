//! Appends arrive exactly once and in order, whatever happens to streams and leaders.
#![allow(clippy::unwrap_used, reason = "test code, helpers included")]

mod fake;

use bytes::Bytes;
use fake::{Fake, start};
use redoubt_client::{AppendError, Appended, Appender, Reason};
use redoubt_proto::v1;
use redoubt_types::WallTime;
use redoubt_types::limits::{APPEND_SILENCE_MAX, APPEND_WINDOW_ENTRIES};
use std::time::Duration;

fn payload(n: usize) -> Bytes {
    Bytes::from(format!("entry {n}\n").repeat(1 + n % 5))
}

fn push(appender: &mut Appender, n: usize) {
    appender.push(payload(n), WallTime::from_ms(1));
}

/// Pushes entries `from..to` and takes their answers, as fast as the window allows.
async fn run(appender: &mut Appender, from: usize, to: usize) -> Vec<Appended> {
    let mut pushed = from;
    let mut answers = Vec::new();
    while answers.len() < to - from {
        while pushed < to && appender.has_room() {
            push(appender, pushed);
            pushed += 1;
        }
        answers.push(appender.next().await.unwrap());
    }
    assert_eq!(appender.committed(), appender.end());
    answers
}

fn written(to: usize) -> Vec<u8> {
    (0..to).flat_map(|n| payload(n).to_vec()).collect()
}

#[tokio::test]
async fn appends_are_answered_in_order() {
    let fake = Fake::cluster(3).await;
    let mut appender = fake.client().appender(start());
    let answers = run(&mut appender, 0, 500).await;
    assert!(answers.iter().all(|a| !a.duplicate && a.tail == a.end));
    assert!(
        answers
            .windows(2)
            .all(|w| w[0].end < w[1].end && w[0].sent_at <= w[1].sent_at)
    );
    assert_eq!(fake.shared().bytes, written(500));
    assert_eq!(
        fake.calls("append").len(),
        if fake.calls("append")[0] == 0 { 1 } else { 2 },
        "one stream, after a hint"
    );
}

#[tokio::test]
async fn the_window_is_bounded_until_answers_are_taken() {
    let fake = Fake::cluster(1).await;
    let mut appender = fake.client().appender(start());
    let mut pushed = 0;
    while appender.has_room() {
        push(&mut appender, pushed);
        pushed += 1;
    }
    assert_eq!(pushed, APPEND_WINDOW_ENTRIES);
    fake.env.sleep(Duration::from_millis(100)).await;
    assert!(!appender.has_room(), "answers that nobody took give no room");
    appender.next().await.unwrap();
    assert!(appender.has_room());
}

#[tokio::test]
async fn lost_answers_come_as_duplicates_of_the_second_attempt() {
    let fake = Fake::cluster(1).await;
    fake.nodes[0].faults().lose_answer_after = Some(3);
    let mut appender = fake.client().appender(start());
    for n in 0..5 {
        push(&mut appender, n);
    }
    let first: Vec<_> = [appender.next().await.unwrap(), appender.next().await.unwrap()].into();
    let broke_at = fake.env.now();
    fake.nodes[0].faults().lose_answer_after = None;
    let third = appender.next().await.unwrap();
    assert!(first.iter().all(|a| !a.duplicate));
    assert!(third.duplicate, "its first answer was lost");
    assert!(third.sent_at > first[1].sent_at && third.sent_at.plus(Duration::from_secs(1)) > broke_at);
    appender.next().await.unwrap();
    appender.next().await.unwrap();
    assert_eq!(fake.shared().bytes, written(5));
}

#[tokio::test]
async fn every_stream_breaking_soon_loses_and_repeats_nothing() {
    let fake = Fake::cluster(1).await;
    fake.nodes[0].faults().lose_answer_after = Some(7);
    let mut appender = fake.client().appender(start());
    run(&mut appender, 0, 100).await;
    assert_eq!(fake.shared().bytes, written(100));
}

#[tokio::test]
async fn a_killed_leader_is_replaced_by_the_next() {
    let mut fake = Fake::cluster(3).await;
    let mut appender = fake.client().appender(start());
    run(&mut appender, 0, 50).await;
    for n in 50..60 {
        push(&mut appender, n);
    }
    fake.nodes[0].kill().await;
    fake.change(|s| s.leader = Some(2));
    for _ in 50..60 {
        appender.next().await.unwrap();
    }
    run(&mut appender, 60, 100).await;
    fake.start(0).await;
    fake.change(|s| s.leader = Some(0));
    run(&mut appender, 100, 150).await;
    assert_eq!(fake.shared().bytes, written(150));
}

#[tokio::test]
async fn without_hints_the_leader_is_found_in_turn_and_not_ready_is_waited_out() {
    let fake = Fake::cluster(3).await;
    for node in &fake.nodes {
        node.faults().no_hint = true;
    }
    fake.change(|s| s.leader = Some(2));
    fake.nodes[2].faults().refuse = Some(v1::Reason::NotReady);
    let mut appender = fake.client().appender(start());
    push(&mut appender, 0);
    assert!(
        fake.env
            .timeout(Duration::from_millis(400), appender.next())
            .await
            .is_err()
    );
    fake.nodes[2].faults().refuse = None;
    assert!(!appender.next().await.unwrap().duplicate);
    assert_eq!(fake.shared().bytes, written(1));
}

#[tokio::test]
async fn a_silent_leader_is_left() {
    let fake = Fake::cluster(2).await;
    fake.nodes[0].faults().silent = true;
    let mut appender = fake.client().appender(start());
    push(&mut appender, 0);
    fake.env.sleep(Duration::from_millis(300)).await;
    fake.change(|s| s.leader = Some(1));
    let within = APPEND_SILENCE_MAX * 2;
    let answer = fake
        .env
        .timeout(within, appender.next())
        .await
        .expect("in time")
        .unwrap();
    assert!(!answer.duplicate);
    assert_eq!(fake.shared().bytes, written(1));
}

#[tokio::test]
async fn h14_an_answer_counts_from_when_its_attempt_was_sent() {
    let fake = Fake::cluster(1).await;
    let delay = Duration::from_millis(300);
    fake.nodes[0].faults().answer_delay = delay;
    let mut appender = fake.client().appender(start());
    let before = fake.env.now();
    push(&mut appender, 0);
    let answer = appender.next().await.unwrap();
    assert!(answer.sent_at >= before);
    let age = fake.env.now().since(answer.sent_at);
    assert!(
        age >= delay,
        "the answer came {delay:?} after the request, not {age:?}"
    );
}

#[tokio::test]
async fn h02_a_fenced_writer_is_told_for_good_and_nothing_more_is_committed() {
    let fake = Fake::cluster(3).await;
    let mut appender = fake.client().appender(start());
    run(&mut appender, 0, 5).await;
    let committed = appender.committed();
    fake.change(|s| {
        s.epoch = 2;
        s.write(&[7; 10_000]);
    });
    push(&mut appender, 5);
    for _ in 0..2 {
        assert!(matches!(appender.next().await, Err(AppendError::Fenced(_))));
    }
    push(&mut appender, 6);
    assert_eq!(appender.committed(), committed);
}

#[tokio::test]
async fn h02_bytes_that_can_never_be_admitted_are_refused_once_a_quorum_says_so() {
    let fake = Fake::cluster(2).await;
    fake.change(|s| s.write(b"bytes that this writer knows nothing of, of the same epoch"));
    let mut appender = fake.client().appender(start());
    push(&mut appender, 0);
    for node in &fake.nodes {
        node.faults().unconfirmed = true;
    }
    let soon = Duration::from_millis(700);
    assert!(
        fake.env.timeout(soon, appender.next()).await.is_err(),
        "no quorum has said so"
    );
    for node in &fake.nodes {
        node.faults().unconfirmed = false;
    }
    let refused = appender.next().await;
    assert!(
        matches!(
            &refused,
            Err(AppendError::Refused {
                reason: Reason::Mismatch,
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(appender.committed(), fake::offset(0));
}

#[tokio::test]
async fn a_stream_goes_on_after_an_outage_of_all_nodes() {
    let mut fake = Fake::cluster(3).await;
    let mut appender = fake.client().appender(start());
    run(&mut appender, 0, 3).await;
    for node in &mut fake.nodes {
        node.kill().await;
    }
    push(&mut appender, 3);
    assert!(
        fake.env
            .timeout(Duration::from_secs(1), appender.next())
            .await
            .is_err()
    );
    for n in 0..3 {
        fake.start(n).await;
    }
    let back = fake
        .env
        .timeout(Duration::from_secs(3), appender.next())
        .await
        .expect("masks end soon");
    assert!(!back.unwrap().duplicate);
    assert_eq!(fake.shared().bytes, written(4));
}
