//! The state machine of the journal: a pure function of the log.
//!
//! A leader may check an append when it proposes it, but that is a courtesy: between proposal and application
//! Raft may drop an earlier proposal, or a claim proposed before it may raise the epoch (H1). What counts is
//! decided here, in log order, and an entry that is refused here stays in the log as nothing.

use super::verdict::{Frame, Granted, Position, Refused, Session, Standing, Verdict, WriterState};
use super::{Acquire, AppendEntry, Command, Genesis, NewBase};
use redoubt_env::planted;
use redoubt_resp::stream::StreamScanner;
use redoubt_types::limits::RETRY_BOUNDARIES;
use redoubt_types::{
    Base, BaseName, Chain, ClusterId, Epoch, HolderId, Lineage, LineageStep, Offset, ReplId, Txid, WallTime,
    payload_crc,
};
use std::collections::VecDeque;

impl From<Standing> for Admission {
    fn from(s: Standing) -> Self {
        Admission {
            cluster: Some(s.cluster),
            lineage: Some(s.lineage),
            position: Position {
                tail: s.tail,
                tail_chain: s.tail_chain,
                pending_end: s.tail,
                pending_chain: s.tail_chain,
                groups: s.groups,
                db: s.db,
            },
            scanner: StreamScanner::with_db(s.db),
            writer: s.writer,
            session: s.session,
            renewals: s.renewals,
            boundaries: s.boundaries.into(),
            base: s.base,
        }
    }
}

/// The state machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    cluster: Option<ClusterId>,
    lineage: Option<Lineage>,
    position: Position,
    scanner: StreamScanner,
    writer: Option<WriterState>,
    session: Option<Session>,
    renewals: u64,
    /// Ends of the current epoch's entries, oldest first, its beginning included. What a retry is known by.
    boundaries: VecDeque<(Offset, Chain)>,
    base: Option<Base>,
}

impl Admission {
    /// A journal before its first entry.
    pub fn new() -> Self {
        Admission::default()
    }

    /// Everything that is known between two groups: `None` inside one, and before the journal has begun.
    pub fn standing(&self) -> Option<Standing> {
        let between = self.scanner.at_boundary() && self.position.pending_end == self.position.tail
            || planted::on("h03_checkpoint_inside_a_group");
        Some(Standing {
            cluster: self.cluster.filter(|_| between)?,
            lineage: self.lineage.clone()?,
            tail: self.position.tail,
            tail_chain: self.position.tail_chain,
            groups: self.position.groups,
            db: self.position.db,
            writer: self.writer.clone(),
            session: self.session.clone(),
            renewals: self.renewals,
            boundaries: self.boundaries.iter().copied().collect(),
            base: self.base.clone(),
        })
    }

    /// Applies the next command of the log.
    pub fn apply(&mut self, command: &Command) -> Verdict {
        let result = match command {
            Command::Genesis(g) => self.genesis(g),
            _ if self.lineage.is_none() => Err(Refused::NotBootstrapped),
            Command::Append(a) => self.append(a),
            Command::Acquire(a) => self.acquire(a),
            Command::Renew { epoch, holder, sent } => self.renew(*epoch, *holder, *sent),
            Command::Release { epoch, holder } => self.release(*epoch, *holder),
            Command::Session(s) => self.record_session(s),
            Command::Lineage(l) => self.record_lineage(l),
            Command::Base(b) => self.new_base(b),
        };
        result.unwrap_or_else(Verdict::Refused)
    }

    /// The cluster, once the journal has begun.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// Where the journal stands.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The lineage, once the journal has begun.
    pub fn lineage(&self) -> Option<&Lineage> {
        self.lineage.as_ref()
    }

    /// The newest writer.
    pub fn writer(&self) -> Option<&WriterState> {
        self.writer.as_ref()
    }

    /// The newest session record.
    pub fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// The journal's base; `None` before the first.
    pub fn base(&self) -> Option<&Base> {
        self.base.as_ref()
    }

    /// Renewals applied so far: grants, renewals, and appends that were not retries.
    pub fn renewals(&self) -> u64 {
        self.renewals
    }

    fn genesis(&mut self, g: &Genesis) -> Result<Verdict, Refused> {
        // Two leaders in a row may both propose it before either's is applied: the first one counts.
        match self.cluster {
            Some(c) if c != g.cluster => Err(Refused::OtherCluster(c)),
            Some(_) => Ok(Verdict::Done),
            None => {
                self.cluster = Some(g.cluster);
                self.lineage = Some(Lineage::new(g.replid));
                Ok(Verdict::Done)
            }
        }
    }

    /// Only the current epoch may do anything, and only until it is given back.
    fn current(&self, asked: Epoch) -> Result<&WriterState, Refused> {
        let writer = self.writer.as_ref().ok_or(Refused::NeverGranted(asked))?;
        if asked > writer.epoch {
            return Err(Refused::NeverGranted(asked));
        }
        if asked < writer.epoch || writer.released {
            return Err(Refused::Fenced {
                asked,
                current: writer.epoch,
                released: writer.released,
            });
        }
        Ok(writer)
    }

    fn acquire(&mut self, a: &Acquire) -> Result<Verdict, Refused> {
        // The leader decided from the renewals that it had applied. An append of the old holder, or another
        // claim, may stand in the log between its decision and this entry, and gave somebody a lease that
        // is valid now (H1; model: `acquire_no_renewal_check`, `grant_not_renewal`).
        if a.seen_renewals != self.renewals && !planted::on("h01_acquire_ignores_renewals") {
            return Err(Refused::LeaseRenewed);
        }
        let Some(lineage) = self.lineage.clone() else {
            return Err(Refused::NotBootstrapped);
        };
        let epoch = self.writer.as_ref().map_or(Epoch::FIRST, |w| w.epoch.next());
        let previous = self.writer.replace(WriterState {
            epoch,
            holder: a.holder,
            name: a.name.clone(),
            lease: a.lease,
            released: false,
            // It never goes back: an epoch that came to nothing must not hide the clock of one that served (H10).
            renewed_wall: self
                .writer
                .as_ref()
                .map_or(a.sent, |w| w.renewed_wall.max(a.sent)),
        });
        self.renewals += 1;
        // A dead writer's unfinished group can never be finished: the new one begins at the tail (H3).
        self.position.pending_end = self.position.tail;
        self.position.pending_chain = self.position.tail_chain;
        self.scanner = StreamScanner::with_db(self.position.db);
        self.boundaries = VecDeque::from([(self.position.tail, self.position.tail_chain)]);
        Ok(Verdict::Granted(Box::new(Granted {
            epoch,
            position: self.position,
            lineage,
            session: self.session.clone(),
            previous,
        })))
    }

    fn renew(&mut self, epoch: Epoch, holder: HolderId, sent: WallTime) -> Result<Verdict, Refused> {
        let writer = self.current(epoch)?;
        if writer.holder != holder {
            return Err(Refused::Fenced {
                asked: epoch,
                current: epoch,
                released: false,
            });
        }
        self.renewed(sent);
        Ok(Verdict::Done)
    }

    fn renewed(&mut self, sent: WallTime) {
        self.renewals += 1;
        if let Some(writer) = &mut self.writer {
            writer.renewed_wall = writer.renewed_wall.max(sent);
        }
    }

    fn release(&mut self, epoch: Epoch, holder: HolderId) -> Result<Verdict, Refused> {
        let writer = self.current(epoch)?;
        if writer.holder != holder {
            return Err(Refused::Fenced {
                asked: epoch,
                current: epoch,
                released: false,
            });
        }
        if let Some(writer) = &mut self.writer {
            writer.released = true;
        }
        Ok(Verdict::Done)
    }

    fn record_session(&mut self, s: &Session) -> Result<Verdict, Refused> {
        self.current(s.epoch)?;
        if s.at != self.position.tail {
            return Err(Refused::SessionNotAtTail {
                at: s.at,
                tail: self.position.tail,
            });
        }
        self.session = Some(s.clone());
        Ok(Verdict::Done)
    }

    fn record_lineage(&mut self, step: &LineageStep) -> Result<Verdict, Refused> {
        let epoch = step
            .epoch
            .ok_or_else(|| Refused::Lineage("a lineage record names no epoch".into()))?;
        self.current(epoch)?;
        let tail = self.position.tail;
        let Some(lineage) = &mut self.lineage else {
            return Err(Refused::NotBootstrapped);
        };
        if lineage.last() == step {
            return Ok(Verdict::Done);
        }
        lineage
            .push(*step, tail)
            .map_err(|e| Refused::Lineage(e.to_string()))?;
        Ok(Verdict::Done)
    }

    /// What a base says of itself that the log can check: that it was made from the base that is in its place, that it is newer, and
    /// that its offset is one of this history (H19). Whether its chain is right, each node asks its own log before it trims anything.
    fn new_base(&mut self, new: &NewBase) -> Result<Verdict, Refused> {
        let NewBase { base, previous } = new;
        let current = self.base.as_ref().map(|b| b.name);
        if current == Some(base.name) {
            return Ok(Verdict::Done);
        }
        let refused = |why: String| Err(Refused::Base(format!("{}: {why}", base.name)));
        let named = |name: Option<BaseName>| name.map_or("none".to_owned(), |name| name.to_string());
        if current != *previous && !planted::on("h19_any_base") {
            return refused(format!(
                "it was made from {}, but the journal's base is {}",
                named(*previous),
                named(current)
            ));
        }
        if current.is_some_and(|current| base.at() <= current.at) || base.at() == Offset::ZERO {
            return refused(format!("it is not newer than {}", named(current)));
        }
        let tail = self.position.tail;
        let end = self.lineage.as_ref().and_then(|l| l.end_of(&base.replid, tail));
        match end {
            _ if planted::on("h19_any_base") => {}
            None => return refused(format!("its replid {} is not of this history", base.replid)),
            Some(end) if base.at() > end => {
                return refused(format!(
                    "its replid {} ends at {end}, and the tail is {tail}",
                    base.replid
                ));
            }
            Some(_) => {}
        }
        self.base = Some(base.clone());
        Ok(Verdict::Done)
    }

    fn append(&mut self, a: &AppendEntry) -> Result<Verdict, Refused> {
        if planted::on("h02_retry_by_offset") && a.end() <= self.position.pending_end {
            return Ok(Verdict::Duplicate {
                end: a.end(),
                tail: self.position.tail,
            });
        }
        // The epoch comes before anything else: bytes of a dead writer may stand where others do now (H2).
        self.current(a.epoch)?;
        let found = payload_crc(&a.payload);
        if found != a.payload_crc && !planted::on("admit_any_checksum") {
            return Err(Refused::Checksum {
                expected: a.payload_crc,
                found,
            });
        }
        self.check_replid(&a.replid)?;
        let chain_end = a.chain.extend(&a.payload);
        let here = a.start == self.position.pending_end && a.chain == self.position.pending_chain;
        if !here && !planted::on("h01_admit_at_proposal") {
            return self.retried(a, chain_end);
        }
        let (scanner, frame) = self.frame(&a.payload)?;
        self.scanner = scanner;
        self.position.pending_end = self.position.pending_end.advance(a.payload.len() as u64);
        self.position.pending_chain = chain_end;
        if frame.whole || planted::on("h03_serve_fragments") {
            self.position.tail = self.position.pending_end;
            self.position.tail_chain = chain_end;
            self.position.db = self.scanner.db();
        }
        self.position.groups += u64::from(frame.groups);
        self.boundaries.push_back((self.position.pending_end, chain_end));
        if self.boundaries.len() > RETRY_BOUNDARIES {
            self.boundaries.pop_front();
        }
        self.renewed(a.captured);
        Ok(Verdict::Admitted {
            end: self.position.pending_end,
            tail: self.position.tail,
            frame,
        })
    }

    fn check_replid(&self, replid: &ReplId) -> Result<(), Refused> {
        match &self.lineage {
            Some(lineage) if lineage.last().replid == *replid => Ok(()),
            Some(lineage) => Err(Refused::Lineage(format!(
                "bytes under replid {replid} were appended where the lineage's last is {}",
                lineage.last().replid
            ))),
            None => Err(Refused::NotBootstrapped),
        }
    }

    /// A retry is the current epoch with both its ends, offset and chain, on boundaries of its admitted
    /// entries. That proves that its bytes are those of the journal, whatever the cuts in between.
    fn retried(&self, a: &AppendEntry, chain_end: Chain) -> Result<Verdict, Refused> {
        let known = |end: (Offset, Chain)| self.boundaries.iter().any(|b| *b == end);
        if !a.payload.is_empty() && known((a.start, a.chain)) && known((a.end(), chain_end)) {
            return Ok(Verdict::Duplicate {
                end: a.end(),
                tail: self.position.tail,
            });
        }
        Err(Refused::Mismatch {
            start: a.start,
            chain: a.chain,
            at: Box::new(self.position),
        })
    }

    /// An entry is whole groups, or a fragment of exactly one: then the tail is always the end of an entry.
    fn frame(&self, payload: &[u8]) -> Result<(StreamScanner, Frame), Refused> {
        if payload.is_empty() {
            return Err(Refused::Framing("it is empty".into()));
        }
        let mut scanner = self.scanner.clone();
        let at_group_start = scanner.at_boundary();
        let (mut groups, mut last_end) = (0u32, 0);
        let scanned = scanner.scan(payload, |group| {
            groups += 1;
            last_end = group.end;
        });
        scanned.map_err(|e| Refused::Framing(e.to_string()))?;
        let whole = scanner.at_boundary();
        let fits = if at_group_start {
            whole || groups == 0
        } else {
            (whole && groups == 1) || (!whole && groups == 0)
        };
        if !fits || (whole && last_end != payload.len()) {
            return Err(Refused::Framing(format!(
                "{groups} groups end in its {} bytes, the last at {last_end}, and it begins {}",
                payload.len(),
                if at_group_start { "a group" } else { "inside one" }
            )));
        }
        let first_txid = Txid::FIRST.advance(self.position.groups);
        Ok((
            scanner,
            Frame {
                groups,
                first_txid,
                db: self.position.db,
                at_group_start,
                whole,
            },
        ))
    }
}
