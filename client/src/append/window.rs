//! The window of an append stream: which entries are unanswered, what to send next, what an answer means.
//!
//! Promises: every pushed byte is admitted exactly once and in order, however often streams break, because an
//! entry that is sent again is the *same* entry: epoch, offset, chain and cut. `committed` moves by `Admitted`
//! answers alone: a refusal names a tail, but that tail may have been written by somebody else (H2).
//!
//! Pure: knows no stream, clock or node.

use crate::error::AppendError;
use crate::nouns::Position;
use crate::reason::Reason;
use crate::refusal::Refused;
use bytes::Bytes;
use redoubt_env::planted;
use redoubt_types::{BootTime, Chain, Epoch, Offset, ReplId, WallTime, payload_crc};
use std::collections::VecDeque;

/// Where an append stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendStart {
    /// The writer's epoch.
    pub epoch: Epoch,
    /// The lineage's last replid.
    pub replid: ReplId,
    /// The journal's pending end.
    pub start: Offset,
    /// Chain of the stream before `start`.
    pub chain: Chain,
}

/// An answered entry: all bytes before `end` are committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// End of the entry.
    pub end: Offset,
    /// The journal's tail after it.
    pub tail: Offset,
    /// It had been admitted before: its bytes are committed, but this answer renews no lease.
    pub duplicate: bool,
    /// When the attempt that was answered was handed to the network, or earlier.
    pub sent_at: BootTime,
}

/// An entry as it goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) id: u64,
    pub(crate) start: Offset,
    pub(crate) chain: Chain,
    pub(crate) payload: Bytes,
    pub(crate) crc: u32,
    pub(crate) captured: WallTime,
}

struct Unanswered {
    entry: Outgoing,
    end: Offset,
    chain_end: Chain,
    /// When it was handed to the present stream.
    sent_at: BootTime,
}

/// An answer, off the wire.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Admitted {
        id: u64,
        end: Offset,
        tail: Offset,
        duplicate: bool,
    },
    Refused {
        id: u64,
        refused: Refused,
    },
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Taken {
    /// The first unanswered entry is committed.
    Appended(Appended),
    /// Nothing was lost: everything unanswered must be sent again on a fresh stream.
    Again(Refused),
    /// The same, but sending again is hopeless if a quorum's position says so: see [`Window::is_hopeless`].
    Doubtful(Refused),
    /// The stream is over for good.
    Final(AppendError),
    /// The node broke the protocol: its stream can't be trusted any more.
    Broken(String),
}

/// See the module's head.
pub(crate) struct Window {
    end: Offset,
    end_chain: Chain,
    committed: Offset,
    unanswered: VecDeque<Unanswered>,
    /// How many of `unanswered` were handed to the present stream.
    sent: usize,
    next_id: u64,
    /// The first unanswered entry was refused in a way that need not heal: it is sent alone until it is
    /// admitted, so that its next answer is about nothing else.
    probing: bool,
    /// Such refusals in a row, while it was sent alone.
    strikes: u32,
}

/// Refusals in a row of an entry sent alone that end the stream.
const STRIKES_MAX: u32 = 2;

impl Window {
    pub(crate) fn new(start: Offset, chain: Chain) -> Self {
        Window {
            end: start,
            end_chain: chain,
            committed: start,
            unanswered: VecDeque::new(),
            sent: 0,
            next_id: 1,
            probing: false,
            strikes: 0,
        }
    }

    /// Takes the next bytes of the stream, as one entry for ever.
    pub(crate) fn push(&mut self, payload: Bytes, captured: WallTime) {
        let (start, chain) = (self.end, self.end_chain);
        self.end = start.advance(payload.len() as u64);
        self.end_chain = chain.extend(&payload);
        let crc = payload_crc(&payload);
        let entry = Outgoing {
            id: self.next_id,
            start,
            chain,
            payload,
            crc,
            captured,
        };
        self.next_id += 1;
        self.unanswered.push_back(Unanswered {
            entry,
            end: self.end,
            chain_end: self.end_chain,
            sent_at: BootTime::default(),
        });
    }

    /// A fresh stream: nothing was sent on it yet.
    pub(crate) fn opened(&mut self) {
        self.sent = 0;
    }

    /// The next entry to hand to the stream, if any. `now` MUST be read before the entry is handed over:
    /// replies are released by it (H14), and too early is safe where too late is not.
    pub(crate) fn next_to_send(&mut self, now: BootTime) -> Option<Outgoing> {
        if self.probing && self.sent > 0 {
            return None;
        }
        let next = self.unanswered.get_mut(self.sent)?;
        next.sent_at = now;
        self.sent += 1;
        Some(next.entry.clone())
    }

    /// When the entry that is waited for was sent.
    pub(crate) fn waiting_since(&self) -> Option<BootTime> {
        let first = self.unanswered.front()?;
        (self.sent > 0).then_some(first.sent_at)
    }

    /// Whether everything was answered.
    pub(crate) fn is_empty(&self) -> bool {
        self.unanswered.is_empty()
    }

    /// End of what is known to be committed.
    pub(crate) fn committed(&self) -> Offset {
        self.committed
    }

    /// Takes the present stream's next answer.
    pub(crate) fn answered(&mut self, answer: Answer) -> Taken {
        let id = match &answer {
            Answer::Admitted { id, .. } | Answer::Refused { id, .. } => *id,
        };
        let first = match self.unanswered.front() {
            Some(first) if self.sent > 0 && first.entry.id == id => first,
            Some(first) => {
                let (want, sent) = (first.entry.id, self.sent);
                return Taken::Broken(format!("answered request {id}, not {want} ({sent} were sent)"));
            }
            None => return Taken::Broken(format!("answered request {id}, though nothing was asked")),
        };
        match answer {
            Answer::Admitted { end, .. } if end != first.end => {
                Taken::Broken(format!("admitted request {id} up to {end}, not to {}", first.end))
            }
            Answer::Admitted { tail, duplicate, .. } => self.admitted(tail, duplicate),
            Answer::Refused { refused, .. } => self.refused(refused),
        }
    }

    fn admitted(&mut self, tail: Offset, duplicate: bool) -> Taken {
        let Some(first) = self.unanswered.pop_front() else {
            return Taken::Broken("admitted an entry that was never sent".to_owned());
        };
        self.sent -= 1;
        self.committed = first.end;
        self.probing = false;
        self.strikes = 0;
        Taken::Appended(Appended {
            end: first.end,
            tail,
            duplicate,
            sent_at: first.sent_at,
        })
    }

    fn refused(&mut self, refused: Refused) -> Taken {
        match refused.reason {
            Reason::Fenced => return Taken::Final(AppendError::Fenced(refused.message)),
            // The state behind these changes by itself.
            Reason::NotReady | Reason::NoRoom => {
                self.strikes = 0;
                return Taken::Again(refused);
            }
            // These are about the node, not about the entry.
            Reason::NotLeader | Reason::NotBootstrapped | Reason::WrongCluster => {
                return Taken::Again(refused);
            }
            _ => {}
        }
        if planted::on("h02_refusal_releases")
            && let (Some(first), Some(position)) = (self.unanswered.front(), refused.position)
            && position.tail >= first.end
        {
            return self.admitted(position.tail, true);
        }
        // What was sent along may be to blame (an entry ahead of it got lost with the old stream, say): only
        // when the entry travels alone is the refusal about it.
        if !self.probing {
            self.probing = true;
            self.strikes = 0;
            return Taken::Again(refused);
        }
        self.strikes += 1;
        if self.strikes < STRIKES_MAX {
            return Taken::Again(refused);
        }
        if refused.reason == Reason::Mismatch {
            // A deposed leader that has not noticed yet refuses what the quorum knows well: ask the quorum.
            self.strikes = 0;
            return Taken::Doubtful(refused);
        }
        Taken::Final(AppendError::Refused {
            reason: refused.reason,
            message: refused.message,
        })
    }

    /// Whether no answer but a refusal can follow, when a quorum stands at `position`: neither the first
    /// unanswered entry can be admitted there, nor can the position be what some of the unanswered ones made.
    pub(crate) fn is_hopeless(&self, position: &Position) -> bool {
        let at = (position.pending_end, position.pending_chain);
        match self.unanswered.front() {
            None => false,
            Some(first) => {
                at != (first.entry.start, first.entry.chain)
                    && !self.unanswered.iter().any(|e| at == (e.end, e.chain_end))
            }
        }
    }
}
