//! H6 over real processes: a node that lost its disk is another node, and one cluster is begun once.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

use bytes::BytesMut;
use redoubt_client::{AppendStart, Client, ClientConfig};
use redoubt_env::Env;
use redoubt_proto::v1;
use redoubt_proto::v1::cluster_client::ClusterClient;
use redoubt_resp::stream::encode_command;
use redoubt_tests::{
    Component, DevCluster, Options, Program, Server, Tokens, assert_catches, connect, eventually, redoubt,
    served, wait_equal,
};
use redoubt_types::{HolderId, JournalName, WallTime};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);
/// Long enough for three elections.
const ELECTIONS: Duration = Duration::from_secs(10);

async fn identify(address: &str) -> v1::IdentifyResponse {
    eventually(address, SOON, || async {
        let mut node = ClusterClient::connect(format!("http://{address}"))
            .await
            .map_err(|e| e.to_string())?;
        let told = node.identify(v1::IdentifyRequest {}).await;
        told.map(|told| told.into_inner()).map_err(|e| e.to_string())
    })
    .await
}

/// Hands a seed to one node; a sentence when it is refused.
async fn seed(address: &str, request: &v1::BootstrapRequest) -> Option<String> {
    let mut node = ClusterClient::connect(format!("http://{address}"))
        .await
        .expect("the node listens");
    let told = node.bootstrap(request.clone()).await.expect("an answer");
    told.into_inner().refused.map(|r| r.message)
}

/// For as long as three elections nobody leads, nothing is confirmed and nothing acknowledged.
async fn assert_no_quorum(cluster: &DevCluster, tokens: &Tokens) {
    let (journal, acked) = (cluster.journal(), tokens.acked());
    let end = Instant::now() + ELECTIONS;
    while Instant::now() < end {
        for (node, status) in journal.status().await {
            let Ok(status) = status else { continue };
            assert_ne!(status.role, "leader", "{node} leads");
            let confirmed = status.description.is_some_and(|d| d.confirmed);
            assert!(!confirmed, "{node} found a quorum");
        }
        assert_eq!(tokens.acked(), acked, "a write was acknowledged without a quorum");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Which journal node meets which fate.
struct Fates {
    /// Loses its disk and returns.
    wiped: Component,
    /// Lacks what the other two committed without it, and is left with the wiped one.
    lags: Component,
    /// Has everything, and dies.
    dies: Component,
}

impl Fates {
    /// The node that lags led when it was stopped, or followed.
    async fn of(cluster: &DevCluster, lags_led: bool) -> Fates {
        let leader = cluster.leader().await;
        let (mut leading, mut following): (Vec<_>, Vec<_>) = cluster
            .of_kind("journal")
            .into_iter()
            .partition(|j| j.name == leader);
        let mut next = |leads: bool| if leads { leading.pop() } else { following.pop() };
        Fates {
            lags: next(lags_led).expect("a node that lags"),
            dies: next(!lags_led).expect("a node that dies"),
            wiped: next(false).expect("a node that is wiped"),
        }
    }

    /// Endpoints of the wiped node and the one that lags.
    fn left(&self) -> String {
        format!("{},{}", self.wiped.address, self.lags.address)
    }
}

/// Two nodes have committed what the third lacks. One of the two returns without its disk, and the other dies;
/// then the third is there again, and `somebody` may try what they want.
async fn a_wiped_node_returns_while_a_peer_dies(lags_led: bool, somebody: impl AsyncFn(&Fates)) {
    let mut cluster = DevCluster::start(Options::default()).await;
    let tokens = Tokens::start(cluster.port("proxy-1"), 4, "h06");
    tokens.progress(50, SOON).await;
    let fates = Fates::of(&cluster, lags_led).await;
    let (wiped, lags, dies) = (&fates.wiped, &fates.lags, &fates.dies);
    cluster.dev("stop", &lags.name).await;
    tokens.progress(100, Duration::from_secs(30)).await;
    let old = identify(&wiped.address).await;

    cluster.kill(&wiped.name);
    cluster.dev("stop", &wiped.name).await;
    let data = cluster.dir.join(&wiped.name).join("data");
    std::fs::remove_dir_all(data).expect("a data directory");
    cluster.dev("start", &wiped.name).await;
    let new = identify(&wiped.address).await;
    assert_eq!((&new.name, &new.address), (&old.name, &old.address));
    cluster.kill(&dies.name);
    cluster.dev("stop", &dies.name).await;
    cluster.dev("start", &lags.name).await;
    identify(&lags.address).await;
    somebody(&fates).await;
    assert_no_quorum(&cluster, &tokens).await;
    assert_ne!(
        new.node_id, old.node_id,
        "an empty disk has the identity of what was lost"
    );

    // The node that died has everything, and with the one that lags it is a majority of the three that began.
    cluster.dev("start", &dies.name).await;
    tokens.progress(100, Duration::from_secs(60)).await;
    let outcome = tokens.stop().await;
    let fresh = Server::start(&[]).await;
    let endpoints = format!("{},{}", lags.address, dies.address);
    let (code, out, err) = redoubt(&["rebuild", "--endpoints", &endpoints, "--into", &fresh.address()]).await;
    assert_eq!(code, 0, "redoubt rebuild: {out}{err}");
    let mut fresh = fresh.connect().await;
    outcome.assert_kept_by(&mut fresh).await;
    wait_equal(&mut connect(cluster.port("master-1")).await, &mut fresh).await;
    cluster.down().await;
}

#[tokio::test]
async fn h06_a_wiped_node_is_not_counted_and_not_bootstrapped_again() {
    // A leader that was stopped is not the leader when it starts again, either.
    a_wiped_node_returns_while_a_peer_dies(true, async |fates| {
        let (code, out, err) = redoubt(&["bootstrap", "--endpoints", &fates.left()]).await;
        assert_eq!(code, 1, "{out}{err}");
        let named = err.contains(&format!("`{}`", fates.wiped.name));
        assert!(named && err.contains("wiped or replaced"), "{err}");
    })
    .await;
}

#[test]
fn catches_a_leader_that_leads_again_unelected() {
    assert_catches(
        "h06_a_wiped_node_is_not_counted_and_not_bootstrapped_again",
        "h08_leader_restored",
    );
}

#[test]
fn catches_an_identity_that_outlives_its_disk() {
    assert_catches(
        "h06_a_wiped_node_is_not_counted_and_not_bootstrapped_again",
        "h06_identity_by_name",
    );
}

#[tokio::test]
async fn h06_a_wiped_node_seeded_by_hand_has_no_vote_in_the_old_cluster() {
    a_wiped_node_returns_while_a_peer_dies(false, async |fates| {
        // Somebody insists: the same cluster, with the new incarnation in the old one's place.
        let new = identify(&fates.wiped.address).await;
        let known = identify(&fates.lags.address).await;
        let mut members = known.members.clone();
        for member in members.iter_mut().filter(|m| m.name == new.name) {
            member.node_id = new.node_id;
        }
        members.sort_by_key(|m| m.node_id);
        let request = v1::BootstrapRequest {
            cluster_id: known.cluster_id.expect("a cluster"),
            replid: known.replid.expect("a replid"),
            members,
        };
        assert_eq!(seed(&fates.wiped.address, &request).await, None);
    })
    .await;
}

#[test]
fn catches_votes_of_any_incarnation() {
    assert_catches(
        "h06_a_wiped_node_seeded_by_hand_has_no_vote_in_the_old_cluster",
        "h06_any_incarnation",
    );
}

/// A journal node of the test's own.
fn node(dir: &std::path::Path, name: &str, address: &str) -> Program {
    let data = dir.join(name);
    let data = data.to_string_lossy().into_owned();
    let log = dir.join(format!("{name}.log"));
    let args = ["--name", name, "--listen", address, "--dir", &data];
    Program::start("redoubt-journal", &args, &log)
}

#[tokio::test]
async fn h06_a_bootstrap_cut_midway_is_completed_as_it_was_begun() {
    let dir = tempfile::tempdir().unwrap();
    let ports: Vec<_> = (0..3)
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let addresses: Vec<_> = ports
        .iter()
        .map(|p| p.local_addr().unwrap().to_string())
        .collect();
    drop(ports);
    let names = ["n1", "n2", "n3"];
    let mut nodes: Vec<_> = names
        .iter()
        .zip(&addresses)
        .map(|(n, a)| Some(node(dir.path(), n, a)))
        .collect();
    let mut members = Vec::new();
    for address in &addresses {
        let told = identify(address).await;
        assert_eq!(told.cluster_id, None);
        members.push(v1::Member {
            node_id: told.node_id,
            name: told.name,
            address: told.address,
        });
    }
    members.sort_by_key(|m| m.node_id);
    let begun = v1::BootstrapRequest {
        cluster_id: "ab".repeat(16),
        replid: "c".repeat(40),
        members,
    };
    // One of three knows, and dies.
    assert_eq!(seed(&addresses[1], &begun).await, None);
    nodes[1].take().expect("it runs").kill().await;
    nodes[1] = Some(node(dir.path(), names[1], &addresses[1]));

    let endpoints = addresses.join(",");
    for _ in 0..2 {
        let (code, out, err) = redoubt(&["bootstrap", "--endpoints", &endpoints]).await;
        assert_eq!(code, 0, "{out}{err}");
        assert!(
            out.contains(&begun.cluster_id),
            "another cluster was begun: {out}"
        );
    }
    for address in &addresses {
        let told = identify(address).await;
        assert_eq!(told.cluster_id.as_ref(), Some(&begun.cluster_id), "{address}");
        assert_eq!(told.replid.as_ref(), Some(&begun.replid), "{address}");
        assert_eq!(told.members, begun.members, "{address}");
    }
    assert_one_journal(&addresses, &begun.replid).await;
    for node in nodes.into_iter().flatten() {
        node.kill().await;
    }
}

/// The nodes are one journal that begins under `replid`: what is written once is served by each of them.
async fn assert_one_journal(addresses: &[String], replid: &str) {
    let of = |endpoints: &[String]| {
        let config = ClientConfig {
            endpoints: endpoints.to_vec(),
            journal: JournalName::default(),
            cluster: None,
        };
        Client::new(Env::real(), config)
    };
    let journal = of(addresses);
    let holder = HolderId::new(7).unwrap();
    let grant = journal
        .acquire(holder, "test", Duration::from_secs(10), Duration::from_secs(30))
        .await;
    let grant = grant.expect("an epoch");
    assert_eq!(grant.epoch.get(), 1);
    assert_eq!(grant.lineage.last().replid.to_string(), replid);
    let mut bytes = BytesMut::new();
    encode_command(&[b"SET", b"k", b"v"], &mut bytes);
    let bytes = bytes.freeze();
    let mut appender = journal.appender(AppendStart {
        epoch: grant.epoch,
        replid: grant.lineage.last().replid,
        start: grant.position.tail,
        chain: grant.position.tail_chain,
    });
    appender.push(bytes.clone(), WallTime::from_ms(1));
    appender.next().await.expect("an append");
    for address in addresses {
        assert!(
            served(&of(std::slice::from_ref(address))).await == bytes,
            "{address}"
        );
    }
}

#[test]
fn catches_a_bootstrap_that_begins_anew() {
    assert_catches(
        "h06_a_bootstrap_cut_midway_is_completed_as_it_was_begun",
        "h06_bootstrap_mints_again",
    );
}
