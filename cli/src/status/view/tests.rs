use super::*;
use redoubt_client::{DiskStatus, NodeIdentity, Position, Session};
use redoubt_types::{
    Base, BaseName, Chain, ClusterId, Db, Epoch, HolderId, Lineage, LineageStep, NodeId, ReplId, RunId,
};

fn replid(n: u8) -> ReplId {
    ReplId::from_random([n; 20])
}

fn description(tail: u64, confirmed: bool) -> Description {
    let mut lineage = Lineage::new(replid(0));
    let step = LineageStep {
        replid: replid(1),
        from: Offset::ZERO,
        epoch: Some(Epoch::FIRST),
    };
    lineage.push(step, Offset::ZERO).unwrap();
    Description {
        cluster: ClusterId::new([7; 16]),
        node_name: "journal-1".into(),
        node: NodeId::new(1).unwrap(),
        position: Position {
            tail: Offset::new(tail),
            tail_chain: Chain::EMPTY,
            pending_end: Offset::new(tail + 5),
            pending_chain: Chain::EMPTY,
            groups: 3,
            db: Db::default(),
        },
        confirmed,
        lineage,
        writer: Writer {
            epoch: Some(Epoch::FIRST),
            holder: HolderId::new(9),
            holder_name: "proxy-1".into(),
            lease: Duration::from_secs(3),
            released: false,
            session: Some(Session {
                epoch: Epoch::FIRST,
                run_id: RunId::from_random([3; 20]),
                at: Offset::ZERO,
                server: "redis 7.0.15".into(),
            }),
            lease_remaining: None,
            renewed_wall: WallTime::from_ms(1000),
        },
        leader: Some("127.0.0.1:7102".into()),
        beginning: Offset::ZERO,
        base: None,
        holds_base: false,
    }
}

fn status(endpoint: &str, role: &str, description: Description) -> Asked {
    let identity = NodeIdentity {
        node: description.node,
        name: "journal".into(),
        address: endpoint.into(),
        cluster: Some(description.cluster),
        version: "0.1.0".into(),
    };
    let status = NodeStatus {
        identity,
        role: role.into(),
        leader: description.leader.clone(),
        description: Some(description),
        members: Vec::new(),
        replicas: Vec::new(),
        disk: DiskStatus {
            condition: "well".into(),
            ..DiskStatus::default()
        },
        fold: None,
    };
    (endpoint.to_owned(), Ok(status))
}

fn report(acked: u64) -> ReplicaReport {
    ReplicaReport {
        address: "127.0.0.1:7211".into(),
        acked: Offset::new(acked),
        sent: Offset::new(acked),
        replid: replid(1),
        state: "online".into(),
        full_syncs: 1,
    }
}

#[test]
fn a_confirmed_word_counts_before_one_that_is_not_and_the_leaders_before_others() {
    let mut confirmed = description(90, true);
    confirmed.writer.lease_remaining = Some(Duration::from_millis(1200));
    let asked = [
        status("127.0.0.1:7101", "follower", description(100, false)),
        status("127.0.0.1:7102", "leader", confirmed),
        (
            "127.0.0.1:7103".to_owned(),
            Err(ClientError::Unavailable("connection refused".into())),
        ),
    ];
    let view = View::new(&asked, WallTime::from_ms(1500));
    assert_eq!(
        (view.tail, view.committed, view.confirmed),
        (Some(90), Some(95), true)
    );
    assert_eq!(view.leader.as_deref(), Some("127.0.0.1:7102"));
    let writer = view.writer.unwrap();
    assert_eq!(
        (writer.lease, writer.session_state, writer.renewed_ms_ago),
        ("held", "serving", 500)
    );
    assert!(view.nodes[2].error.is_some());
}

#[test]
fn a_leader_that_does_not_answer_is_none() {
    let asked = [
        status("127.0.0.1:7101", "follower", description(100, false)),
        (
            "127.0.0.1:7102".to_owned(),
            Err(ClientError::Unavailable("connection refused".into())),
        ),
    ];
    assert_eq!(View::new(&asked, WallTime::from_ms(0)).leader, None);
    assert!(
        View::new(&asked[..1], WallTime::from_ms(0)).leader.is_some(),
        "one that was not asked may lead"
    );
}

#[test]
fn a_session_serves_only_once_its_replid_is_recorded_or_it_has_written() {
    let mut d = description(90, true);
    assert_eq!(session_state(&d.writer, &d), "serving");
    // A second epoch that has named its server, and nothing more.
    let second = Epoch::FIRST.next();
    d.writer.epoch = Some(second);
    assert_eq!(session_state(&d.writer, &d), "none");
    let session = d.writer.session.as_mut().unwrap();
    session.epoch = second;
    session.at = Offset::new(90);
    assert_eq!(session_state(&d.writer, &d), "starting");
    // One that was resumed brings no replid.
    d.position.tail = Offset::new(91);
    assert_eq!(session_state(&d.writer, &d), "serving");
    d.writer.released = true;
    assert_eq!(session_state(&d.writer, &d), "released");
}

#[test]
fn of_several_reports_about_a_replica_the_youngest_counts() {
    let mut asked = [
        status("127.0.0.1:7101", "follower", description(100, true)),
        status("127.0.0.1:7102", "leader", description(100, true)),
    ];
    for (at, acked, age) in [(0, 60, 900), (1, 80, 100)] {
        let Ok(status) = &mut asked[at].1 else { panic!() };
        status
            .replicas
            .push(("replay-1".into(), report(acked), Duration::from_millis(age)));
    }
    let view = View::new(&asked, WallTime::from_ms(0));
    let lags: Vec<_> = view.replicas.iter().map(|r| (r.acked, r.lag_bytes)).collect();
    assert_eq!(lags, [(80, Some(20))]);
}

#[test]
fn nobody_answering_is_a_view_too() {
    let asked = [(
        "127.0.0.1:7101".to_owned(),
        Err(ClientError::Unavailable("gone".into())),
    )];
    let view = View::new(&asked, WallTime::from_ms(0));
    assert_eq!((view.tail, view.confirmed, view.nodes.len()), (None, false, 1));
    assert!(super::super::table::render(&view).contains("127.0.0.1:7101: the journal is unavailable: gone"));
}

#[test]
fn the_newest_base_is_told_and_who_holds_it() {
    let base = |at| Base {
        name: BaseName {
            at: Offset::new(at),
            checksum: 1,
        },
        replid: replid(1),
        chain: Chain::EMPTY,
        groups: 2,
        db: Db::default(),
        captured: WallTime::from_ms(1),
        bytes: 300,
        rdb_version: 11,
        server: "redis 7.2.4".into(),
        keys: 4,
        digest: 5,
    };
    let of = |endpoint, role, at, holds_base| {
        let described = Description {
            base: Some(base(at)),
            holds_base,
            ..description(90, true)
        };
        status(endpoint, role, described)
    };
    let mut asked = [
        of("127.0.0.1:7101", "leader", 50, true),
        of("127.0.0.1:7102", "follower", 50, false),
        of("127.0.0.1:7103", "follower", 40, true),
    ];
    if let Ok(leader) = &mut asked[0].1 {
        leader.fold = Some(FoldStatus {
            state: "failed".into(),
            replay: "replay-1".into(),
            message: "no disk".into(),
            bytes_since_base: 40,
            failures: 2,
            differing: vec!["127.0.0.1:7211".into()],
        });
    }
    let view = View::new(&asked, WallTime::from_ms(1500));
    let found = view.base.as_ref().unwrap();
    assert_eq!((found.at, found.held_by.len()), (50, 1));
    let text = crate::status::table::render(&view);
    for said in [
        "50 (4 keys",
        "held by 1 of 3",
        "40 B behind it",
        "replay-1: no disk",
        "127.0.0.1:7211 DIFFERS",
    ] {
        assert!(text.contains(said), "{said:?} is not in\n{text}");
    }
}
