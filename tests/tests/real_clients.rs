//! Client libraries as people use them work through the proxy as they do with Redis, and lose nothing when the proxy or
//! the journal's leader is killed: the programs in `tests/clients/` check their answers themselves, and what they left
//! behind is looked at here, in a server that was rebuilt from the journal alone.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

use redoubt_tests::{ClientProgram, DevCluster, Options, connect, wait_equal};
use std::time::Duration;

/// How long a client program may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// All that was written through the proxy is in the journal, and nothing else.
async fn assert_journal_holds_what_the_master_does(cluster: &DevCluster) {
    let rebuilt = cluster.rebuilt().await;
    let mut master = connect(cluster.port("master-1")).await;
    wait_equal(&mut master, &mut rebuilt.connect().await).await;
}

/// Runs a program that tours a library. At `writing` the proxy is killed and started again.
async fn tour(cluster: &DevCluster, program: &str, args: &[&str], parts: &[&str]) {
    let port = cluster.port("proxy-1").to_string();
    let mut tour = ClientProgram::start(program, &[&[port.as_str()], args].concat());
    let (last, before) = parts.split_last().expect("parts");
    assert_eq!(tour.until("writing", SILENCE).await, before);
    let old = cluster.kill("proxy-1");
    cluster.restarted("proxy-1", old).await;
    tour.tell("killed").await;
    assert_eq!(tour.end(SILENCE).await, [*last]);
    assert_journal_holds_what_the_master_does(cluster).await;
}

#[tokio::test]
async fn redis_py_is_served_as_by_redis() {
    const PARTS: [&str; 14] = [
        "values",
        "pipelines",
        "transactions",
        "pub_sub",
        "sharded_pub_sub",
        "blocking_pops",
        "scripts",
        "functions",
        "streams",
        "scans",
        "invalidations",
        "threads",
        "tasks",
        "through_a_kill",
    ];
    let mut cluster = DevCluster::start(Options::default()).await;
    for protocol in ["2", "3"] {
        tour(&cluster, "redis_py.py", &[protocol], &PARTS).await;
        let mut master = connect(cluster.port("proxy-1")).await;
        redis::cmd("FLUSHALL")
            .exec_async(&mut master)
            .await
            .expect("FLUSHALL");
    }
    cluster.down().await;
}
