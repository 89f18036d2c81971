//! Editlogs are merged while nodes are written to, read from and killed: nobody notices.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks and files, and what fails in them is a failed test"
)]

use redoubt_tests::{DevCluster, Options, Tokens, eventually, served};
use std::time::Duration;

const NODES: [&str; 3] = ["journal-1", "journal-2", "journal-3"];
const SOON: Duration = Duration::from_secs(60);

/// Names of the files that begin so on the disk of `node`.
fn names(cluster: &DevCluster, node: &str, prefix: &str) -> Vec<String> {
    let entries = std::fs::read_dir(cluster.dir.join(node).join("data")).unwrap();
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|n| n.starts_with(prefix)).collect()
}

/// How many segments lie in merged files on the disk of `node`.
fn merged_segments(cluster: &DevCluster, node: &str) -> u64 {
    let ranges = names(cluster, node, "contents-").into_iter().filter_map(|name| {
        let (first, last) = name.strip_prefix("contents-")?.split_once('-')?;
        Some(last.parse::<u64>().ok()? + 1 - first.parse::<u64>().ok()?)
    });
    ranges.sum()
}

/// Writes until every node has merged `more` segments than it had.
async fn merges(cluster: &DevCluster, more: u64) {
    let before = NODES.map(|node| merged_segments(cluster, node));
    let mut proxy = redoubt_tests::connect(cluster.port("proxy-1")).await;
    eventually("merged files", SOON, || {
        let mut proxy = proxy.clone();
        async move {
            for n in 0..20 {
                let set = redis::cmd("SET")
                    .arg(format!("big:{n}"))
                    .arg(vec![b'x'; 30_000])
                    .to_owned();
                set.exec_async(&mut proxy).await.map_err(|e| e.to_string())?;
            }
            let now = NODES.map(|node| merged_segments(cluster, node));
            match before.iter().zip(now).all(|(before, now)| now >= before + more) {
                true => Ok(()),
                false => Err(format!("{before:?} and now {now:?}")),
            }
        }
    })
    .await;
    let _: String = redis::cmd("PING").query_async(&mut proxy).await.unwrap();
}

#[tokio::test]
async fn editlogs_are_merged_while_nodes_are_written_to_read_and_killed() {
    let args = [
        "--segment-bytes=262144",
        "--reserve-bytes=524288",
        // So that what is read comes from the files.
        "--cache-bytes=65536",
        "--merge-every=1",
        "--merge-at-files=4",
        "--merge-bytes=8388608",
        "--merge-bytes-per-second=67108864",
        "--scrub-every=1",
    ];
    let mut cluster = DevCluster::start(Options {
        args: args.iter().map(|arg| ("journal", (*arg).to_owned())).collect(),
        ..Options::default()
    })
    .await;
    let tokens = Tokens::start(cluster.port("proxy-1"), 4, "merge");
    tokens.progress(100, SOON).await;
    merges(&cluster, 8).await;
    for node in NODES {
        // It is in the middle of whatever it does.
        let old = cluster.kill(node);
        let tail = async { served(&cluster.journal()).await.len() };
        let (read, ()) = tokio::join!(tail, merges(&cluster, 8));
        assert!(read > 100_000, "{read} bytes are served");
        cluster.restarted(node, old).await;
        tokens.progress(50, SOON).await;
    }
    let outcome = tokens.stop().await;
    assert_eq!(outcome.broken, 0);
    cluster.assert_nothing_lost(&outcome).await;
    let endpoints = cluster.endpoints().join(",");
    let (code, out, err) = cluster.redoubt(&["verify", "--endpoints", &endpoints]).await;
    assert_eq!(code, 0, "{out}{err}");
    for node in NODES {
        eventually("few files", SOON, || async {
            let files = names(&cluster, node, "editlog-");
            let merged = merged_segments(&cluster, node);
            if merged > 16 && files.len() < 16 {
                println!("{node}: {} files, {merged} segments in merged ones", files.len());
                return Ok(());
            }
            Err(format!("{merged} are merged, {files:?}"))
        })
        .await;
        assert!(cluster.log(node).contains("merged editlogs into one"));
        assert!(
            !cluster.log(node).contains("can't be read any more"),
            "{}",
            cluster.log(node)
        );
    }
    cluster.down().await;
}
