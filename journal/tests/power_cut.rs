//! What was acknowledged survives a power cut of all nodes at once: kill -9 never tests fsync, a cut does.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks and sockets, and fail by panicking"
)]

mod cluster;

use cluster::power::SimNode;
use cluster::writer::{Written, acquire, bootstrap, journal, load, within};
use redoubt_env::sim_files::SimFiles;
use std::time::Duration;

/// Rounds of load, power cut, and return.
const ROUNDS: u64 = 5;

/// Runs the rounds; what was lost is an error.
async fn run(disks: impl Fn(u64) -> SimFiles, seed: u64) -> Result<usize, String> {
    let mut nodes: Vec<SimNode> = (0..3)
        .map(|i| SimNode::new(&format!("n{i}"), disks(seed + i)))
        .collect();
    let addresses: Vec<String> = nodes.iter().map(|node| node.address.clone()).collect();
    nodes.iter_mut().for_each(SimNode::boot);
    within("bootstrap", bootstrap(&addresses)).await?;
    let mut written = Written::default();
    for round in 0..ROUNDS {
        let (leader, grant) = within("a writer's return", acquire(&addresses, 1 + round)).await?;
        let tail = grant.position.unwrap().tail as usize;
        if tail < written.acked {
            return Err(format!(
                "round {round}: {} bytes were acknowledged, {tail} are there",
                written.acked
            ));
        }
        let served = within("a tail", journal(&addresses)).await?;
        if served[..] != written.sent[..tail] {
            return Err(format!(
                "round {round}: the {tail} bytes there are not those that were sent"
            ));
        }
        written.sent.truncate(tail);
        written.acked = tail;
        let moment = Duration::from_millis(100 + (seed * 37 + round * 61) % 150);
        load(&leader, grant.epoch, &mut written, tokio::time::sleep(moment)).await;
        for (i, node) in nodes.iter_mut().enumerate() {
            node.power_cut(seed * 1000 + round * 10 + i as u64);
        }
        nodes.iter_mut().for_each(SimNode::boot);
    }
    let served = within("the last tail", async {
        acquire(&addresses, 99).await;
        journal(&addresses).await
    })
    .await?;
    nodes.iter_mut().for_each(|node| node.power_cut(0));
    if served.len() < written.acked || served[..] != written.sent[..served.len()] {
        return Err(format!(
            "{} bytes were acknowledged, {} are there",
            written.acked,
            served.len()
        ));
    }
    Ok(written.acked)
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_power_cut_of_all_nodes() {
    for seed in [1, 2] {
        let kept = run(SimFiles::new, seed).await.unwrap();
        println!(
            "seed {seed}: {kept} bytes acknowledged in {ROUNDS} rounds, all there after {ROUNDS} power cuts"
        );
        assert!(kept > 0, "nothing was ever acknowledged: the test shows nothing");
    }
}

#[tokio::test]
async fn catches_an_fdatasync_that_does_nothing() {
    let caught = run(SimFiles::with_noop_sync, 1).await;
    println!("without fdatasync: {caught:?}");
    assert!(
        caught.is_err(),
        "power cuts lost nothing although nothing was ever synced"
    );
}
