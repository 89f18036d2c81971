//! Bad input on the ports that speak RESP: garbage, oversized lengths, nesting. A clear error each, to a cluster under
//! load that does not notice: nothing is lost, nobody is started again, memory is bounded.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

use redoubt_tests::{Abused, Raw, assert_catches, connect, eventually, info_field};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// What a process may take beyond what it took under the same load alone. A client's connection is given 0.4 MB of
/// buffers at most, a replica's some MB; nobody is given what a length promises.
const GROWN_MAX: u64 = 64 << 20;

/// Replicas that take nothing: enough that each journal node has some.
const DEAF_REPLICAS: u64 = 24;

/// What the replay may hold for one: its tail's window and prefetch, an entry, and what an allocator rounds up.
const DEAF_REPLICA_MAX: u64 = 6 << 20;

/// A sequence of bytes that a seed decides (splitmix64).
fn garbage(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut word = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    };
    (0..len.div_ceil(8)).flat_map(|_| word()).take(len).collect()
}

/// What is no request, and the error that is answered.
fn no_requests() -> Vec<(Vec<u8>, &'static str)> {
    let digits = "1".repeat(70_000);
    let texts = [
        ("*1\r\n+oops\r\n".to_owned(), "expected '$', got '+'"),
        ("*1\r\n".repeat(100_000), "expected '$', got '*'"),
        (
            "*2\r\n$3\r\nGET\r\n*1\r\n$1\r\nk\r\n".to_owned(),
            "expected '$', got '*'",
        ),
        ("*x\r\n".to_owned(), "invalid multibulk length"),
        ("*2147483648\r\n".to_owned(), "invalid multibulk length"),
        ("*9223372036854775808\r\n".to_owned(), "invalid multibulk length"),
        ("*1\r\n$x\r\n".to_owned(), "invalid bulk length"),
        ("*1\r\n$-1\r\n".to_owned(), "invalid bulk length"),
        ("*1\r\n$8589934593\r\n".to_owned(), "invalid bulk length"),
        ("*1\r\n$9223372036854775807\r\n".to_owned(), "invalid bulk length"),
        (
            "*1\r\n$99999999999999999999\r\n".to_owned(),
            "invalid bulk length",
        ),
        ("*1\r\n$4\r\nPINGxx".to_owned(), "invalid bulk length"),
        ("GET \"k\r\n".to_owned(), "unbalanced quotes in request"),
        (format!("*{digits}"), "too big mbulk count string"),
        (format!("*1\r\n${digits}"), "too big bulk count string"),
        ("x".repeat(70_000), "too big inline request"),
    ];
    texts.map(|(text, error)| (text.into_bytes(), error)).to_vec()
}

#[tokio::test]
async fn what_is_no_request_is_answered_as_redis_does_behind_what_came_before() {
    let abused = Abused::start(GROWN_MAX).await;
    let port = abused.cluster.port("proxy-1");
    for (bad, error) in no_requests() {
        let mut client = Raw::connect(port).await;
        let before: &[u8] = b"*3\r\n$3\r\nSET\r\n$6\r\nbefore\r\n$1\r\n1\r\n";
        client.send_bytes(&[before, &bad[..]].concat()).await;
        let shown: String = String::from_utf8_lossy(&bad).chars().take(40).collect();
        let came = client.rest(SOON, &shown).await;
        let wanted = format!("+OK\r\n-ERR Protocol error: {error}\r\n");
        assert_eq!(String::from_utf8_lossy(&came), wanted, "{shown:?}");
    }
    abused.unhurt(&[]).await;
}

#[tokio::test]
async fn random_bytes_are_answered_with_errors_only() {
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let abused = Abused::start(GROWN_MAX).await;
    let port = abused.cluster.port("proxy-1");
    let mut errors = 0;
    for i in 0..200u64 {
        let mut bytes = garbage(seed + i, 1 + (i as usize * 97) % 8192);
        if i % 4 == 0 {
            // What begins well goes further.
            bytes.splice(0..0, *b"*3\r\n$3\r\nSET\r\n$");
        } else if i % 4 == 1 {
            // Inline commands of printable garbage, line after line.
            bytes
                .iter_mut()
                .for_each(|b| *b = if *b < 8 { b'\n' } else { b' ' + *b % 95 });
        }
        let mut client = Raw::connect(port).await;
        client.send_bytes(&bytes).await;
        client.finish().await;
        let came = client.rest(SOON, &format!("seed {seed} + {i}")).await;
        for line in came.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let shown = String::from_utf8_lossy(line);
            assert!(
                line.starts_with(b"-ERR "),
                "seed {seed} + {i} is answered {shown:?}"
            );
            errors += 1;
        }
    }
    assert!(errors > 100, "hardly anything was answered");
    abused.unhurt(&[]).await;
}

#[tokio::test]
async fn what_lengths_promise_is_not_set_aside_and_what_is_not_finished_is_not_executed() {
    let abused = Abused::start(GROWN_MAX).await;
    let port = abused.cluster.port("proxy-1");
    let mut open = Vec::new();
    for i in 0..8 {
        let mut client = Raw::connect(port).await;
        let head = format!("*3\r\n$3\r\nSET\r\n$7\r\nlarge:{i}\r\n$536870912\r\n");
        assert!(client.send_bytes(head.as_bytes()).await);
        assert!(client.send_bytes(&vec![b'x'; 256 << 10]).await);
        open.push(client);
    }
    for i in 0..200 {
        let mut client = Raw::connect(port).await;
        let some: &[u8] = match i % 3 {
            0 => b"*1048576\r\n$4\r\nMSET\r\n$1\r\nk\r\n",
            1 => b"*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$10000\r\nabc",
            _ => b"SET half",
        };
        assert!(client.send_bytes(some).await);
        open.push(client);
    }
    abused.tokens.progress(300, SOON).await;
    drop(open);
    // A command that never ended was not executed.
    abused.unhurt(&["half", "k", "large:0", "large:7"]).await;
}

#[tokio::test]
async fn clients_that_do_not_read_cost_no_memory_and_hold_up_nobody() {
    let abused = Abused::start(GROWN_MAX).await;
    let port = abused.cluster.port("proxy-1");
    let mut proxy = connect(port).await;
    let mut set = redis::cmd("SET");
    set.arg("large").arg(vec![b'x'; 4 << 20]);
    set.exec_async(&mut proxy).await.unwrap();
    let mut deaf = Vec::new();
    for _ in 0..8 {
        let mut client = Raw::connect_small(port).await;
        assert!(client.send_bytes(&b"GET large\r\n".repeat(10)).await);
        deaf.push(client);
    }
    abused.tokens.progress(1000, SOON).await;
    drop(deaf);
    abused.unhurt(&[]).await;
}

#[test]
fn catches_replies_that_are_read_ahead_of_clients() {
    assert_catches(
        "clients_that_do_not_read_cost_no_memory_and_hold_up_nobody",
        "hold_without_bound",
    );
}

/// A replica that shakes hands as far as `REPLCONF`.
async fn replica(port: u16) -> Raw {
    let mut replica = Raw::connect_small(port).await;
    replica.send(&[b"PING"]).await;
    replica.expect("+PONG\r\n", SOON).await;
    let configure: [&[u8]; 5] = [b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"];
    replica.send(&configure).await;
    replica.expect("+OK\r\n", SOON).await;
    replica
}

#[tokio::test]
async fn what_is_no_handshake_is_refused_by_the_replay_with_its_reason() {
    let abused = Abused::start(GROWN_MAX).await;
    let port = abused.cluster.port("replay-1");
    for (bad, error) in no_requests() {
        let mut client = Raw::connect(port).await;
        client.send_bytes(&bad).await;
        let shown: String = String::from_utf8_lossy(&bad).chars().take(40).collect();
        let came = client.rest(SOON, &shown).await;
        let wanted = format!("-ERR a replica sent no request: Protocol error: {error}\r\n");
        // A long line may be judged by its length first.
        let too_large = came.starts_with(b"-ERR a replica sent a request of more than 16384 bytes");
        assert!(
            String::from_utf8_lossy(&came) == wanted || (bad.len() > 16384 && too_large),
            "{shown:?}: {:?}",
            String::from_utf8_lossy(&came)
        );
    }
    let answered: [(&[&[u8]], &str); 4] = [
        (
            &[b"GET", b"k"],
            "-ERR only the replication handshake is answered here\r\n",
        ),
        (&[b"SYNC"], "-ERR SYNC is not supported, use PSYNC\r\n"),
        (
            &[b"PSYNC", b"?"],
            "-ERR PSYNC takes a replication id and an offset here\r\n",
        ),
        (
            &[b"PSYNC", b"?", b"x"],
            "-ERR value is not an integer or out of range\r\n",
        ),
    ];
    for (request, error) in answered {
        let mut client = replica(port).await;
        client.send(request).await;
        client.expect(error, SOON).await;
    }
    // One that could not be told the newest replid.
    let mut old = Raw::connect(port).await;
    old.send(&[b"PSYNC", b"?", b"-1"]).await;
    let came = old.rest(SOON, "a replica without psync2").await;
    assert!(
        came.starts_with(b"-NOMASTERLINK this master needs replicas with capa psync2"),
        "{came:?}"
    );

    for i in 0..50u64 {
        let mut client = Raw::connect(port).await;
        client.send_bytes(&garbage(i, 30_000)).await;
        client.finish().await;
        client
            .rest(Duration::from_secs(15), "random bytes to the replay")
            .await;
    }
    abused.unhurt(&[]).await;
}

#[tokio::test]
async fn a_replica_of_what_no_history_holds_gets_a_full_sync_and_one_that_talks_loses_its_link() {
    let abused = Abused::start(GROWN_MAX).await;
    let port = abused.cluster.port("replay-1");
    let mut master = connect(abused.cluster.port("master-1")).await;
    let replid = info_field(&mut master, "replication", "master_replid").await;
    let nobody = "0123456789abcdef0123456789abcdef01234567";
    // Beyond the confirmed end, before the beginning (the first offset is asked for as 1), and of another history.
    for (replid, from) in [
        (replid.as_str(), "9223372036854775807"),
        (replid.as_str(), "0"),
        (replid.as_str(), "-5"),
        (nobody, "1"),
        ("?", "-1"),
    ] {
        let mut client = replica(port).await;
        client.send(&[b"PSYNC", replid.as_bytes(), from.as_bytes()]).await;
        client.begins("+FULLRESYNC ", SOON).await;
        // What is no acknowledgement.
        let sent = client
            .send_bytes(&[&b"*1\r\n$4\r\nPING\r\n"[..], &garbage(1, 1000)].concat())
            .await;
        assert!(sent);
        client.rest(SOON, "a replica that talks").await;
    }
    abused.unhurt(&[]).await;
}

#[tokio::test]
async fn replicas_that_do_not_read_cost_little_memory_and_hold_up_nobody() {
    let abused = Abused::start(DEAF_REPLICAS * DEAF_REPLICA_MAX).await;
    let port = abused.cluster.port("replay-1");
    let mut deaf = Vec::new();
    for _ in 0..DEAF_REPLICAS {
        let mut client = replica(port).await;
        client.send(&[b"PSYNC", b"?", b"-1"]).await;
        deaf.push(client);
    }
    let mut proxy = connect(abused.cluster.port("proxy-1")).await;
    for i in 0..8 {
        let mut set = redis::cmd("SET");
        set.arg(format!("large:{i}")).arg(vec![b'x'; 4 << 20]);
        set.exec_async(&mut proxy).await.unwrap();
    }
    // Those that read are fed meanwhile.
    let mut written = redis::cmd("SET");
    written
        .arg("written")
        .arg(1)
        .exec_async(&mut proxy)
        .await
        .unwrap();
    let mut fed = connect(abused.cluster.port("replica-1")).await;
    eventually("the write on a replica that reads", SOON, || {
        let mut fed = fed.clone();
        async move {
            let mut get = redis::cmd("GET");
            let read: Option<i64> = get.arg("written").query_async(&mut fed).await.unwrap();
            read.ok_or("it is not there")
        }
    })
    .await;
    let link = info_field(&mut fed, "replication", "master_link_status").await;
    assert_eq!(link, "up");
    drop(deaf);
    abused.unhurt(&[]).await;
}

#[test]
fn catches_replicas_that_share_a_connection_to_the_journal() {
    assert_catches(
        "replicas_that_do_not_read_cost_little_memory_and_hold_up_nobody",
        "tails_share_a_connection",
    );
}
