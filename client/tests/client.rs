//! The client finds who can answer, and says in time when nobody can.
#![allow(clippy::unwrap_used, reason = "test code, helpers included")]

mod fake;

use fake::{CLUSTER, Fake, replid};
use redoubt_client::{Client, ClientConfig, ClientError, Reason, ReplicaReport, WriterError};
use redoubt_env::Env;
use redoubt_env::net::{BoxFuture, Conn, Listener, Net};
use redoubt_proto::v1;
use redoubt_types::{ClusterId, Epoch, HolderId, LineageStep, Offset};
use std::io;
use std::sync::Arc;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(400);

fn holder(n: u64) -> HolderId {
    HolderId::new(n).unwrap()
}

#[tokio::test]
async fn a_description_comes_from_whoever_has_a_quorum() {
    let mut fake = Fake::cluster(3).await;
    fake.change(|s| s.write(b"abc"));
    fake.nodes[0].faults().unconfirmed = true;
    fake.nodes[1].kill().await;
    let found = fake.client().describe(SOON).await.unwrap();
    assert!(found.confirmed);
    assert_eq!((found.node_name.as_str(), found.cluster), ("n2", CLUSTER));
    assert_eq!(found.position.tail, Offset::new(3));
    let own = fake
        .client()
        .describe_node(&fake.nodes[0].address, true)
        .await
        .unwrap();
    assert!(!own.confirmed);
}

#[tokio::test]
async fn without_a_quorum_the_deadline_is_kept_and_every_node_accounted_for() {
    let mut fake = Fake::cluster(3).await;
    fake.nodes[0].faults().unconfirmed = true;
    fake.nodes[1].kill().await;
    fake.nodes[2].faults().silent = true;
    let began = fake.env.now();
    let Err(ClientError::Unavailable(why)) = fake.client().describe(SHORT).await else {
        panic!("no quorum")
    };
    let took = fake.env.now().since(began);
    assert!(took >= SHORT && took < SHORT * 3, "{took:?}");
    assert!(fake.nodes.iter().all(|n| why.contains(&n.address)), "{why}");
}

#[tokio::test]
async fn a_network_that_swallows_everything_does_not_hang_a_call() {
    struct BlackHole;
    impl Net for BlackHole {
        fn connect<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Conn>>> {
            Box::pin(std::future::pending())
        }
        fn listen<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
            Box::pin(std::future::pending())
        }
    }
    let env = Env::real().with_net(Arc::new(BlackHole));
    let config = ClientConfig {
        endpoints: vec!["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()],
        journal: redoubt_types::JournalName::default(),
        cluster: Some(CLUSTER),
    };
    let client = Client::new(env.clone(), config);
    let began = env.now();
    assert!(matches!(
        client.describe(SHORT).await,
        Err(ClientError::Unavailable(_))
    ));
    assert!(matches!(
        client.renew(Epoch::FIRST, holder(1), SHORT).await,
        Err(WriterError::Unavailable(_))
    ));
    let took = env.now().since(began);
    assert!(took < SHORT * 4, "{took:?}");
}

#[tokio::test]
async fn writer_operations_find_the_leader_and_follow_it() {
    let mut fake = Fake::cluster(3).await;
    let client = fake.client();
    let before = fake.env.now();
    let grant = client.acquire(holder(9), "me", SOON, SOON).await.unwrap();
    assert_eq!(grant.epoch.get(), 2);
    assert!(grant.sent_at >= before && grant.sent_at <= fake.env.now());
    let renewed = client.renew(grant.epoch, holder(9), SOON).await.unwrap();
    assert!(renewed.sent_at >= grant.sent_at);
    fake.change(|s| s.leader = Some(2));
    client.renew(grant.epoch, holder(9), SOON).await.unwrap();
    fake.nodes[2].kill().await;
    fake.change(|s| s.leader = Some(1));
    client.renew(grant.epoch, holder(9), SOON).await.unwrap();
    assert_eq!(fake.calls("renew").last(), Some(&1));
    let step = LineageStep {
        replid: replid(5),
        from: Offset::ZERO,
        epoch: Some(grant.epoch),
    };
    client.record_lineage(&step, SOON).await.unwrap();
    assert_eq!(fake.shared().lineage.len(), 2);
    client.release(grant.epoch, holder(9), SOON).await.unwrap();
    assert_eq!(fake.shared().holder, 0);
}

#[tokio::test]
async fn h14_a_renewal_counts_from_the_attempt_that_succeeded() {
    let fake = Fake::cluster(1).await;
    fake.nodes[0].faults().refuse = Some(v1::Reason::NotReady);
    let client = fake.client();
    let began = fake.env.now();
    let renewal = client.renew(Epoch::FIRST, holder(1), SOON);
    let ready = async {
        fake.env.sleep(SHORT).await;
        fake.nodes[0].faults().refuse = None;
    };
    let (renewed, ()) = futures_util::join!(renewal, ready);
    let sent = renewed.unwrap().sent_at.since(began);
    assert!(sent >= SHORT, "sent after {sent:?}, refused until {SHORT:?}");
}

#[tokio::test]
async fn refusals_that_last_are_told_at_once() {
    let fake = Fake::cluster(3).await;
    let client = fake.client();
    let fenced = client.renew(Epoch::new(7).unwrap(), holder(1), SOON).await;
    assert!(matches!(fenced, Err(WriterError::Fenced(_))), "{fenced:?}");
    fake.change(|s| s.holder = 5);
    let held = client.acquire(holder(6), "", SOON, SOON).await;
    let after = Duration::from_millis(77);
    assert!(
        matches!(held, Err(WriterError::LeaseHeld { retry_after, .. }) if retry_after == after),
        "{held:?}"
    );
    let step = LineageStep {
        replid: replid(5),
        from: Offset::new(9),
        epoch: Epoch::new(1),
    };
    match client.record_lineage(&step, SOON).await {
        Err(WriterError::Refused {
            reason: Reason::Lineage,
            position: Some(p),
            ..
        }) => {
            assert_eq!(p.tail, Offset::ZERO);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_node_of_another_cluster_is_left_alone_and_only_such_nodes_are_an_error() {
    let fake = Fake::cluster(3).await;
    let other = ClusterId::new([0xee; 16]);
    fake.nodes[0].faults().foreign = Some(other);
    fake.change(|s| s.leader = Some(1));
    let config = ClientConfig {
        cluster: Some(CLUSTER),
        ..fake.config()
    };
    let client = Client::new(fake.env.clone(), config);
    client.acquire(holder(1), "", SOON, SOON).await.unwrap();
    assert_eq!(client.describe(SOON).await.unwrap().cluster, CLUSTER);
    for node in &fake.nodes {
        node.faults().foreign = Some(other);
    }
    let wrong = client.describe(SOON).await;
    assert!(
        matches!(
            wrong,
            Err(ClientError::Refused {
                reason: Reason::WrongCluster,
                ..
            })
        ),
        "{wrong:?}"
    );
}

#[tokio::test]
async fn status_and_identity_are_told_by_each_node_for_itself() {
    let mut fake = Fake::cluster(3).await;
    fake.nodes[1].kill().await;
    let client = fake.client();
    let status = client.status().await;
    let endpoints: Vec<_> = status.iter().map(|(e, _)| e.clone()).collect();
    assert_eq!(endpoints, fake.config().endpoints);
    assert_eq!(status[0].1.as_ref().unwrap().role, "leader");
    assert!(matches!(status[1].1, Err(ClientError::Unavailable(_))));
    assert_eq!(status[2].1.as_ref().unwrap().identity.node.get(), 98);
    let identity = client.identify(&fake.nodes[2].address).await.unwrap();
    assert_eq!((identity.name.as_str(), identity.cluster), ("n2", Some(CLUSTER)));
    assert!(client.identify("nowhere:1").await.is_err());
}

#[tokio::test]
async fn reports_go_to_every_node_that_is_there_and_to_one_that_is_back() {
    let mut fake = Fake::cluster(3).await;
    fake.nodes[1].kill().await;
    let client = fake.client();
    let report = ReplicaReport {
        address: "r:1".to_owned(),
        acked: Offset::ZERO,
        sent: Offset::ZERO,
        replid: replid(0),
        state: "online".to_owned(),
        full_syncs: 0,
    };
    client
        .report_replicas("replay-1", std::slice::from_ref(&report))
        .await;
    assert_eq!(fake.shared().reports.len(), 2);
    fake.start(1).await;
    fake.env.sleep(Duration::from_millis(100)).await;
    client.report_replicas("replay-1", &[report]).await;
    assert_eq!(fake.shared().reports.len(), 5, "the node is welcomed back");
}
