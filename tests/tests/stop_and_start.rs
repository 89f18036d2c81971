//! Stopped in order and started again, nothing is synced anew; and a directory whose supervisor was killed can
//! be used again.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

use redis::aio::MultiplexedConnection;
use redoubt_tests::{DevCluster, Options, Tokens, connect, eventually, redoubt, wait_equal};
use std::net::TcpListener;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// A key of each type, one that expires, and a function.
async fn write_all_types(conn: &mut MultiplexedConnection) {
    let commands = "SET s v|RPUSH l a b c|SADD set a b|ZADD z 1 a 2 b|HSET h f v g w|XADD x 1-1 f v|\
                    XGROUP CREATE x g 0|XREADGROUP GROUP g c COUNT 1 STREAMS x >|PFADD p a b|SETBIT b 7 1|\
                    GEOADD geo 13.3 52.5 berlin|SET ttl v EX 5000|SET counter 5|INCR counter";
    for line in commands.split('|') {
        let mut words = line.split_whitespace();
        let mut command = redis::cmd(words.next().unwrap());
        words.for_each(|w| {
            command.arg(w);
        });
        command
            .exec_async(conn)
            .await
            .unwrap_or_else(|e| panic!("{line}: {e}"));
    }
    let library = "#!lua name=lib\nredis.register_function('f', function() return 1 end)";
    redis::cmd("FUNCTION")
        .arg("LOAD")
        .arg(library)
        .exec_async(conn)
        .await
        .unwrap();
    redis::cmd("EVAL")
        .arg("redis.call('SET', KEYS[1], redis.call('TIME')[1])")
        .arg(1)
        .arg("script")
        .exec_async(conn)
        .await
        .unwrap();
}

async fn assert_all_there(cluster: &DevCluster) {
    let mut proxy = connect(cluster.port("proxy-1")).await;
    let ttl: i64 = redis::cmd("TTL")
        .arg("ttl")
        .query_async(&mut proxy)
        .await
        .unwrap();
    assert!((1..=5000).contains(&ttl), "{ttl}");
    let counter: i64 = redis::cmd("GET")
        .arg("counter")
        .query_async(&mut proxy)
        .await
        .unwrap();
    assert_eq!(counter, 6);
    let called: i64 = redis::cmd("FCALL")
        .arg("f")
        .arg(0)
        .query_async(&mut proxy)
        .await
        .unwrap();
    assert_eq!(called, 1);
    let mut replica = connect(cluster.port("replica-1")).await;
    wait_equal(&mut connect(cluster.port("master-1")).await, &mut replica).await;
}

#[tokio::test]
async fn stopped_in_order_and_started_again_nothing_is_synced_anew() {
    let mut cluster = DevCluster::start(Options::default()).await;
    write_all_types(&mut connect(cluster.port("proxy-1")).await).await;
    assert_all_there(&cluster).await;
    for round in 0..2 {
        let tokens = Tokens::start(cluster.port("proxy-1"), 4, &format!("stop{round}"));
        tokens.progress(200, SOON).await;
        let outcome = tokens.stop().await;
        let full_syncs = cluster.full_syncs();
        cluster.down().await;
        cluster.up().await;
        assert_all_there(&cluster).await;
        assert_eq!(
            cluster.full_syncs(),
            full_syncs,
            "round {round}: somebody was synced anew"
        );
        outcome
            .assert_kept_by(&mut connect(cluster.port("proxy-1")).await)
            .await;
    }
    cluster.down().await;
}

#[tokio::test]
async fn a_directory_whose_supervisor_was_killed_can_be_used_again() {
    let mut cluster = DevCluster::start(Options::default()).await;
    write_all_types(&mut connect(cluster.port("proxy-1")).await).await;
    let before = cluster.components().unwrap();
    cluster.kill_supervisor().await;
    assert!(
        before.iter().all(|c| runs(c.pid.unwrap())),
        "the components ended with their supervisor"
    );
    cluster.up().await;
    for c in &before {
        assert!(
            !runs(c.pid.unwrap()),
            "{} of the dead supervisor still runs",
            c.name
        );
    }
    assert_all_there(&cluster).await;
    cluster.down().await;
}

/// Whether the process exists and is no zombie.
fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit_once(')')
            .is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
    })
}

#[tokio::test]
async fn cluster_json_tells_what_runs() {
    let mut cluster = DevCluster::start(Options::default()).await;
    let mut kinds: Vec<String> = cluster
        .components()
        .unwrap()
        .into_iter()
        .map(|c| c.kind)
        .collect();
    kinds.sort();
    assert_eq!(
        kinds,
        [
            "journal", "journal", "journal", "master", "proxy", "replay", "replica"
        ]
    );
    cluster.dev("stop", "replica-1").await;
    assert_eq!(cluster.component("replica-1").pid, None);
    cluster.dev("start", "replica-1").await;
    eventually("the replica's new process", SOON, || {
        std::future::ready(cluster.component("replica-1").pid.ok_or("it is dead"))
    })
    .await;
    let killed = cluster.kill("replay-1");
    cluster.restarted("replay-1", killed).await;

    let dir = cluster.dir.to_string_lossy().into_owned();
    let (code, _, err) = redoubt(&["dev", "up", "--dir", &dir]).await;
    assert!(
        code != 0 && err.contains(&dir),
        "a second supervisor: {code} {err}"
    );
    cluster.down().await;
}

#[tokio::test]
async fn a_taken_port_is_named_before_anything_is_started() {
    let base = redoubt_tests::free_base();
    let _taken = TcpListener::bind(("127.0.0.1", base + 201)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("cluster").to_string_lossy().into_owned();
    let (code, _, err) = redoubt(&["dev", "up", "--dir", &dir, "--port-base", &base.to_string()]).await;
    assert!(
        code != 0 && err.contains(&(base + 201).to_string()),
        "{code} {err}"
    );
}
