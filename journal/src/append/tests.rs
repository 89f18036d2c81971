//! Admission against a model that keeps every byte, and the hazards' interleavings by name.

use super::*;
use bytes::Bytes;
use proptest::prelude::*;
use redoubt_types::{
    Chain, ClusterId, Epoch, HolderId, Lineage, LineageStep, Offset, ReplId, RunId, WallTime, payload_crc,
};
use std::time::Duration;

const SET: &[u8] = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n";
const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";
const SELECT: &[u8] = b"*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n";

fn replid(n: u8) -> ReplId {
    ReplId::from_random([n; 20])
}

fn holder(n: u64) -> HolderId {
    HolderId::new(n).unwrap()
}

fn epoch(n: u64) -> Epoch {
    Epoch::new(n).unwrap()
}

fn begun() -> Admission {
    let mut a = Admission::new();
    let genesis = Genesis {
        cluster: ClusterId::new([1; 16]),
        replid: replid(0),
    };
    assert_eq!(a.apply(&Command::Genesis(genesis)), Verdict::Done);
    a
}

fn acquire(a: &mut Admission, n: u64, seen_renewals: u64) -> Verdict {
    a.apply(&Command::Acquire(Acquire {
        holder: holder(n),
        name: format!("cell-{n}"),
        lease: Duration::from_secs(3),
        seen_renewals,
        sent: WallTime::from_ms(1),
    }))
}

fn claim(a: &mut Admission, n: u64) -> Granted {
    let seen = a.renewals();
    match acquire(a, n, seen) {
        Verdict::Granted(g) => *g,
        other => panic!("{other:?}"),
    }
}

fn bytes_at(e: u64, start: Offset, chain: Chain, payload: &[u8]) -> Command {
    Command::Append(AppendEntry {
        epoch: epoch(e),
        replid: replid(0),
        start,
        chain,
        payload_crc: payload_crc(payload),
        captured: WallTime::from_ms(1),
        payload: Bytes::copy_from_slice(payload),
    })
}

fn next(a: &Admission, e: u64, payload: &[u8]) -> Command {
    let p = a.position();
    bytes_at(e, p.pending_end, p.pending_chain, payload)
}

fn admitted(v: &Verdict) -> bool {
    matches!(v, Verdict::Admitted { .. })
}

fn renew(a: &mut Admission, e: u64, n: u64) -> Verdict {
    a.apply(&Command::Renew {
        epoch: epoch(e),
        holder: holder(n),
        sent: WallTime::from_ms(5),
    })
}

#[test]
fn h01_an_append_proposed_before_a_claim_and_applied_after_it_is_nothing() {
    let mut a = begun();
    claim(&mut a, 1);
    let proposed = next(&a, 1, SET);
    let granted = claim(&mut a, 2);
    assert!(matches!(
        a.apply(&proposed),
        Verdict::Refused(Refused::Fenced { .. })
    ));
    assert_eq!(
        a.position(),
        granted.position,
        "the tail that the claim was told is final"
    );
}

#[test]
fn h01_a_hole_left_by_a_dropped_proposal_refuses_what_came_behind_it() {
    let mut a = begun();
    claim(&mut a, 1);
    let first = next(&a, 1, SET);
    let second = bytes_at(1, Offset::new(SET.len() as u64), Chain::EMPTY.extend(SET), SET);
    assert!(matches!(
        a.apply(&second),
        Verdict::Refused(Refused::Mismatch { .. })
    ));
    assert!(admitted(&a.apply(&first)) && admitted(&a.apply(&second)));
}

#[test]
fn h01_a_claim_is_refused_when_an_append_renewed_the_lease_behind_its_decision() {
    let mut a = begun();
    claim(&mut a, 1);
    let seen = a.renewals();
    let append = next(&a, 1, SET);
    assert!(admitted(&a.apply(&append)));
    assert_eq!(acquire(&mut a, 2, seen), Verdict::Refused(Refused::LeaseRenewed));
    assert_eq!(a.writer().unwrap().epoch, epoch(1));
}

#[test]
fn h01_of_two_claims_in_flight_only_one_is_granted() {
    let mut a = begun();
    let seen = a.renewals();
    assert!(matches!(acquire(&mut a, 1, seen), Verdict::Granted(_)));
    assert_eq!(acquire(&mut a, 2, seen), Verdict::Refused(Refused::LeaseRenewed));
}

#[test]
fn h02_a_retry_is_known_by_epoch_and_chain_not_by_offset() {
    let mut a = begun();
    claim(&mut a, 1);
    let lost = next(&a, 1, SET);
    assert!(admitted(&a.apply(&lost)));
    let renewals = a.renewals();
    assert!(matches!(a.apply(&lost), Verdict::Duplicate { .. }));
    assert_eq!(a.renewals(), renewals, "a retry's success renews no lease");

    let mut other = SET.to_vec();
    other[SET.len() - 3] = b'w';
    let same_place = bytes_at(1, Offset::ZERO, Chain::EMPTY, &other);
    assert!(matches!(
        a.apply(&same_place),
        Verdict::Refused(Refused::Mismatch { .. })
    ));

    claim(&mut a, 2);
    assert!(
        matches!(a.apply(&lost), Verdict::Refused(Refused::Fenced { .. })),
        "a dead writer's retry"
    );
    let as_new_epoch = bytes_at(2, Offset::ZERO, Chain::EMPTY, SET);
    assert!(
        matches!(a.apply(&as_new_epoch), Verdict::Refused(Refused::Mismatch { .. })),
        "of another epoch"
    );
}

#[test]
fn h02_a_retry_cut_differently_is_known_by_its_ends() {
    let mut a = begun();
    claim(&mut a, 1);
    for _ in 0..3 {
        let append = next(&a, 1, SET);
        assert!(admitted(&a.apply(&append)));
    }
    let three = SET.repeat(3);
    assert!(matches!(
        a.apply(&bytes_at(1, Offset::ZERO, Chain::EMPTY, &three)),
        Verdict::Duplicate { .. }
    ));
    let odd = &three[..SET.len() + 5];
    assert!(matches!(
        a.apply(&bytes_at(1, Offset::ZERO, Chain::EMPTY, odd)),
        Verdict::Refused(_)
    ));
}

#[test]
fn h03_a_group_joins_with_its_last_fragment_only() {
    let mut a = begun();
    claim(&mut a, 1);
    let group = [MULTI, SELECT, SET, EXEC].concat();
    for (cut, whole) in [(0..20, false), (20..50, false), (50..group.len(), true)] {
        let fragment = next(&a, 1, &group[cut]);
        let Verdict::Admitted { tail, frame, .. } = a.apply(&fragment) else {
            panic!()
        };
        assert_eq!(frame.whole, whole);
        assert_eq!(tail.get(), if whole { group.len() as u64 } else { 0 });
    }
    assert_eq!((a.position().groups, a.position().db.get()), (1, 3));
}

#[test]
fn h03_a_claim_discards_an_unfinished_group_and_a_later_fragment_of_it() {
    let mut a = begun();
    claim(&mut a, 1);
    let group = [MULTI, SET, EXEC].concat();
    let first = next(&a, 1, &group[..25]);
    a.apply(&first);
    let rest = next(&a, 1, &group[25..]);
    let g = claim(&mut a, 2);
    assert_eq!(
        (g.position.tail, g.position.pending_end),
        (Offset::ZERO, Offset::ZERO)
    );
    assert!(matches!(a.apply(&rest), Verdict::Refused(Refused::Fenced { .. })));
    let rest_as_new = bytes_at(2, Offset::ZERO, Chain::EMPTY, &group[25..]);
    assert!(matches!(
        a.apply(&rest_as_new),
        Verdict::Refused(Refused::Framing(_))
    ));
    let append = next(&a, 2, SET);
    assert!(admitted(&a.apply(&append)));
}

#[test]
fn an_entry_never_holds_a_group_and_a_part_of_another() {
    let mut a = begun();
    claim(&mut a, 1);
    for bad in [
        [SET, &SET[..7]].concat(),
        [&SET[..7], b"x"].concat(),
        b"PING\r\n".to_vec(),
    ] {
        let append = next(&a, 1, &bad);
        assert!(
            matches!(a.apply(&append), Verdict::Refused(Refused::Framing(_))),
            "{bad:?}"
        );
    }
    let fragment = next(&a, 1, &SET[..7]);
    assert!(admitted(&a.apply(&fragment)));
    let too_much = next(&a, 1, &[&SET[7..], SET].concat());
    assert!(matches!(
        a.apply(&too_much),
        Verdict::Refused(Refused::Framing(_))
    ));
    let last = next(&a, 1, &SET[7..]);
    assert!(admitted(&a.apply(&last)));
}

#[test]
fn given_back_is_over() {
    let mut a = begun();
    claim(&mut a, 1);
    assert_eq!(renew(&mut a, 1, 1), Verdict::Done);
    assert!(
        matches!(renew(&mut a, 1, 2), Verdict::Refused(Refused::Fenced { .. })),
        "another process"
    );
    assert_eq!(
        a.apply(&Command::Release {
            epoch: epoch(1),
            holder: holder(1)
        }),
        Verdict::Done
    );
    assert!(matches!(
        renew(&mut a, 1, 1),
        Verdict::Refused(Refused::Fenced { released: true, .. })
    ));
    let append = next(&a, 1, SET);
    assert!(matches!(
        a.apply(&append),
        Verdict::Refused(Refused::Fenced { .. })
    ));
}

#[test]
fn h10_the_last_writer_s_clock_is_not_forgotten_by_an_epoch_that_came_to_nothing() {
    let mut a = begun();
    claim(&mut a, 1);
    let ahead = Command::Renew {
        epoch: epoch(1),
        holder: holder(1),
        sent: WallTime::from_ms(90_000),
    };
    assert_eq!(a.apply(&ahead), Verdict::Done);
    claim(&mut a, 2);
    let granted = claim(&mut a, 3);
    assert_eq!(granted.previous.unwrap().renewed_wall, WallTime::from_ms(90_000));
}

#[test]
fn a_session_stands_at_the_tail_and_outlives_its_epoch() {
    let mut a = begun();
    claim(&mut a, 1);
    let session = Session {
        epoch: epoch(1),
        run_id: RunId::from_random([4; 20]),
        at: Offset::ZERO,
        server: "redis 7.0.15".into(),
    };
    let elsewhere = Session {
        at: Offset::new(3),
        ..session.clone()
    };
    assert!(matches!(
        a.apply(&Command::Session(elsewhere)),
        Verdict::Refused(Refused::SessionNotAtTail { .. })
    ));
    assert_eq!(a.apply(&Command::Session(session.clone())), Verdict::Done);
    assert_eq!(claim(&mut a, 2).session, Some(session.clone()));
    assert!(matches!(
        a.apply(&Command::Session(session)),
        Verdict::Refused(Refused::Fenced { .. })
    ));
}

#[test]
fn bytes_are_taken_under_the_lineage_s_last_replid_only() {
    let mut a = begun();
    claim(&mut a, 1);
    let step = LineageStep {
        replid: replid(1),
        from: Offset::ZERO,
        epoch: Some(epoch(1)),
    };
    assert_eq!(a.apply(&Command::Lineage(step)), Verdict::Done);
    assert_eq!(
        a.apply(&Command::Lineage(step)),
        Verdict::Done,
        "recorded twice is recorded"
    );
    let under_old = next(&a, 1, SET);
    assert!(matches!(
        a.apply(&under_old),
        Verdict::Refused(Refused::Lineage(_))
    ));
    assert_eq!(a.lineage().map(Lineage::len), Some(2));
}

/// One step of the random program.
#[derive(Clone, Debug)]
enum Step {
    Claim(u64),
    /// An append at the pending end, cut from a stream of groups at these two points.
    Append(u8),
    /// The n-th last command of the log once more.
    Again(usize),
    /// An append of an older or never granted epoch.
    OtherEpoch(u64),
    /// Right in all but the offset.
    Shifted(i8),
    Renew,
    Release,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (1u64..4).prop_map(Step::Claim),
        8 => any::<u8>().prop_map(Step::Append),
        2 => (0usize..6).prop_map(Step::Again),
        1 => (1u64..6).prop_map(Step::OtherEpoch),
        1 => any::<i8>().prop_map(Step::Shifted),
        1 => Just(Step::Renew),
        1 => Just(Step::Release),
    ]
}

/// A payload by number: whole groups, or one of the fragments of a transaction.
fn payload(n: u8, in_group: bool) -> Vec<u8> {
    let group = [MULTI, SELECT, SET, EXEC].concat();
    match (n % 4, in_group) {
        (0, false) => SET.repeat(usize::from(n / 4 % 5) + 1),
        (1, false) => [SELECT, SET].concat(),
        (_, false) => group[..30].to_vec(),
        (_, true) => group[30..].to_vec(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever is applied, in whatever order: the journal is the concatenation of what was said to be admitted,
    /// each byte once; nothing of a fenced epoch joins; the tail only grows; the chain is that of the bytes.
    #[test]
    fn the_journal_is_what_was_admitted(steps in prop::collection::vec(step(), 1..80)) {
        let mut a = begun();
        let (mut log, mut bytes, mut whole): (Vec<Command>, Vec<u8>, usize) = (Vec::new(), Vec::new(), 0);
        for step in steps {
            let before = a.position();
            let current = a.writer().map_or(0, |w| w.epoch.get());
            let in_group = before.pending_end != before.tail;
            let command = match step {
                Step::Claim(n) => Command::Acquire(Acquire {
                    holder: holder(n), name: String::new(), lease: Duration::from_secs(1),
                    seen_renewals: a.renewals(), sent: WallTime::default(),
                }),
                Step::Append(n) => next(&a, current.max(1), &payload(n, in_group)),
                Step::Again(n) => match log.len().checked_sub(n + 1) { Some(i) => log[i].clone(), None => continue },
                Step::OtherEpoch(n) => next(&a, n, &payload(0, in_group)),
                Step::Shifted(by) => {
                    let start = before.pending_end.get().wrapping_add_signed(i64::from(by)) % (1 << 40);
                    bytes_at(current.max(1), Offset::new(start), before.pending_chain, SET)
                }
                Step::Renew | Step::Release if current == 0 => continue,
                Step::Renew => Command::Renew { epoch: epoch(current), holder: a.writer().unwrap().holder, sent: WallTime::default() },
                Step::Release => Command::Release { epoch: epoch(current), holder: a.writer().unwrap().holder },
            };
            let verdict = a.apply(&command);
            log.push(command.clone());
            match (&verdict, &command) {
                (Verdict::Admitted { end, tail, .. }, Command::Append(e)) => {
                    prop_assert_eq!(e.epoch.get(), current);
                    prop_assert_eq!(e.start.get(), bytes.len() as u64);
                    bytes.extend_from_slice(&e.payload);
                    prop_assert_eq!(end.get(), bytes.len() as u64);
                    whole = tail.get() as usize;
                }
                (Verdict::Duplicate { end, .. }, Command::Append(e)) => {
                    prop_assert_eq!(e.epoch.get(), current);
                    prop_assert!(bytes[e.start.get() as usize..end.get() as usize] == e.payload[..]);
                }
                (Verdict::Granted(g), _) => {
                    bytes.truncate(whole);
                    prop_assert_eq!(g.position.tail.get() as usize, whole);
                }
                _ => prop_assert_eq!(a.position(), before),
            }
            let p = a.position();
            prop_assert_eq!(p.pending_end.get() as usize, bytes.len());
            prop_assert_eq!(p.tail.get() as usize, whole);
            prop_assert_eq!(p.pending_chain, Chain::EMPTY.extend(&bytes));
            prop_assert_eq!(p.tail_chain, Chain::EMPTY.extend(&bytes[..whole]));
        }
        // Another node that applies the same log ends in the same state.
        let mut b = begun();
        for command in &log {
            b.apply(command);
        }
        prop_assert_eq!(format!("{a:?}"), format!("{b:?}"));
    }
}

/// Each of the hazards' tests above fails when its bug is planted.
#[cfg(feature = "planted-bugs")]
#[test]
fn catches_the_planted_bugs_of_admission() {
    for (test, bug) in [
        (
            "h01_a_claim_is_refused_when_an_append_renewed_the_lease_behind_its_decision",
            "h01_acquire_ignores_renewals",
        ),
        (
            "h01_of_two_claims_in_flight_only_one_is_granted",
            "h01_acquire_ignores_renewals",
        ),
        (
            "h01_a_hole_left_by_a_dropped_proposal_refuses_what_came_behind_it",
            "h01_admit_at_proposal",
        ),
        (
            "h02_a_retry_is_known_by_epoch_and_chain_not_by_offset",
            "h02_retry_by_offset",
        ),
        (
            "h03_a_group_joins_with_its_last_fragment_only",
            "h03_serve_fragments",
        ),
    ] {
        redoubt_env::planted::assert_catches(&format!("append::tests::{test}"), bug);
    }
}
