//! H6: one cluster, however often its making is cut.
#![allow(clippy::unwrap_used, reason = "test code, helpers included")]

mod fake;

use fake::Fake;
use redoubt_client::{ClientError, Reason};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn h06_all_nodes_persist_the_identical_membership_and_a_second_call_changes_nothing() {
    let fake = Fake::empty(3).await;
    let cluster = fake.client().bootstrap(SOON).await.unwrap();
    let seeds: Vec<_> = fake
        .nodes
        .iter()
        .map(|n| n.disk().seed.clone().unwrap())
        .collect();
    assert!(seeds.iter().all(|s| *s == seeds[0]));
    assert_eq!(seeds[0].cluster_id, cluster.to_string());
    assert_eq!(
        seeds[0].members.iter().map(|m| m.node_id).collect::<Vec<_>>(),
        [98, 99, 100]
    );
    assert_eq!(fake.client().bootstrap(SOON).await.unwrap(), cluster);
    assert_eq!(fake.nodes[1].disk().seed.as_ref(), Some(&seeds[0]));
}

#[tokio::test]
async fn h06_nothing_is_minted_while_a_node_is_unreachable() {
    let mut fake = Fake::empty(3).await;
    fake.nodes[2].kill().await;
    let refused = fake.client().bootstrap(Duration::from_millis(600)).await;
    let Err(ClientError::Unavailable(why)) = refused else {
        panic!("{refused:?}")
    };
    assert!(why.contains(&fake.nodes[2].address), "{why}");
    assert!(fake.nodes.iter().all(|n| n.disk().seed.is_none()));
}

#[tokio::test]
async fn h06_a_bootstrap_cut_midway_is_completed_by_the_next() {
    let fake = Fake::empty(3).await;
    let first = fake.client().bootstrap(SOON).await.unwrap();
    // As if the first call had died behind the first node.
    for node in &fake.nodes[..2] {
        node.disk().seed = None;
    }
    assert_eq!(
        fake.client().bootstrap(SOON).await.unwrap(),
        first,
        "never a second cluster"
    );
    let seeds: Vec<_> = fake
        .nodes
        .iter()
        .map(|n| n.disk().seed.clone().unwrap())
        .collect();
    assert!(seeds.iter().all(|s| *s == seeds[0]));
}

#[tokio::test]
async fn h06_a_wiped_node_is_refused() {
    let fake = Fake::empty(3).await;
    fake.client().bootstrap(SOON).await.unwrap();
    {
        let mut disk = fake.nodes[1].disk();
        disk.seed = None;
        disk.node_id = 4711;
    }
    let refused = fake.client().bootstrap(SOON).await;
    match refused {
        Err(ClientError::Refused {
            reason: Reason::NotBootstrapped,
            message,
        }) => {
            assert!(message.contains("`n1`"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    assert!(fake.nodes[1].disk().seed.is_none());
}

#[tokio::test]
async fn h06_of_two_who_bootstrap_at_once_one_mints_and_both_agree() {
    for _ in 0..10 {
        let fake = Fake::empty(3).await;
        let (a, b) = (fake.client(), fake.client());
        let (a, b) = futures_util::join!(a.bootstrap(SOON), b.bootstrap(SOON));
        assert_eq!(a.unwrap(), b.unwrap());
        let seeds: Vec<_> = fake
            .nodes
            .iter()
            .map(|n| n.disk().seed.clone().unwrap())
            .collect();
        assert!(seeds.iter().all(|s| *s == seeds[0]));
    }
}
