//! Three nodes agree on a journal: appends are admitted once, in order, and every node serves the same.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks and sockets, and fail by panicking"
)]

mod cluster;

use cluster::{REPLID, RUN_ID, Trio, append, bytes, outcome, send, tail};
use redoubt_env::Env;
use redoubt_journal::base::{FoldAfter, Retention};
use redoubt_journal::raft::{CheckpointEvery, MetadataStore, Node, NodeConfig};
use redoubt_journal::segment::{ClusterMembershipSeed, Options, SeedMember};
use redoubt_proto::v1;
use redoubt_types::Chain;

const SET: &[u8] = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n";

#[tokio::test]
async fn appends_are_admitted_once_and_served_by_every_node() {
    let mut trio = Trio::start().await;
    let (leader, grant) = trio.acquire(7).await;
    assert_eq!(grant.epoch, 1);
    assert_eq!(grant.lineage.len(), 1);

    let (mut chain, mut start, mut requests) = (Chain::EMPTY, 0, Vec::new());
    for _ in 0..50 {
        requests.push(append(1, REPLID, start, chain, SET));
        chain = chain.extend(SET);
        start += SET.len() as u64;
    }
    let answers = send(&trio.nodes[leader], requests.clone()).await;
    for (i, answer) in answers.iter().enumerate() {
        assert_eq!(outcome(answer), Ok(((i as u64 + 1) * SET.len() as u64, false)));
    }
    // The same once more is the same success, and adds nothing.
    let again = send(&trio.nodes[leader], requests).await;
    assert!(
        again
            .iter()
            .all(|a| outcome(a).is_ok_and(|(_, duplicate)| duplicate)),
        "{again:?}"
    );

    let expected: Vec<u8> = SET.repeat(50);
    for node in &trio.nodes {
        assert!(
            bytes(&tail(node, 0).await) == expected,
            "{} serves something else",
            node.address
        );
    }
    // Every node starts again from its own disk and still serves the same.
    for i in 0..3 {
        trio.nodes[i].stop().await;
        let (env, address) = (trio.env.clone(), trio.nodes[i].address.clone());
        trio.nodes[i] =
            cluster::RunningNode::start(&env, &format!("n{i}"), trio.dirs[i].path(), &address).await;
    }
    let (_, grant) = trio.acquire(7).await;
    assert_eq!(grant.position.unwrap().tail, expected.len() as u64);
    for node in &trio.nodes {
        assert!(
            bytes(&tail(node, 0).await) == expected,
            "{} serves something else",
            node.address
        );
    }
    for node in &mut trio.nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn what_is_wrong_is_refused_by_name_and_changes_nothing() {
    let trio = Trio::start().await;
    let (leader, grant) = trio.acquire(7).await;
    let node = &trio.nodes[leader];
    let good = || append(grant.epoch, REPLID, 0, Chain::EMPTY, SET);
    let broken: Vec<(&str, v1::Reason, v1::AppendRequest)> = vec![
        (
            "epoch",
            v1::Reason::Invalid,
            append(9, REPLID, 0, Chain::EMPTY, SET),
        ),
        (
            "offset",
            v1::Reason::Mismatch,
            append(1, REPLID, 5, Chain::EMPTY, SET),
        ),
        (
            "chain",
            v1::Reason::Mismatch,
            append(1, REPLID, 0, Chain::from_u64(3), SET),
        ),
        (
            "replid",
            v1::Reason::Lineage,
            append(1, &"b".repeat(40), 0, Chain::EMPTY, SET),
        ),
        (
            "no replid",
            v1::Reason::Invalid,
            append(1, "x", 0, Chain::EMPTY, SET),
        ),
        (
            "framing",
            v1::Reason::Framing,
            append(1, REPLID, 0, Chain::EMPTY, b"+OK\r\n"),
        ),
        (
            "two groups and a half",
            v1::Reason::Framing,
            append(1, REPLID, 0, Chain::EMPTY, &[SET, &SET[..9]].concat()),
        ),
        (
            "nothing",
            v1::Reason::Framing,
            append(1, REPLID, 0, Chain::EMPTY, b""),
        ),
        (
            "too large",
            v1::Reason::Invalid,
            append(1, REPLID, 0, Chain::EMPTY, &vec![0; 2 << 20]),
        ),
        ("checksum", v1::Reason::Checksum, {
            let mut r = good();
            r.entry.as_mut().unwrap().payload_crc ^= 1;
            r
        }),
        (
            "cluster",
            v1::Reason::WrongCluster,
            v1::AppendRequest {
                cluster_id: "cd".repeat(16),
                ..good()
            },
        ),
        (
            "journal",
            v1::Reason::UnknownJournal,
            v1::AppendRequest {
                journal: "other".into(),
                ..good()
            },
        ),
    ];
    for (what, reason, request) in broken {
        assert_eq!(
            outcome(&send(node, vec![request]).await[0]),
            Err(reason),
            "{what}"
        );
    }
    assert_eq!(
        outcome(&send(node, vec![good()]).await[0]),
        Ok((SET.len() as u64, false))
    );

    let (_, second) = trio.acquire(8).await;
    assert_eq!(second.epoch, 2);
    let late = append(1, REPLID, SET.len() as u64, Chain::EMPTY.extend(SET), SET);
    assert_eq!(outcome(&send(node, vec![late]).await[0]), Err(v1::Reason::Fenced));
    let events = tail(node, 9999).await;
    let Some(v1::tail_response::Event::Refused(r)) = &events[0].event else {
        panic!("{events:?}")
    };
    assert_eq!(r.reason(), v1::Reason::BeyondEnd, "{r:?}");
}

#[tokio::test]
async fn h03_an_unfinished_group_is_never_served_and_ends_with_its_writer() {
    let trio = Trio::start().await;
    let (leader, _) = trio.acquire(7).await;
    let node = &trio.nodes[leader];
    let whole = outcome(&send(node, vec![append(1, REPLID, 0, Chain::EMPTY, SET)]).await[0]);
    assert_eq!(whole, Ok((SET.len() as u64, false)));
    let at = SET.len() as u64;
    let part = append(1, REPLID, at, Chain::EMPTY.extend(SET), &SET[..10]);
    assert_eq!(outcome(&send(node, vec![part]).await[0]), Ok((at + 10, false)));
    assert_eq!(bytes(&tail(node, 0).await), SET, "a fragment was served");

    let (_, grant) = trio.acquire(8).await;
    let position = grant.position.unwrap();
    assert_eq!((position.tail, position.pending_end), (at, at));
    let other = append(2, REPLID, at, Chain::EMPTY.extend(SET), SET);
    assert_eq!(outcome(&send(node, vec![other]).await[0]), Ok((2 * at, false)));
    assert_eq!(bytes(&tail(node, 0).await), SET.repeat(2));
}

#[tokio::test]
async fn a_lineage_needs_its_epoch_and_the_tail_and_is_told_to_readers() {
    let trio = Trio::start().await;
    let (leader, _) = trio.acquire(7).await;
    let node = &trio.nodes[leader];
    let mut journal = node.journal().await;
    let session = v1::Session {
        epoch: 1,
        run_id: RUN_ID.into(),
        at: 0,
        server: "redis 7.0.15".into(),
    };
    let request = v1::RecordSessionRequest {
        journal: "default".into(),
        session: Some(session),
        ..Default::default()
    };
    assert_eq!(
        journal
            .record_session(request)
            .await
            .unwrap()
            .into_inner()
            .refused,
        None
    );
    let record = |from, epoch, replid: String| v1::RecordLineageRequest {
        journal: "default".into(),
        step: Some(v1::LineageStep { replid, from, epoch }),
        ..Default::default()
    };
    let y = "d".repeat(40);
    let wrong = journal
        .record_lineage(record(4, 1, y.clone()))
        .await
        .unwrap()
        .into_inner()
        .refused;
    assert_eq!(wrong.unwrap().reason(), v1::Reason::Lineage);
    for _ in 0..2 {
        assert_eq!(
            journal
                .record_lineage(record(0, 1, y.clone()))
                .await
                .unwrap()
                .into_inner()
                .refused,
            None
        );
    }
    let old = outcome(&send(node, vec![append(1, REPLID, 0, Chain::EMPTY, SET)]).await[0]);
    assert_eq!(old, Err(v1::Reason::Lineage));
    let new = outcome(&send(node, vec![append(1, &y, 0, Chain::EMPTY, SET)]).await[0]);
    assert_eq!(new, Ok((SET.len() as u64, false)));
    let events = tail(node, 0).await;
    let Some(v1::tail_response::Event::Start(start)) = &events[0].event else {
        panic!("{events:?}")
    };
    assert_eq!(start.lineage.len(), 2);
}

/// A leader that still takes itself for one, while its voters have voted in a later term: what it says of the tail could be
/// older than what another leader has acknowledged since.
#[tokio::test]
async fn h08_a_leader_whose_voters_have_voted_in_a_later_term_vouches_for_nothing() {
    use redoubt_proto::v1::raft_client::RaftClient;
    const LATER: u64 = 1_000_000;
    let mut trio = Trio::start().await;
    let (leader, _) = trio.acquire(7).await;
    let members = trio.bootstrap_request().await.members;
    let id_of = |address: &str| members.iter().find(|m| m.address == address).unwrap().node_id;
    let ids: Vec<u64> = trio.nodes.iter().map(|n| id_of(&n.address)).collect();
    let voters: Vec<usize> = (0..3).filter(|i| *i != leader).collect();
    let envelope = |from: usize, to: usize| v1::RaftEnvelope {
        cluster_id: trio.cluster_id.clone(),
        from_node: ids[from],
        to_node: ids[to],
    };
    let client = |i: usize| RaftClient::connect(format!("http://{}", trio.nodes[i].address));
    let mut asked = client(leader).await.unwrap();
    let read = v1::RaftReadIndexRequest {
        envelope: Some(envelope(voters[0], leader)),
        whole_log: false,
    };
    let before = asked.read_index(read.clone()).await.unwrap().into_inner();
    let index = before.read.expect("a leader in peace vouches").index;
    let whole = v1::RaftReadIndexRequest {
        whole_log: true,
        ..read.clone()
    };
    let whole = asked.read_index(whole).await.unwrap().into_inner();
    assert!(whole.read.is_some_and(|read| read.index >= index), "{whole:?}");
    // Both vote for one of them, as they would for a candidate whose log is ahead of theirs.
    for voter in &voters {
        let vote = v1::RaftVoteRequest {
            envelope: Some(envelope(voters[0], *voter)),
            vote: Some(v1::RaftVoteState {
                term: LATER,
                node: ids[voters[0]],
                committed: false,
            }),
            last: Some(v1::RaftLogId {
                term: LATER - 1,
                index: LATER,
            }),
            leadership_transfer: true,
        };
        let answer = client(*voter)
            .await
            .unwrap()
            .vote(vote)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(answer.vote.unwrap().term, LATER, "it did not vote: {answer:?}");
        let current = v1::RaftCurrentVoteRequest {
            envelope: Some(envelope(leader, *voter)),
        };
        let answer = client(*voter).await.unwrap().current_vote(current).await.unwrap();
        assert_eq!(answer.into_inner().vote.unwrap().term, LATER);
    }
    let answer = asked.read_index(read).await.unwrap().into_inner();
    let elected_anew = answer.read.is_some_and(|read| read.term > LATER);
    assert!(answer.read.is_none() || elected_anew, "{answer:?}");
    // What is asked of another cluster's or another incarnation's node is not answered (H6).
    let mut other = envelope(leader, voters[0]);
    other.to_node += 1;
    let request = v1::RaftCurrentVoteRequest {
        envelope: Some(other),
    };
    let answer = client(voters[0])
        .await
        .unwrap()
        .current_vote(request)
        .await
        .unwrap()
        .into_inner();
    assert!(answer.vote.is_none() && answer.refused.is_some(), "{answer:?}");
    drop(asked);
    for node in &mut trio.nodes {
        node.stop().await;
    }
}

/// When whoever asks for a bootstrap leaves: before it has begun, while the seed is written, or so many polls after it is durable.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    Before,
    Writing,
    After(u32),
}

impl Leaves {
    /// Whether it polls once more, after `polls` of which `behind` found the seed durable.
    fn goes_on(self, polls: u32, behind: u32) -> bool {
        match self {
            Leaves::Before => false,
            Leaves::Writing => polls == 0,
            Leaves::After(n) => behind <= n,
        }
    }
}

/// Whoever asks for a bootstrap may leave at any moment of it. Repeated, it is the success that it was only if Raft runs; a
/// node whose Raft was begun and not finished ends instead, and is whole when it is started again.
#[tokio::test]
async fn h06_a_bootstrap_whose_caller_left_is_finished_or_the_node_ends() {
    let env = Env::real();
    let (mut unbegun, mut finished, mut ended) = (0, 0, 0);
    let mut completed = false;
    // Counted from the moment at which the seed is durable, which takes a disk as long as it likes; before it, the caller leaves
    // without having begun, or within the write.
    for leaves in [Leaves::Before, Leaves::Writing]
        .into_iter()
        .chain((0..).map(Leaves::After))
    {
        if completed {
            break;
        }
        let dir = tempfile::tempdir().unwrap();
        let config = || NodeConfig {
            name: "n0".to_owned(),
            address: cluster::free_address(),
            dir: dir.path().to_owned(),
            storage: Options::default(),
            metadata: MetadataStore::Sled,
            checkpoint_every: CheckpointEvery::default(),
            fold_after: FoldAfter::default(),
            retention: Retention::default(),
        };
        let node = Node::open(env.clone(), config()).await.unwrap();
        let seed = ClusterMembershipSeed {
            cluster: "ab".repeat(16).parse().unwrap(),
            replid: REPLID.parse().unwrap(),
            members: vec![SeedMember {
                node: node.identity().node,
                name: "n0".to_owned(),
                address: node.config().address.clone(),
            }],
        };
        {
            let mut left = std::pin::pin!(node.bootstrap(seed.clone()));
            let (mut polls, mut behind) = (0, 0);
            while !completed && leaves.goes_on(polls, behind) {
                if polls > 0 {
                    // What it waits for happens meanwhile, so that this poll finds something else than the last.
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
                completed = futures_util::poll!(left.as_mut()).is_ready();
                polls += 1;
                behind += u32::from(node.identity().cluster.is_some());
            }
        }
        let begun = node.identity().cluster.is_some();
        match node.bootstrap(seed.clone()).await {
            Ok(()) => {
                assert_ne!(node.role(), "not bootstrapped", "{leaves:?}");
                (unbegun, finished) = (unbegun + usize::from(!begun), finished + usize::from(begun));
                node.shutdown().await;
            }
            Err(why) => {
                ended += 1;
                let error = env
                    .timeout(std::time::Duration::from_secs(5), node.failed())
                    .await;
                assert!(error.unwrap().to_string().contains(&why), "{leaves:?}");
                node.shutdown().await;
                drop(node);
                let node = Node::open(env.clone(), config()).await.unwrap();
                assert_ne!(node.role(), "not bootstrapped", "{leaves:?}");
                node.shutdown().await;
            }
        }
    }
    println!("{unbegun} begun anew, {finished} finished, {ended} ended");
    assert!(unbegun > 0 && finished > 0 && ended > 0, "not every case was met");
}
