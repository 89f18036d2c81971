//! What is on its way over a connection that many clients share, and what of it may leave.
//!
//! Decides whose each answer is: a server answers the commands of one connection in order, one answer each, and only
//! commands of which that is true may be sent here ([`super::plain`]). Commands go out in *flights*, each followed by
//! its own fence on the same connection. Promises that an answer may leave only when its flight's fence point is
//! admitted by the [`Horizon`], and that flights leave in order. Must not know a socket, a client or a clock.
//!
//! **Why a fence on the same connection is one.** It is executed after every command of its flight, so it answers for
//! all of their effects, as one does that is sent after their answers were received. A fence that is refused for now
//! (a busy script) leaves its flight without a point; any later one covers it, and only delays it.
//!
//! **When a server does not keep to one answer each**, everybody's answers from then on would be another's. So a fence is two
//! commands: `ECHO` of the flight's number, and `INFO`. Nothing leaves before both were answered in their places, in its
//! own flight or a later one, and no shift of the answers lets that happen. What can't be their answer ends the connection,
//! and whatever came since the last fence is nobody's ([`Flights::distrust`]). An error is no such sign, since fences are
//! refused at times; it releases nothing either.

use crate::hold::{FenceWentBack, Horizon, ReadKeys};
use crate::pressure::Mark;
use crate::upstream::fence::FENCE;
use bytes::{Bytes, BytesMut};
use redoubt_env::planted;
use redoubt_resp::info::{FenceAnswer, fence_of};
use redoubt_resp::reply::{ReplyError, ReplyScanner, Value, parse_frame};
use redoubt_resp::stream::encode_command;
use redoubt_types::{BootTime, Offset};
use std::collections::VecDeque;

/// An answer to our own fence at most, bytes; `INFO replication` has about 600 and a line for each replica.
const FENCE_BYTES_MAX: usize = 1024 * 1024;

/// A client's place: its key, and a number of its own, since keys are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// Where the worker keeps it.
    pub(super) key: usize,
    /// No other client ever has it.
    pub(super) id: u64,
}

/// A number of flights; dense, in the order in which they were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FlightId(u64);

/// What is released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Released {
    /// Answers of every flight before this one may leave.
    pub(super) end: FlightId,
    /// Clean reads of every flight before this one may, not before `end`.
    pub(super) reads_end: FlightId,
}

/// What the server's next answer is.
#[derive(Debug)]
enum Expected {
    /// A client's: what stands in its place, if anything, and what it reads, if that is known.
    Reply(Slot, Option<Bytes>, Option<ReadKeys>),
    /// That of the `ECHO` behind a flight.
    Number(FlightId),
    /// The fence behind it, and what had been passed on when it was asked for.
    Fence(FlightId, Mark),
}

/// A flight that is not released.
#[derive(Debug)]
struct Flight {
    /// Its fence point, and when the answer that told it had been received.
    fence: Option<(Offset, BootTime)>,
    /// Whose answers it brought, some more than once, and when the first of each run was received.
    slots: Vec<(Slot, BootTime)>,
    /// Whether one of them may be a clean read.
    has_reads: bool,
}

/// What was received.
#[derive(Debug)]
pub(super) enum Arrived<'a> {
    /// A piece of an answer.
    Reply(Piece<'a>),
    /// The answer to this flight's fence, and what had been passed on when it was asked for.
    Fence(FlightId, Value, Mark),
}

/// A piece of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    /// Whose it is.
    pub(super) slot: Slot,
    /// The flight in which it was asked for.
    pub(super) flight: FlightId,
    /// Its bytes.
    pub(super) bytes: &'a [u8],
    /// Whether the answer ends with them.
    pub(super) ends: bool,
    /// What its command reads, if that is known.
    pub(super) reads: Option<ReadKeys>,
}

/// Why a connection's answers can't be told apart any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum OutOfStep {
    /// They are no answers.
    #[error(transparent)]
    Malformed(#[from] ReplyError),
    /// One more than was asked for.
    #[error("the server answers what nobody asked")]
    Unasked,
    /// What stood in a fence's place can't be its answer.
    #[error("a fence was answered with what is neither a fence nor an error")]
    NoFence,
}

/// The state of one shared connection. See the module.
#[derive(Debug, Default)]
pub(super) struct Flights {
    scanner: ReplyScanner,
    expected: VecDeque<Expected>,
    /// What has come of an answer to our own.
    own: BytesMut,
    /// The error in the place of the last number, until the fence behind it has come.
    refused: Option<Value>,
    /// Those that are sealed and not released.
    flights: VecDeque<Flight>,
    /// The number of the first of them, which is also the end of what is released.
    first: FlightId,
    /// The end of those whose clean reads may leave.
    reads_end: FlightId,
    /// Fences that are not answered.
    fences_out: usize,
    /// Fences that were answered.
    landed: FlightId,
    last_point: Offset,
}

impl Flight {
    fn into_slots(self) -> impl Iterator<Item = Slot> {
        self.slots.into_iter().map(|(slot, _)| slot)
    }
}

impl Flights {
    /// A command of `slot` follows what was sent. `instead` stands in the place of its answer, if any.
    pub(super) fn send(&mut self, slot: Slot, instead: Option<Bytes>) {
        self.expected.push_back(Expected::Reply(slot, instead, None));
    }

    /// A command of `slot` that reads these keys, and shows nothing else, follows what was sent.
    pub(super) fn send_read(&mut self, slot: Slot, keys: ReadKeys) {
        self.expected.push_back(Expected::Reply(slot, None, Some(keys)));
    }

    /// Ends the flight: the commands of its fence, which follow what was sent, are put behind `output`. One without other
    /// commands asks again for those before it.
    pub(super) fn seal(&mut self, asked: Mark, output: &mut BytesMut) -> FlightId {
        let id = self.open();
        encode_command(&[b"ECHO", number_of(id).as_bytes()], output);
        encode_command(FENCE, output);
        self.expected.push_back(Expected::Number(id));
        self.expected.push_back(Expected::Fence(id, asked));
        self.flights.push_back(Flight {
            fence: None,
            slots: Vec::new(),
            has_reads: false,
        });
        self.fences_out += 1;
        id
    }

    fn open(&self) -> FlightId {
        FlightId(self.first.0 + self.flights.len() as u64)
    }

    /// Fences that are not answered: flights in the air.
    pub(super) fn in_the_air(&self) -> usize {
        self.fences_out
    }

    /// The end of the flights whose fence was answered.
    pub(super) fn landed(&self) -> FlightId {
        self.landed
    }

    /// Whether a flight has landed and has no fence point.
    pub(super) fn wants_fence(&self) -> bool {
        let landed = self.landed.0.saturating_sub(self.first.0) as usize;
        landed > 0 && self.flights.get(landed - 1).is_some_and(|f| f.fence.is_none())
    }

    /// Takes what the server sent, received by `now`.
    ///
    /// # Errors
    /// When it can't be told whose they are: what of the last flights has no fence point is not to be trusted either.
    pub(super) fn received(
        &mut self,
        mut bytes: &[u8],
        now: BootTime,
        mut on: impl FnMut(Arrived<'_>),
    ) -> Result<(), OutOfStep> {
        while !bytes.is_empty() {
            let frame = self.scanner.next_frame(bytes)?;
            let (piece, rest) = bytes.split_at(frame.map_or(bytes.len(), |f| f.end));
            bytes = rest;
            let ends = frame.is_some();
            if frame.is_some_and(|f| f.is_push()) {
                // It answers nothing, and nobody who could be meant shares a connection.
                return Err(OutOfStep::Unasked);
            }
            match self.expected.front() {
                Some(Expected::Reply(slot, instead, reads)) => {
                    let (slot, landed) = (*slot, self.landed);
                    let at = (landed.0 - self.first.0) as usize;
                    if let Some(flight) = self.flights.get_mut(at) {
                        flight.has_reads |= reads.is_some();
                        if flight.slots.last().map(|(last, _)| *last) != Some(slot) {
                            flight.slots.push((slot, now));
                        }
                    }
                    let piece = Piece {
                        slot,
                        flight: landed,
                        bytes: instead.as_deref().unwrap_or(piece),
                        ends,
                        reads: *reads,
                    };
                    if ends || instead.is_none() {
                        on(Arrived::Reply(piece));
                    }
                    if ends {
                        self.expected.pop_front();
                    }
                }
                Some(Expected::Number(id)) => {
                    let id = *id;
                    if let Some(value) = self.own_answer(piece, ends)? {
                        self.expected.pop_front();
                        if value.as_error().is_some() {
                            self.refused = Some(value);
                        } else if value.as_bytes() != Some(number_of(id).as_bytes())
                            && !planted::on("out_of_step_goes_on")
                        {
                            return Err(OutOfStep::NoFence);
                        }
                    }
                }
                Some(Expected::Fence(id, asked)) => {
                    let (id, asked) = (*id, *asked);
                    if let Some(value) = self.own_answer(piece, ends)? {
                        let can_be_one =
                            value.as_error().is_some() || fence_of(&value) != FenceAnswer::Malformed;
                        if !can_be_one && !planted::on("out_of_step_goes_on") {
                            return Err(OutOfStep::NoFence);
                        }
                        self.expected.pop_front();
                        self.fences_out -= 1;
                        self.landed = FlightId(id.0 + 1);
                        let value = self.refused.take().unwrap_or(value);
                        on(Arrived::Fence(id, value, asked));
                    }
                }
                None => return Err(OutOfStep::Unasked),
            }
        }
        Ok(())
    }

    /// The answer to a command of our own, of which `piece` has come, once it has come to its end.
    fn own_answer(&mut self, piece: &[u8], ends: bool) -> Result<Option<Value>, OutOfStep> {
        self.own.extend_from_slice(piece);
        if self.own.len() > FENCE_BYTES_MAX {
            return Err(OutOfStep::NoFence);
        }
        if !ends {
            return Ok(None);
        }
        let parsed = parse_frame(&self.own.split())?;
        let (value, _) = parsed.ok_or(ReplyError::BadContent)?;
        Ok(Some(value))
    }

    /// The fence of flight `id` told `point`; its answer had been received by `at`. It covers every flight before it too.
    ///
    /// # Errors
    /// When the point is below an earlier one: the session must end.
    pub(super) fn fenced(&mut self, id: FlightId, point: Offset, at: BootTime) -> Result<(), FenceWentBack> {
        if point < self.last_point {
            return Err(FenceWentBack {
                last: self.last_point,
                now: point,
            });
        }
        self.last_point = point;
        let covered = (id.0 + 1).saturating_sub(self.first.0) as usize;
        for flight in self.flights.iter_mut().take(covered) {
            flight.fence.get_or_insert((point, at));
        }
        Ok(())
    }

    /// Releases what the horizon admits, and clean reads whose fence point is indexed. Returns the clients that may have
    /// got something.
    pub(super) fn release(&mut self, horizon: Horizon, indexed: Offset) -> Vec<Slot> {
        let mut slots = Vec::new();
        while let Some(flight) = self.flights.front() {
            let admitted = flight.fence.is_some_and(|(point, at)| horizon.admits(point, at));
            let has_landed = self.first < self.landed;
            if !(admitted || (has_landed && planted::on("hold_no_hold"))) {
                break;
            }
            slots.extend(self.flights.pop_front().into_iter().flat_map(Flight::into_slots));
            self.first = FlightId(self.first.0 + 1);
        }
        self.reads_end = self.reads_end.max(self.first);
        while let Some(flight) = self.flights.get(self.unreadable()) {
            // What a fence covers may have touched anything until it is captured and looked at.
            let readable = flight.fence.is_some_and(|(point, at)| {
                let is_indexed = point <= indexed || planted::on("h21_capture_is_not_awaited");
                is_indexed && horizon.is_present(at)
            });
            if !readable {
                break;
            }
            if flight.has_reads {
                slots.extend(flight.slots.iter().map(|(slot, _)| *slot));
            }
            self.reads_end = FlightId(self.reads_end.0 + 1);
        }
        slots
    }

    /// The index of the first flight whose reads may not leave before a commit.
    fn unreadable(&self) -> usize {
        self.reads_end.0.saturating_sub(self.first.0) as usize
    }

    /// What is released.
    pub(super) fn released(&self) -> Released {
        Released {
            end: self.first,
            reads_end: self.reads_end,
        }
    }

    /// Whether reads wait for the stream to be captured.
    pub(super) fn wants_index(&self) -> bool {
        let mut waiting = self.flights.iter().skip(self.unreadable());
        waiting.any(|f| f.fence.is_some() && f.has_reads)
    }

    /// When the oldest answer that is still held was received.
    pub(super) fn held_since(&self) -> Option<BootTime> {
        self.flights
            .iter()
            .find_map(|f| f.slots.first())
            .map(|(_, received)| *received)
    }

    /// Whose answers are held, but for clean reads that have left, that were received at a time of which `when` holds, and in
    /// which flight.
    pub(super) fn held_if(&self, when: impl Fn(BootTime) -> bool) -> impl Iterator<Item = (Slot, FlightId)> {
        let flights = (self.first.0..).map(FlightId).zip(&self.flights);
        let all = flights.flat_map(|(id, f)| f.slots.iter().map(move |of| (id, of)));
        all.filter(move |(_, (_, received))| when(*received))
            .map(|(id, (slot, _))| (*slot, id))
    }

    /// The connection is out of step: nothing that came since the last fence may ever leave. Whose that is.
    pub(super) fn distrust(&mut self) -> Vec<Slot> {
        let unfenced = self.flights.iter_mut().filter(|f| f.fence.is_none());
        let slots = unfenced.flat_map(|f| std::mem::take(&mut f.slots));
        slots.map(|(slot, _)| slot).collect()
    }

    /// The connection is gone: nothing more arrives of what was sent. What was received still waits for a fence, which
    /// another connection to the same process may give.
    pub(super) fn cut(&mut self) {
        self.scanner = ReplyScanner::new();
        self.expected.clear();
        self.own.clear();
        self.refused = None;
        self.fences_out = 0;
        self.landed = self.open();
    }
}

/// What `ECHO` says of a flight. It ends with the word by which MONITOR leaves it out.
fn number_of(id: FlightId) -> String {
    format!("{} redoubt", id.0)
}

#[cfg(test)]
mod tests;
