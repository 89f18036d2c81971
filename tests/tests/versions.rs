//! Every server version that is promised: a cluster of it serves, loses nothing when its master dies, and replicas and rebuilt
//! servers are equal.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

mod fence;

use redis::aio::MultiplexedConnection;
use redoubt_tests::{
    DevCluster, Options, Tokens, assert_catches, connect, info_field, stock, wait_equal, write_all_types,
};
use std::path::PathBuf;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
/// A restart, feeding and a promotion.
const AGAIN: Duration = Duration::from_secs(60);

/// All tests of one server, in a module that is named after it.
macro_rules! server {
    ($module:ident, $program:expr, $version:literal, $late_hpersist:ident) => {
        mod $module {
            use super::LateHpersist::*;

            #[tokio::test]
            async fn a_killed_master_is_served_again_and_nothing_is_missing() {
                super::served_killed_and_served_again($program, $version, $late_hpersist).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn a_fence_covers_what_was_replied_before_it() {
                let program: std::path::PathBuf = $program;
                super::fence::holds(&program).await;
            }

            #[tokio::test]
            async fn h25_a_busy_server_gives_no_fence() {
                let program: std::path::PathBuf = $program;
                super::fence::not_while_busy(&program).await;
            }
        }
    };
}

// Debian 12's, unless another one is installed.
server!(redis_7_0, "redis-server".into(), "redis ", NoSuchCommand);
server!(
    redis_7_2,
    super::stock("redis-7.2.4"),
    "redis 7.2.4, 16 databases",
    NoSuchCommand
);
server!(
    redis_7_4,
    super::stock("redis-7.4.1"),
    "redis 7.4.1, 16 databases",
    LosesTheField
);
server!(
    redis_8_2,
    super::stock("redis-8.2.3"),
    "redis 8.2.3, 16 databases, module vectorset 1",
    LosesTheField
);
server!(
    valkey_8_1,
    super::stock("valkey-8.1.8"),
    "valkey 8.1.8, 16 databases",
    NoSuchCommand
);
server!(
    valkey_9_1,
    super::stock("valkey-9.1.2"),
    "valkey 9.1.2, 16 databases",
    KeepsTheField
);

/// What a version makes of HPERSIST that is replayed after the time to live that it ended (H23).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LateHpersist {
    NoSuchCommand,
    LosesTheField,
    KeepsTheField,
}

/// Writes of every kind through the proxy, then load while the master is killed; nothing is missing in the master, on the
/// replica, in a server that is made from the journal alone, and the nodes of the journal agree.
async fn served_killed_and_served_again(program: PathBuf, version: &str, late_hpersist: LateHpersist) {
    let options = Options {
        server: Some(program),
        ..Options::default()
    };
    let mut cluster = DevCluster::start(options).await;
    let session = cluster.journal().describe(SOON).await.unwrap().writer.session;
    let server = session.unwrap().server;
    assert!(server.starts_with(version), "{server}");
    let mut proxy = connect(cluster.port("proxy-1")).await;
    write_all_types(&mut proxy).await;
    let mut replica = connect(cluster.port("replica-1")).await;
    wait_equal(&mut connect(cluster.port("master-1")).await, &mut replica).await;

    let tokens = Tokens::start(cluster.port("proxy-1"), 4, "versions");
    tokens.progress(200, SOON).await;
    let mut master = connect(cluster.port("master-1")).await;
    let run_id = info_field(&mut master, "server", "run_id").await;
    let killed = cluster.kill("master-1");
    cluster.restarted("master-1", killed).await;
    tokens.progress(200, AGAIN).await;
    let outcome = tokens.stop().await;
    let session = cluster.journal().describe(SOON).await.unwrap().writer.session;
    let session = session.unwrap();
    assert_ne!(
        session.run_id.to_string(),
        run_id,
        "the process that was killed serves"
    );
    assert_eq!(session.server, server);
    let mut proxy = connect(cluster.port("proxy-1")).await;
    outcome.assert_kept_by(&mut proxy).await;
    let mut master = connect(cluster.port("master-1")).await;
    wait_equal(&mut master, &mut replica).await;
    let rebuilt = cluster.rebuilt().await;
    let mut rebuilt = rebuilt.connect().await;
    outcome.assert_kept_by(&mut rebuilt).await;
    wait_equal(&mut master, &mut rebuilt).await;
    let endpoints = cluster.endpoints().join(",");
    let (code, out, err) = cluster.redoubt(&["verify", "--endpoints", &endpoints]).await;
    assert_eq!(code, 0, "{out}{err}");
    h23_hpersist(&cluster, late_hpersist).await;
    cluster.down().await;
}

/// Why the proxy refuses HPERSIST on every version: some lose the field when it is replayed late, as in a rebuild.
async fn h23_hpersist(cluster: &DevCluster, late: LateHpersist) {
    let persist = ["HPERSIST", "h23", "FIELDS", "1", "f"];
    let told = command(&mut connect(cluster.port("proxy-1")).await, &persist).await;
    let refusal = told.expect_err("HPERSIST is refused").to_string();
    assert!(refusal.contains("replayed"), "{refusal}");
    // Its effect is the same.
    let persist_and_get = ["HGETEX", "h23", "PERSIST", "FIELDS", "1", "f"];
    let told = command(&mut connect(cluster.port("proxy-1")).await, &persist_and_get).await;
    let refusal = told.expect_err("HGETEX with PERSIST is refused").to_string();
    assert!(refusal.contains("replayed"), "{refusal}");

    // Past the proxy.
    let mut master = connect(cluster.port("master-1")).await;
    command(&mut master, &["HSET", "h23", "f", "v"]).await.unwrap();
    let expires = ["HPEXPIRE", "h23", "300", "FIELDS", "1", "f"];
    let known = command(&mut master, &expires).await;
    assert_eq!(known.is_err(), late == LateHpersist::NoSuchCommand, "{known:?}");
    if known.is_err() {
        return;
    }
    command(&mut master, &persist).await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    let has = async |conn: &mut MultiplexedConnection| {
        let has: bool = redis::cmd("HEXISTS")
            .arg("h23")
            .arg("f")
            .query_async(conn)
            .await
            .unwrap();
        has
    };
    assert!(has(&mut master).await, "the master itself lost the field");
    let rebuilt = cluster.rebuilt().await;
    let kept = has(&mut rebuilt.connect().await).await;
    assert_eq!(
        kept,
        late == LateHpersist::KeepsTheField,
        "the version is not what it was"
    );
}

async fn command(conn: &mut MultiplexedConnection, args: &[&str]) -> redis::RedisResult<redis::Value> {
    redis::cmd(args[0]).arg(&args[1..]).query_async(conn).await
}

#[test]
fn catches_fences_from_before_the_reply() {
    assert_catches(
        "redis_7_0::a_fence_covers_what_was_replied_before_it",
        "fence_from_before_the_reply",
    );
}
