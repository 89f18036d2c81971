//! When the filling buffer goes out.
//!
//! Clients that wait for their answers come in cohorts: while the commands of one are in flight, those of the
//! other fill the buffer. Sent at once when the flight ends, the two never meet, and each flight, whose cost is
//! mostly its own and not its bytes', carries half of what it could. So when a flight ends, whoever it
//! releases is given a moment to come back: until as many groups wait as were in flight and waiting together, or
//! the moment is over. Decides only that; knows no clock, readings of one come in.
//!
//! A moment that brings few back was waited in vain (clients that do not wait for their answers, a load
//! that ends), and is then left out for twice as many flights each time. A single client never waits: its one
//! command is all that is expected.

use redoubt_types::BootTime;
use std::time::Duration;

/// How long a cohort is waited for at most, and never longer than the flight before took.
const MOMENT_MAX: Duration = Duration::from_millis(1);
/// Flights that are left out at most before a moment is tried again.
const LEFT_OUT_MAX: u32 = 256;

/// What a moment is waited for.
#[derive(Clone, Copy, Debug)]
struct Moment {
    /// Groups that are expected to wait by then.
    expected: u64,
    /// Groups that waited when it began.
    began_with: u64,
    /// When it is over.
    ends: BootTime,
}

/// The pace of one session's flights.
#[derive(Debug, Default)]
pub struct Pace {
    /// Groups in flight, and since when; `None` between flights.
    flight: Option<(u64, BootTime)>,
    moment: Option<Moment>,
    /// Flights still to be sent without a moment.
    leave_out: u32,
    /// How many are left out after the next moment in vain.
    next_leave_out: u32,
    /// Nobody is waited for any more.
    hurried: bool,
}

impl Pace {
    /// Whether `waiting` groups go out at `now`. Only to be asked while nothing is in flight.
    pub fn is_due(&self, waiting: u64, now: BootTime) -> bool {
        self.hurried || self.moment.is_none_or(|m| waiting >= m.expected || now >= m.ends)
    }

    /// From now on nobody is waited for: nothing comes any more.
    pub fn hurry(&mut self) {
        self.hurried = true;
    }

    /// When to ask again, if groups wait and are not due.
    pub fn due_at(&self) -> Option<BootTime> {
        self.moment.map(|m| m.ends)
    }

    /// `groups` groups went out at `now`.
    pub fn sent(&mut self, groups: u64, now: BootTime) {
        if let Some(m) = self.moment.take() {
            let came = groups.saturating_sub(m.began_with);
            if 2 * came < m.expected - m.began_with {
                self.leave_out = self.next_leave_out.max(1);
                self.next_leave_out = (2 * self.leave_out).min(LEFT_OUT_MAX);
            } else {
                self.next_leave_out = 0;
            }
        }
        self.flight = Some((groups, now));
    }

    /// Everything in flight was committed at `now`, while `waiting` groups waited.
    pub fn landed(&mut self, waiting: u64, now: BootTime) {
        let Some((groups, since)) = self.flight.take() else {
            return;
        };
        if self.leave_out > 0 {
            self.leave_out -= 1;
            return;
        }
        let moment = now.since(since).min(MOMENT_MAX);
        self.moment = Some(Moment {
            expected: groups + waiting,
            began_with: waiting,
            ends: now.plus(moment),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> BootTime {
        BootTime::new(Duration::from_micros(us))
    }

    #[test]
    fn a_single_client_never_waits() {
        let mut p = Pace::default();
        for i in 0..10 {
            assert!(p.is_due(1, at(i * 1000)));
            p.sent(1, at(i * 1000));
            p.landed(0, at(i * 1000 + 600));
        }
    }

    #[test]
    fn two_cohorts_become_one() {
        let mut p = Pace::default();
        p.sent(20, at(0));
        p.landed(30, at(800));
        assert!(!p.is_due(30, at(800)), "those released are on their way back");
        assert_eq!(p.due_at(), Some(at(1600)), "as long as the flight took");
        assert!(p.is_due(50, at(1100)));
        p.sent(50, at(1100));
        p.landed(0, at(1900));
        assert!(!p.is_due(49, at(2000)));
        assert!(p.is_due(50, at(2000)));
    }

    #[test]
    fn in_a_hurry_nobody_is_waited_for() {
        let mut p = Pace::default();
        p.sent(10, at(0));
        p.landed(1, at(800));
        assert!(!p.is_due(1, at(801)));
        p.hurry();
        assert!(p.is_due(1, at(801)));
    }

    #[test]
    fn the_moment_ends() {
        let mut p = Pace::default();
        p.sent(10, at(0));
        p.landed(1, at(5_000));
        assert!(!p.is_due(1, at(5_999)));
        assert!(
            p.is_due(1, at(6_000)),
            "a millisecond at most, however long the flight took"
        );
    }

    #[test]
    fn moments_in_vain_become_rare_and_one_that_pays_brings_them_back() {
        let mut p = Pace::default();
        let (mut now, mut moments) = (0, 0);
        for _ in 0..1000 {
            p.sent(10, at(now));
            p.landed(10, at(now + 500));
            if !p.is_due(10, at(now + 500)) {
                moments += 1;
            }
            now += 2000;
        }
        assert!(moments < 15, "{moments} moments were waited for nobody");
        loop {
            p.sent(10, at(now));
            p.landed(10, at(now + 500));
            if !p.is_due(10, at(now + 500)) {
                break;
            }
            now += 2000;
        }
        p.sent(20, at(now + 700));
        p.landed(0, at(now + 1200));
        assert!(!p.is_due(10, at(now + 1200)));
    }
}
