//! Requests of writers that are wrong in one thing: each is refused by the name of that thing, to a cluster under load
//! that does not notice.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

mod asked;

use asked::{Asked, OTHER_CLUSTER, OTHER_ID, SET, append, assert_refused, entry, pay, refusal_of, spoiled};
use redoubt_proto::v1;
use redoubt_proto::v1::Reason;
use redoubt_tests::assert_catches;
use redoubt_types::Chain;
use redoubt_types::limits::ENTRY_PAYLOAD_BYTES_ACCEPTED;

type Spoil = Box<dyn Fn(&mut v1::AppendRequest)>;

/// What is wrong whatever the load does meanwhile.
fn wrong_appends() -> Vec<(&'static str, Reason, Spoil)> {
    fn wrong(
        what: &'static str,
        reason: Reason,
        spoil: impl Fn(&mut v1::AppendRequest) + 'static,
    ) -> (&'static str, Reason, Spoil) {
        (what, reason, Box::new(spoil))
    }
    vec![
        wrong("another cluster", Reason::WrongCluster, |r| {
            r.cluster_id = OTHER_CLUSTER.into()
        }),
        wrong("no cluster's name", Reason::WrongCluster, |r| {
            r.cluster_id = "\u{1}garbage".into()
        }),
        wrong("another journal", Reason::UnknownJournal, |r| {
            r.journal = "other".into()
        }),
        wrong("no entry", Reason::Invalid, |r| r.entry = None),
        wrong("no epoch", Reason::Invalid, |r| entry(r).epoch = 0),
        wrong("an old epoch", Reason::Fenced, |r| entry(r).epoch = 1),
        wrong("an epoch to come", Reason::Invalid, |r| entry(r).epoch += 1),
        wrong("the last epoch of all", Reason::Invalid, |r| {
            entry(r).epoch = u64::MAX
        }),
        wrong("a wrong CRC", Reason::Checksum, |r| entry(r).payload_crc ^= 1),
        wrong("a changed payload", Reason::Checksum, |r| {
            entry(r).payload = SET.to_ascii_uppercase().into();
        }),
        wrong("another replid", Reason::Lineage, |r| {
            entry(r).replid = OTHER_ID.into()
        }),
        wrong("no replid", Reason::Invalid, |r| entry(r).replid = "xyz".into()),
        wrong("an offset beyond the end", Reason::Mismatch, |r| {
            entry(r).start += 1 << 40
        }),
        wrong("an offset before the end", Reason::Mismatch, |r| {
            entry(r).start -= 1
        }),
        wrong("the offset 0", Reason::Mismatch, |r| entry(r).start = 0),
        wrong("another chain", Reason::Mismatch, |r| entry(r).chain ^= 1),
        wrong("the empty chain", Reason::Mismatch, |r| {
            entry(r).chain = Chain::EMPTY.get()
        }),
        wrong("an end beyond 2^64", Reason::Invalid, |r| {
            entry(r).start = u64::MAX
        }),
        wrong("a payload that is too large", Reason::Invalid, |r| {
            pay(r, vec![b'x'; ENTRY_PAYLOAD_BYTES_ACCEPTED + 1]);
        }),
    ]
}

#[tokio::test]
async fn an_append_that_is_wrong_in_one_thing_is_refused_by_its_name() {
    let mut asked = Asked::start().await;
    for (what, reason, spoil) in wrong_appends() {
        let answer = spoiled(&mut asked, spoil).await;
        assert_refused(what, refusal_of(&answer), reason);
        if reason == Reason::Mismatch {
            let at = refusal_of(&answer)
                .and_then(|r| r.position)
                .expect("a mismatch names the position");
            assert!(at.pending_end > 0 && at.tail <= at.pending_end);
        }
    }
    // What is no stream is found only at the journal's very end, which moves on.
    let no_stream: [(&str, &[u8]); 6] = [
        ("an empty payload", b""),
        ("garbage", b"\x00\xff\x16\x03\x01garbage"),
        ("an inline command", b"SET evil! v\r\n"),
        ("nesting", b"*1\r\n*1\r\n*1\r\n$1\r\nx\r\n"),
        ("a count that is too large", b"*9999999999\r\n$3\r\nSET\r\n"),
        (
            "a length that is too large",
            b"*2\r\n$3\r\nSET\r\n$9999999999\r\nx",
        ),
    ];
    for (what, payload) in no_stream {
        let answer = loop {
            let answer = spoiled(&mut asked, |r| pay(r, payload.to_vec())).await;
            if refusal_of(&answer).is_none_or(|r| r.reason() != Reason::Mismatch) {
                break answer;
            }
        };
        assert_refused(what, refusal_of(&answer), Reason::Framing);
    }
    // What is asked of somebody who does not lead.
    let request = asked.right().await;
    let answers = append(&mut asked.follower, vec![request]).await;
    assert_refused(
        "an append to a follower",
        refusal_of(&answers[0]),
        Reason::NotLeader,
    );
    // One wrong append does not end the stream of those behind it.
    let (mut wrong, mut old) = (asked.right().await, asked.right().await);
    entry(&mut wrong).payload_crc ^= 1;
    entry(&mut old).epoch = 1;
    let answers = append(&mut asked.leader, vec![wrong.clone(), old, wrong]).await;
    let reasons: Vec<_> = answers
        .iter()
        .map(|a| refusal_of(a).map(v1::Refusal::reason))
        .collect();
    assert_eq!(
        reasons,
        [
            Some(Reason::Checksum),
            Some(Reason::Fenced),
            Some(Reason::Checksum)
        ]
    );
    asked.unhurt().await;
}

#[test]
fn catches_a_checksum_that_nobody_looks_at() {
    assert_catches(
        "an_append_that_is_wrong_in_one_thing_is_refused_by_its_name",
        "admit_any_checksum",
    );
}

#[test]
fn catches_an_offset_that_nobody_looks_at() {
    assert_catches(
        "an_append_that_is_wrong_in_one_thing_is_refused_by_its_name",
        "h01_admit_at_proposal",
    );
}

#[tokio::test]
async fn a_writers_request_that_is_wrong_in_one_thing_is_refused_by_its_name() {
    let mut asked = Asked::start().await;
    let d = asked.described().await;
    let (cluster, epoch) = (d.cluster.to_string(), d.writer.epoch.unwrap().get());
    let holder = d.writer.holder.unwrap().get();
    let long = "x".repeat(1 << 20);

    let acquire = v1::AcquireWriterRequest {
        cluster_id: cluster.clone(),
        journal: "default".into(),
        holder: 77,
        holder_name: "evil".into(),
        lease_ms: 1000,
        sent_wall_ms: 1,
    };
    let acquires = [
        ("a held lease", Reason::LeaseHeld, acquire.clone()),
        (
            "no holder",
            Reason::Invalid,
            v1::AcquireWriterRequest {
                holder: 0,
                ..acquire.clone()
            },
        ),
        (
            "no lease",
            Reason::Invalid,
            v1::AcquireWriterRequest {
                lease_ms: 0,
                ..acquire.clone()
            },
        ),
        (
            "an endless lease",
            Reason::Invalid,
            v1::AcquireWriterRequest {
                lease_ms: u64::MAX,
                ..acquire.clone()
            },
        ),
        (
            "a long name",
            Reason::Invalid,
            v1::AcquireWriterRequest {
                holder_name: long.clone(),
                ..acquire.clone()
            },
        ),
        (
            "another cluster",
            Reason::WrongCluster,
            v1::AcquireWriterRequest {
                cluster_id: OTHER_CLUSTER.into(),
                ..acquire.clone()
            },
        ),
        (
            "no journal",
            Reason::UnknownJournal,
            v1::AcquireWriterRequest {
                journal: String::new(),
                ..acquire
            },
        ),
    ];
    for (what, reason, request) in acquires {
        use v1::acquire_writer_response::Outcome;
        let answer = asked.leader.acquire_writer(request).await.unwrap().into_inner();
        let refused = match &answer.outcome {
            Some(Outcome::Refused(refused)) => Some(refused),
            _ => None,
        };
        assert_refused(&format!("acquire, {what}"), refused, reason);
    }

    for (what, reason, epoch, holder) in [
        ("an old epoch", Reason::Fenced, 1, holder),
        ("another holder", Reason::Fenced, epoch, 77),
        ("an epoch to come", Reason::Invalid, epoch + 1, holder),
        ("no epoch", Reason::Invalid, 0, holder),
        ("no holder", Reason::Invalid, epoch, 0),
    ] {
        let (cluster_id, journal) = (cluster.clone(), "default".to_owned());
        let renew = v1::RenewWriterRequest {
            cluster_id,
            journal,
            epoch,
            holder,
            sent_wall_ms: 1,
        };
        let answer = asked
            .leader
            .renew_writer(renew.clone())
            .await
            .unwrap()
            .into_inner();
        assert_refused(&format!("renew, {what}"), answer.refused.as_ref(), reason);
        let release = v1::ReleaseWriterRequest {
            cluster_id: renew.cluster_id,
            journal: renew.journal,
            epoch,
            holder,
        };
        let answer = asked.leader.release_writer(release).await.unwrap().into_inner();
        assert_refused(&format!("release, {what}"), answer.refused.as_ref(), reason);
    }

    let session = v1::Session {
        epoch,
        run_id: OTHER_ID.into(),
        at: 1 << 50,
        server: "redis".into(),
    };
    for (what, reason, session) in [
        ("missing", Reason::Invalid, None),
        (
            "an old epoch",
            Reason::Fenced,
            Some(v1::Session {
                epoch: 1,
                ..session.clone()
            }),
        ),
        (
            "no run id",
            Reason::Invalid,
            Some(v1::Session {
                run_id: "x".into(),
                ..session.clone()
            }),
        ),
        (
            "a long name",
            Reason::Invalid,
            Some(v1::Session {
                server: long.clone(),
                ..session.clone()
            }),
        ),
        ("not at the tail", Reason::Lineage, Some(session)),
    ] {
        let (cluster_id, journal) = (cluster.clone(), "default".to_owned());
        let request = v1::RecordSessionRequest {
            cluster_id,
            journal,
            session,
        };
        let answer = asked.leader.record_session(request).await.unwrap().into_inner();
        assert_refused(
            &format!("session record, {what}"),
            answer.refused.as_ref(),
            reason,
        );
    }

    let step = v1::LineageStep {
        replid: OTHER_ID.into(),
        from: 1 << 50,
        epoch,
    };
    for (what, reason, step) in [
        ("missing", Reason::Invalid, None),
        (
            "an old epoch",
            Reason::Fenced,
            Some(v1::LineageStep {
                epoch: 1,
                ..step.clone()
            }),
        ),
        (
            "no epoch",
            Reason::Lineage,
            Some(v1::LineageStep {
                epoch: 0,
                ..step.clone()
            }),
        ),
        (
            "no replid",
            Reason::Invalid,
            Some(v1::LineageStep {
                replid: long.clone(),
                ..step.clone()
            }),
        ),
        ("not at the tail", Reason::Lineage, Some(step)),
    ] {
        let (cluster_id, journal) = (cluster.clone(), "default".to_owned());
        let request = v1::RecordLineageRequest {
            cluster_id,
            journal,
            step,
        };
        let answer = asked.leader.record_lineage(request).await.unwrap().into_inner();
        assert_refused(
            &format!("lineage record, {what}"),
            answer.refused.as_ref(),
            reason,
        );
    }

    let report = v1::ReplicaReport {
        address: long.clone(),
        ..Default::default()
    };
    for (what, replay, replicas) in [
        ("a long name", long.clone(), Vec::new()),
        ("a long address", "r".to_owned(), vec![report]),
        (
            "too many",
            "r".to_owned(),
            vec![v1::ReplicaReport::default(); 100_000],
        ),
    ] {
        let (cluster_id, journal) = (cluster.clone(), "default".to_owned());
        let request = v1::ReportReplicasRequest {
            cluster_id,
            journal,
            replay,
            replicas,
        };
        let answer = asked.leader.report_replicas(request).await.unwrap().into_inner();
        assert_refused(
            &format!("report, {what}"),
            answer.refused.as_ref(),
            Reason::Invalid,
        );
    }
    assert_eq!(
        asked.described().await.writer.epoch.unwrap().get(),
        epoch,
        "the writer was disturbed"
    );
    asked.unhurt().await;
}
