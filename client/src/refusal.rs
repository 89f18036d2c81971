//! What a refusal means for the question that was refused, and how the nodes' answers to one question add up.

use crate::error::{ClientError, WriterError};
use crate::nodes::{Fault, Nodes};
use crate::nouns::Position;
use crate::reason::Reason;
use redoubt_proto::v1;
use redoubt_types::limits::ROUND_PAUSE_MAX;
use std::time::Duration;

/// A refusal, off the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: Reason,
    pub(crate) message: String,
    pub(crate) leader: Option<String>,
    /// Absent also when it is malformed: a refusal is a refusal all the same.
    pub(crate) position: Option<Position>,
    pub(crate) retry_after: Option<Duration>,
}

impl Default for Refused {
    fn default() -> Self {
        Refused {
            reason: Reason::Unspecified,
            message: String::new(),
            leader: None,
            position: None,
            retry_after: None,
        }
    }
}

impl Refused {
    pub(crate) fn from_wire(r: &v1::Refusal) -> Self {
        Refused {
            reason: Reason::from_wire(r.reason),
            message: r.message.clone(),
            leader: r.leader.clone(),
            position: r.position.as_ref().and_then(|p| crate::convert::position(p).ok()),
            retry_after: r.retry_after_ms.map(Duration::from_millis),
        }
    }

    /// How long the refusal lasts.
    pub(crate) fn scope(&self) -> Scope {
        match self.reason {
            Reason::NotLeader | Reason::NotReady | Reason::NoRoom => Scope::Now,
            Reason::NotBootstrapped | Reason::Damaged | Reason::NoBase => Scope::ThisNodeNow,
            Reason::WrongCluster => Scope::ThisNode,
            _ => Scope::Everywhere,
        }
    }
}

/// How long a refusal lasts, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Ask again, here or elsewhere.
    Now,
    /// Ask elsewhere; this node may answer later.
    ThisNodeNow,
    /// This node will never answer otherwise, others may.
    ThisNode,
    /// No node will answer otherwise.
    Everywhere,
}

impl From<Refused> for ClientError {
    fn from(r: Refused) -> Self {
        ClientError::Refused {
            reason: r.reason,
            message: r.message,
        }
    }
}

impl From<Refused> for WriterError {
    fn from(r: Refused) -> Self {
        match r.reason {
            Reason::Fenced => WriterError::Fenced(r.message),
            Reason::LeaseHeld => WriterError::LeaseHeld {
                retry_after: r.retry_after.unwrap_or(ROUND_PAUSE_MAX),
                message: r.message,
            },
            Reason::LeaseRenewed => WriterError::LeaseRenewed,
            reason => WriterError::Refused {
                reason,
                message: r.message,
                position: r.position,
            },
        }
    }
}

/// What each node last said to one question.
#[derive(Clone, Debug)]
pub(crate) struct Verdicts {
    nodes: Vec<Verdict>,
}

#[derive(Clone, Debug)]
enum Verdict {
    NotAsked,
    Transient(String),
    Final(Refused),
}

impl Verdicts {
    pub(crate) fn new(nodes: usize) -> Self {
        Verdicts {
            nodes: vec![Verdict::NotAsked; nodes],
        }
    }

    /// The node gave no usable answer, and may later.
    pub(crate) fn transient(&mut self, node: usize, why: String) {
        self.nodes[node] = Verdict::Transient(why);
    }

    /// The node refused; `all` learns from it who leads and whom to leave alone.
    pub(crate) fn refused(&mut self, all: &Nodes, node: usize, refused: Refused) {
        let why = format!("{} ({})", refused.message, refused.reason);
        match refused.scope() {
            Scope::Now if refused.reason == Reason::NotLeader => {
                all.not_leader(node, refused.leader.as_deref())
            }
            Scope::Now => all.health().answered(node),
            Scope::ThisNodeNow | Scope::ThisNode => all.failed(node, &Fault(why.clone())),
            Scope::Everywhere => {
                // One node's word is enough, whatever the others said.
                self.nodes.fill(Verdict::Final(refused));
                return;
            }
        }
        self.nodes[node] = match refused.scope() {
            Scope::ThisNode => Verdict::Final(refused),
            _ => Verdict::Transient(why),
        };
    }

    /// The refusal, when none of the nodes will ever answer otherwise.
    pub(crate) fn final_for_all(&self) -> Option<Refused> {
        let mut last = None;
        for verdict in &self.nodes {
            match verdict {
                Verdict::Final(refused) => last = Some(refused.clone()),
                _ => return None,
            }
        }
        last
    }

    /// What each node said, for people.
    pub(crate) fn text(&self, all: &Nodes) -> String {
        let mut text = String::new();
        for (node, verdict) in self.nodes.iter().enumerate() {
            let why = match verdict {
                Verdict::NotAsked => "was not asked in time",
                Verdict::Transient(why) => why,
                Verdict::Final(refused) => &refused.message,
            };
            if !text.is_empty() {
                text.push_str("; ");
            }
            text.push_str(all.endpoint(node));
            text.push_str(": ");
            text.push_str(why);
        }
        text
    }
}
