use super::*;
use proptest::prelude::*;
use std::time::Duration;

fn at(ms: u64) -> BootTime {
    BootTime::new(Duration::from_millis(ms))
}

fn off(n: u64) -> Offset {
    Offset::new(n)
}

/// A gate with one batch fenced at `point`, its answer received at `ms`.
fn gate_with(committed: u64, lease_until: u64, point: u64, ms: u64) -> (Gate, BatchId) {
    let mut gate = Gate::new(off(committed), at(lease_until));
    let batch = gate.join();
    assert_eq!(gate.seal(), Some(batch));
    gate.fenced(batch, off(point), at(ms)).unwrap();
    (gate, batch)
}

fn is_released(gate: &Gate, batch: BatchId) -> bool {
    batch < gate.released_end()
}

#[test]
fn a_reply_waits_until_its_fence_point_is_committed() {
    let (mut gate, batch) = gate_with(99, 1000, 100, 10);
    assert!(!is_released(&gate, batch));
    gate.committed(off(99));
    assert!(!is_released(&gate, batch));
    gate.committed(off(100));
    assert!(is_released(&gate, batch));
}

#[test]
fn nothing_is_released_before_its_fence_is_received() {
    let mut gate = Gate::new(off(500), at(1000));
    let batch = gate.join();
    gate.committed(off(600));
    gate.lease(at(2000));
    gate.round(at(1500));
    assert!(!is_released(&gate, batch));
    assert_eq!(gate.seal(), Some(batch));
    gate.committed(off(700));
    assert!(!is_released(&gate, batch));
}

#[test]
fn replies_that_come_after_the_fence_was_sent_wait_for_the_next_one() {
    let mut gate = Gate::new(off(500), at(1000));
    let first = gate.join();
    assert_eq!(gate.seal(), Some(first));
    let second = gate.join();
    assert_ne!(first, second);
    assert_eq!(gate.seal(), None, "one fence is outstanding at most");
    gate.fenced(first, off(100), at(1)).unwrap();
    assert!(is_released(&gate, first));
    assert!(!is_released(&gate, second));
    assert_eq!(gate.seal(), Some(second));
}

#[test]
fn an_empty_batch_is_not_fenced() {
    let mut gate = Gate::new(off(0), at(1000));
    assert_eq!(gate.seal(), None);
}

#[test]
fn a_fence_point_that_goes_back_is_an_error() {
    let (mut gate, _) = gate_with(0, 1000, 100, 1);
    let batch = gate.join();
    gate.seal().unwrap();
    assert_eq!(
        gate.fenced(batch, off(99), at(2)),
        Err(FenceWentBack {
            last: off(100),
            now: off(99)
        })
    );
}

#[test]
fn h14_a_fence_received_past_the_lease_releases_nothing() {
    let (mut gate, batch) = gate_with(0, 1000, 100, 1000);
    gate.committed(off(100));
    assert!(
        !is_released(&gate, batch),
        "committed, but the lease had lapsed when the fence came"
    );
}

#[test]
fn h14_a_round_under_way_when_the_fence_came_proves_nothing() {
    let (mut gate, batch) = gate_with(100, 1000, 100, 5000);
    gate.round(at(4999));
    assert!(!is_released(&gate, batch));
    gate.round(at(5000));
    assert!(
        !is_released(&gate, batch),
        "an equal reading may be of a round that was sent first"
    );
    gate.round(at(5001));
    assert!(is_released(&gate, batch));
}

#[test]
fn h14_lapsed_is_not_fenced_the_reply_leaves_after_a_renewal() {
    let (mut gate, batch) = gate_with(100, 1000, 100, 5000);
    assert!(!is_released(&gate, batch));
    gate.lease(at(5001));
    assert!(is_released(&gate, batch));
}

#[test]
fn h14_a_renewal_that_ended_before_the_fence_came_proves_nothing() {
    let (mut gate, batch) = gate_with(100, 1000, 100, 5000);
    gate.lease(at(5000));
    assert!(!is_released(&gate, batch));
}

#[test]
fn h14_the_process_may_sleep_between_the_release_and_the_write() {
    // Released in time, delivered late: the watermark does not go back when the lease lapses later.
    let (gate, batch) = gate_with(100, 1000, 100, 999);
    assert!(is_released(&gate, batch));
}

#[test]
fn a_long_outage_costs_bounded_memory_and_delays_nothing_but_the_newest() {
    let mut gate = Gate::new(off(0), at(1000));
    let batches = 2 * HOLD_BATCHES_MAX as u64;
    for n in 1..=batches {
        let batch = gate.join();
        gate.seal().unwrap();
        gate.fenced(batch, off(n), at(1)).unwrap();
    }
    assert_eq!(gate.fenced.len(), HOLD_BATCHES_MAX);
    gate.committed(off(100));
    assert_eq!(gate.released_end().get(), 100);
    gate.committed(off(batches - 1));
    assert_eq!(gate.released_end().get(), HOLD_BATCHES_MAX as u64 - 1);
    gate.committed(off(batches));
    assert_eq!(gate.released_end().get(), batches);
}

#[derive(Clone, Debug)]
enum Event {
    Join,
    Seal,
    Fenced { advance: u64 },
    Committed(u64),
    Lease(u64),
    Round { ago: u64 },
    Time(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => Just(Event::Join),
        3 => Just(Event::Seal),
        3 => (0u64..20).prop_map(|advance| Event::Fenced { advance }),
        2 => (0u64..200).prop_map(Event::Committed),
        1 => (0u64..300).prop_map(Event::Lease),
        1 => (0u64..30).prop_map(|ago| Event::Round { ago }),
        3 => (0u64..20).prop_map(Event::Time),
    ];
    prop::collection::vec(event, 0..120)
}

/// What the rule says of one batch, word by word.
#[derive(Clone, Copy, Debug)]
struct ModelBatch {
    joined: bool,
    sealed: bool,
    fence: Option<(u64, u64)>,
}

#[derive(Debug, Default)]
struct Model {
    batches: Vec<ModelBatch>,
    committed: u64,
    lease_until: Vec<u64>,
    rounds: Vec<u64>,
}

impl Model {
    fn may_leave(&self, index: usize) -> bool {
        self.batches[..=index].iter().all(|b| {
            b.fence.is_some_and(|(point, at)| {
                let durable = self.committed >= point;
                let leased = self.lease_until.iter().any(|until| at < *until);
                let confirmed = self.rounds.iter().any(|sent| *sent > at);
                durable && (leased || confirmed)
            })
        })
    }
}

proptest! {
    #[test]
    fn releases_exactly_what_the_rule_allows(events in events()) {
        let empty = ModelBatch { joined: false, sealed: false, fence: None };
        let mut model = Model { batches: vec![empty], lease_until: vec![50], ..Model::default() };
        let mut gate = Gate::new(off(0), at(50));
        let (mut now, mut point) = (0u64, 0u64);
        let mut sealed: Option<usize> = None;
        for event in events {
            match event {
                Event::Join => {
                    let batch = gate.join();
                    let open = model.batches.len() - 1;
                    prop_assert_eq!(batch.get(), open as u64);
                    model.batches[open].joined = true;
                }
                Event::Seal => {
                    let open = model.batches.len() - 1;
                    let want = (sealed.is_none() && model.batches[open].joined).then_some(open);
                    prop_assert_eq!(gate.seal().map(BatchId::get), want.map(|o| o as u64));
                    if want.is_some() {
                        model.batches[open].sealed = true;
                        model.batches.push(empty);
                        sealed = want;
                    }
                }
                Event::Fenced { advance } => if let Some(index) = sealed.take() {
                    point += advance;
                    model.batches[index].fence = Some((point, now));
                    prop_assert!(gate.fenced(BatchId(index as u64), off(point), at(now)).is_ok());
                },
                Event::Committed(end) => {
                    model.committed = model.committed.max(end);
                    gate.committed(off(end));
                }
                Event::Lease(until) => {
                    model.lease_until.push(until);
                    gate.lease(at(until));
                }
                Event::Round { ago } => {
                    let sent = now.saturating_sub(ago);
                    model.rounds.push(sent);
                    gate.round(at(sent));
                }
                Event::Time(passed) => now += passed,
            }
            for index in 0..model.batches.len() {
                let released = (index as u64) < gate.released_end().get();
                prop_assert_eq!(released, model.may_leave(index), "batch {} of {:?}", index, model);
            }
        }
    }
}
