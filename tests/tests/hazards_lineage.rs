//! H15 over real processes: replicas across changes of lineage, with and without bytes between them.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

use redoubt_tests::{
    DevCluster, Options, assert_catches, connect, eventually, info_field, try_connect, wait_equal,
};
use redoubt_types::{Lineage, Offset};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_secs(40);

async fn lineage(cluster: &DevCluster) -> (Lineage, Offset) {
    let described = cluster
        .journal()
        .describe(SOON)
        .await
        .expect("the journal answers");
    (described.lineage, described.position.tail)
}

async fn written(cluster: &DevCluster, key: &str) {
    let mut proxy = connect(cluster.port("proxy-1")).await;
    redis::cmd("SET")
        .arg(key)
        .arg("v")
        .exec_async(&mut proxy)
        .await
        .expect("SET");
}

/// Writes `key`, and waits until it is on the replica, whose name for its history is then the newest.
async fn written_and_fed(cluster: &DevCluster, key: &str) {
    written(cluster, key).await;
    let port = cluster.port("replica-1");
    eventually(&format!("{key} on the replica"), SOON, || async move {
        let mut replica = try_connect(port).await.map_err(|e| e.to_string())?;
        let there: redis::RedisResult<bool> = redis::cmd("EXISTS").arg(key).query_async(&mut replica).await;
        if there == Ok(true) {
            Ok(())
        } else {
            Err(format!("{there:?}"))
        }
    })
    .await;
    let mut replica = connect(port).await;
    let named = info_field(&mut replica, "replication", "master_replid").await;
    assert_eq!(
        named,
        lineage(cluster).await.0.last().replid.to_string(),
        "the replica holds {key} under an older name"
    );
}

/// Kills the master, and waits until it serves again; nobody writes meanwhile, and reading moves no offset.
async fn promoted_again(cluster: &DevCluster, replids: usize) {
    let killed = cluster.kill("master-1");
    cluster.restarted("master-1", killed).await;
    eventually("another replid that serves", AGAIN, || async {
        let mut proxy = try_connect(cluster.port("proxy-1"))
            .await
            .map_err(|e| e.to_string())?;
        let mut get = redis::cmd("GET");
        let read: String = get
            .arg("first")
            .query_async(&mut proxy)
            .await
            .map_err(|e| e.to_string())?;
        assert_eq!(read, "v");
        let (lineage, _) = lineage(cluster).await;
        if lineage.len() == replids {
            Ok(())
        } else {
            Err(format!("{lineage:?}"))
        }
    })
    .await;
}

/// How many full syncs the replay ever gave the component, and how often it let it continue.
fn syncs(cluster: &DevCluster, name: &str) -> (usize, usize) {
    let log = cluster.log("replay-1");
    let address = format!("address={:?}", cluster.component(name).address);
    let of = |what: &str| {
        log.lines()
            .filter(|l| l.contains(&address) && l.contains(what))
            .count()
    };
    (of("full sync "), of(" continue "))
}

#[tokio::test]
async fn h15_a_replica_across_two_promotions_one_without_bytes_takes_one_full_sync_in_all() {
    // No PING moves the tail: an epoch without writes is one without bytes.
    let quiet = ["--repl-ping-replica-period", "3600"];
    let options = Options {
        args: quiet.map(|arg| ("master", arg.to_owned())).to_vec(),
        ..Options::default()
    };
    let mut cluster = DevCluster::start(options).await;
    written_and_fed(&cluster, "first").await;
    let before = lineage(&cluster).await.0.len();

    promoted_again(&cluster, before + 1).await;
    promoted_again(&cluster, before + 2).await;
    let (steps, tail) = lineage(&cluster).await;
    let from: Vec<Offset> = steps.steps().skip(before).map(|s| s.from).collect();
    assert_eq!(
        from,
        [tail, tail],
        "the first of the two epochs, or the second, has bytes"
    );
    written_and_fed(&cluster, "second").await;
    // A replica that had taken these bytes under an older name could not say that it holds them.
    let killed = cluster.kill("replay-1");
    cluster.restarted("replay-1", killed).await;
    written_and_fed(&cluster, "third").await;
    promoted_again(&cluster, before + 3).await;
    written_and_fed(&cluster, "fourth").await;
    // Nor could its own next process.
    cluster.dev("stop", "replica-1").await;
    written(&cluster, "fifth").await;
    cluster.dev("start", "replica-1").await;
    written_and_fed(&cluster, "sixth").await;

    let (full, continued) = syncs(&cluster, "replica-1");
    assert_eq!(full, 1, "full syncs of the replica:\n{}", cluster.log("replay-1"));
    assert!(
        continued >= 5,
        "{continued} times it continued:\n{}",
        cluster.log("replay-1")
    );
    let mut replica = connect(cluster.port("replica-1")).await;
    wait_equal(&mut connect(cluster.port("master-1")).await, &mut replica).await;
    cluster.down().await;
}

#[test]
fn catches_a_link_that_outlives_its_replid() {
    assert_catches(
        "h15_a_replica_across_two_promotions_one_without_bytes_takes_one_full_sync_in_all",
        "h15_link_outlives_replid",
    );
}
