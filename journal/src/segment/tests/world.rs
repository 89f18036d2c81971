//! A node's storage, what is done to it (`acts`), and the model that says what must be there afterwards.

use super::history::{Act, Kept, Pending, Step};
use super::repair::try_heal;
use super::*;
use redoubt_env::sim_files::{Call, Fault};

macro_rules! check {
    ($ok:expr, $($why:tt)*) => {
        if !$ok {
            return Err(format!($($why)*));
        }
    };
}

mod acts;

pub(super) struct World {
    node: Node,
    storage: Option<Storage>,
    /// The log as last recovered.
    base: Vec<LogRecord>,
    /// What was submitted since, and how much of it was answered.
    steps: Vec<Step>,
    acked_steps: usize,
    vote: Kept<Option<Vote>>,
    /// `None` before the first start that succeeds.
    identity: Option<Kept<Identity>>,
    /// The index of the first record that is not trimmed.
    trims: Kept<u64>,
    pending: Vec<Pending>,
    committed_end: u64,
    /// What a recovery must find at least.
    committed_floor: u64,
    term: u64,
    seed: u64,
    /// Whether only the process ends when the power goes off, and when a call fails.
    kill_when_off: bool,
    kill_when_failed: bool,
    full: bool,
    /// How many of the calls that were made to fail have had their consequences.
    faults_seen: usize,
    /// What rotted since the last start, as it was before.
    rotted: Option<(PathBuf, Vec<u8>)>,
    /// Starts that cut a torn end.
    pub(super) cuts: usize,
    /// Times that editlogs were merged.
    pub(super) merges: usize,
    /// Times that a merged one was among them.
    pub(super) merged_again: usize,
    /// Files that went because what was in them was trimmed.
    pub(super) removed: usize,
    /// Gaps that were closed, and rot that nobody could close.
    pub(super) healed: usize,
    pub(super) refused: usize,
}

pub(super) type Check<T = ()> = Result<T, String>;

impl World {
    pub(super) fn new(files: SimFiles, seed: u64) -> Self {
        let mut node = Node::over(files);
        node.options.execution = Execution::Manual;
        node.options.batch_bytes = 8 * 1024;
        // So that what was merged is merged again.
        node.options.merge_bytes = 128 * 1024;
        node.options.merge_at_files = 2;
        node.options.reserve_bytes = 0;
        World {
            node,
            storage: None,
            base: Vec::new(),
            steps: Vec::new(),
            acked_steps: 0,
            vote: Kept::new(None),
            identity: None,
            trims: Kept::new(0),
            removed: 0,
            pending: Vec::new(),
            committed_end: 0,
            committed_floor: 0,
            term: 1,
            seed,
            kill_when_off: false,
            kill_when_failed: false,
            full: false,
            faults_seen: 0,
            rotted: None,
            cuts: 0,
            merges: 0,
            merged_again: 0,
            healed: 0,
            refused: 0,
        }
    }

    /// Starts the node, does all of `acts`, restarting it whenever it has to end, and cuts the power at last.
    pub(super) fn run(&mut self, acts: &[Act]) -> Check {
        self.reopen()?;
        for act in acts {
            self.act(act)?;
            self.consequences()?;
        }
        self.seed ^= 1;
        self.restart_disk(false)?;
        self.crash()
    }

    /// The `nth` call from here on fails.
    pub(super) fn fail(&mut self, nth: u64, fault: Fault, kill: bool) {
        self.kill_when_failed = kill;
        self.node.files.fail_nth_of_all(nth, fault);
    }

    pub(super) fn files(&self) -> &SimFiles {
        &self.node.files
    }

    fn log(&self) -> Vec<LogRecord> {
        let mut log = self.base.clone();
        self.steps.iter().for_each(|s| s.apply(&mut log));
        log
    }

    fn storage(&self) -> &Storage {
        self.storage.as_ref().unwrap()
    }

    fn pend(&mut self, carries_committed: bool) -> Done {
        let answer = Answer::default();
        let done = answer.done();
        self.pending.push(Pending {
            answer,
            steps: self.steps.len(),
            vote: self.vote.newest(),
            identity: self.identity.as_ref().map_or(0, Kept::newest),
            trim: self.trims.newest(),
            committed_end: if carries_committed { self.committed_end } else { 0 },
        });
        done
    }

    /// Whether nothing has happened that a process ends of.
    fn undisturbed(&self) -> bool {
        !self.node.files.is_off() && self.storage().failed().borrow().is_none()
    }

    /// The calls that were made to fail since the last time that this was asked.
    fn new_faults(&mut self) -> Vec<Call> {
        let failed = self.node.files.failed_calls().split_off(self.faults_seen);
        self.faults_seen += failed.len();
        failed
    }

    /// Takes the answers that have come: in order, and none an error unless there is a reason.
    fn collect(&mut self) -> Check {
        let excused = !self.undisturbed();
        let mut waits = false;
        for p in std::mem::take(&mut self.pending) {
            if p.answer.is_ok() {
                check!(!waits, "an answer overtook another");
                self.acked_steps = self.acked_steps.max(p.steps);
                self.vote.acked = self.vote.acked.max(p.vote);
                self.trims.acked = self.trims.acked.max(p.trim);
                if let Some(identity) = &mut self.identity {
                    identity.acked = identity.acked.max(p.identity);
                }
                self.committed_floor = self.committed_floor.max(p.committed_end);
            } else {
                check!(!p.answer.is_err() || excused, "an answer was an error");
                waits = true;
                self.pending.push(p);
            }
        }
        Ok(())
    }

    fn compare_reads(&mut self) -> Check {
        match read_all(self.storage()) {
            Ok(read) => {
                let log = self.log();
                let first = self.storage().first_index().unwrap_or(0);
                check!(self.trims.allows(&first), "the log begins at {first}");
                let (live, len) = (&log[(first as usize).min(log.len())..], log.len());
                check!(
                    read == live,
                    "read {} records from {first} on, not up to {len}",
                    read.len()
                );
            }
            Err(e) => check!(self.node.files.is_off() || !self.new_faults().is_empty(), "{e}"),
        }
        Ok(())
    }

    /// Ends the process, and the machine, if the power went off or the storage failed. Whatever was made to fail must have
    /// been said to have failed.
    fn consequences(&mut self) -> Check {
        if self.node.files.is_off() {
            let kill = std::mem::take(&mut self.kill_when_off);
            self.restart_disk(kill)?;
            return self.crash();
        }
        let faults = self.new_faults();
        if self.storage().failed().borrow().is_none() {
            return self.taken_well(&faults);
        }
        check!(!faults.is_empty() || self.full, "it failed for no reason");
        self.refuses_everything()?;
        // A failed sync leaves pages that read as written and are not on the disk (docs/disk-format.md, "What remains"):
        // what a process would find in them, the next power cut may take.
        let kill = self.kill_when_failed && !faults.contains(&Call::Sync);
        self.restart_disk(kill)?;
        self.crash()
    }

    /// Goes on after `faults` without a failure: only reads, and space that is set aside, may be done without, or again.
    fn taken_well(&self, faults: &[Call]) -> Check {
        let reads = [Call::Open, Call::Read, Call::List, Call::Allocate];
        match faults.iter().find(|call| !reads.contains(call)) {
            Some(call) => Err(format!("a failed {call:?} was taken for a success")),
            None => Ok(()),
        }
    }

    fn refuses_everything(&mut self) -> Check {
        self.collect()?;
        let acked = self.acked_steps;
        self.act(&Act::Append {
            sizes: vec![10],
            new_term: false,
        })?;
        self.act(&Act::Vote)?;
        self.act(&Act::Identity)?;
        self.act(&Act::Truncate { keep: 15 })?;
        while self.storage().turn() > 0 {}
        self.storage().idle();
        let waiting = self.pending.len();
        self.collect()?;
        check!(
            self.acked_steps == acked && self.pending.len() == waiting,
            "an operation was answered Ok after a failure"
        );
        check!(
            self.pending.iter().all(|p| p.answer.is_err()),
            "an operation was not answered after a failure"
        );
        Ok(())
    }

    /// Cuts the power, or makes it a mere killing of the process. The metadata promises nothing.
    fn restart_disk(&mut self, kill: bool) -> Check {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
        if kill {
            self.node.files.kill();
        } else {
            self.node.files.power_cut(self.seed);
        }
        let all = self.node.metadata.all();
        let lost: Vec<_> = match self.seed >> 60 {
            0..=7 => Vec::new(),
            8..=11 => all,
            _ => all.into_iter().skip(1).step_by(2).collect(),
        };
        for (key, _) in lost {
            self.node.metadata.remove(&key).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    fn crash(&mut self) -> Check {
        self.storage = None;
        self.reopen()
    }

    fn reopen(&mut self) -> Check {
        let (recovered, found) = loop {
            let opened = self.node.open();
            if opened.is_ok() {
                let faults = self.new_faults();
                self.taken_well(&faults)?;
            }
            let why = match opened {
                Ok((storage, recovered)) => {
                    let found = read_all(&storage);
                    self.storage = Some(storage);
                    match found {
                        Ok(found) => break (recovered, found),
                        Err(e) => e.to_string(),
                    }
                }
                Err(e) => match self.mend(e)? {
                    None => continue,
                    Some(e) => format!("{e}: {e:?}"),
                },
            };
            let faults = self.new_faults();
            let off = self.node.files.is_off();
            check!(off || self.full || !faults.is_empty(), "{why}");
            self.storage = None;
            if std::mem::take(&mut self.full) {
                self.node.files.set_capacity(None);
            }
            let kill = match off {
                true => std::mem::take(&mut self.kill_when_off),
                false => self.kill_when_failed && !faults.contains(&Call::Sync),
            };
            self.restart_disk(kill)?;
        };
        self.rotted = None;
        self.cuts += usize::from(recovered.truncated_bytes > 0);
        self.compare(recovered, found)
    }

    /// Repairs what rotted, if that is what `error` says; `None` when it is to be tried again.
    fn mend(&mut self, error: OpenError) -> Check<Option<OpenError>> {
        let log = self.log();
        let Some((path, before)) = self
            .rotted
            .as_ref()
            .filter(|_| matches!(error, OpenError::Rot { .. }))
        else {
            return Ok(Some(error));
        };
        match try_heal(&self.node, &log) {
            Err(error @ OpenError::Io { .. }) => return Ok(Some(error)),
            Ok(closed) if closed > 0 => self.healed += closed,
            // What stands around it contradicts itself: that is refused, and somebody restores the file.
            _ => {
                self.node.files.put(path, before);
                self.refused += 1;
            }
        }
        Ok(None)
    }

    /// Compares what a start found with what it must find, and goes on from there.
    fn compare(&mut self, recovered: Recovered, found: Vec<LogRecord>) -> Check {
        let mut log = self.base.clone();
        let first = match &recovered.beginning {
            Some(state) => u64::from_le_bytes(state[..].try_into().map_err(|_| "the state is another")?),
            None => 0,
        };
        check!(self.trims.allows(&first), "the log begins at {first}");
        let mut matches = None;
        for m in 0..=self.steps.len() {
            if m >= self.acked_steps && log.get(first as usize..) == Some(&found) {
                matches = Some(log.clone());
            }
            if let Some(step) = self.steps.get(m) {
                step.apply(&mut log);
            }
        }
        let (acked, all, len) = (self.acked_steps, self.steps.len(), found.len());
        let Some(log) = matches else {
            return Err(format!(
                "{len} records from {first} on are the log after none of steps {acked} to {all}"
            ));
        };
        let last = recovered.last;
        check!(last == log.last().map(|r| r.id), "last is {last:?}");
        let vote = recovered.vote;
        check!(self.vote.allows(&vote), "vote is {vote:?}");
        let identity = recovered.identity;
        let known = self.identity.as_ref().is_none_or(|kept| kept.allows(&identity));
        check!(known, "identity is {identity:?}");
        let committed = recovered.committed.map_or(0, |c| c.index + 1);
        let (floor, end) = (self.committed_floor, self.committed_end);
        check!(
            (floor..=end).contains(&committed),
            "committed is {committed}, not {floor} to {end}"
        );

        self.base = log;
        self.trims = Kept::new(first);
        self.steps.clear();
        self.pending.clear();
        self.acked_steps = 0;
        self.vote = Kept::new(vote);
        self.identity = Some(Kept::new(identity));
        self.committed_end = committed;
        self.committed_floor = committed;
        Ok(())
    }
}
