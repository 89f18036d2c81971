//! What a link may be sent: the pure core behind H15.
//!
//! Decides, event by event, which bytes of the journal go to a replica and when its link must be closed. A
//! link is bound to the replid that its PSYNC was answered with. Promises: bytes go out in order, without a
//! gap, from the offset answered on; none at or past the end of that replid goes out; the link is to be closed
//! as soon as that end is known and reached, also when the successor never wrote a byte. Knows no socket, task
//! or clock, and not where the events come from.
//!
//! Why closing matters: a replica fed under X across N, where Y began, and then promoted keeps X as its second
//! id up to its own end. It would claim that X went on past N, and answer `PSYNC Y` with a full resync. A
//! closed replica asks `PSYNC X N+1`, takes `+CONTINUE Y`, and both of its ids end where they should.

use bytes::Bytes;
use redoubt_env::planted;
use redoubt_types::{Lineage, LineageStep, Offset, ReplId};

/// What to do with a link after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Go on with the next event.
    GoOn,
    /// All bytes of the link's replid were passed on and it has a successor: close.
    Ended(LineageStep),
    /// The link's limit is reached: keep it open and send nothing more.
    Rest,
}

/// The journal and the link disagree: the link must be closed, and nothing more may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlanError {
    /// An entry does not begin where the last one ended.
    #[error("an entry begins at {start}, but the link stands at {position}")]
    Gap {
        /// Where the entry begins.
        start: Offset,
        /// Where the link stands.
        position: Offset,
    },
    /// An entry was written under a replid that did not exist when the link was answered, and no change of
    /// lineage was told ahead of it.
    #[error("an entry at {start} was written under {replid}, which the link does not know")]
    UnknownReplid {
        /// Where the entry begins.
        start: Offset,
        /// The replid that it names.
        replid: ReplId,
    },
    /// A change of lineage was told behind bytes that it should have preceded.
    #[error("replid {replid} begins at {from}, but the link was fed up to {position} already")]
    LateStep {
        /// The new replid.
        replid: ReplId,
        /// Where it begins.
        from: Offset,
        /// Where the link stands.
        position: Offset,
    },
}

/// The state of one link's feeding.
#[derive(Clone, Debug)]
pub(crate) struct LinkPlan {
    /// The lineage that the PSYNC was answered from; its last replid is the link's.
    answered: Lineage,
    /// The replid's successor, once one is known: no byte from its `from` on may be sent.
    successor: Option<LineageStep>,
    /// No byte from here on is to be sent, whatever the journal holds.
    limit: Option<Offset>,
    /// End of what was passed on.
    position: Offset,
}

impl LinkPlan {
    /// A link that was answered with `answered`'s newest replid and holds everything before `from`. With a
    /// `limit` it is fed up to there and then rests.
    pub(crate) fn new(answered: Lineage, from: Offset, limit: Option<Offset>) -> Self {
        LinkPlan {
            answered,
            successor: None,
            limit,
            position: from,
        }
    }

    /// The replid that the link was answered with.
    pub(crate) fn replid(&self) -> ReplId {
        self.answered.last().replid
    }

    /// End of what was passed on, the link's `from` at first.
    pub(crate) fn position(&self) -> Offset {
        self.position
    }

    /// Learns a whole lineage, as a tail's start names it. It may be newer than what the PSYNC was answered
    /// from: a promotion can fall between the two. It may be older, too, on a node that lags; then it says
    /// nothing.
    ///
    /// # Errors
    /// [`PlanError::LateStep`].
    pub(crate) fn learn(&mut self, lineage: &Lineage) -> Result<Verdict, PlanError> {
        let mine = self.replid();
        let successor = lineage.steps().skip_while(|s| s.replid != mine).nth(1).copied();
        match successor {
            Some(step) => self.step(&step),
            None => self.verdict(),
        }
    }

    /// Learns one change of lineage. Steps that the answer already knew say nothing.
    ///
    /// # Errors
    /// [`PlanError::LateStep`].
    pub(crate) fn step(&mut self, step: &LineageStep) -> Result<Verdict, PlanError> {
        if !planted::on("h15_link_outlives_replid") && !self.knows(&step.replid) {
            // The nearest successor ends the replid; `from`s never go down, so a later one changes nothing.
            let nearer = self.successor.is_none_or(|s| step.from < s.from);
            if nearer {
                self.successor = Some(*step);
            }
        }
        self.verdict()
    }

    /// Takes an entry and returns what of it is to be sent, possibly nothing.
    ///
    /// # Errors
    /// [`PlanError`]; nothing of the entry may be sent then.
    pub(crate) fn entry(
        &mut self,
        start: Offset,
        mut bytes: Bytes,
        replid: ReplId,
    ) -> Result<Bytes, PlanError> {
        if start != self.position {
            return Err(PlanError::Gap {
                start,
                position: self.position,
            });
        }
        let room = self.end().map(|end| end.since(start).unwrap_or(0));
        if let Some(room) = room
            && room < bytes.len() as u64
        {
            bytes.truncate(room as usize);
        }
        // Checked behind the cut: what lies past the end is not for this link, so its replid may be unknown.
        if !bytes.is_empty() && !self.knows(&replid) && !planted::on("h15_link_outlives_replid") {
            return Err(PlanError::UnknownReplid { start, replid });
        }
        self.position = self.position.advance(bytes.len() as u64);
        Ok(bytes)
    }

    /// What to do with the link as it stands.
    ///
    /// # Errors
    /// [`PlanError::LateStep`] when more was sent than should have been.
    pub(crate) fn verdict(&self) -> Result<Verdict, PlanError> {
        if let Some(step) = self.successor {
            if self.position > step.from {
                let LineageStep { replid, from, .. } = step;
                return Err(PlanError::LateStep {
                    replid,
                    from,
                    position: self.position,
                });
            }
            if self.position == step.from {
                return Ok(Verdict::Ended(step));
            }
        }
        match self.limit {
            Some(limit) if self.position >= limit => Ok(Verdict::Rest),
            _ => Ok(Verdict::GoOn),
        }
    }

    /// The nearest offset at which the link stops, if one is known.
    fn end(&self) -> Option<Offset> {
        let successor = self.successor.map(|s| s.from);
        match (successor, self.limit) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    fn knows(&self, replid: &ReplId) -> bool {
        self.answered.steps().any(|s| s.replid == *replid)
    }
}
