//! Every server version that is promised: a cluster of it serves, loses nothing when its master dies, and replicas and rebuilt
//! servers are equal.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

mod fence;

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
    ($module:ident, $program:expr, $version:literal) => {
        mod $module {
            #[tokio::test]
            async fn a_killed_master_is_served_again_and_nothing_is_missing() {
                super::served_killed_and_served_again($program, $version).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn a_fence_covers_what_was_replied_before_it() {
                let program: std::path::PathBuf = $program;
                super::fence::holds(&program).await;
            }
        }
    };
}

// Debian 12's, unless another one is installed.
server!(redis_7_0, "redis-server".into(), "redis 7.0.15");
server!(redis_7_2, super::stock("redis-7.2.4"), "redis 7.2.4");
server!(redis_7_4, super::stock("redis-7.4.1"), "redis 7.4.1");
server!(redis_8_2, super::stock("redis-8.2.3"), "redis 8.2.3");
server!(valkey_8_1, super::stock("valkey-8.1.8"), "valkey 8.1.8");
server!(valkey_9_1, super::stock("valkey-9.1.2"), "valkey 9.1.2");

/// Writes of every kind through the proxy, then load while the master is killed; nothing is missing in the master, on the
/// replica, in a server that is made from the journal alone, and the nodes of the journal agree.
async fn served_killed_and_served_again(program: PathBuf, version: &str) {
    let options = Options {
        server: Some(program),
        ..Options::default()
    };
    let mut cluster = DevCluster::start(options).await;
    let session = cluster.journal().describe(SOON).await.unwrap().writer.session;
    assert_eq!(session.unwrap().server, version);
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
    assert_eq!(session.server, version);
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
    cluster.down().await;
}

#[test]
fn catches_fences_from_before_the_reply() {
    assert_catches(
        "redis_7_0::a_fence_covers_what_was_replied_before_it",
        "fence_from_before_the_reply",
    );
}
