//! The way to become master as tables: what happens on the left, what is done about it on the right.

mod hazards;

use super::super::fitness::Settings;
use super::*;
use redoubt_client::Position;
use redoubt_resp::info::{Flavor, ReplicationInfo, Role, ServerInfo};
use redoubt_types::{BootTime, Chain, Db, Lineage, Offset, WallTime};

const REPLAY: &str = "127.0.0.1:7301";

fn id(n: u8) -> ReplId {
    ReplId::from_random([n; 20])
}

fn run_id(n: u8) -> RunId {
    RunId::from_random([n; 20])
}

fn epoch(n: u64) -> Epoch {
    Epoch::new(n).unwrap()
}

/// A replica of the replay in process `run`, fed to `offset` under replid `fed`.
fn replica(run: u8, fed: u8, offset: u64) -> Look {
    Look {
        server: ServerInfo {
            run_id: run_id(run),
            version: (7, 0, 15),
            flavor: Flavor::Redis,
            loading: false,
            tcp_port: Some(7201),
            unexpected_error_replies: Some(0),
            process_id: Some(1),
        },
        replication: ReplicationInfo {
            role: Role::Replica,
            replid: id(fed),
            replid2: None,
            offset: Offset::new(offset),
            second_offset: None,
            link_up: true,
            slave_repl_offset: Some(Offset::new(offset)),
            backlog_size: 1 << 28,
            backlog_histlen: offset.min(40),
            backlog_first_byte_offset: 1,
            master_host: Some("127.0.0.1".to_owned()),
            master_port: Some(7301),
            sync_in_progress: false,
            connected_slaves: 0,
        },
        settings: Settings {
            databases: 16,
            read_only: true,
            ignores_maxmemory: true,
            modules: Vec::new(),
        },
    }
}

/// A master in process `run` that writes under `replid` and was promoted from `second` at an offset.
fn master(run: u8, replid: u8, second: Option<(u8, u64)>, offset: u64) -> Look {
    let mut look = replica(run, replid, offset);
    let r = &mut look.replication;
    r.role = Role::Master;
    (r.link_up, r.slave_repl_offset, r.master_host, r.master_port) = (false, None, None, None);
    r.replid2 = second.map(|(n, _)| id(n));
    r.second_offset = second.map(|(_, end)| Offset::new(end));
    look
}

fn looked(look: Look) -> Event {
    Event::Looked(Box::new(look))
}

/// Replids and where each began; the n-th is of epoch n.
fn lineage(steps: &[(u8, u64)]) -> Lineage {
    let steps: Vec<_> = (0u64..)
        .zip(steps)
        .map(|(n, (r, from))| LineageStep {
            replid: id(*r),
            from: Offset::new(*from),
            epoch: Epoch::new(n),
        })
        .collect();
    Lineage::from_steps(&steps).unwrap()
}

/// The session record of epoch `e` about process `run`.
fn record(e: u64, run: u8, at: u64) -> Option<SessionRecord> {
    Some(SessionRecord {
        epoch: epoch(e),
        run_id: run_id(run),
        at: Offset::new(at),
        server: "redis 7.0.15".into(),
    })
}

fn past(session: Option<SessionRecord>, steps: &[(u8, u64)], tail: u64) -> Past {
    Past {
        session,
        lineage: lineage(steps),
        tail: Offset::new(tail),
    }
}

fn described(past: Past) -> Event {
    Event::Described(Box::new(past))
}

fn granted(e: u64, past: Past) -> Event {
    Event::Granted(Box::new(Grant {
        epoch: epoch(e),
        position: Position {
            tail: past.tail,
            tail_chain: Chain::EMPTY,
            pending_end: past.tail,
            pending_chain: Chain::EMPTY,
            groups: 0,
            db: Db::default(),
        },
        lineage: past.lineage,
        session: past.session,
        previous_wall: WallTime::default(),
        previous_lease: Duration::ZERO,
        sent_at: BootTime::default(),
    }))
}

fn ended(reason: EndReason) -> Event {
    Event::Ended {
        reason,
        served: Duration::from_secs(60),
    }
}

/// An action in a few words.
fn brief(action: &Action) -> String {
    let short = |id: &ReplId| u8::from_str_radix(&id.as_str()[..2], 16).unwrap();
    match action {
        Action::Look => "look".into(),
        Action::Describe => "describe".into(),
        Action::Prepare(_) => "prepare".into(),
        Action::Acquire => "acquire".into(),
        Action::RecordSession(s) => format!("record session {} at {}", s.epoch, s.at),
        Action::Promote(p) => format!("promote {} at {}", short(&p.replid), p.at),
        Action::Capture(a) => format!("capture {} at {} overlap {}", short(&a.under), a.at, a.overlap),
        Action::RecordLineage(l) => format!("record lineage {} from {}", short(&l.replid), l.from),
        Action::Serve(s) => format!("serve {} under {}", s.grant.epoch, short(&s.replid)),
        Action::Demote(_) => "demote".into(),
        Action::Release(e) => format!("release {e}"),
        Action::Wait { refused: true, .. } => "refused".into(),
        Action::Wait { pause, .. } if pause.is_zero() => "begin again".into(),
        Action::Wait { .. } => "wait".into(),
    }
}

/// Plays a table at a standing clock; `Done` answers every "wait" and "begin again" between the lines.
fn play(core: &mut Takeover, table: Vec<(Event, &str)>) {
    let t = Moment {
        now: BootTime::default(),
        wall: WallTime::from_ms(1_000_000),
    };
    for (n, (event, want)) in table.into_iter().enumerate() {
        let shown = format!("{event:?}");
        let action = core.step(event, t);
        assert_eq!(brief(&action), want, "line {n}: {shown:.300} -> {action}");
    }
}

fn core() -> Takeover {
    Takeover::new(REPLAY.to_owned())
}

/// The lines of a takeover at an empty journal, up to serving epoch 1 under replid 2.
fn first_start() -> Vec<(Event, &'static str)> {
    let empty = || past(None, &[(1, 0)], 0);
    vec![
        (Event::Started, "look"),
        (looked(replica(50, 1, 0)), "acquire"),
        (granted(1, empty()), "look"),
        (looked(replica(50, 1, 0)), "prepare"),
        (Event::Done, "record session 1 at 0"),
        (Event::Done, "promote 1 at 0"),
        (
            Event::Promoted(Box::new(master(50, 2, Some((1, 0)), 0))),
            "capture 1 at 0 overlap 0",
        ),
        (Event::Captured(id(2)), "record lineage 2 from 0"),
        (Event::Done, "serve 1 under 2"),
    ]
}

#[test]
fn the_first_start_of_an_empty_cluster_is_the_one_way() {
    play(&mut core(), first_start());
}

#[test]
fn a_killed_master_comes_back_as_a_replica_and_is_fed_to_the_tail() {
    let mut core = core();
    play(&mut core, first_start());
    let now = || past(record(1, 50, 0), &[(1, 0), (2, 0)], 500);
    let mut unlinked = replica(51, 2, 100);
    unlinked.replication.link_up = false;
    play(
        &mut core,
        vec![
            (ended(EndReason::ServerChanged("run_id".into())), "begin again"),
            (Event::Done, "look"),
            (Event::Failed("connection refused".into()), "wait"),
            (Event::Done, "look"),
            (looked(unlinked), "wait"),
            (Event::Done, "look"),
            (looked(replica(51, 2, 100)), "acquire"),
            (granted(2, now()), "look"),
            (looked(replica(51, 2, 400)), "prepare"),
            (Event::Done, "wait"),
            (Event::Done, "look"),
            (looked(replica(51, 2, 499)), "wait"),
            (Event::Done, "look"),
            (looked(replica(51, 2, 500)), "record session 2 at 500"),
            (Event::Done, "promote 2 at 500"),
            (
                Event::Promoted(Box::new(master(51, 3, Some((2, 500)), 500))),
                "capture 2 at 500 overlap 40",
            ),
            (Event::Captured(id(3)), "record lineage 3 from 500"),
            (Event::Done, "serve 2 under 3"),
        ],
    );
}

#[test]
fn a_restarted_proxy_resumes_its_live_master() {
    let now = || past(record(1, 50, 0), &[(1, 0), (2, 0)], 500);
    play(
        &mut core(),
        vec![
            (Event::Started, "look"),
            (looked(master(50, 2, Some((1, 0)), 520)), "describe"),
            (described(now()), "acquire"),
            (
                Event::LeaseHeld(Duration::from_millis(2500), "cell-1".into()),
                "wait",
            ),
            (Event::Done, "look"),
            (looked(master(50, 2, Some((1, 0)), 530)), "describe"),
            (described(now()), "acquire"),
            (granted(2, now()), "look"),
            // 40 bytes of backlog reach back to 490: 10 before the tail.
            (
                looked(master(50, 2, Some((1, 0)), 530)),
                "record session 2 at 500",
            ),
            (Event::Done, "capture 2 at 500 overlap 10"),
            (Event::Captured(id(2)), "serve 2 under 2"),
        ],
    );
}

#[test]
fn a_proxy_killed_before_the_lineage_record_resumes_by_the_second_replid() {
    let now = || past(record(1, 50, 500), &[(1, 0), (2, 0)], 500);
    play(
        &mut core(),
        vec![
            (Event::Started, "look"),
            (looked(master(50, 3, Some((2, 500)), 514)), "describe"),
            (described(now()), "acquire"),
            (granted(2, now()), "look"),
            (
                looked(master(50, 3, Some((2, 500)), 514)),
                "record session 2 at 500",
            ),
            (Event::Done, "capture 2 at 500 overlap 26"),
            (Event::Captured(id(3)), "record lineage 3 from 500"),
            (Event::Done, "serve 2 under 3"),
        ],
    );
}

#[test]
fn resuming_is_decided_by_the_grants_own_record() {
    // Another cell took over between the description and the grant: the record names its server.
    let before = past(record(1, 50, 0), &[(1, 0), (2, 0)], 500);
    let after = past(record(2, 60, 500), &[(1, 0), (2, 0), (9, 500)], 700);
    play(
        &mut core(),
        vec![
            (Event::Started, "look"),
            (looked(master(50, 2, Some((1, 0)), 520)), "describe"),
            (described(before), "acquire"),
            (granted(3, after), "look"),
            (looked(master(50, 2, Some((1, 0)), 520)), "demote"),
            (Event::Done, "look"),
        ],
    );
}

#[test]
fn a_resume_that_is_not_continued_demotes() {
    let now = || past(record(1, 50, 0), &[(1, 0), (2, 0)], 500);
    let live = || looked(master(50, 2, Some((1, 0)), 600));
    let mut core = core();
    play(
        &mut core,
        vec![
            (Event::Started, "look"),
            (live(), "describe"),
            (described(now()), "acquire"),
            (granted(2, now()), "look"),
            (live(), "record session 2 at 500"),
            (Event::Done, "capture 2 at 500 overlap 0"),
            (Event::CaptureRefused("+FULLRESYNC".into()), "begin again"),
            (Event::Done, "look"),
            (live(), "describe"),
            (described(now()), "demote"),
            (Event::Done, "look"),
            (looked(replica(50, 2, 500)), "acquire"),
            (granted(3, now()), "look"),
            (looked(replica(50, 2, 500)), "prepare"),
            (Event::Done, "record session 3 at 500"),
        ],
    );
}

#[test]
fn capture_that_is_lost_leads_to_the_replay_and_back() {
    let mut core = core();
    play(&mut core, first_start());
    let now = || past(record(1, 50, 0), &[(1, 0), (2, 0)], 500);
    play(
        &mut core,
        vec![
            (
                ended(EndReason::CaptureLost("backlog overrun".into())),
                "begin again",
            ),
            (Event::Done, "look"),
            (looked(master(50, 2, Some((1, 0)), 9000)), "describe"),
            (described(now()), "demote"),
        ],
    );
}

#[test]
fn a_stale_or_diverged_master_that_the_lineage_knows_is_demoted() {
    let now = || past(record(2, 60, 500), &[(1, 0), (2, 0), (3, 500)], 700);
    for (what, look) in [
        ("the old master, alive", master(50, 2, Some((1, 0)), 650)),
        (
            "the old master, restarted from its RDB",
            master(51, 77, Some((2, 650)), 650),
        ),
        ("promoted by somebody else", master(50, 88, Some((3, 600)), 900)),
        (
            "our server, promoted by somebody else past the tail",
            master(60, 88, Some((3, 650)), 900),
        ),
    ] {
        let mut core = core();
        play(
            &mut core,
            vec![(Event::Started, "look"), (looked(look), "describe")],
        );
        let action = core.step(
            described(now()),
            Moment {
                now: BootTime::default(),
                wall: WallTime::default(),
            },
        );
        assert_eq!(brief(&action), "demote", "{what}");
    }
}

#[test]
fn a_foreign_master_is_left_as_it_is() {
    let now = || past(record(1, 50, 0), &[(1, 0), (2, 0)], 500);
    let mut core = core();
    play(
        &mut core,
        vec![
            (Event::Started, "look"),
            (looked(master(70, 90, None, 12345)), "describe"),
            (described(now()), "refused"),
            (Event::Done, "look"),
            // A record that names its run_id changes nothing: its history is unknown.
            (looked(master(50, 90, Some((91, 10)), 12345)), "describe"),
            (described(now()), "refused"),
            (Event::Done, "look"),
            (looked(master(70, 90, None, 12345)), "describe"),
        ],
    );
    let action = core.step(
        described(now()),
        Moment {
            now: BootTime::default(),
            wall: WallTime::default(),
        },
    );
    let Action::Wait {
        why, refused: true, ..
    } = action
    else {
        panic!("{action}")
    };
    assert!(why.contains("--replicaof 127.0.0.1 7301"), "{why}");
}

#[test]
fn a_replica_of_somebody_else_is_ours_only_if_its_history_is() {
    let now = || past(record(1, 50, 0), &[(1, 0), (2, 0)], 500);
    let elsewhere = |fed| {
        let mut look = replica(50, fed, 300);
        look.replication.master_port = Some(6379);
        look
    };
    play(
        &mut core(),
        vec![
            (Event::Started, "look"),
            (looked(elsewhere(90)), "describe"),
            (described(now()), "refused"),
            (Event::Done, "look"),
            (looked(elsewhere(2)), "describe"),
            (described(now()), "demote"),
        ],
    );
}

#[test]
fn a_server_older_than_7_0_is_refused_with_the_reason() {
    let mut old = replica(50, 1, 0);
    old.server.version = (6, 2, 14);
    let mut core = core();
    core.step(
        Event::Started,
        Moment {
            now: BootTime::default(),
            wall: WallTime::default(),
        },
    );
    let action = core.step(
        looked(old),
        Moment {
            now: BootTime::default(),
            wall: WallTime::default(),
        },
    );
    let Action::Wait {
        why, refused: true, ..
    } = action
    else {
        panic!("{action}")
    };
    assert!(why.contains("6.2.14") && why.contains("relative TTLs"), "{why}");
}

#[test]
fn a_fence_midway_leads_back_to_the_start() {
    let whole = first_start();
    for upto in 3..=whole.len() - 1 {
        let mut core = core();
        play(&mut core, whole[..upto].to_vec());
        assert!(core.holds_epoch(), "after {upto} lines");
        play(
            &mut core,
            vec![
                (Event::Fenced("epoch 2 exists".into()), "wait"),
                (Event::Done, "look"),
            ],
        );
        assert!(!core.holds_epoch());
    }
}

#[test]
fn a_record_that_may_have_been_lost_is_made_again() {
    let mut core = core();
    play(&mut core, first_start()[..5].to_vec());
    play(
        &mut core,
        vec![
            (Event::Failed("unavailable".into()), "record session 1 at 0"),
            (Event::Done, "promote 1 at 0"),
            (
                Event::Promoted(Box::new(master(50, 2, Some((1, 0)), 0))),
                "capture 1 at 0 overlap 0",
            ),
            (Event::Captured(id(2)), "record lineage 2 from 0"),
            (Event::Failed("unavailable".into()), "record lineage 2 from 0"),
            (Event::Done, "serve 1 under 2"),
        ],
    );
}

#[test]
fn failures_in_a_row_are_put_off_longer_and_longer() {
    let mut core = core();
    let mut pauses = Vec::new();
    for _ in 0..9 {
        play(
            &mut core,
            vec![(Event::Started, "look"), (looked(replica(50, 1, 0)), "acquire")],
        );
        let t = Moment {
            now: BootTime::default(),
            wall: WallTime::default(),
        };
        core.step(granted(1, past(None, &[(1, 0)], 0)), t);
        core.step(looked(replica(50, 1, 0)), t);
        let Action::Wait { pause, .. } = core.step(Event::Failed("?".into()), t) else {
            panic!()
        };
        pauses.push(pause.as_millis());
    }
    assert_eq!(pauses, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
}
