//! A proxy that is told to stop owes nobody an answer, and gives its lease back.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

#[allow(dead_code, reason = "not all helpers are needed here")]
mod standby;

use redoubt_env::Env;
use redoubt_tests::{Options, assert_catches, connect, eventually};
use redoubt_types::HolderId;
use standby::{Standby, unserved};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const SOON: Duration = Duration::from_secs(30);
const CLIENTS: usize = 8;
/// Commands that a client sends ahead of their answers: so many that there is no moment at which none is under way.
const AHEAD: usize = 5_000;
const OK: &[u8] = b"+OK\r\n";

/// Sets `key:0`, `key:1`, … as fast as it may, far ahead of the answers, until its connection ends. Returns how many
/// were acknowledged.
async fn pipeline(port: u16, key: usize, acked: Arc<AtomicUsize>) -> usize {
    let stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("the proxy listens");
    let (mut read, mut write) = stream.into_split();
    let (sent, own) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let sending = async {
        loop {
            let n = sent.load(Ordering::SeqCst);
            if n >= own.load(Ordering::SeqCst) + AHEAD {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            sent.store(n + 1, Ordering::SeqCst);
            let name = format!("{key}:{n}");
            let command = format!("*3\r\n$3\r\nSET\r\n${}\r\n{name}\r\n$1\r\nx\r\n", name.len());
            if write.write_all(command.as_bytes()).await.is_err() {
                // The answers are what counts.
                std::future::pending::<()>().await;
            }
        }
    };
    let reading = async {
        let (mut buf, mut bytes) = (vec![0; 64 * 1024], 0);
        // A reset is an end too: what was read before it stands.
        while let Ok(n @ 1..) = read.read(&mut buf).await {
            assert!(
                buf[..n]
                    .iter()
                    .zip(bytes % OK.len()..)
                    .all(|(b, at)| *b == OK[at % OK.len()])
            );
            bytes += n;
            let now = bytes / OK.len();
            acked.fetch_add(now - own.swap(now, Ordering::SeqCst), Ordering::SeqCst);
        }
        assert_eq!(bytes % OK.len(), 0, "an answer was cut");
        bytes / OK.len()
    };
    tokio::select! {
        biased;
        acked = reading => acked,
        () = sending => unreachable!("it never ends"),
    }
}

async fn stopped_under_load(shared: bool) {
    let cluster = unserved(Options {
        restart: "never",
        ..Options::default()
    })
    .await;
    let shared = format!("--shared-upstream={shared}");
    let proxy = Standby::start_with(&cluster, cluster.port("master-1"), None, &[&shared]).await;
    let acked = Arc::new(AtomicUsize::new(0));
    let clients: Vec<JoinHandle<usize>> = (0..CLIENTS)
        .map(|key| tokio::spawn(pipeline(proxy.port, key, Arc::clone(&acked))))
        .collect();
    // Some that get no answer, and must not be waited for.
    let blocked = tokio::spawn({
        let mut blocked = connect(proxy.port).await;
        async move {
            redis::cmd("BLPOP")
                .arg(&["none", "0"])
                .query_async::<redis::Value>(&mut blocked)
                .await
        }
    });
    eventually("some pipelines are under way", SOON, || {
        let n = acked.load(Ordering::SeqCst);
        std::future::ready(if n > 20_000 { Ok(()) } else { Err(n) })
    })
    .await;
    let began = Instant::now();
    let (status, log) = proxy.stop().await;
    let ended = began.elapsed();
    // The next writer.
    let holder = HolderId::new(Env::real().random_nonzero()).expect("not 0");
    let granted = cluster
        .journal()
        .acquire(holder, "next", Duration::from_secs(3), SOON)
        .await;
    println!(
        "{shared}: ended {ended:?} after SIGTERM, the next writer had the lease {:?} after it",
        began.elapsed()
    );
    assert!(status.success(), "{status}");
    granted.expect("nobody has the lease");
    assert!(log.contains("the lease was given back"), "{log}");
    assert!(!log.contains("not all clients got their answers"), "{log}");
    blocked
        .await
        .expect("no panic")
        .expect_err("there is nothing to pop");

    let mut counts = Vec::new();
    for client in clients {
        counts.push(client.await.expect("no panic"));
    }
    // What was acknowledged, and nothing else, was executed; and all of it is in the journal.
    let all: usize = counts.iter().sum();
    let rebuilt = cluster.rebuilt().await;
    for (what, port) in [
        ("the server", cluster.port("master-1")),
        ("the journal", rebuilt.port),
    ] {
        let mut conn = connect(port).await;
        let size: usize = redis::cmd("DBSIZE").query_async(&mut conn).await.expect("DBSIZE");
        assert_eq!(
            size, all,
            "{what} has other writes than were acknowledged: {counts:?}"
        );
        for (key, count) in counts.iter().enumerate() {
            let (last, next) = (
                format!("{key}:{}", count.saturating_sub(1)),
                format!("{key}:{count}"),
            );
            let has: usize = redis::cmd("EXISTS")
                .arg(&[last, next])
                .query_async(&mut conn)
                .await
                .expect("EXISTS");
            assert_eq!(has, 1, "{what}: of client {key} {count} writes were acknowledged");
        }
    }
}

#[tokio::test]
async fn at_sigterm_all_that_was_executed_is_answered_and_in_the_journal() {
    stopped_under_load(false).await;
}

#[tokio::test]
async fn at_sigterm_clients_that_share_a_connection_get_their_answers() {
    stopped_under_load(true).await;
}

#[test]
fn catches_a_proxy_that_stops_without_waiting_for_its_clients() {
    assert_catches(
        "at_sigterm_all_that_was_executed_is_answered_and_in_the_journal",
        "stop_without_drain",
    );
}

#[test]
fn catches_a_proxy_whose_clients_that_share_are_not_waited_for() {
    assert_catches(
        "at_sigterm_clients_that_share_a_connection_get_their_answers",
        "stop_without_drain",
    );
}
