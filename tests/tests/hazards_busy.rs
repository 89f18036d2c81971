//! H11 and H25 over real processes: what blocks the fence delays replies, and ends nothing.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

use redoubt_tests::{
    DevCluster, Options, Raw, Tokens, assert_catches, config_set, connect, contains, eventually, info_field,
    served, try_connect,
};
use redoubt_types::Epoch;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);
/// How long a busy script runs. The server calls it busy after 20 ms.
const BUSY: Duration = Duration::from_millis(2500);
/// Writes, publishes, and then is busy.
const SCRIPT: &str = "redis.call('SET', KEYS[1], ARGV[1]) redis.call('PUBLISH', 'news', ARGV[1]) \
    local function us() local t = redis.call('TIME') return t[1] * 1000000 + t[2] end \
    local from = us() while us() - from < 2500000 do end return 'done'";

/// A cluster whose server soon says that it is busy.
async fn quickly_busy() -> DevCluster {
    quickly_busy_with(Options::default()).await
}

/// The same, of clients that each have a connection to the server: those who share one with the script wait for its end.
async fn quickly_busy_with_their_own() -> DevCluster {
    quickly_busy_with(Options {
        args: vec![("proxy", "--shared-upstream=false".to_owned())],
        ..Options::default()
    })
    .await
}

async fn quickly_busy_with(options: Options) -> DevCluster {
    let cluster = DevCluster::start(options).await;
    let mut master = connect(cluster.port("master-1")).await;
    config_set(&mut master, "busy-reply-threshold", "20").await;
    cluster
}

async fn epoch(cluster: &DevCluster) -> Option<Epoch> {
    let described = cluster.journal().describe(SOON).await;
    described.expect("a quorum").writer.epoch
}

/// Starts the busy script through the proxy, and returns once the server says that it is busy.
async fn start_script(cluster: &DevCluster, key: &[u8]) -> (Raw, Instant) {
    let mut scripts = Raw::connect(cluster.port("proxy-1")).await;
    scripts.send(&[b"PING"]).await;
    scripts.expect("+PONG\r\n", SOON).await;
    let master = connect(cluster.port("master-1")).await;
    let began = Instant::now();
    scripts
        .send(&[b"EVAL", SCRIPT.as_bytes(), b"1", key, b"told"])
        .await;
    eventually("a busy server", SOON, || {
        let mut master = master.clone();
        async move {
            match redis::cmd("PING").query_async::<String>(&mut master).await {
                Err(e) if e.code() == Some("BUSY") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        }
    })
    .await;
    (scripts, began)
}

#[tokio::test]
async fn h11_a_busy_script_delays_replies_and_ends_no_session() {
    let mut cluster = quickly_busy_with_their_own().await;
    let before = epoch(&cluster).await;
    let port = cluster.port("proxy-1");
    let mut reader = Raw::connect(port).await;
    reader.send(&[b"PING"]).await;
    reader.expect("+PONG\r\n", SOON).await;

    let (mut scripts, began) = start_script(&cluster, b"busy:1").await;
    // A reply that came while nobody's fence is answered, and a client that comes meanwhile: both wait.
    reader.send(&[b"GET", b"busy:1"]).await;
    let mut comes = Raw::connect(port).await;
    comes.send(&[b"GET", b"busy:1"]).await;
    reader.stays_silent(BUSY / 4, "a reply without a fence").await;
    assert!(began.elapsed() < BUSY, "this machine is too slow for this test");
    scripts.expect("$4\r\ndone\r\n", SOON).await;
    assert!(began.elapsed() >= BUSY, "the script was not busy for long enough");
    let busy = reader.read(SOON).await.expect("an answer");
    assert!(busy.starts_with(b"-BUSY"), "{:?}", String::from_utf8_lossy(&busy));
    comes.expect("$4\r\ntold\r\n", SOON).await;
    // The same connections go on, under the same epoch.
    for client in [&mut reader, &mut comes, &mut scripts] {
        client.send(&[b"GET", b"busy:1"]).await;
        client.expect("$4\r\ntold\r\n", SOON).await;
    }
    assert_eq!(epoch(&cluster).await, before, "the session ended");
    cluster.down().await;
}

#[test]
fn catches_a_busy_server_that_is_taken_for_gone() {
    assert_catches(
        "h11_a_busy_script_delays_replies_and_ends_no_session",
        "h11_busy_is_gone",
    );
}

#[tokio::test]
async fn h25_what_a_busy_script_publishes_waits_for_its_effects() {
    let mut cluster = quickly_busy().await;
    let mut subscriber = Raw::connect(cluster.port("proxy-1")).await;
    subscriber.send(&[b"SUBSCRIBE", b"news"]).await;
    subscriber
        .expect("*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n", SOON)
        .await;
    // The server itself has sent the message long before the script ends: that is the hazard.
    let mut direct = Raw::connect(cluster.port("master-1")).await;
    direct.send(&[b"SUBSCRIBE", b"news"]).await;
    direct
        .expect("*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n", SOON)
        .await;

    let message = "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$4\r\ntold\r\n";
    let (mut scripts, began) = start_script(&cluster, b"effect").await;
    direct.expect(message, SOON).await;
    assert!(began.elapsed() < BUSY, "the server held its own message back");
    subscriber.expect(message, SOON).await;
    let journal = served(&cluster.journal()).await;
    assert!(
        contains(&journal, b"effect"),
        "a message was seen {:?} after its script began, and the journal does not have the script's write",
        began.elapsed()
    );
    scripts.expect("$4\r\ndone\r\n", SOON).await;
    cluster.down().await;
}

#[test]
fn catches_busy_taken_for_a_fence() {
    assert_catches(
        "h25_what_a_busy_script_publishes_waits_for_its_effects",
        "h25_busy_is_a_fence",
    );
}

#[tokio::test]
async fn h11_no_client_can_pause_kill_or_fail_over_the_server() {
    let mut cluster = DevCluster::start(Options::default()).await;
    let (port, before) = (cluster.port("proxy-1"), epoch(&cluster).await);
    let mut client = Raw::connect(port).await;
    let refused: [&[&[u8]]; 8] = [
        &[b"CLIENT", b"PAUSE", b"100000", b"ALL", b"x"],
        &[b"client", b"pause", b"100000", b"x", b"y", b"z"],
        &[b"CLIENT", b"KILL", b"TYPE", b"replica"],
        &[b"CLIENT", b"KILL", b"TYPE", b"normal"],
        &[b"CLIENT", b"KILL", b"ID", b"1"],
        &[b"CLIENT", b"KILL", b"127.0.0.1:1"],
        &[b"FAILOVER"],
        &[b"FAILOVER", b"ABORT"],
    ];
    for command in refused {
        client.send(command).await;
        let answer = client.read(SOON).await.expect("an answer");
        let text = String::from_utf8_lossy(&answer);
        assert!(
            text.starts_with("-ERR ") && text.contains("refused by Redoubt"),
            "{text}"
        );
    }
    // A pause is of clients, the server knows nothing of it: so a fence, and with it the answer, is not kept.
    client.send(&[b"CLIENT", b"PAUSE", b"100000", b"WRITE"]).await;
    client.expect("+OK\r\n", SOON).await;
    client.send(&[b"SET", b"k", b"v"]).await;
    let mut ends = Raw::connect(port).await;
    ends.send(&[b"CLIENT", b"UNPAUSE"]).await;
    ends.expect("+OK\r\n", SOON).await;
    client.expect("+OK\r\n", SOON).await;
    // In a transaction a refusal is an error like another: nothing of it happens.
    client.send(&[b"MULTI"]).await;
    client.expect("+OK\r\n", SOON).await;
    client.send(&[b"FAILOVER"]).await;
    assert!(client.read(SOON).await.is_some_and(|a| a.starts_with(b"-ERR ")));
    client.send(&[b"EXEC"]).await;
    assert!(
        client
            .read(SOON)
            .await
            .is_some_and(|a| a.starts_with(b"-EXECABORT"))
    );

    // One's own connection may be killed.
    client.send(&[b"CLIENT", b"ID"]).await;
    let id = client.read(SOON).await.expect("an id");
    let id = String::from_utf8_lossy(&id)
        .trim_start_matches(':')
        .trim()
        .to_owned();
    client
        .send(&[b"CLIENT", b"KILL", b"ID", id.as_bytes(), b"SKIPME", b"no"])
        .await;
    client.expect(":1\r\n", SOON).await;
    client
        .closes_without_a_byte(SOON, "a connection that killed itself")
        .await;
    let mut other = try_connect(port).await.unwrap();
    let read: String = redis::cmd("GET").arg("k").query_async(&mut other).await.unwrap();
    assert_eq!(read, "v");
    assert_eq!(epoch(&cluster).await, before, "the session ended");
    cluster.down().await;
}

#[test]
fn catches_commands_that_pass() {
    assert_catches(
        "h11_no_client_can_pause_kill_or_fail_over_the_server",
        "h11_nothing_is_refused",
    );
}

#[tokio::test]
async fn h11_a_capture_link_killed_from_outside_goes_on_at_the_next_byte() {
    let mut cluster = DevCluster::start(Options::default()).await;
    let tokens = Tokens::start(cluster.port("proxy-1"), 4, "h11");
    tokens.progress(100, SOON).await;
    let (before, full_syncs) = (epoch(&cluster).await, cluster.full_syncs());
    let mut master = connect(cluster.port("master-1")).await;
    for _ in 0..5 {
        let mut kill = redis::cmd("CLIENT");
        let killed: u64 = kill
            .arg(&["KILL", "TYPE", "replica"])
            .query_async(&mut master)
            .await
            .unwrap();
        assert_eq!(killed, 1, "capture is the master's only replica");
        tokens.progress(50, Duration::from_secs(20)).await;
    }
    let cuts = cluster.log("proxy-1").matches("capture goes on").count();
    assert!(cuts >= 5, "{cuts}");
    assert_eq!(tokens.broken(), 0, "a client's connection was closed");
    assert_eq!(epoch(&cluster).await, before, "the session ended");
    assert_eq!(cluster.full_syncs(), full_syncs);
    assert_eq!(info_field(&mut master, "stats", "sync_full").await, "0");
    let outcome = tokens.stop().await;
    cluster.assert_nothing_lost(&outcome).await;
    cluster.down().await;
}

#[test]
fn catches_a_cut_that_ends_the_session() {
    assert_catches(
        "h11_a_capture_link_killed_from_outside_goes_on_at_the_next_byte",
        "h11_a_cut_ends_the_session",
    );
}
