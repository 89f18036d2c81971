//! A large value passes without being in the proxy's memory as a whole, both ways. Alone in its process, whose memory is
//! looked at.
#![expect(clippy::unwrap_used, reason = "helpers of a test: a failure is the test's")]

#[allow(dead_code, reason = "not all helpers are needed here")]
mod lab;

use lab::{Lab, SOON};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SHARED: bool = false;

const MB: usize = 1024 * 1024;
/// By hand it may be as much as a server takes.
const VALUE_MB: &str = "REDOUBT_LARGE_MB";
/// What the client and the proxy may take for it together, bytes.
const GROWN_MAX: usize = 24 * MB;

/// The most memory that this process has had, bytes.
fn most() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
}

#[tokio::test]
async fn a_large_value_is_never_held_as_a_whole() {
    let mb = std::env::var(VALUE_MB).map_or(256, |mb| mb.parse().unwrap());
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut client = lab.client().await;
    client.send("PING\r\n").await;
    client.expect("+PONG\r\n").await;
    let chunk: Vec<u8> = (0..MB).map(|i| (i % 251) as u8).collect();
    let mut back = vec![0; MB];
    let before = most();
    client
        .send_as_it_is(format!("*3\r\n$3\r\nSET\r\n$5\r\nlarge\r\n${}\r\n", mb * MB))
        .await;
    for _ in 0..mb {
        client.send_as_it_is(&chunk).await;
    }
    client.send_as_it_is("\r\nGET large\r\n").await;
    client.expect("+OK\r\n").await;
    client.expect(format!("${}\r\n", mb * MB)).await;
    for n in 0..mb {
        let read = client.conn.read_exact(&mut back);
        lab.env.timeout(SOON, read).await.unwrap().unwrap();
        assert!(back == chunk, "MB {n} differs");
    }
    client.expect("\r\n").await;
    // Or the client were not read any more: so much is written, and nothing is captured.
    let end = lab.offset().await;
    lab.session.pressure.capture(end, end, false);
    client.conn.shutdown().await.unwrap();
    client.expect_end().await;
    let grown = most() - before;
    println!("{mb} MB passed with {} KB more than before", grown / 1024);
    assert!(grown < GROWN_MAX, "it took {grown} bytes");
}
