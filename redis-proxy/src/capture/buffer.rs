//! The double buffer between capture and append.
//!
//! Decides how captured bytes are cut into entries and when they go out. One of two equal buffers fills while
//! the other is in flight; they change places when everything in flight is committed, so the slower the
//! journal, the more goes out at once: a group commit that sizes itself. Promises that every entry is *whole
//! groups* or *a fragment of exactly one group* that is larger than an entry may be (H3), that entries in
//! order are the captured bytes, and that what is captured and not committed is bounded. Knows no socket, no
//! journal and no clock.

use bytes::{Bytes, BytesMut};
use redoubt_env::planted;
use redoubt_resp::stream::{StreamError, StreamScanner};
use redoubt_types::{Db, Offset, WallTime};
use std::collections::VecDeque;

/// Room that is made for one read, bytes: what a socket's buffer holds of a busy master.
const READ_BYTES: usize = 64 * 1024;
/// Room below which more is made, bytes: small reads share one allocation until then.
const READ_BYTES_MIN: usize = 16 * 1024;

/// What bounds a buffer, bytes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Payload of one entry at most.
    pub entry_max: usize,
    /// Captured and not committed at which clients are to be held back; twice that stops capture itself.
    pub uncommitted_max: u64,
}

/// One entry's payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Whole groups, or a fragment of one.
    pub payload: Bytes,
    /// When its last byte was captured.
    pub captured: WallTime,
}

/// Bytes captured and not committed, on their way out.
#[derive(Debug)]
pub struct DoubleBuffer {
    bounds: Bounds,
    scanner: StreamScanner,
    /// Captured and not cut: whole groups first, then part of one.
    open: BytesMut,
    /// How much of `open` the scanner has seen.
    scanned: usize,
    /// End, in `open`, of its last whole group; 0 when it holds none.
    whole: usize,
    /// `open` begins inside a group whose beginning went out as a fragment.
    inside_group: bool,
    /// The buffer that fills.
    filling: VecDeque<Cut>,
    /// What is left to hand out of the buffer in flight.
    in_flight: VecDeque<Cut>,
    /// Where the buffer in flight ends.
    in_flight_end: Offset,
    /// Where the last cut ended.
    cut_end: Offset,
    captured: Offset,
    captured_at: WallTime,
    committed: Offset,
    /// Kept between calls for its allocation.
    group_ends: Vec<usize>,
}

impl DoubleBuffer {
    /// An empty buffer at `start`, a group boundary where `db` is selected.
    pub fn new(start: Offset, db: Db, bounds: Bounds) -> Self {
        DoubleBuffer {
            bounds,
            scanner: StreamScanner::with_db(db),
            open: BytesMut::new(),
            scanned: 0,
            whole: 0,
            inside_group: false,
            filling: VecDeque::new(),
            in_flight: VecDeque::new(),
            in_flight_end: start,
            cut_end: start,
            captured: start,
            captured_at: WallTime::default(),
            committed: start,
            group_ends: Vec::new(),
        }
    }

    /// Where to append what is captured; [`DoubleBuffer::filled`] must follow.
    pub fn space(&mut self) -> &mut BytesMut {
        if self.open.capacity() - self.open.len() < READ_BYTES_MIN {
            self.open.reserve(READ_BYTES);
        }
        &mut self.open
    }

    /// Takes note of what was appended to [`DoubleBuffer::space`], at `now`. Each group that ends with it is told to `group`,
    /// with its end and its bytes, `None` for one whose beginning has gone out already.
    ///
    /// # Errors
    /// When the bytes can't be a replication stream. Whole groups before the error stay and may go out, the
    /// rest is dropped, and nothing can be captured any more.
    pub fn filled(
        &mut self,
        now: WallTime,
        mut group: impl FnMut(Option<&[u8]>, Offset),
    ) -> Result<(), StreamError> {
        let new = self.open.len() - self.scanned;
        self.captured = self.captured.advance(new as u64);
        self.captured_at = now;
        let mut ends = std::mem::take(&mut self.group_ends);
        ends.clear();
        let from = self.scanned;
        let scan = self
            .scanner
            .scan(&self.open[from..], |group| ends.push(from + group.end));
        self.scanned = self.open.len();
        let mut cut_before = 0;
        for end in &ends {
            let end = end - cut_before;
            let whole = (!self.inside_group).then(|| &self.open[self.whole..end]);
            group(whole, self.cut_end.advance(end as u64));
            cut_before += self.group_ended(end);
        }
        self.group_ends = ends;
        if let Err(e) = scan {
            self.captured = self.cut_end.advance(self.whole as u64);
            self.open.truncate(self.whole);
            self.scanned = self.whole;
            return Err(e);
        }
        self.cut_fragments();
        Ok(())
    }

    /// A group ends at `end` in `open`. Returns how many bytes were cut off the front.
    fn group_ended(&mut self, end: usize) -> usize {
        let mut left = end;
        if !self.inside_group && left > self.bounds.entry_max && self.whole > 0 {
            // The groups before it fill an entry of their own: one that held whole groups and a part of
            // another could neither be admitted nor be discarded as one.
            left -= self.cut(self.whole);
        }
        if !self.inside_group && left <= self.bounds.entry_max {
            self.whole = left;
            return end - left;
        }
        while left > self.bounds.entry_max {
            left -= self.cut(self.bounds.entry_max);
        }
        // The last fragment ends where its group does.
        self.cut(left);
        self.inside_group = false;
        end
    }

    /// Cuts fragments off a group that is not complete and too large already.
    fn cut_fragments(&mut self) {
        if !self.inside_group && self.open.len() - self.whole >= self.bounds.entry_max {
            self.cut(self.whole);
            self.inside_group = true;
        }
        while self.inside_group && self.open.len() >= self.bounds.entry_max {
            self.cut(self.bounds.entry_max);
        }
    }

    /// Moves the first `len` bytes of `open` into the filling buffer, as one entry. Returns `len`.
    fn cut(&mut self, len: usize) -> usize {
        if len > 0 {
            let payload = self.open.split_to(len).freeze();
            self.filling.push_back(Cut {
                payload,
                captured: self.captured_at,
            });
            self.cut_end = self.cut_end.advance(len as u64);
            self.scanned -= len;
            self.whole = self.whole.saturating_sub(len);
        }
        len
    }

    /// The next entry to go out, if it is time for one.
    pub fn next_cut(&mut self) -> Option<Cut> {
        if self.in_flight.is_empty() && self.committed >= self.in_flight_end {
            if self.whole == 0 && self.filling.is_empty() {
                return None;
            }
            self.cut(if planted::on("h03_part_of_a_group") {
                self.open.len()
            } else {
                self.whole
            });
            std::mem::swap(&mut self.in_flight, &mut self.filling);
            self.in_flight_end = self.cut_end;
        }
        self.in_flight.pop_front()
    }

    /// The journal has committed everything up to `end`.
    ///
    /// # Panics
    /// When `end` lies beyond what was captured, which only a bug can cause.
    pub fn committed_to(&mut self, end: Offset) {
        assert!(
            end <= self.captured,
            "committed up to {end}, but captured only up to {}",
            self.captured
        );
        self.committed = self.committed.max(end);
    }

    /// End of what was captured.
    pub fn captured(&self) -> Offset {
        self.captured
    }

    /// End of what is committed.
    pub fn committed(&self) -> Offset {
        self.committed
    }

    /// Whether all whole groups captured are committed: nothing is left to wait for.
    pub fn is_drained(&self) -> bool {
        self.whole == 0 && self.committed >= self.cut_end
    }

    /// Whether capture may read on: its own bound is twice the clients', since what they were allowed to
    /// send before the backpressure has effects that are still to come.
    pub fn may_read(&self) -> bool {
        self.uncommitted() < 2 * self.bounds.uncommitted_max
    }

    fn uncommitted(&self) -> u64 {
        self.captured.since(self.committed).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use redoubt_resp::stream::encode_command;

    const BOUNDS: Bounds = Bounds {
        entry_max: 64,
        uncommitted_max: 1000,
    };

    fn command(args: &[&[u8]]) -> Vec<u8> {
        let mut out = BytesMut::new();
        encode_command(args, &mut out);
        out.to_vec()
    }

    /// What is told of the groups that end with `bytes`.
    fn push(buffer: &mut DoubleBuffer, bytes: &[u8]) -> Vec<(Option<Vec<u8>>, Offset)> {
        let mut told = Vec::new();
        buffer.space().extend_from_slice(bytes);
        let tell = |bytes: Option<&[u8]>, end| told.push((bytes.map(<[u8]>::to_vec), end));
        buffer.filled(WallTime::from_ms(7), tell).unwrap();
        told
    }

    fn drain(buffer: &mut DoubleBuffer) -> Vec<Bytes> {
        std::iter::from_fn(|| buffer.next_cut())
            .map(|cut| cut.payload)
            .collect()
    }

    #[test]
    fn one_buffer_fills_while_the_other_is_in_flight() {
        let mut b = DoubleBuffer::new(Offset::new(100), Db::default(), BOUNDS);
        let ping = command(&[b"PING"]);
        assert_eq!(drain(&mut b).len(), 0);
        push(&mut b, &ping);
        assert_eq!(drain(&mut b).concat(), ping);
        push(&mut b, &ping);
        push(&mut b, &ping);
        assert_eq!(drain(&mut b).len(), 0, "the first is not committed");
        b.committed_to(Offset::new(100 + ping.len() as u64));
        assert_eq!(
            drain(&mut b),
            [[ping.clone(), ping.clone()].concat()],
            "both as one entry"
        );
        assert!(!b.is_drained());
        b.committed_to(b.captured());
        assert!(b.is_drained());
    }

    #[test]
    fn part_of_a_small_group_waits_for_the_rest() {
        let mut b = DoubleBuffer::new(Offset::ZERO, Db::default(), BOUNDS);
        let (ping, set) = (command(&[b"PING"]), command(&[b"SET", b"k", b"v"]));
        push(&mut b, &[&ping[..], &set[..5]].concat());
        assert_eq!(drain(&mut b).concat(), ping);
        b.committed_to(Offset::new(ping.len() as u64));
        assert_eq!(drain(&mut b).len(), 0);
        assert!(b.is_drained(), "half a group is nothing to wait for");
        push(&mut b, &set[5..]);
        assert_eq!(drain(&mut b), [set]);
    }

    #[test]
    fn h03_a_large_group_goes_out_as_fragments_of_its_own() {
        let mut b = DoubleBuffer::new(Offset::ZERO, Db::default(), BOUNDS);
        let (ping, big) = (command(&[b"PING"]), command(&[b"SET", b"k", &[b'x'; 150]]));
        push(&mut b, &[&ping[..], &big[..100]].concat());
        let mut out = drain(&mut b);
        assert_eq!(
            out.iter().map(Bytes::len).collect::<Vec<_>>(),
            [ping.len(), 64],
            "before it is complete"
        );
        push(&mut b, &[&big[100..], &ping[..]].concat());
        b.committed_to(Offset::new(ping.len() as u64 + 64));
        out.extend(drain(&mut b));
        let rest = big.len() - 128;
        assert_eq!(
            out.iter().map(Bytes::len).collect::<Vec<_>>(),
            [ping.len(), 64, 64, rest, ping.len()]
        );
        assert_eq!(out.concat(), [&ping[..], &big[..], &ping[..]].concat());
    }

    #[test]
    fn reading_has_a_hard_bound() {
        let mut b = DoubleBuffer::new(Offset::ZERO, Db::default(), BOUNDS);
        let ping = command(&[b"PING"]);
        let mut pushed = 0;
        while b.may_read() {
            push(&mut b, &ping);
            pushed += ping.len() as u64;
        }
        assert!((2000..2000 + ping.len() as u64).contains(&pushed));
        b.committed_to(Offset::new(pushed - 1999));
        assert!(b.may_read());
    }

    #[test]
    fn what_is_no_stream_is_refused_and_what_came_before_stays() {
        let mut b = DoubleBuffer::new(Offset::ZERO, Db::default(), BOUNDS);
        let ping = command(&[b"PING"]);
        b.space().extend_from_slice(&[&ping[..], b"+OK\r\n"].concat());
        assert_eq!(
            b.filled(WallTime::default(), |_, _| {}),
            Err(StreamError::NotAnArray(b'+'))
        );
        assert_eq!(b.captured(), Offset::new(ping.len() as u64));
        assert_eq!(drain(&mut b), [ping]);
    }

    fn group() -> impl Strategy<Value = Vec<u8>> {
        let set = (0usize..200).prop_map(|n| command(&[b"SET", b"key", &vec![b'v'; n]]));
        let multi = prop::collection::vec(0usize..60, 1..6).prop_map(|sizes| {
            let mut out = command(&[b"MULTI"]);
            sizes
                .iter()
                .for_each(|n| out.extend(command(&[b"APPEND", b"key", &vec![b'm'; *n]])));
            out.extend(command(&[b"EXEC"]));
            out
        });
        prop_oneof![3 => Just(command(&[b"PING"])), 3 => set, 1 => multi]
    }

    /// Whether `payload`, which follows what `scanner` has seen, is whole groups or a fragment of one.
    fn well_cut(scanner: &mut StreamScanner, payload: &[u8]) -> bool {
        let began_inside = !scanner.at_boundary();
        let mut ends = Vec::new();
        scanner.scan(payload, |g| ends.push(g.end)).unwrap();
        match (began_inside, ends.as_slice()) {
            (_, []) => true,
            (true, [only]) => *only == payload.len(),
            (true, _) => false,
            (false, ends) => ends.last() == Some(&payload.len()),
        }
    }

    proptest! {
        #[test]
        fn any_cutting_of_any_stream_gives_whole_groups_or_fragments_of_one(
            groups in prop::collection::vec(group(), 1..40),
            cuts in prop::collection::vec(1usize..300, 1..40),
            commits in prop::collection::vec(0usize..4, 1..40),
        ) {
            let stream = groups.concat();
            let mut b = DoubleBuffer::new(Offset::ZERO, Db::default(), BOUNDS);
            let (mut sent, mut unanswered) = (Vec::new(), VecDeque::new());
            let (mut at, mut round, mut scanner) = (0, 0, StreamScanner::default());
            let mut told = Vec::new();
            while !(at == stream.len() && b.is_drained()) {
                let take = cuts[round % cuts.len()].min(stream.len() - at);
                told.extend(push(&mut b, &stream[at..at + take]));
                at += take;
                while let Some(cut) = b.next_cut() {
                    prop_assert!((1..=BOUNDS.entry_max).contains(&cut.payload.len()));
                    prop_assert!(well_cut(&mut scanner, &cut.payload));
                    sent.extend_from_slice(&cut.payload);
                    unanswered.push_back(Offset::new(sent.len() as u64));
                }
                let answers = if at == stream.len() { unanswered.len() } else { commits[round % commits.len()] };
                for end in unanswered.drain(..answers.min(unanswered.len())) {
                    b.committed_to(end);
                }
                round += 1;
            }
            prop_assert_eq!(sent, stream);
            let ends = groups.iter().scan(0, |end, g| {
                *end += g.len() as u64;
                Some(Offset::new(*end))
            });
            prop_assert_eq!(told.len(), groups.len());
            for ((bytes, end), (group, want_end)) in told.iter().zip(groups.iter().zip(ends)) {
                prop_assert_eq!(*end, want_end);
                prop_assert!(bytes.as_ref().is_none_or(|bytes| bytes == group));
                prop_assert!(bytes.is_some() || group.len() > BOUNDS.entry_max, "only what was too large is not told");
            }
        }
    }

    #[cfg(feature = "planted-bugs")]
    #[test]
    fn catches_an_entry_that_holds_part_of_another_group() {
        let test = "capture::buffer::tests::part_of_a_small_group_waits_for_the_rest";
        redoubt_env::planted::assert_catches(test, "h03_part_of_a_group");
    }
}
