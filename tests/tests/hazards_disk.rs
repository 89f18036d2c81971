//! H4 over real processes: disks that fill up, and disks that become slow.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks and files, and what fails in them is a failed test"
)]

use redis::aio::MultiplexedConnection;
use redoubt_tests::{DevCluster, Options, Tokens, eventually, flip, place_of};
use std::path::PathBuf;
use std::time::Duration;

const WRITERS: usize = 8;
const SOON: Duration = Duration::from_secs(20);

/// A cluster whose processes have bad disks as long as their ids stand in the file that is returned.
async fn with_bad_disks(bug: &str) -> (DevCluster, PathBuf, tempfile::TempDir) {
    with(bug, &[]).await
}

/// As [`with_bad_disks`], of nodes with these arguments besides.
async fn with(bug: &str, more: &[&str]) -> (DevCluster, PathBuf, tempfile::TempDir) {
    let keep = tempfile::tempdir().unwrap();
    let switch = keep.path().join("switch");
    let bugs: &'static str = format!("{bug}={}", switch.display()).leak();
    // Small, so that they fill up soon.
    let small = ["--segment-bytes=1048576", "--reserve-bytes=8388608"];
    let options = Options {
        bugs,
        args: small
            .iter()
            .chain(more)
            .map(|arg| ("journal", (*arg).to_owned()))
            .collect(),
        ..Options::default()
    };
    (DevCluster::start(options).await, switch, keep)
}

/// The ids of these nodes' processes.
fn ids(cluster: &DevCluster, names: &[&str]) -> String {
    let pids = names.iter().filter_map(|n| cluster.component(n).pid);
    pids.map(|pid| pid.to_string()).collect::<Vec<_>>().join(" ")
}

/// Writes something large.
async fn write_big(proxy: &mut MultiplexedConnection, n: u32) -> redis::RedisResult<()> {
    let key = format!("big:{n}");
    redis::cmd("SET")
        .arg(key)
        .arg(vec![b'x'; 60_000])
        .exec_async(proxy)
        .await
}

/// Writes until a node says `told`.
async fn write_until(cluster: &DevCluster, node: &str, told: &str) {
    let mut proxy = redoubt_tests::connect(cluster.port("proxy-1")).await;
    for n in 0..400 {
        if cluster.log(node).contains(told) {
            return;
        }
        write_big(&mut proxy, n).await.expect("SET");
    }
    panic!("{node} did not say {told:?}: {}", cluster.log(node));
}

#[tokio::test]
async fn h04_a_leader_whose_disk_is_full_hands_over_and_data_goes_on() {
    let (mut cluster, switch, _keep) = with_bad_disks("full_disk").await;
    let tokens = Tokens::start(cluster.port("proxy-1"), WRITERS, "full");
    tokens.progress(200, SOON).await;
    let leader = cluster.leader().await;
    let pid = cluster.component(&leader).pid;
    std::fs::write(&switch, ids(&cluster, &[&leader])).unwrap();
    write_until(&cluster, &leader, "hands the leadership over").await;
    // It says so before it does.
    eventually("another leader", SOON, || async {
        (cluster.leader().await != leader).then_some(()).ok_or(&leader)
    })
    .await;
    tokens.progress(500, SOON).await;
    assert_eq!(tokens.broken(), 0, "a client noticed");
    assert_eq!(cluster.component(&leader).pid, pid, "it did not stay up");
    std::fs::remove_file(&switch).unwrap();
    eventually("room", SOON, || async {
        match cluster.log(&leader).contains("there is room on the disk again") {
            true => Ok(()),
            false => Err("not yet"),
        }
    })
    .await;
    let outcome = tokens.stop().await;
    cluster.assert_nothing_lost(&outcome).await;
    cluster.down().await;
}

#[tokio::test]
async fn h04_where_a_majority_is_full_data_waits_and_the_lease_lives() {
    let (mut cluster, switch, _keep) = with_bad_disks("full_disk").await;
    let tokens = Tokens::start(cluster.port("proxy-1"), WRITERS, "full");
    tokens.progress(200, SOON).await;
    let names = ["journal-1", "journal-2", "journal-3"];
    let pids = ids(&cluster, &names);
    let epoch = cluster.journal().describe(SOON).await.unwrap().writer.epoch;
    std::fs::write(&switch, &pids).unwrap();
    let mut proxy = redoubt_tests::connect(cluster.port("proxy-1")).await;
    // Not answered any more once the journal takes no more.
    let filler = tokio::spawn(async move {
        for n in 0..400 {
            if write_big(&mut proxy, n).await.is_err() {
                return;
            }
        }
    });
    for name in names {
        eventually(name, SOON, || async {
            let log = cluster.log(name);
            log.contains("the disk is full").then_some(()).ok_or(log)
        })
        .await;
    }
    // Nothing is acknowledged, and nothing ends: the lease is renewed, the log is read, for longer than the lease lasts.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let before = cluster.journal().describe(SOON).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = cluster.journal().describe(SOON).await.unwrap();
    assert_eq!(before.position.tail, after.position.tail, "data was admitted");
    assert!(after.confirmed, "the quorum is gone");
    assert_eq!(after.writer.epoch, epoch, "the lease was lost");
    assert_eq!(ids(&cluster, &names), pids, "a node ended");
    // As soon as there is room it goes on.
    std::fs::remove_file(&switch).unwrap();
    tokens.progress(200, SOON).await;
    filler.abort();
    let outcome = tokens.stop().await;
    cluster.assert_nothing_lost(&outcome).await;
    cluster.down().await;
}

#[tokio::test]
async fn a_leader_whose_disk_is_slow_holds_nobody_up_and_gives_the_leadership_away() {
    let (mut cluster, switch, _keep) = with_bad_disks("slow_disk").await;
    let tokens = Tokens::start(cluster.port("proxy-1"), WRITERS, "slow");
    tokens.progress(200, SOON).await;
    let leader = cluster.leader().await;
    std::fs::write(&switch, ids(&cluster, &[&leader])).unwrap();
    // Each of its syncs takes 700 ms, and the disk counts as slow after 3 s: until then the majority goes on without it.
    let begun = std::time::Instant::now();
    tokens.progress(500, SOON).await;
    println!("500 writes with a slow leader took {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    eventually("another leader", SOON, || async {
        let now = cluster.leader().await;
        (now != leader).then_some(()).ok_or(now)
    })
    .await;
    assert!(cluster.log(&leader).contains("does not let it lead well"));
    tokens.progress(500, SOON).await;
    assert_eq!(tokens.broken(), 0, "a client noticed");
    let outcome = tokens.stop().await;
    println!("longest gap {:?}", outcome.outage);
    cluster.assert_nothing_lost(&outcome).await;
    cluster.down().await;
}

/// How often a node has said `told`.
fn said(cluster: &DevCluster, node: &str, told: &str) -> usize {
    cluster.log(node).matches(told).count()
}

/// Waits until a node has said `told` more often than `before`; does `meanwhile` again and again until then.
async fn says_again(
    cluster: &DevCluster,
    node: &str,
    (told, before): (&str, usize),
    meanwhile: impl AsyncFn() -> Result<(), String>,
) {
    eventually(told, Duration::from_secs(30), || async {
        meanwhile().await?;
        (said(cluster, node, told) > before)
            .then_some(())
            .ok_or_else(|| cluster.log(node))
    })
    .await;
}

#[tokio::test]
async fn h04_h07_a_disk_rots_one_fills_up_and_a_node_is_killed_in_turn_under_load() {
    let (mut cluster, switch, _keep) = with("full_disk", &["--scrub-every=1"]).await;
    let mut proxy = redoubt_tests::connect(cluster.port("proxy-1")).await;
    let word = b"[stands nowhere else]".repeat(100);
    redis::cmd("SET")
        .arg("word")
        .arg(&word)
        .exec_async(&mut proxy)
        .await
        .unwrap();
    let tokens = Tokens::start(cluster.port("proxy-1"), WRITERS, "turn");
    tokens.progress(200, SOON).await;
    for turn in 0..3 {
        let rots = format!("journal-{}", 1 + turn % 3);
        let told = "repaired what rotted";
        let repaired = (told, said(&cluster, &rots, told));
        let (path, at) = place_of(&cluster, &rots, &word);
        flip(&path, at + 50);
        says_again(&cluster, &rots, repaired, async || Ok(())).await;
        tokens.progress(100, SOON).await;

        let fills = cluster.leader().await;
        let now = |told| (told, said(&cluster, &fills, told));
        let handed_over = now("hands the leadership over");
        let has_room = now("there is room on the disk again");
        std::fs::write(&switch, ids(&cluster, &[&fills])).unwrap();
        let write = async || {
            let written = write_big(&mut proxy.clone(), turn).await;
            written.map_err(|e| e.to_string())
        };
        says_again(&cluster, &fills, handed_over, write).await;
        tokens.progress(100, SOON).await;
        std::fs::remove_file(&switch).unwrap();
        says_again(&cluster, &fills, has_room, async || Ok(())).await;

        let killed = cluster.leader().await;
        let old = cluster.kill(&killed);
        cluster.restarted(&killed, old).await;
        tokens.progress(100, SOON).await;
    }
    let outcome = tokens.stop().await;
    cluster.assert_nothing_lost(&outcome).await;
    let endpoints = cluster.endpoints().join(",");
    let (code, out, err) = cluster.redoubt(&["verify", "--endpoints", &endpoints]).await;
    assert_eq!(code, 0, "{out}{err}");
    cluster.down().await;
}
