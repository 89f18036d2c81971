//! Whether the master is told once more what is committed (H12).
//!
//! A master with `min-replicas-to-write` refuses writes when it has not heard of enough replicas for S seconds
//! (`min-replicas-max-lag`). It counts when they were heard, not what they said: an ACK of an old offset, repeated
//! each second, would keep writes allowed while nothing becomes durable, which is what the setting is there to
//! prevent. So there, nothing is repeated once bytes have waited for S seconds without any being committed. Any
//! other master hears every second, or it would drop the capture. Knows no clock and no link.

use redoubt_types::BootTime;
use std::time::Duration;

/// What decides.
#[derive(Debug, Default)]
pub struct Acks {
    /// S, if the master refuses writes by it.
    patience: Option<Duration>,
    /// Since when bytes have waited without any of them being committed.
    waiting_since: Option<BootTime>,
}

impl Acks {
    /// The master at the end of the link was asked how long it goes on without hearing of a replica.
    pub fn attached(&mut self, patience: Option<Duration>) {
        self.patience = patience;
    }

    /// Bytes were captured at `now`.
    pub fn captured(&mut self, now: BootTime) {
        self.waiting_since.get_or_insert(now);
    }

    /// Bytes were committed at `now`: `all` that were captured, or not.
    pub fn committed(&mut self, all: bool, now: BootTime) {
        self.waiting_since = (!all).then_some(now);
    }

    /// Whether the master is to hear at `now` of what it has heard already.
    pub fn repeat(&self, now: BootTime) -> bool {
        match (self.patience, self.waiting_since) {
            (Some(patience), Some(since)) => now.since(since) < patience,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> BootTime {
        BootTime::new(Duration::from_secs(s))
    }

    fn patient() -> Acks {
        let mut acks = Acks::default();
        acks.attached(Some(Duration::from_secs(10)));
        acks
    }

    #[test]
    fn who_waits_for_no_replica_hears_every_second() {
        let mut acks = Acks::default();
        acks.attached(None);
        acks.captured(at(0));
        assert!(acks.repeat(at(1000)));
    }

    #[test]
    fn an_idle_master_hears_every_second() {
        let mut acks = patient();
        acks.captured(at(0));
        acks.committed(true, at(1));
        assert!(acks.repeat(at(1000)));
    }

    #[test]
    fn h12_nothing_is_repeated_once_bytes_have_waited_too_long() {
        let mut acks = patient();
        acks.captured(at(100));
        acks.captured(at(105));
        assert!(acks.repeat(at(109)));
        assert!(!acks.repeat(at(110)), "since the first of them came");
        acks.committed(false, at(111));
        assert!(acks.repeat(at(120)) && !acks.repeat(at(121)));
        acks.committed(true, at(122));
        assert!(acks.repeat(at(1000)));
    }
}
