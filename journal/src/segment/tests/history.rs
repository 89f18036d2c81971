//! What is done to a storage, and what follows from that.

use super::*;
use redoubt_env::sim_files::Fault;

#[derive(Clone, Debug)]
pub(super) enum Act {
    Append {
        sizes: Vec<usize>,
        new_term: bool,
    },
    /// Keeps this many parts of 16 of what is not committed.
    Truncate {
        keep: u64,
    },
    Vote,
    /// Gives the node to another cluster, as no bootstrap would a second time: the storage knows no better.
    Identity,
    /// Commits this many parts of 16 of what is answered.
    Commit {
        upto: u64,
    },
    Turn,
    Idle,
    Read,
    /// A killed process: what was written is still in the page cache.
    Kill,
    PowerCut {
        seed: u64,
    },
    /// Somewhere in what follows, opening included.
    /// And then only the process dies, if `kill`: what it wrote and did not sync is still readable.
    PowerOffAfter {
        calls: u64,
        kill: bool,
    },
    /// The `nth` call from here on fails, and with it the process, or the power too unless `kill`.
    Fail {
        nth: u64,
        fault: Fault,
        kill: bool,
    },
    /// The disk has so many free bytes from here on, until a start fails for it.
    Full {
        free: u64,
    },
    Close,
    /// A bit of any record but the last rots while the node is down; its peers have what is lost.
    Rot {
        record: usize,
        byte: u64,
    },
    Merge,
    /// Has the log begin behind so many parts of 16 of what is committed, at the place where a file begins, if `at_a_file`.
    Trim {
        upto: u64,
        at_a_file: bool,
    },
    /// The files of what was trimmed go.
    RemoveTrimmed,
    /// One step towards the next spare.
    Provide,
}

/// One change of the log.
#[derive(Clone)]
pub(super) enum Step {
    Push(LogRecord),
    Truncate(u64),
}

impl Step {
    pub(super) fn apply(&self, log: &mut Vec<LogRecord>) {
        match self {
            Step::Push(r) => log.push(r.clone()),
            Step::Truncate(first_removed) => log.retain(|r| r.id.index < *first_removed),
        }
    }
}

/// A value of which the last is kept: all that were submitted since the last start, and how many of them were answered.
pub(super) struct Kept<T> {
    pub(super) values: Vec<T>,
    pub(super) acked: usize,
}

impl<T: PartialEq> Kept<T> {
    pub(super) fn new(value: T) -> Self {
        Kept {
            values: vec![value],
            acked: 0,
        }
    }

    pub(super) fn newest(&self) -> usize {
        self.values.len() - 1
    }

    /// Whether `found` is the last one that was answered, or one that was submitted after it.
    pub(super) fn allows(&self, found: &T) -> bool {
        self.values[self.acked..].contains(found)
    }
}

/// An operation that waits for its answer, and what counts as kept once it has that.
pub(super) struct Pending {
    pub(super) answer: Answer,
    pub(super) steps: usize,
    pub(super) vote: usize,
    pub(super) identity: usize,
    pub(super) trim: usize,
    /// What was known to be committed when it was submitted, if it carries that.
    pub(super) committed_end: u64,
}
