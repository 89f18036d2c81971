//! The window against a model of the journal's admission: losses of requests and answers, leader changes, late
//! stragglers of broken streams, deposed leaders, a fence.

use super::window::{Answer, Outgoing, Taken, Window};
use crate::error::AppendError;
use crate::nouns::Position;
use crate::reason::Reason;
use crate::refusal::Refused;
use bytes::Bytes;
use proptest::prelude::*;
use redoubt_types::{BootTime, Chain, Db, Offset, WallTime, payload_crc};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

fn at(ms: u64) -> BootTime {
    BootTime::new(Duration::from_millis(ms))
}

fn refusal(reason: Reason, position: Option<Position>) -> Refused {
    Refused {
        reason,
        message: format!("{reason}"),
        position,
        ..Refused::default()
    }
}

/// Admission in log order, as the journal's state machine decides it.
#[derive(Default)]
struct Model {
    fenced: bool,
    bytes: Vec<u8>,
    chain: Chain,
    boundaries: Vec<(Offset, Chain)>,
}

impl Model {
    fn end(&self) -> Offset {
        Offset::new(self.bytes.len() as u64)
    }

    fn position(&self) -> Position {
        Position {
            tail: self.end(),
            tail_chain: self.chain,
            pending_end: self.end(),
            pending_chain: self.chain,
            groups: 0,
            db: Db::default(),
        }
    }

    fn apply(&mut self, e: &Outgoing) -> Answer {
        let id = e.id;
        if self.fenced {
            return Answer::Refused {
                id,
                refused: refusal(Reason::Fenced, Some(self.position())),
            };
        }
        assert_eq!(payload_crc(&e.payload), e.crc);
        let end = e.start.advance(e.payload.len() as u64);
        let duplicate = if (e.start, e.chain) == (self.end(), self.chain) {
            self.chain = self.chain.extend(&e.payload);
            self.bytes.extend_from_slice(&e.payload);
            self.boundaries.push((self.end(), self.chain));
            false
        } else if self.boundaries.contains(&(end, e.chain.extend(&e.payload))) {
            true
        } else {
            return Answer::Refused {
                id,
                refused: refusal(Reason::Mismatch, Some(self.position())),
            };
        };
        Answer::Admitted {
            id,
            end,
            tail: self.end(),
            duplicate,
        }
    }
}

/// Requests and answers on their way; each stream keeps its order, across streams there is none.
struct World {
    window: Window,
    model: Model,
    now: u64,
    pushed: Vec<u8>,
    /// The present stream's number. Answers to older ones are lost.
    stream: u64,
    /// Sent and not yet proposed, by stream.
    requests: BTreeMap<u64, VecDeque<Outgoing>>,
    /// Proposed and not yet applied.
    log: VecDeque<(u64, Outgoing)>,
    /// The present stream's answers, in its order; `None` while a verdict is awaited.
    answers: VecDeque<(u64, Option<Answer>)>,
    sent_at: BTreeMap<u64, u64>,
    fenced_at: Option<Offset>,
    over: Option<AppendError>,
}

impl World {
    fn new() -> Self {
        let mut window = Window::new(Offset::ZERO, Chain::EMPTY);
        window.opened();
        World {
            window,
            model: Model::default(),
            now: 0,
            pushed: Vec::new(),
            stream: 0,
            requests: BTreeMap::new(),
            log: VecDeque::new(),
            answers: VecDeque::new(),
            sent_at: BTreeMap::new(),
            fenced_at: None,
            over: None,
        }
    }

    fn push(&mut self, n: u8) {
        let payload: Vec<u8> = (0..=n % 9).map(|i| n.wrapping_mul(31).wrapping_add(i)).collect();
        self.pushed.extend_from_slice(&payload);
        self.window.push(Bytes::from(payload), WallTime::default());
    }

    fn send(&mut self) {
        if let Some(next) = self.window.next_to_send(at(self.now)) {
            self.sent_at.insert(next.id, self.now);
            self.answers.push_back((next.id, None));
            self.requests.entry(self.stream).or_default().push_back(next);
        }
    }

    fn answer(&mut self, stream: u64, id: u64, answer: Answer) {
        if stream == self.stream
            && let Some(slot) = self.answers.iter_mut().find(|(i, a)| *i == id && a.is_none())
        {
            slot.1 = Some(answer);
        }
    }

    /// A leader proposes a request of `stream`, or refuses to.
    fn deliver(&mut self, stream: u64, refuse: Option<Refused>) {
        let Some(request) = self.requests.get_mut(&stream).and_then(VecDeque::pop_front) else {
            return;
        };
        match refuse {
            Some(refused) => self.answer(
                stream,
                request.id,
                Answer::Refused {
                    id: request.id,
                    refused,
                },
            ),
            None => self.log.push_back((stream, request)),
        }
    }

    fn apply(&mut self) {
        if let Some((stream, request)) = self.log.pop_front() {
            let answer = self.model.apply(&request);
            self.answer(stream, request.id, answer);
        }
    }

    fn break_stream(&mut self) {
        self.stream += 1;
        self.answers.clear();
        self.sent_at.clear();
        self.window.opened();
    }

    fn take(&mut self) {
        if self.answers.front().is_none_or(|(_, a)| a.is_none()) {
            return;
        }
        let Some((id, Some(answer))) = self.answers.pop_front() else {
            return;
        };
        let told = match &answer {
            Answer::Admitted { end, duplicate, .. } => Some((*end, *duplicate)),
            Answer::Refused { .. } => None,
        };
        let before = self.window.committed();
        match self.window.answered(answer) {
            Taken::Appended(appended) => {
                assert_eq!(Some((appended.end, appended.duplicate)), told);
                assert_eq!(
                    appended.sent_at,
                    at(self.sent_at[&id]),
                    "of the attempt that was answered"
                );
                assert_eq!(self.window.committed(), appended.end);
            }
            Taken::Again(_) => self.break_stream(),
            Taken::Doubtful(_) => {
                // The quorum is asked: hopeless only if somebody else wrote.
                if self.window.is_hopeless(&self.model.position()) {
                    assert!(self.model.fenced, "nobody else wrote");
                    self.over = Some(AppendError::Fenced(String::new()));
                }
                self.break_stream();
            }
            Taken::Final(error) => {
                assert!(
                    matches!(error, AppendError::Fenced(_)) && self.model.fenced,
                    "{error:?}"
                );
                self.over = Some(error);
            }
            Taken::Broken(why) => panic!("an honest node was taken for a broken one: {why}"),
        }
        if told.is_none() {
            assert_eq!(self.window.committed(), before, "a refusal commits nothing");
        }
    }

    fn step(&mut self, action: u8, n: u8) {
        self.now += 1;
        match action {
            0..=3 => self.push(n),
            4..=8 => self.send(),
            9..=12 => self.deliver(self.stream, None),
            13..=16 => self.apply(),
            17..=20 => self.take(),
            // A straggler of a stream that broke is proposed late.
            21 => self.deliver(self.stream.saturating_sub(1 + u64::from(n % 3)), None),
            22 => self.deliver(self.stream, Some(refusal(Reason::NotReady, None))),
            23 => self.deliver(self.stream, Some(refusal(Reason::NotLeader, None))),
            // A deposed leader, that has not noticed, knows of less than the quorum does.
            24 => {
                let stale = Position {
                    tail: Offset::ZERO,
                    pending_end: Offset::ZERO,
                    ..self.model.position()
                };
                self.deliver(self.stream, Some(refusal(Reason::Mismatch, Some(stale))));
            }
            25 => self.break_stream(),
            // The leader changes: a suffix of its log is lost, and so are all its streams.
            26 => {
                let kept = self.log.len().saturating_sub(usize::from(n % 8));
                self.log.truncate(kept);
                self.requests.clear();
                self.break_stream();
            }
            _ if n < 8 && !self.model.fenced => self.fence(),
            _ => {}
        }
        let admitted = self.fenced_at.unwrap_or(self.model.end());
        assert!(
            self.window.committed() <= admitted,
            "{} > {admitted}",
            self.window.committed()
        );
    }

    /// Another writer takes over, and writes.
    fn fence(&mut self) {
        self.fenced_at = Some(self.model.end());
        self.model.fenced = true;
        self.model.bytes.extend_from_slice(&[0xff; 1000]);
    }

    /// Everything that is on its way arrives, until all is answered.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            if self.window.is_empty() || self.over.is_some() {
                return;
            }
            self.now += 1;
            self.send();
            self.deliver(self.stream, None);
            self.apply();
            self.take();
        }
        panic!("the window never emptied: committed {}", self.window.committed());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn h02_every_pushed_byte_is_admitted_exactly_once_and_in_order(
        steps in prop::collection::vec((0u8..27, any::<u8>()), 0..600),
    ) {
        let mut world = World::new();
        for (action, n) in steps {
            world.step(action, n);
        }
        world.settle();
        prop_assert_eq!(&world.model.bytes, &world.pushed);
        prop_assert_eq!(world.window.committed(), world.model.end());
    }

    #[test]
    fn h02_a_fenced_writer_never_takes_anothers_bytes_for_its_own(
        steps in prop::collection::vec((0u8..28, any::<u8>()), 0..400),
    ) {
        let mut world = World::new();
        for (action, n) in steps {
            if world.over.is_some() {
                break;
            }
            world.step(action, n);
        }
        world.settle();
        match world.fenced_at {
            Some(end) => {
                let end = end.get() as usize;
                prop_assert_eq!(&world.model.bytes[..end], &world.pushed[..end]);
                prop_assert!(world.window.committed().get() as usize <= end);
            }
            None => prop_assert_eq!(&world.model.bytes, &world.pushed),
        }
    }
}

/// A window with two entries, `ab` and `cd`, sent on its first stream.
fn two_sent() -> Window {
    let mut window = Window::new(Offset::new(10), Chain::EMPTY);
    window.push(Bytes::from_static(b"ab"), WallTime::default());
    window.push(Bytes::from_static(b"cd"), WallTime::default());
    window.opened();
    assert_eq!(window.next_to_send(at(1)).unwrap().id, 1);
    assert_eq!(window.next_to_send(at(2)).unwrap().id, 2);
    window
}

fn standing(pending_end: u64, pending_chain: Chain) -> Position {
    Position {
        tail: Offset::new(pending_end),
        tail_chain: pending_chain,
        pending_end: Offset::new(pending_end),
        pending_chain,
        groups: 0,
        db: Db::default(),
    }
}

#[test]
fn h02_the_tail_in_a_refusal_commits_nothing() {
    let mut window = two_sent();
    let beyond = standing(500, Chain::from_u64(7));
    for reason in [
        Reason::Mismatch,
        Reason::Lineage,
        Reason::NotReady,
        Reason::Checksum,
    ] {
        let taken = window.answered(Answer::Refused {
            id: 1,
            refused: refusal(reason, Some(beyond)),
        });
        assert!(!matches!(taken, Taken::Appended(_)), "{reason}: {taken:?}");
        assert_eq!(window.committed(), Offset::new(10));
        window.opened();
        window.next_to_send(at(3)).unwrap();
    }
}

#[test]
fn a_mismatch_is_repeated_alone_and_left_to_the_quorum_after_two_in_a_row() {
    let mut window = two_sent();
    let elsewhere = standing(500, Chain::from_u64(7));
    let mismatch = || Answer::Refused {
        id: 1,
        refused: refusal(Reason::Mismatch, Some(elsewhere)),
    };
    for _ in 0..2 {
        assert!(matches!(window.answered(mismatch()), Taken::Again(_)));
        window.opened();
        let again = window.next_to_send(at(5)).unwrap();
        assert_eq!(
            (again.start, &again.payload[..]),
            (Offset::new(10), &b"ab"[..]),
            "the same cut"
        );
        assert_eq!(window.next_to_send(at(5)), None, "nothing else is in flight");
    }
    assert!(matches!(window.answered(mismatch()), Taken::Doubtful(_)));
    assert!(window.is_hopeless(&elsewhere));
    let (ab, abcd) = (Chain::EMPTY.extend(b"ab"), Chain::EMPTY.extend(b"abcd"));
    for ours in [standing(10, Chain::EMPTY), standing(12, ab), standing(14, abcd)] {
        assert!(!window.is_hopeless(&ours), "{ours:?}");
    }
    window.opened();
    window.next_to_send(at(9)).unwrap();
    let admitted = Answer::Admitted {
        id: 1,
        end: Offset::new(12),
        tail: Offset::new(12),
        duplicate: true,
    };
    assert!(matches!(window.answered(admitted), Taken::Appended(a) if a.sent_at == at(9) && a.duplicate));
    assert_eq!(
        window.next_to_send(at(9)).unwrap().id,
        2,
        "the window is open again"
    );
}

#[test]
fn what_the_entry_itself_is_to_blame_for_ends_the_stream_after_two_in_a_row() {
    for reason in [
        Reason::Framing,
        Reason::Lineage,
        Reason::Checksum,
        Reason::Invalid,
    ] {
        let mut window = two_sent();
        let refused = || Answer::Refused {
            id: 1,
            refused: refusal(reason, None),
        };
        for _ in 0..2 {
            assert!(matches!(window.answered(refused()), Taken::Again(_)), "{reason}");
            window.opened();
            window.next_to_send(at(5)).unwrap();
        }
        let taken = window.answered(refused());
        assert!(
            matches!(&taken, Taken::Final(AppendError::Refused { reason: r, .. }) if *r == reason),
            "{taken:?}"
        );
    }
}

#[test]
fn answers_that_were_not_asked_for_are_not_believed() {
    let admitted = |id, end| Answer::Admitted {
        id,
        end: Offset::new(end),
        tail: Offset::new(end),
        duplicate: false,
    };
    for wrong in [admitted(2, 14), admitted(1, 14), admitted(9, 12)] {
        let mut window = two_sent();
        assert!(matches!(window.answered(wrong), Taken::Broken(_)));
        assert_eq!(window.committed(), Offset::new(10));
    }
    let mut window = two_sent();
    window.opened();
    assert!(
        matches!(window.answered(admitted(1, 12)), Taken::Broken(_)),
        "not sent on this stream"
    );
}
