//! The program: flags, signals, exit codes.
#![allow(clippy::disallowed_methods, reason = "tests run on the real machine")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::journal::FakeJournal;
use common::redis::{Redis, free_port};
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};

fn start(args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_redoubt-replay"))
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn ended(child: Child) -> (Output, String) {
    let output = tokio::time::timeout(Duration::from_secs(10), child.wait_with_output()).await;
    let output = output.expect("the program goes on").unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, log)
}

#[tokio::test]
async fn a_port_in_use_is_a_clear_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (output, log) = ended(start(&["--listen", &address, "--endpoints", "127.0.0.1:1"])).await;
    assert!(!output.status.success());
    assert!(log.contains(&format!("can't listen on {address}")), "{log}");
}

#[tokio::test]
async fn without_endpoints_it_says_what_is_missing() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_redoubt-replay"));
    let output = program.env_remove("REDOUBT_ENDPOINTS").output().await.unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--endpoints"));
}

#[tokio::test]
async fn it_serves_until_a_signal_and_then_stops_at_once() {
    let journal = FakeJournal::new('a');
    let node = journal.node("journal-1", None).await;
    journal.promote('b');
    let tail = journal.append(&[&["SELECT", "0"], &["SET", "k", "v"]]);
    for signal in ["-TERM", "-INT"] {
        let port = free_port().to_string();
        let program = start(&[
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--endpoints",
            &node.endpoint,
        ]);
        let redis = Redis::start(&["--replicaof", &format!("127.0.0.1 {port}")]).await;
        redis.fed_to(tail).await;
        assert_eq!(redis.call(&["GET", "k"]).await, "v");
        let pid = program.id().unwrap().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .await
                .unwrap()
                .success()
        );
        let (output, log) = ended(program).await;
        assert!(output.status.success(), "{log}");
        assert_eq!(log.matches("full sync").count(), 1, "{log}");
    }
}
