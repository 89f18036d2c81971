//! H7 over real processes: a record that changes on one node's disk is read from another, and never passed on.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks and files, and what fails in them is a failed test"
)]

use redis::aio::MultiplexedConnection;
use redoubt_tests::{
    DevCluster, Options, Tokens, assert_catches, assert_equal, connect, eventually, flip, served, wait_equal,
};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);
/// Values that are written, of 10 KB each.
const VALUES: usize = 150;

/// Value `n`: a text that stands nowhere else.
fn value(n: usize) -> Vec<u8> {
    let word = format!("[value {n:04}]");
    word.as_bytes().iter().copied().cycle().take(10 << 10).collect()
}

async fn write_values(proxy: &mut MultiplexedConnection) {
    for n in 0..VALUES {
        let told = redis::cmd("SET")
            .arg(format!("v:{n}"))
            .arg(value(n))
            .exec_async(proxy)
            .await;
        told.expect("SET");
    }
}

/// Where value `n` lies on the disk of `node`: the file and a byte in the middle of it.
fn place_of(cluster: &DevCluster, node: &str, n: usize) -> (PathBuf, u64) {
    // The first bytes are enough to find it: they stand nowhere else.
    let (path, at) = redoubt_tests::place_of(cluster, node, &value(n)[..64]);
    (path, at + 5000)
}

#[tokio::test]
async fn h07_a_record_that_rots_on_one_disk_is_read_from_another() {
    let options = Options {
        // Hardly anything is served from memory.
        args: vec![("journal", "--cache-bytes=65536".to_owned())],
        ..Options::default()
    };
    let mut cluster = DevCluster::start(options).await;
    write_values(&mut connect(cluster.port("proxy-1")).await).await;
    let mut master = connect(cluster.port("master-1")).await;
    let mut replica = connect(cluster.port("replica-1")).await;
    wait_equal(&mut master, &mut replica).await;
    let before = served(&cluster.journal()).await;
    // Each node has another record that it can't serve: wherever a reader begins, it must go elsewhere.
    for (node, n) in [("journal-1", 20), ("journal-2", 50), ("journal-3", 80)] {
        let (path, at) = place_of(&cluster, node, n);
        flip(&path, at);
    }

    let after = served(&cluster.journal()).await;
    assert!(after.starts_with(&before), "the journal serves something else");
    let fresh = cluster.rebuilt().await;
    assert_equal(&mut master, &mut fresh.connect().await).await;
    // A replica that lost its data is fed from the beginning, by a replay that says where it could not read.
    cluster.dev("stop", "replica-1").await;
    let dump = cluster.dir.join("replica-1/dump.rdb");
    if dump.exists() {
        std::fs::remove_file(&dump).expect("a file");
    }
    cluster.dev("start", "replica-1").await;
    let mut replica = eventually("the replica", SOON, || {
        redoubt_tests::try_connect(cluster.port("replica-1"))
    })
    .await;
    wait_equal(&mut master, &mut replica).await;
    let met = |node: &str| cluster.log(node).contains("can't be read any more");
    assert!(
        ["journal-1", "journal-2", "journal-3"].into_iter().any(met),
        "nobody read what rotted"
    );
    cluster.down().await;
}

#[test]
fn catches_reads_that_are_not_verified() {
    assert_catches(
        "h07_a_record_that_rots_on_one_disk_is_read_from_another",
        "h07_unverified_reads",
    );
}

/// Waits until a quorum confirms the node's tail.
async fn confirmed(cluster: &DevCluster, address: &str) {
    eventually("the node", Duration::from_secs(20), || async {
        match cluster.journal().describe_node(address, true).await {
            Ok(d) if d.confirmed => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn h07_nodes_that_rotted_in_different_places_heal_each_other_without_a_leader() {
    let mut cluster = DevCluster::start(Options::default()).await;
    let mut proxy = connect(cluster.port("proxy-1")).await;
    write_values(&mut proxy).await;
    let tokens = Tokens::start(cluster.port("proxy-1"), 2, "h07");
    tokens.progress(50, SOON).await;
    let leader = cluster.leader().await;
    let mut nodes = cluster.of_kind("journal");
    nodes.sort_by_key(|n| n.name != leader);
    for node in &nodes {
        cluster.dev("stop", &node.name).await;
    }
    // The one that led stays away: the others have only each other.
    let dir = cluster.dir.to_string_lossy().into_owned();
    let mut rotten = Vec::new();
    for (node, n) in nodes[1..].iter().zip([30, 60]) {
        let (path, at) = place_of(&cluster, &node.name, n);
        flip(&path, at);
        let mut byte = [0];
        std::fs::File::open(&path)
            .unwrap()
            .read_exact_at(&mut byte, at)
            .unwrap();
        rotten.push((path, at, byte));
        cluster
            .redoubt(&["dev", "start", &node.name, "--dir", &dir])
            .await;
    }
    for node in &nodes[1..] {
        confirmed(&cluster, &node.address).await;
        let log = cluster.log(&node.name);
        for told in [
            "is damaged at byte",
            "no torn write",
            "takes no part",
            "repaired what rotted on this disk",
        ] {
            assert!(log.contains(told), "{told:?} is missing in {log}");
        }
    }
    for (path, at, byte) in rotten {
        let mut now = [0];
        std::fs::File::open(&path)
            .unwrap()
            .read_exact_at(&mut now, at)
            .unwrap();
        assert_eq!(now, byte, "a byte of a segment was written twice");
        assert!(path.with_file_name("patch-0000000001").exists());
    }
    tokens.progress(50, Duration::from_secs(20)).await;
    cluster.dev("start", &nodes[0].name).await;
    confirmed(&cluster, &nodes[0].address).await;
    // What was repaired is served like the rest, by each of the two alone.
    let all = served(&cluster.journal()).await;
    for n in [30, 60] {
        let value = value(n);
        assert!(
            all.windows(value.len()).any(|w| w == value),
            "value {n} is missing"
        );
    }
    let outcome = tokens.stop().await;
    cluster.assert_nothing_lost(&outcome).await;
    cluster.down().await;
}

#[test]
fn catches_rot_that_is_cut_off_as_if_it_were_torn() {
    assert_catches(
        "h07_nodes_that_rotted_in_different_places_heal_each_other_without_a_leader",
        "h07_rot_is_cut",
    );
}

#[tokio::test]
async fn verify_tells_whole_from_damaged_from_unchecked() {
    let mut cluster = DevCluster::start(Options::default()).await;
    write_values(&mut connect(cluster.port("proxy-1")).await).await;
    let node = cluster.of_kind("journal").remove(0);
    let data = cluster.dir.join(&node.name).join("data");
    let path = data.to_string_lossy().into_owned();
    let verify = async |path: &str| cluster.redoubt(&["verify", path]).await;
    let (code, _, err) = verify(&path).await;
    assert!(
        code == 2 && err.contains("is in use"),
        "a running node's: {code} {err}"
    );
    let (code, _, err) = verify("/proc/self/fdinfo").await;
    assert!(
        code == 2 && err.contains("no data directory"),
        "another directory: {code} {err}"
    );
    cluster.dev("stop", &node.name).await;
    let described = cluster.journal().describe(SOON).await;
    let tail = described.expect("a description").position.tail;
    let (code, out, err) = verify(&path).await;
    assert!(code == 0 && out.contains("whole"), "{code} {out}{err}");
    assert!(out.contains("journal up to offset"), "{out}");
    let (code, out, _) = cluster.redoubt(&["verify", &path, "--output", "json"]).await;
    let told: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &told["whole"]), (0, &serde_json::Value::Bool(true)));
    assert!(told["tail"].as_u64().expect("a tail") <= tail.get(), "{out}");

    let (editlog, at) = place_of(&cluster, &node.name, 30);
    flip(&editlog, at);
    let vote = data.join("vote");
    flip(&vote, 100);
    let rotten = std::fs::read(&editlog).unwrap();
    let (code, out, err) = verify(&path).await;
    assert!(code == 1 && err.contains("damaged in 2 places"), "{code} {err}");
    assert!(
        out.contains("copies in vote is damaged") && out.contains("is damaged at byte"),
        "{out}"
    );
    assert!(
        std::fs::read(&editlog).unwrap() == rotten,
        "verify changed something"
    );
    // The next start mends both.
    cluster.dev("start", &node.name).await;
    confirmed(&cluster, &node.address).await;
    cluster.dev("stop", &node.name).await;
    let (code, out, err) = verify(&path).await;
    assert_eq!(code, 0, "{out}{err}");
    cluster.down().await;
}

#[tokio::test]
async fn h07_rot_is_found_and_repaired_while_the_cluster_serves() {
    let options = Options {
        args: vec![("journal", "--scrub-every=1".to_owned())],
        ..Options::default()
    };
    let mut cluster = DevCluster::start(options).await;
    write_values(&mut connect(cluster.port("proxy-1")).await).await;
    let tokens = Tokens::start(cluster.port("proxy-1"), 2, "h07");
    tokens.progress(50, SOON).await;
    // The leader and a follower, in different places, at the same time.
    let leader = cluster.leader().await;
    let mut nodes = cluster.of_kind("journal");
    nodes.sort_by_key(|n| n.name != leader);
    for (node, n) in nodes.iter().zip([30, 60]) {
        let (path, at) = place_of(&cluster, &node.name, n);
        flip(&path, at);
    }
    for node in &nodes[..2] {
        eventually(&node.name, Duration::from_secs(30), || async {
            let log = cluster.log(&node.name);
            for told in ["steps aside", "repaired what rotted on this disk"] {
                if !log.contains(told) {
                    return Err(format!("{told:?} is missing in {log}"));
                }
            }
            Ok(())
        })
        .await;
        confirmed(&cluster, &node.address).await;
        assert_eq!(
            cluster.component(&node.name).pid,
            node.pid,
            "it was started again"
        );
    }
    assert!(cluster.log(&leader).contains("hands the leadership over"));
    tokens.progress(50, Duration::from_secs(20)).await;
    let outcome = tokens.stop().await;
    cluster.assert_nothing_lost(&outcome).await;
    for node in &nodes[..2] {
        cluster.dev("stop", &node.name).await;
        let path = cluster.dir.join(&node.name).join("data");
        let (code, out, err) = cluster.redoubt(&["verify", &path.to_string_lossy()]).await;
        assert_eq!(code, 0, "{out}{err}");
    }
    cluster.down().await;
}

#[tokio::test]
async fn verify_of_a_running_cluster_has_every_node_read_all_it_holds() {
    let mut cluster = DevCluster::start(Options::default()).await;
    write_values(&mut connect(cluster.port("proxy-1")).await).await;
    let tokens = Tokens::start(cluster.port("proxy-1"), 2, "verify");
    let endpoints = cluster.endpoints().join(",");
    let verify = async || {
        let args = ["verify", "--endpoints", &endpoints, "--output", "json"];
        let (code, out, err) = cluster.redoubt(&args).await;
        let told: serde_json::Value = serde_json::from_str(&out).unwrap_or_default();
        (code, told, err)
    };
    let (code, told, err) = verify().await;
    assert_eq!((code, told["whole"].as_bool()), (0, Some(true)), "{told} {err}");
    for node in told["nodes"].as_array().unwrap() {
        assert_eq!(node["chain"], told["chain"], "{told}");
        assert!(
            node["bytes"].as_u64() > Some(VALUES as u64 * (10 << 10)),
            "{told}"
        );
    }

    // What rotted is told, repaired by the node itself, and then all is whole again.
    let node = cluster.of_kind("journal").remove(0);
    let (path, at) = place_of(&cluster, &node.name, 30);
    flip(&path, at);
    let (code, told, err) = verify().await;
    assert_eq!(code, 1, "{told} {err}");
    assert!(err.contains(&node.address), "{err}");
    let damage = told["nodes"][0]["damage"].to_string();
    assert!(damage.contains("editlog-"), "{told}");
    eventually("a whole cluster", Duration::from_secs(30), || async {
        match verify().await {
            (0, ..) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let (_, out, _) = cluster
        .redoubt(&["status", "--endpoints", &endpoints, "--output", "json"])
        .await;
    let status: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    let disk = &status["nodes"][0]["disk"];
    assert_eq!(
        (&disk["condition"], &disk["ranges_repaired"]),
        (&"well".into(), &1.into()),
        "{out}"
    );

    // A node that is not there can't be checked.
    cluster.dev("stop", &node.name).await;
    let (code, told, err) = verify().await;
    assert_eq!(code, 2, "{told} {err}");
    let outcome = tokens.stop().await;
    cluster.assert_nothing_lost(&outcome).await;
    cluster.down().await;
}
