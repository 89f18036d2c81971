//! What a tail may pass on.
//!
//! Promises: nothing is passed on whose checksum, offset or chain is wrong, and no byte behind a change of
//! lineage ahead of that change; each change is passed on once. The position outlives streams: a stream from
//! another node must continue exactly what was passed on, or it is a fork.
//!
//! Pure: knows no stream, clock or node.

use bytes::Bytes;
use redoubt_env::planted;
use redoubt_types::{Chain, Db, Epoch, Lineage, LineageStep, Offset, ReplId, Txid, WallTime, payload_crc};
use std::collections::VecDeque;

/// What a tail delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TailEvent {
    /// The next bytes of the stream.
    Entry(TailedEntry),
    /// The bytes from here on are written under another replid.
    Lineage(LineageStep),
    /// Nothing more for now: all up to `tail` was delivered.
    Mark {
        /// The journal's tail, as the node knows it.
        tail: Offset,
        /// Chain of the stream before it.
        chain: Chain,
    },
    /// All up to the confirmed tail was delivered, and no more was asked for. The last event.
    End,
}

/// Verified bytes of whole groups, or of a part of a large one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailedEntry {
    /// Offset of the first byte of `bytes`.
    pub start: Offset,
    /// The bytes, never empty.
    pub bytes: Bytes,
    /// Chain of the stream behind the last of `bytes`.
    pub chain_end: Chain,
    /// The epoch that wrote them.
    pub epoch: Epoch,
    /// The replid under which they were written.
    pub replid: ReplId,
    /// Txid of the first group that ends in the entry; for a fragment that ends none, of its group. Counts
    /// from the untrimmed entry's first byte.
    pub first_txid: Txid,
    /// Groups that end in the untrimmed entry.
    pub groups: u32,
    /// The database selected before the untrimmed entry's first byte.
    pub db: Db,
    /// Whether the untrimmed entry's first byte begins a group.
    pub at_group_start: bool,
    /// The entry began before the wanted offset, and its head was cut off.
    pub trimmed: bool,
    /// When the writer captured it.
    pub captured: WallTime,
}

/// An entry as a node sent it.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) start: Offset,
    pub(crate) chain: Chain,
    pub(crate) payload: Bytes,
    pub(crate) crc: u32,
    pub(crate) epoch: Epoch,
    pub(crate) replid: ReplId,
    pub(crate) first_txid: Txid,
    pub(crate) groups: u32,
    pub(crate) db: Db,
    pub(crate) at_group_start: bool,
    pub(crate) captured: WallTime,
}

/// Something to pass on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verified {
    /// The lineage at the wanted offset, once.
    Began(Lineage),
    /// An event.
    Event(TailEvent),
}

/// Why a stream can't be trusted any further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// The node's copy, or what came of it, is damaged at the position.
    Damaged(String),
    /// The node broke the protocol.
    Misbehaved(String),
    /// The node holds another history than what was passed on.
    Forked(String),
}

/// Whether a mark says that the node has what was passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marked {
    /// It has.
    Level,
    /// It is behind: it can't serve, for now.
    Behind,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Verifier {
    /// The next byte that is wanted.
    position: Offset,
    /// Chain of the stream before `position`, once it is known.
    chain: Option<Chain>,
    /// As passed on.
    lineage: Option<Lineage>,
    /// Known steps behind `position`.
    ahead: VecDeque<LineageStep>,
    out: VecDeque<Verified>,
    /// The present stream's start was seen; holds the tail that it named.
    started: Option<Offset>,
    /// Nothing on the present stream was compared with the chain yet.
    fresh: bool,
}

impl Verifier {
    pub(crate) fn new(from: Offset) -> Self {
        Verifier {
            position: from,
            chain: None,
            lineage: None,
            ahead: VecDeque::new(),
            out: VecDeque::new(),
            started: None,
            fresh: true,
        }
    }

    /// The next byte that is wanted.
    pub(crate) fn position(&self) -> Offset {
        self.position
    }

    /// Chain of the stream before the position, once it is known.
    pub(crate) fn chain(&self) -> Option<Chain> {
        self.chain
    }

    /// What is to be passed on next.
    pub(crate) fn pop(&mut self) -> Option<Verified> {
        self.out.pop_front()
    }

    /// A stream from the position on was opened, at whichever node.
    pub(crate) fn opened(&mut self) {
        self.started = None;
        self.fresh = true;
    }

    /// Whether everything up to the tail that the present stream began with was passed on.
    pub(crate) fn reached_tail(&self) -> bool {
        self.started.is_some_and(|tail| self.position >= tail)
    }

    /// The first message of a stream.
    pub(crate) fn start(&mut self, seen: &Lineage, tail: Offset) -> Result<(), Rejected> {
        if self.started.replace(tail).is_some() {
            return Err(Rejected::Misbehaved("a second start on one stream".to_owned()));
        }
        match &self.lineage {
            None => {
                let (past, ahead): (Vec<_>, Vec<_>) =
                    seen.steps().copied().partition(|s| s.from <= self.position);
                let lineage = Lineage::from_steps(&past)
                    .ok_or_else(|| Rejected::Misbehaved(format!("no replid at {}", self.position)))?;
                self.ahead = ahead.into();
                self.out.push_back(Verified::Began(lineage.clone()));
                self.lineage = Some(lineage);
            }
            Some(lineage) => {
                // One is a prefix of the other: the node may know of later steps, or be behind.
                let known: Vec<_> = lineage.steps().chain(&self.ahead).copied().collect();
                if let Some((a, b)) = known.iter().zip(seen.steps()).find(|(a, b)| a != b) {
                    return Err(Rejected::Forked(format!("its lineage has {b:?}, not {a:?}")));
                }
                for step in seen.steps().skip(known.len()) {
                    if step.from < self.position {
                        return Err(Rejected::Forked(format!("{step:?} was not there before")));
                    }
                    self.ahead.push_back(*step);
                }
            }
        }
        self.pass_due_steps()
    }

    /// A change of lineage, in its place in the stream.
    pub(crate) fn step(&mut self, step: LineageStep) -> Result<(), Rejected> {
        let lineage = self.begun()?;
        // Already passed on, or to be passed on from what another stream's start told.
        if lineage.steps().chain(&self.ahead).any(|known| *known == step) {
            return Ok(());
        }
        if step.from < self.position || !self.ahead.is_empty() {
            return Err(Rejected::Forked(format!("{step:?} was not there before")));
        }
        if step.from > self.position {
            return Err(Rejected::Misbehaved(format!(
                "{step:?} is sent ahead of its place, at {}",
                self.position
            )));
        }
        self.ahead.push_back(step);
        self.pass_due_steps()
    }

    /// An entry.
    pub(crate) fn entry(&mut self, e: Received) -> Result<(), Rejected> {
        let lineage = self.begun()?;
        let checked = !planted::on("h07_bad_record_passed_on") && !planted::on("h07_unverified_reads");
        if checked && payload_crc(&e.payload) != e.crc {
            return Err(Rejected::Damaged(format!(
                "the entry at {} has a wrong checksum",
                e.start
            )));
        }
        let end = e.start.get().checked_add(e.payload.len() as u64).map(Offset::new);
        // Only a stream's first entry may begin before the position.
        let ahead_of_position = if self.fresh {
            self.position.since(e.start)
        } else {
            Some(0)
        };
        let (end, trim) = match (end, ahead_of_position) {
            (Some(end), Some(trim)) if end > self.position && (self.fresh || e.start == self.position) => {
                (end, trim as usize)
            }
            _ => {
                let (start, len) = (e.start, e.payload.len());
                let why = format!("{len} bytes at {start} do not continue {}", self.position);
                return Err(Rejected::Misbehaved(why));
            }
        };
        let chain = e.chain.extend(&e.payload[..trim]);
        if checked {
            self.compare(chain)?;
        }
        if lineage.last().replid != e.replid {
            let last = lineage.last().replid;
            return Err(Rejected::Damaged(format!(
                "the entry at {} is of {}, not of {last}",
                e.start, e.replid
            )));
        }
        if let Some(step) = self.ahead.front().filter(|step| step.from < end) {
            return Err(Rejected::Damaged(format!(
                "the entry at {} runs across {step:?}",
                e.start
            )));
        }
        let bytes = e.payload.slice(trim..);
        let chain_end = chain.extend(&bytes);
        self.out.push_back(Verified::Event(TailEvent::Entry(TailedEntry {
            start: self.position,
            bytes,
            chain_end,
            epoch: e.epoch,
            replid: e.replid,
            first_txid: e.first_txid,
            groups: e.groups,
            db: e.db,
            at_group_start: e.at_group_start,
            trimmed: trim > 0,
            captured: e.captured,
        })));
        self.position = end;
        self.chain = Some(chain_end);
        self.fresh = false;
        self.pass_due_steps()
    }

    /// A mark.
    pub(crate) fn mark(&mut self, tail: Offset, chain: Chain) -> Result<Marked, Rejected> {
        self.begun()?;
        if tail < self.position {
            return Ok(Marked::Behind);
        }
        if tail > self.position {
            let why = format!("a mark at {tail}, though the stream stands at {}", self.position);
            return Err(Rejected::Misbehaved(why));
        }
        self.compare(chain)?;
        self.chain = Some(chain);
        self.fresh = false;
        self.out
            .push_back(Verified::Event(TailEvent::Mark { tail, chain }));
        Ok(Marked::Level)
    }

    fn begun(&self) -> Result<&Lineage, Rejected> {
        match (&self.lineage, self.started) {
            (Some(lineage), Some(_)) => Ok(lineage),
            _ => Err(Rejected::Misbehaved(
                "the stream does not begin with its start".to_owned(),
            )),
        }
    }

    /// Compares the chain that the node has before the position with that of what was passed on.
    fn compare(&self, chain: Chain) -> Result<(), Rejected> {
        match self.chain {
            Some(known) if known != chain => {
                let what = format!("its chain before {} is {chain}, not {known}", self.position);
                // Within a stream it is the node's own earlier bytes that its chain contradicts.
                Err(if self.fresh {
                    Rejected::Forked(what)
                } else {
                    Rejected::Damaged(what)
                })
            }
            _ => Ok(()),
        }
    }

    fn pass_due_steps(&mut self) -> Result<(), Rejected> {
        let Some(lineage) = &mut self.lineage else {
            return Ok(());
        };
        while let Some(step) = self
            .ahead
            .front()
            .copied()
            .filter(|step| step.from <= self.position)
        {
            self.ahead.pop_front();
            lineage
                .push(step, step.from)
                .map_err(|e| Rejected::Misbehaved(e.to_string()))?;
            self.out.push_back(Verified::Event(TailEvent::Lineage(step)));
        }
        Ok(())
    }
}
