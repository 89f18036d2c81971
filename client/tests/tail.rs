//! A tail passes on nothing that is not verified, and goes on elsewhere when a node can't serve.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code, helpers included"
)]

mod fake;

use fake::{Fake, offset, replid};
use redoubt_client::{Client, TailError, TailEvent, Tailer};
use redoubt_types::limits::{TAIL_DOUBT_AFTER, TAIL_SILENCE_MAX};
use redoubt_types::{Chain, Offset};
use std::time::Duration;

fn written(to: usize) -> Vec<u8> {
    (0..to).flat_map(|n| format!("entry {n};").into_bytes()).collect()
}

/// A cluster whose journal holds `count` entries.
async fn journal(nodes: usize, count: usize) -> Fake {
    let fake = Fake::cluster(nodes).await;
    fake.change(|s| (0..count).for_each(|n| s.write(format!("entry {n};").as_bytes())));
    fake
}

/// Reads until `until` was passed on; returns the bytes, and checks their offsets and chain.
async fn read(tailer: &mut Tailer, from: usize, until: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while from + bytes.len() < until {
        if let TailEvent::Entry(e) = tailer.next().await.unwrap() {
            assert_eq!(e.start, offset(from + bytes.len()));
            bytes.extend_from_slice(&e.bytes);
        }
    }
    bytes
}

async fn failure(tailer: &mut Tailer) -> TailError {
    let failed = async {
        loop {
            if let Err(error) = tailer.next().await {
                return error;
            }
        }
    };
    let error = redoubt_env::Env::real()
        .timeout(Duration::from_secs(10), failed)
        .await
        .expect("a failure");
    assert_eq!(tailer.next().await, Err(error.clone()), "it is final");
    error
}

fn tail(client: &Client, from: usize) -> Tailer {
    client.tail(offset(from), true)
}

#[tokio::test]
async fn a_tail_begins_inside_an_entry_and_follows() {
    let fake = journal(3, 10).await;
    let client = fake.client();
    let mut tailer = tail(&client, 3);
    let TailEvent::Entry(first) = tailer.next().await.unwrap() else {
        panic!("an entry comes first")
    };
    assert!(first.trimmed);
    assert_eq!((&first.bytes[..], first.start), (&b"ry 0;"[..], offset(3)));
    assert_eq!(first.chain_end, Chain::EMPTY.extend(b"entry 0;"));
    assert_eq!(tailer.lineage().unwrap().last().replid, replid(0));
    read(&mut tailer, 8, written(10).len()).await;
    let end = written(10).len();
    let whole = Chain::EMPTY.extend(&written(10));
    assert_eq!(
        tailer.next().await,
        Ok(TailEvent::Mark {
            tail: offset(end),
            chain: whole
        })
    );
    fake.change(|s| s.write(b"entry 10;"));
    assert_eq!(read(&mut tailer, end, end + 9).await, b"entry 10;");
}

#[tokio::test]
async fn a_tail_that_does_not_follow_ends_at_the_confirmed_tail() {
    let fake = journal(3, 100).await;
    for node in &fake.nodes {
        node.faults().cut_tail_after = Some(7);
    }
    let mut tailer = fake.client().tail(Offset::ZERO, false);
    let mut bytes = Vec::new();
    loop {
        match tailer.next().await.unwrap() {
            TailEvent::Entry(e) => bytes.extend_from_slice(&e.bytes),
            TailEvent::End => break,
            _ => {}
        }
    }
    assert_eq!(bytes, written(100));
    assert_eq!(tailer.next().await, Ok(TailEvent::End));
}

#[tokio::test]
async fn h07_a_rotten_record_is_read_from_another_node() {
    let fake = journal(3, 50).await;
    // Each node is rotten elsewhere, so that whichever is asked first shows it; one also by its own account.
    fake.nodes[0].faults().rot_at = Some(100);
    fake.nodes[1].faults().rot_at = Some(200);
    fake.nodes[2].faults().rot_at = Some(300);
    fake.nodes[2].faults().damaged_at = Some(350);
    let mut tailer = tail(&fake.client(), 0);
    let bytes = read(&mut tailer, 0, written(50).len()).await;
    assert_eq!(bytes, written(50));
    assert!(fake.calls("tail").len() > 1, "it went on elsewhere");
}

#[tokio::test]
async fn h07_what_is_rotten_everywhere_is_never_passed_on() {
    let fake = journal(3, 50).await;
    fake.nodes[0].faults().rot_at = Some(100);
    fake.nodes[1].faults().damaged_at = Some(100);
    fake.nodes[2].faults().rot_at = Some(100);
    let mut tailer = tail(&fake.client(), 0);
    assert!(matches!(
        failure(&mut tailer).await,
        TailError::DamagedEverywhere(_)
    ));
}

#[tokio::test]
async fn a_third_copy_that_is_down_is_waited_for() {
    let mut fake = journal(3, 50).await;
    fake.nodes[0].faults().rot_at = Some(100);
    fake.nodes[1].faults().rot_at = Some(100);
    fake.nodes[2].kill().await;
    let mut tailer = tail(&fake.client(), 90);
    let whole = read(&mut tailer, 90, 98).await;
    let waiting = fake.env.timeout(Duration::from_millis(500), tailer.next()).await;
    assert!(
        !matches!(waiting, Ok(Err(_) | Ok(TailEvent::Entry(_)))),
        "{waiting:?}"
    );
    fake.start(2).await;
    let rest = read(&mut tailer, 98, written(50).len()).await;
    assert_eq!([whole, rest].concat(), written(50)[90..]);
}

#[tokio::test]
async fn cut_streams_and_dead_nodes_cost_and_repeat_nothing() {
    let mut fake = journal(3, 60).await;
    for node in &fake.nodes {
        node.faults().cut_tail_after = Some(5);
    }
    let mut tailer = tail(&fake.client(), 0);
    let mut bytes = read(&mut tailer, 0, 200).await;
    fake.nodes[0].kill().await;
    fake.nodes[2].kill().await;
    bytes.extend(read(&mut tailer, bytes.len(), written(60).len()).await);
    assert_eq!(bytes, written(60));
}

#[tokio::test]
async fn a_silent_node_is_left() {
    let fake = journal(2, 20).await;
    for node in &fake.nodes {
        node.faults().mute_tail_after = Some(12);
    }
    let mut tailer = tail(&fake.client(), 0);
    let whole = read(&mut tailer, 0, written(20).len());
    let bytes = fake
        .env
        .timeout(TAIL_SILENCE_MAX * 3, whole)
        .await
        .expect("in time");
    assert_eq!(bytes, written(20));
}

#[tokio::test]
async fn a_node_that_is_cut_off_in_good_faith_is_left() {
    let fake = journal(3, 20).await;
    // Whichever of the two it begins at: both know the first half only.
    fake.nodes[0].faults().cut_off_at = Some(80);
    fake.nodes[1].faults().cut_off_at = Some(80);
    let mut tailer = tail(&fake.client(), 0);
    let whole = read(&mut tailer, 0, written(20).len());
    let within = (TAIL_DOUBT_AFTER + TAIL_SILENCE_MAX) * 3;
    assert_eq!(
        fake.env.timeout(within, whole).await.expect("in time"),
        written(20)
    );
}

#[tokio::test]
async fn another_history_on_another_node_is_an_error() {
    let mut fake = journal(2, 20).await;
    fake.nodes[1].kill().await;
    let mut tailer = tail(&fake.client(), 0);
    read(&mut tailer, 0, written(20).len()).await;
    fake.nodes[1].faults().fork = true;
    fake.start(1).await;
    fake.nodes[0].kill().await;
    fake.change(|s| s.write(b"more"));
    let forked = failure(&mut tailer).await;
    assert!(
        matches!(&forked, TailError::Forked { at, .. } if *at == offset(written(20).len())),
        "{forked:?}"
    );
}

#[tokio::test]
async fn h15_each_step_of_the_lineage_is_told_once_across_nodes() {
    let fake = Fake::cluster(3).await;
    fake.change(|s| {
        s.write(b"abcd");
        s.step(1);
        s.write(b"efgh");
        s.step(2);
        s.step(3);
        s.write(b"ijkl");
    });
    for node in &fake.nodes {
        node.faults().cut_tail_after = Some(1);
    }
    let mut tailer = tail(&fake.client(), 4);
    let mut told = Vec::new();
    while told.len() < 6 {
        match tailer.next().await.unwrap() {
            TailEvent::Entry(e) => {
                assert_eq!(tailer.lineage().unwrap().last().replid, e.replid);
                told.push(String::from_utf8_lossy(&e.bytes).into_owned());
            }
            TailEvent::Lineage(step) => {
                assert_eq!(tailer.lineage().unwrap().last(), &step);
                told.push(format!("{} at {}", step.epoch.unwrap(), step.from));
            }
            _ => {}
        }
        if told.len() == 4 {
            fake.change(|s| {
                if s.lineage.len() == 4 {
                    s.step(4);
                    s.write(b"mnop");
                }
            });
        }
    }
    assert_eq!(
        told,
        ["efgh", "2 at 8", "3 at 8", "ijkl", "4 at 12", "mnop"][..].to_vec()
    );
}

#[tokio::test]
async fn offsets_that_are_not_there_are_refused_with_what_is() {
    let fake = journal(3, 2).await;
    let client = fake.client();
    let end = written(2).len();
    let beyond = failure(&mut tail(&client, end + 1)).await;
    assert_eq!(beyond, TailError::BeyondEnd { tail: offset(end) });
    fake.change(|s| s.beginning = 4);
    let before = failure(&mut tail(&client, 3)).await;
    assert_eq!(before, TailError::BeforeBeginning { beginning: offset(4) });
}

#[tokio::test]
async fn a_slow_consumer_is_not_taken_for_a_silent_node() {
    let fake = journal(1, 3000).await;
    let mut tailer = tail(&fake.client(), 0);
    let mut bytes = read(&mut tailer, 0, 1000).await;
    fake.env.sleep(TAIL_SILENCE_MAX + Duration::from_secs(1)).await;
    bytes.extend(read(&mut tailer, bytes.len(), written(3000).len()).await);
    assert_eq!(bytes, written(3000));
    assert_eq!(fake.calls("tail").len(), 1);
}
