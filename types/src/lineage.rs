//! Lineage: the replids that one history had, and where each began.

use crate::{Epoch, Offset, ReplId};

/// One replid of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineageStep {
    /// The replid.
    pub replid: ReplId,
    /// The offset from which bytes were written under it.
    pub from: Offset,
    /// The writer's epoch that introduced it; `None` for the one minted at bootstrap.
    pub epoch: Option<Epoch>,
}

/// Why a step was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineageError {
    /// The step does not begin at the journal's tail.
    #[error("a replid must begin at the journal's tail {tail}, not at {from}")]
    NotAtTail {
        /// Where it was said to begin.
        from: Offset,
        /// The journal's tail.
        tail: Offset,
    },
    /// The epoch has introduced a replid already.
    #[error("epoch {0} has a replid already")]
    EpochHasOne(Epoch),
    /// The replid was used before.
    #[error("replid {0} is in the lineage already")]
    Known(ReplId),
}

/// The replids of one history, oldest first; never empty.
///
/// A replid is *valid* for every offset up to its end, also for those before its `from`: a server promoted
/// from X at N keeps X as its second id and its data up to N is the same under either name (H15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    first: LineageStep,
    later: Vec<LineageStep>,
}

impl Lineage {
    /// The lineage of an empty journal.
    pub fn new(first: ReplId) -> Self {
        Lineage {
            first: LineageStep {
                replid: first,
                from: Offset::ZERO,
                epoch: None,
            },
            later: Vec::new(),
        }
    }

    /// A lineage from its steps, oldest first, as they came from disk or wire; `None` if there are none or
    /// their offsets go backwards.
    pub fn from_steps(steps: &[LineageStep]) -> Option<Self> {
        let (first, later) = steps.split_first()?;
        if steps.windows(2).any(|w| w[0].from > w[1].from) {
            return None;
        }
        Some(Lineage {
            first: *first,
            later: later.to_vec(),
        })
    }

    /// The newest replid: the only one that bytes may be appended under, and the one that every answer to a
    /// PSYNC names.
    pub fn last(&self) -> &LineageStep {
        self.later.last().unwrap_or(&self.first)
    }

    /// All steps, oldest first.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = &LineageStep> + DoubleEndedIterator {
        (0..self.len()).map(|i| if i == 0 { &self.first } else { &self.later[i - 1] })
    }

    /// How many replids there have been, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a lineage is never empty")]
    pub fn len(&self) -> usize {
        1 + self.later.len()
    }

    /// The end of what is valid under `replid` (exclusive): where its successor begins, or the tail.
    /// `None` if the replid is not of this history.
    pub fn end_of(&self, replid: &ReplId, tail: Offset) -> Option<Offset> {
        let at = self.steps().position(|s| s.replid == *replid)?;
        Some(self.later.get(at).map_or(tail, |next| next.from))
    }

    /// Adds the replid of `step.epoch`, which must begin at the journal's tail.
    ///
    /// # Errors
    /// When it begins elsewhere, the epoch has a replid already, or the replid was used before; the lineage
    /// is then as it was.
    pub fn push(&mut self, step: LineageStep, tail: Offset) -> Result<(), LineageError> {
        if step.from != tail {
            return Err(LineageError::NotAtTail {
                from: step.from,
                tail,
            });
        }
        if let Some(epoch) = step.epoch
            && self.steps().any(|s| s.epoch == Some(epoch))
        {
            return Err(LineageError::EpochHasOne(epoch));
        }
        if self.steps().any(|s| s.replid == step.replid) {
            return Err(LineageError::Known(step.replid));
        }
        self.later.push(step);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> ReplId {
        ReplId::from_random([n; 20])
    }

    fn step(n: u8, from: u64) -> LineageStep {
        LineageStep {
            replid: id(n),
            from: Offset::new(from),
            epoch: Epoch::new(u64::from(n)),
        }
    }

    #[test]
    fn a_replid_ends_where_the_next_begins() {
        let mut l = Lineage::new(id(9));
        l.push(step(1, 0), Offset::ZERO).unwrap();
        l.push(step(2, 50), Offset::new(50)).unwrap();
        let tail = Offset::new(80);
        assert_eq!(l.end_of(&id(9), tail), Some(Offset::ZERO));
        assert_eq!(l.end_of(&id(1), tail), Some(Offset::new(50)));
        assert_eq!(l.end_of(&id(2), tail), Some(tail));
        assert_eq!(l.end_of(&id(3), tail), None);
        assert_eq!(l.last().replid, id(2));
    }

    #[test]
    fn one_replid_per_epoch_and_only_at_the_tail() {
        let mut l = Lineage::new(id(9));
        assert!(matches!(
            l.push(step(1, 3), Offset::ZERO),
            Err(LineageError::NotAtTail { .. })
        ));
        l.push(step(1, 0), Offset::ZERO).unwrap();
        let again = LineageStep {
            replid: id(7),
            ..step(1, 0)
        };
        assert_eq!(
            l.push(again, Offset::ZERO),
            Err(LineageError::EpochHasOne(Epoch::FIRST))
        );
        let known = LineageStep {
            replid: id(9),
            ..step(2, 0)
        };
        assert_eq!(l.push(known, Offset::ZERO), Err(LineageError::Known(id(9))));
        assert_eq!(l.len(), 2);
    }
}
