use super::*;
use crate::hold::Hold;
use redoubt_env::Env;
use redoubt_types::Offset;
use std::time::Duration;

const PREFIX: &str = "REDOUBT-REFUSED-0123456789abcdef-";
const LEASE: Duration = Duration::from_secs(30);

fn replies() -> (Replies, Hold) {
    let env = Env::real();
    let hold = Hold::new(Offset::ZERO, env.now().plus(LEASE), env);
    (Replies::new(hold.waiter(), PREFIX), hold)
}

fn receive(replies: &mut Replies, bytes: &[u8], ms: u64) {
    replies.tail(bytes.len()).extend_from_slice(bytes);
    replies
        .received(bytes.len(), BootTime::new(Duration::from_millis(ms)))
        .unwrap();
}

async fn fence(hold: &Hold, point: u64) {
    let batch = hold.next_batch().await;
    hold.fenced(batch, Offset::new(point)).unwrap();
}

fn commit(hold: &Hold, end: u64) {
    hold.on_appended(Offset::new(end), BootTime::default(), true, LEASE, Duration::ZERO);
}

#[tokio::test]
async fn bytes_leave_in_order_as_their_pieces_are_released() {
    let (mut replies, hold) = replies();
    receive(&mut replies, b"+OK\r\n", 1);
    fence(&hold, 10).await;
    receive(&mut replies, b":7\r\n", 2);
    receive(&mut replies, b":8\r\n", 3);
    fence(&hold, 20).await;
    assert_eq!(replies.released(), b"");
    assert_eq!(
        replies.held_since(),
        Some(BootTime::new(Duration::from_millis(1)))
    );
    commit(&hold, 10);
    assert_eq!(replies.released(), b"+OK\r\n");
    assert_eq!(
        replies.held_since(),
        Some(BootTime::new(Duration::from_millis(2)))
    );
    replies.written(2);
    assert_eq!(replies.released(), b"K\r\n");
    commit(&hold, 20);
    assert_eq!(replies.released(), b"K\r\n:7\r\n:8\r\n");
    replies.written(11);
    assert!(replies.is_empty());
}

#[tokio::test]
async fn a_markers_error_becomes_the_refusals_text_however_it_is_cut() {
    let raw = format!("+OK\r\n-ERR unknown command '{PREFIX}06', with args beginning with: \r\n:5\r\n");
    let want = format!("+OK\r\n-{}\r\n:5\r\n", RefusalCode::new(6).unwrap().text());
    for cut in 1..raw.len() {
        let (mut replies, hold) = replies();
        replies.expect_markers(1);
        for piece in raw.as_bytes().chunks(cut) {
            receive(&mut replies, piece, 1);
        }
        fence(&hold, 0).await;
        assert_eq!(replies.released(), want.as_bytes(), "cut {cut}");
        assert_eq!(replies.markers, 0);
    }
}

#[tokio::test]
async fn what_looks_like_a_marker_in_a_value_is_left_alone() {
    let text = format!("-ERR unknown command '{PREFIX}06'");
    let raw = format!("${}\r\n{text}\r\n", text.len());
    let (mut replies, hold) = replies();
    replies.expect_markers(1);
    receive(&mut replies, raw.as_bytes(), 1);
    fence(&hold, 0).await;
    assert_eq!(replies.released(), raw.as_bytes());
}

#[tokio::test]
async fn a_line_of_our_own_waits_like_any_reply() {
    let (mut replies, hold) = replies();
    receive(&mut replies, b"+OK\r\n", 1);
    replies.append_line("-ERR bad", BootTime::default());
    assert_eq!(replies.released(), b"");
    fence(&hold, 0).await;
    assert_eq!(replies.released(), b"+OK\r\n-ERR bad\r\n");
}

#[tokio::test]
async fn there_is_no_room_past_the_bound() {
    let (mut replies, _hold) = replies();
    assert!(replies.has_room());
    let big = format!("${}\r\n", CLIENT_HELD_BYTES_MAX);
    receive(&mut replies, big.as_bytes(), 1);
    assert!(replies.has_room());
    receive(&mut replies, &vec![b'x'; CLIENT_HELD_BYTES_MAX], 1);
    assert!(!replies.has_room());
}

#[tokio::test]
async fn what_is_no_answer_is_an_error() {
    let (mut replies, _hold) = replies();
    replies.tail(4).extend_from_slice(b"oops");
    assert!(replies.received(4, BootTime::default()).is_err());
}

#[tokio::test]
async fn a_pause_that_the_server_allows_is_told_once_and_answered_with_ok() {
    let (mut replies, hold) = replies();
    replies.expect_markers(2);
    let line = format!("-ERR Unknown client type '{PREFIX}pause-write-100'\r\n");
    let (front, back) = line.split_at(40);
    receive(&mut replies, front.as_bytes(), 1);
    assert!(replies.take_asked().is_empty());
    receive(&mut replies, back.as_bytes(), 2);
    receive(&mut replies, b"-NOPERM no\r\n-ERR Unknown client type 'x'\r\n", 3);
    let asked = replies.take_asked();
    assert_eq!(asked, [Asked::Pause(crate::pause::Kind::Write, 100)]);
    assert!(replies.take_asked().is_empty());
    fence(&hold, 0).await;
    assert_eq!(
        replies.released(),
        b"+OK\r\n-NOPERM no\r\n-ERR Unknown client type 'x'\r\n"
    );
}

#[tokio::test]
async fn what_monitor_leaves_out_waits_for_nothing() {
    let (mut replies, hold) = replies();
    receive(&mut replies, b"+O", 1);
    replies.expect_monitor(false);
    receive(&mut replies, b"K\r\n", 1);
    fence(&hold, 0).await;
    assert_eq!(replies.released(), b"+OK\r\n");
    replies.written(5);
    let own = b"+1700000000.123456 [0 127.0.0.1:5000] \"INFO\" \"replication\" \"redoubt\"\r\n";
    receive(&mut replies, &own[..30], 2);
    receive(&mut replies, &own[30..], 3);
    assert!(replies.is_empty() && replies.held_since().is_none());
    let theirs = b"+1700000000.123456 [0 127.0.0.1:5000] \"GET\" \"k\"\r\n";
    receive(&mut replies, theirs, 4);
    fence(&hold, 0).await;
    assert_eq!(replies.released(), theirs);
}
