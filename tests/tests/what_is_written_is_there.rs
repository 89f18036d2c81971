//! What is written through the proxy is read back, reaches the replica and the journal, and nothing differs
//! anywhere.
#![allow(clippy::disallowed_methods, reason = "tests drive real clocks")]

use redoubt_tests::{DevCluster, Options, connect, info_field, wait_equal};
use std::time::Duration;
use tokio::process::Command;

#[tokio::test]
async fn a_write_is_read_back_and_is_on_the_replica() {
    let mut cluster = DevCluster::start(Options::default()).await;
    let mut proxy = connect(cluster.port("proxy-1")).await;
    redis::cmd("SET")
        .arg("greeting")
        .arg("hello")
        .exec_async(&mut proxy)
        .await
        .unwrap();
    let read: String = redis::cmd("GET")
        .arg("greeting")
        .query_async(&mut proxy)
        .await
        .unwrap();
    assert_eq!(read, "hello");
    let mut replica = connect(cluster.port("replica-1")).await;
    redoubt_tests::eventually("the write on the replica", Duration::from_secs(5), || {
        let mut replica = replica.clone();
        async move {
            let read: Option<String> = redis::cmd("GET")
                .arg("greeting")
                .query_async(&mut replica)
                .await
                .unwrap();
            if read.as_deref() == Some("hello") {
                Ok(())
            } else {
                Err(format!("{read:?}"))
            }
        }
    })
    .await;
    let mut master = connect(cluster.port("master-1")).await;
    wait_equal(&mut master, &mut replica).await;
    cluster.down().await;
}

#[tokio::test]
async fn after_every_redis_benchmark_master_replica_and_journal_are_equal() {
    let mut cluster = DevCluster::start(Options::default()).await;
    let port = cluster.port("proxy-1").to_string();
    let mut run = Command::new("redis-benchmark");
    run.args(["-p", &port, "-n", "2000", "-c", "20", "-r", "500", "-q"]);
    let output = run.output().await.expect("redis-benchmark runs");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !text.contains("ERR"), "{text}");

    let mut master = connect(cluster.port("master-1")).await;
    let mut replica = connect(cluster.port("replica-1")).await;
    wait_equal(&mut master, &mut replica).await;
    // A PING moves the tail every 10 s: ask until both were asked between two of them.
    let journal = cluster.journal();
    redoubt_tests::eventually(
        "journal tail = master_repl_offset",
        Duration::from_secs(20),
        || async {
            let mut conn = master.clone();
            let offset = info_field(&mut conn, "replication", "master_repl_offset").await;
            let tail = journal
                .describe(Duration::from_secs(5))
                .await
                .unwrap()
                .position
                .tail;
            if offset == tail.to_string() {
                Ok(())
            } else {
                Err(format!("offset {offset}, tail {tail}"))
            }
        },
    )
    .await;
    // And so is a server that was rebuilt from the journal alone.
    let fresh = cluster.rebuilt().await;
    wait_equal(&mut master, &mut fresh.connect().await).await;
    cluster.down().await;
}
