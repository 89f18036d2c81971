//! Proxy and all journal nodes die at once: each acknowledged write is there exactly once, and the master
//! needed no full sync.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

use redoubt_tests::{DevCluster, Options, Server, Tokens};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
/// Longer than restarts, an election, the dead proxy's lease and a takeover together.
const AGAIN: Duration = Duration::from_secs(60);
const ROUNDS: usize = 3;

#[tokio::test]
async fn proxy_and_all_nodes_killed_at_once_lose_nothing_and_cost_no_full_sync() {
    let mut cluster = DevCluster::start(Options::default()).await;
    let tokens = Tokens::start(cluster.port("proxy-1"), 16, "all");
    tokens.progress(500, SOON).await;
    let full_syncs = cluster.full_syncs();
    for round in 0..ROUNDS {
        let names = ["proxy-1", "journal-1", "journal-2", "journal-3"];
        let killed = names.map(|name| (name, cluster.kill(name)));
        for (name, pid) in killed {
            cluster.restarted(name, pid).await;
        }
        tokens.progress(500, AGAIN).await;
        println!(
            "round {round}: served again, {} acknowledged so far",
            tokens.acked()
        );
    }
    let outcome = tokens.stop().await;
    println!(
        "{} acknowledged, longest gap {:?}, {} connections broken",
        outcome.acked_count(),
        outcome.outage,
        outcome.broken
    );
    assert_eq!(
        cluster.full_syncs(),
        full_syncs,
        "the master or the replica was synced anew"
    );

    // From the journal alone, over a replica link.
    let fresh = Server::start(&[]).await;
    cluster.rebuild_into(&fresh).await;
    outcome.assert_kept_by(&mut fresh.connect().await).await;
    outcome
        .assert_kept_by(&mut redoubt_tests::connect(cluster.port("master-1")).await)
        .await;
    cluster.down().await;
}
