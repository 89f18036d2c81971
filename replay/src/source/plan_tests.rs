//! The promises of [`LinkPlan`], over random lineages and cuts.

use super::plan::{LinkPlan, PlanError, Verdict};
use bytes::Bytes;
use proptest::prelude::*;
use redoubt_types::{Epoch, Lineage, LineageStep, Offset, ReplId};

fn id(n: usize) -> ReplId {
    ReplId::from_random([n as u8; 20])
}

fn step(n: usize, from: u64) -> LineageStep {
    LineageStep {
        replid: id(n),
        from: Offset::new(from),
        epoch: Epoch::new(n as u64),
    }
}

fn lineage(steps: &[LineageStep]) -> Lineage {
    Lineage::from_steps(steps).unwrap()
}

/// What a tail delivers.
#[derive(Clone, Debug)]
enum Event {
    Entry(Offset, Bytes, ReplId),
    Step(LineageStep),
}

/// A history, a link's answer somewhere in it, and what its tail knew when it began.
#[derive(Clone, Debug)]
struct Case {
    stream: Vec<u8>,
    steps: Vec<LineageStep>,
    /// Steps that the answer knew.
    answered: usize,
    /// Steps in the lineage that the tail began with; may be fewer (a node that lags) or more.
    at_start: usize,
    from: u64,
    events: Vec<Event>,
}

impl Case {
    fn end(&self) -> u64 {
        self.steps
            .get(self.answered)
            .map_or(self.stream.len() as u64, |s| s.from.get())
    }
}

prop_compose! {
    fn cases()(
        lengths in prop::collection::vec(prop_oneof![Just(0u64), 0..30u64], 1..7),
        answered in any::<prop::sample::Index>(),
        at_start in any::<prop::sample::Index>(),
        within in any::<prop::sample::Index>(),
        cuts in prop::collection::vec(1..12u64, 1..40),
        repeat_steps in any::<bool>(),
    ) -> Case {
        // Epoch i wrote `lengths[i]` bytes, possibly none.
        let mut steps = Vec::new();
        let mut total = 0;
        for (i, n) in lengths.iter().enumerate() {
            steps.push(step(i, total));
            total += n;
        }
        let stream: Vec<u8> = (0..total).map(|i| (i * 7 + i / 251) as u8).collect();
        let answered = 1 + answered.index(steps.len());
        let at_start = 1 + at_start.index(steps.len());
        // The answer was given against some tail of its newest replid, and the replica held at most that.
        let end = steps.get(answered).map_or(total, |s| s.from.get());
        let from = within.index(end as usize + 1) as u64;
        let mut events = Vec::new();
        let mut cuts = cuts.iter().cycle();
        for (i, s) in steps.iter().enumerate() {
            let known = i < at_start && !repeat_steps;
            if !known && s.from.get() >= from {
                events.push(Event::Step(*s));
            }
            let (mut at, segment_end) = (s.from.get(), s.from.get() + lengths[i]);
            while at < segment_end {
                let next = (at + cuts.next().copied().unwrap_or(1)).min(segment_end);
                let start = at.max(from);
                if start < next {
                    let bytes = Bytes::copy_from_slice(&stream[start as usize..next as usize]);
                    events.push(Event::Entry(Offset::new(start), bytes, s.replid));
                }
                at = next;
            }
        }
        Case { stream, steps, answered, at_start, from, events }
    }
}

/// Feeds the events as a link does; returns what was passed on and how it ended.
fn run(case: &Case, limit: Option<Offset>) -> (Vec<u8>, Verdict) {
    let mut plan = LinkPlan::new(
        lineage(&case.steps[..case.answered]),
        Offset::new(case.from),
        limit,
    );
    let mut passed = Vec::new();
    let mut verdict = plan.learn(&lineage(&case.steps[..case.at_start])).unwrap();
    for event in &case.events {
        if verdict != Verdict::GoOn {
            break;
        }
        verdict = match event {
            Event::Step(s) => plan.step(s).unwrap(),
            Event::Entry(start, bytes, replid) => {
                passed.extend_from_slice(&plan.entry(*start, bytes.clone(), *replid).unwrap());
                plan.verdict().unwrap()
            }
        };
    }
    assert_eq!(plan.position(), Offset::new(case.from + passed.len() as u64));
    (passed, verdict)
}

proptest! {
    #[test]
    fn h15_a_link_is_fed_to_exactly_the_end_of_its_replid_and_then_closed(case in cases()) {
        let (passed, verdict) = run(&case, None);
        prop_assert_eq!(&passed[..], &case.stream[case.from as usize..case.end() as usize]);
        match case.steps.get(case.answered) {
            None => prop_assert_eq!(verdict, Verdict::GoOn),
            Some(successor) => match verdict {
                Verdict::Ended(s) => prop_assert_eq!(s.from, successor.from),
                other => prop_assert!(false, "not closed but {:?}", other),
            },
        }
    }

    #[test]
    fn a_limited_link_stops_at_its_limit(case in cases(), limit in any::<prop::sample::Index>()) {
        let room = case.end() - case.from;
        let limit = case.from + limit.index(room as usize + 1) as u64;
        let (passed, verdict) = run(&case, Some(Offset::new(limit)));
        prop_assert_eq!(&passed[..], &case.stream[case.from as usize..limit as usize]);
        if limit < case.end() {
            prop_assert_eq!(verdict, Verdict::Rest);
        }
    }

    #[test]
    fn h15_a_replica_follows_all_promotions_by_reconnecting(case in cases()) {
        // Each link is answered with the newest replid of some moment; chained, they give the whole stream.
        let (mut at, mut got) = (case.from, Vec::new());
        for answered in case.answered..=case.steps.len() {
            let events = case.events.iter().filter_map(|e| match e {
                Event::Step(s) => Some(Event::Step(*s)),
                Event::Entry(start, bytes, replid) => {
                    let end = start.get() + bytes.len() as u64;
                    let skip = at.saturating_sub(start.get()).min(bytes.len() as u64);
                    (end > at).then(|| Event::Entry(start.advance(skip), bytes.slice(skip as usize..), *replid))
                }
            });
            let link = Case { answered, from: at, at_start: case.at_start.max(answered), events: events.collect(), ..case.clone() };
            let (passed, _) = run(&link, None);
            at += passed.len() as u64;
            got.extend(passed);
        }
        prop_assert_eq!(&got[..], &case.stream[case.from as usize..]);
    }
}

#[test]
fn h15_a_promotion_between_answer_and_tail_ends_the_link_where_it_fell() {
    // Answered under replid 1 at offset 10; when the tail began, 2 and 3 existed, 2 without a byte.
    let mut plan = LinkPlan::new(lineage(&[step(0, 0), step(1, 4)]), Offset::new(10), None);
    let newer = lineage(&[step(0, 0), step(1, 4), step(2, 12), step(3, 12)]);
    assert_eq!(plan.learn(&newer), Ok(Verdict::GoOn));
    assert_eq!(
        plan.entry(Offset::new(10), Bytes::from_static(b"ab"), id(1))
            .unwrap(),
        "ab"
    );
    assert_eq!(plan.verdict(), Ok(Verdict::Ended(step(2, 12))));
}

#[test]
fn h15_bytes_of_a_replid_nobody_announced_are_not_passed_on() {
    let mut plan = LinkPlan::new(lineage(&[step(0, 0)]), Offset::new(10), None);
    let refused = plan.entry(Offset::new(10), Bytes::from_static(b"ab"), id(1));
    assert_eq!(
        refused,
        Err(PlanError::UnknownReplid {
            start: Offset::new(10),
            replid: id(1)
        })
    );
    assert_eq!(plan.position(), Offset::new(10));
}

#[test]
fn a_step_told_too_late_is_an_error_not_a_silent_close() {
    let mut plan = LinkPlan::new(lineage(&[step(0, 0)]), Offset::ZERO, None);
    plan.entry(Offset::ZERO, Bytes::from_static(b"abcd"), id(0))
        .unwrap();
    assert!(matches!(plan.step(&step(1, 3)), Err(PlanError::LateStep { .. })));
}

#[test]
fn a_gap_is_refused() {
    let mut plan = LinkPlan::new(lineage(&[step(0, 0)]), Offset::ZERO, None);
    assert!(matches!(
        plan.entry(Offset::new(1), Bytes::from_static(b"x"), id(0)),
        Err(PlanError::Gap { .. })
    ));
}

#[test]
fn an_older_lineage_says_nothing() {
    let mut plan = LinkPlan::new(lineage(&[step(0, 0), step(1, 4)]), Offset::new(4), None);
    assert_eq!(plan.learn(&lineage(&[step(0, 0)])), Ok(Verdict::GoOn));
    assert_eq!(plan.step(&step(1, 4)), Ok(Verdict::GoOn));
}
