//! Bad input on the journal's gRPC ports: garbage, oversized messages, tails from where nothing is, what is meant for
//! another cluster. A clear error each, to a cluster under load that does not notice: nothing is lost, nobody is
//! started again, memory is bounded.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

mod asked;

use asked::{Asked, OTHER_CLUSTER, OTHER_ID, SOON, append, assert_refused, entry, pay, refusal_of};
use redoubt_client::TailError;
use redoubt_proto::v1;
use redoubt_proto::v1::Reason;
use redoubt_proto::v1::cluster_client::ClusterClient;
use redoubt_proto::v1::journal_client::JournalClient;
use redoubt_proto::v1::raft_client::RaftClient;
use redoubt_proto::v1::tail_response::Event;
use redoubt_tests::{Raw, eventually, redoubt};
use redoubt_types::Offset;
use redoubt_types::limits::{ENTRY_PAYLOAD_BYTES_ACCEPTED, GRPC_MESSAGE_BYTES_MAX};
use tonic::Code;
use tonic::transport::Channel;

/// What a tail is answered first.
async fn tail(journal: &mut JournalClient<Channel>, request: v1::TailRequest) -> Option<Event> {
    let mut events = journal.tail(request).await.expect("a tail").into_inner();
    let first = tokio::time::timeout(SOON, events.message())
        .await
        .expect("an answer in time");
    first.expect("no gRPC error").expect("an event").event
}

#[tokio::test]
async fn a_tail_from_where_nothing_is_is_refused_by_every_node() {
    let mut asked = Asked::start().await;
    let d = asked.described().await;
    let good = v1::TailRequest {
        cluster_id: d.cluster.to_string(),
        journal: "default".into(),
        from: d.position.tail.get() + (1 << 40),
        follow: true,
    };
    // Offsets have no sign: what lies before the beginning, -1, is the largest there is, and lies beyond the end. The
    // beginning itself is 0 until a base is made.
    for (what, reason, request) in [
        ("beyond the end", Reason::BeyondEnd, good.clone()),
        (
            "beyond the end, once",
            Reason::BeyondEnd,
            v1::TailRequest {
                follow: false,
                ..good.clone()
            },
        ),
        (
            "-1",
            Reason::BeyondEnd,
            v1::TailRequest {
                from: u64::MAX,
                ..good.clone()
            },
        ),
        (
            "another cluster",
            Reason::WrongCluster,
            v1::TailRequest {
                cluster_id: OTHER_CLUSTER.into(),
                ..good.clone()
            },
        ),
        (
            "another journal",
            Reason::UnknownJournal,
            v1::TailRequest {
                journal: "x".repeat(1 << 20),
                ..good
            },
        ),
    ] {
        for node in [&mut asked.leader, &mut asked.follower] {
            match tail(node, request.clone()).await {
                Some(Event::Refused(refused)) => assert_refused(what, Some(&refused), reason),
                other => panic!("a tail from {what}: {other:?}"),
            }
        }
    }
    // In the client's words, and in those of the command line.
    let beyond = d.position.tail.advance(1 << 40);
    let mut tailer = asked.abused.cluster.journal().tail(beyond, true);
    match tailer.next().await {
        Err(TailError::BeyondEnd { tail }) => assert!(tail >= d.position.tail && tail < beyond),
        other => panic!("{other:?}"),
    }
    let endpoints = asked.abused.cluster.endpoints().join(",");
    let told = |from: String| {
        let endpoints = endpoints.clone();
        async move { redoubt(&["tail", "--endpoints", &endpoints, &format!("--from={from}")]).await }
    };
    let (code, out, err) = told(beyond.to_string()).await;
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("beyond the journal's confirmed tail"), "{err}");
    for from in ["-1", "18446744073709551616", "x"] {
        let (code, _, err) = told(from.to_owned()).await;
        assert_eq!(code, 2, "{err}");
        assert!(err.contains("is no offset"), "{err}");
    }
    let mut from_zero = asked.abused.cluster.journal().tail(Offset::ZERO, false);
    assert!(from_zero.next().await.is_ok(), "the beginning can be had");
    asked.unhurt().await;
}

#[tokio::test]
async fn what_is_meant_for_another_cluster_is_refused_by_nodes_as_peers() {
    let asked = Asked::start().await;
    let d = asked.described().await;
    for node in asked.abused.cluster.of_kind("journal") {
        let mut cluster = ClusterClient::connect(format!("http://{}", node.address))
            .await
            .unwrap();
        let identity = cluster
            .identify(v1::IdentifyRequest {})
            .await
            .unwrap()
            .into_inner();
        let member = v1::Member {
            node_id: identity.node_id,
            name: identity.name,
            address: identity.address,
        };
        let members = vec![member];
        let seed = v1::BootstrapRequest {
            cluster_id: OTHER_CLUSTER.into(),
            replid: OTHER_ID.into(),
            members,
        };
        let answer = cluster.bootstrap(seed).await.unwrap().into_inner();
        assert_refused(
            "bootstrap as another cluster",
            answer.refused.as_ref(),
            Reason::WrongCluster,
        );
        let answer = cluster
            .bootstrap(v1::BootstrapRequest::default())
            .await
            .unwrap()
            .into_inner();
        assert_refused("bootstrap of nobody", answer.refused.as_ref(), Reason::Invalid);

        let mut raft = RaftClient::connect(format!("http://{}", node.address))
            .await
            .unwrap();
        let vote = Some(v1::RaftVoteState {
            term: u64::MAX,
            node: 1,
            committed: true,
        });
        let ours = d.cluster.to_string();
        for (what, envelope) in [
            ("nobody", None),
            ("another cluster", Some((OTHER_CLUSTER, identity.node_id))),
            ("another node", Some((ours.as_str(), identity.node_id ^ 1))),
        ] {
            let envelope = envelope.map(|(cluster_id, to_node)| v1::RaftEnvelope {
                cluster_id: cluster_id.to_owned(),
                from_node: 1,
                to_node,
            });
            let request = v1::RaftVoteRequest {
                envelope: envelope.clone(),
                vote,
                last: None,
                leadership_transfer: true,
            };
            let answer = raft.vote(request.clone()).await.unwrap().into_inner();
            assert!(
                answer.refused.is_some_and(|why| !why.is_empty()),
                "a vote for {what}"
            );
            let answer = raft.pre_vote(request).await.unwrap().into_inner();
            assert!(
                answer.refused.is_some_and(|why| !why.is_empty()),
                "a pre-vote for {what}"
            );
            let append = v1::RaftAppendRequest {
                envelope,
                vote,
                ..Default::default()
            };
            let mut answers = raft
                .append_entries(futures_util::stream::iter([append]))
                .await
                .unwrap()
                .into_inner();
            let answer = answers.message().await.unwrap().expect("an answer");
            assert_eq!(
                answer.kind(),
                v1::raft_append_response::Kind::Refused,
                "entries for {what}"
            );
            assert!(!answer.message.is_empty());
        }
    }
    asked.unhurt().await;
}

#[tokio::test]
async fn messages_that_are_too_large_or_can_not_be_read_end_with_a_status() {
    let mut asked = Asked::start().await;
    let large = "x".repeat(GRPC_MESSAGE_BYTES_MAX + 1);
    for _ in 0..4 {
        let request = v1::DescribeRequest {
            cluster_id: large.clone(),
            journal: "default".into(),
            confirm: false,
        };
        let status = asked.leader.describe(request).await.expect_err("it is too large");
        assert_eq!(status.code(), Code::OutOfRange, "{status}");
        assert!(status.message().contains("too large"), "{status}");

        let mut request = asked.right().await;
        pay(&mut request, large.clone().into_bytes());
        let requests = futures_util::stream::iter([request]);
        let mut answers = asked
            .leader
            .append(requests)
            .await
            .expect("a stream")
            .into_inner();
        let status = answers.message().await.expect_err("it is too large");
        assert_eq!(status.code(), Code::OutOfRange, "{status}");
    }
    // Entries of the largest size that is looked at, all wrong, more than any window takes at once.
    let mut wrong = asked.right().await;
    pay(&mut wrong, vec![b'x'; ENTRY_PAYLOAD_BYTES_ACCEPTED]);
    entry(&mut wrong).payload_crc ^= 1;
    for answer in append(&mut asked.leader, vec![wrong; 128]).await {
        assert_eq!(
            refusal_of(&answer).map(v1::Refusal::reason),
            Some(Reason::Checksum)
        );
    }

    // A message whose fields are of other kinds, and a method that there is not.
    let mut raw = tonic::client::Grpc::new(
        tonic::transport::Endpoint::from_shared(format!("http://{}", asked.abused.cluster.endpoints()[0]))
            .unwrap()
            .connect_lazy(),
    );
    for (path, code) in [
        ("/redoubt.v1.Journal/Describe", Code::Internal),
        ("/redoubt.v1.Journal/Obey", Code::Unimplemented),
        ("/other.v9.Journal/Describe", Code::Unimplemented),
    ] {
        raw.ready().await.expect("a connection");
        let report = v1::ReplicaReport {
            address: "a".into(),
            acked: 7,
            sent: 9,
            ..Default::default()
        };
        let codec = tonic_prost::ProstCodec::<v1::ReplicaReport, v1::DescribeResponse>::default();
        let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
        let answered = raw.unary(tonic::Request::new(report), path.clone(), codec).await;
        let status = answered.expect_err("it can't be read");
        assert_eq!(status.code(), code, "{path}: {status}");
    }
    asked.unhurt().await;
}

#[tokio::test]
async fn what_is_no_http_2_ends_its_connection() {
    let asked = Asked::start().await;
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let with_preface = |frame: &[u8]| [preface, frame].concat();
    let mut wrong: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"*1\r\n$4\r\nPING\r\n".repeat(10),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client says hello".to_vec(),
        // A frame of 16 MB of an unknown kind, settings of a stream, a header block of garbage.
        with_preface(b"\xff\xff\xff\x63\x00\x00\x00\x00\x01"),
        with_preface(b"\x00\x00\x06\x04\x00\x00\x00\x00\x01\x00\x03\x00\x00\x00\x64"),
        with_preface(
            &[
                &b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x08\x01\x05\x00\x00\x00\x01"[..],
                &[0xff; 8],
            ]
            .concat(),
        ),
    ];
    for seed in 0..50u64 {
        let noise: Vec<u8> = (0..4096u64)
            .map(|i| (seed.wrapping_mul(31) ^ i.wrapping_mul(2_654_435_761) >> 7) as u8)
            .collect();
        wrong.push(noise.clone());
        wrong.push(with_preface(&noise));
    }
    for node in ["journal-1", "journal-2", "journal-3"] {
        let port = asked.abused.cluster.port(node);
        for bytes in &wrong {
            let mut client = Raw::connect(port).await;
            client.send_bytes(bytes).await;
            client.finish().await;
            let shown: String = String::from_utf8_lossy(bytes).chars().take(60).collect();
            client.rest(SOON, &shown).await;
        }
    }
    // Connections that say nothing, or half of a preface.
    let mut silent = Vec::new();
    for i in 0..200 {
        let mut client = Raw::connect(asked.abused.cluster.port("journal-1")).await;
        if i % 2 == 0 {
            client.send_bytes(&preface[..10]).await;
        }
        silent.push(client);
    }
    let journal = asked.abused.cluster.journal();
    eventually("an answer", SOON, || journal.describe(SOON)).await;
    drop(silent);
    asked.unhurt().await;
}
