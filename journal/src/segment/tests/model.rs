//! Random histories against a model: whatever is done and whenever the power goes, what was answered is
//! there, nothing truncated comes back, the vote never goes back.

use super::*;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

#[derive(Clone, Debug)]
enum Act {
    Append {
        sizes: Vec<usize>,
        new_term: bool,
    },
    /// Keeps this many parts of 16 of what is not committed.
    Truncate {
        keep: u64,
    },
    Vote,
    /// Commits this many parts of 16 of what is answered.
    Commit {
        upto: u64,
    },
    Turn,
    Idle,
    Read,
    /// A killed process: what was written is still in the page cache.
    Kill {
        lose_metadata: bool,
    },
    PowerCut {
        seed: u64,
    },
    /// Somewhere in what follows, opening included.
    /// And then only the process dies, if `kill`: what it wrote and did not sync is still readable.
    PowerOffAfter {
        calls: u64,
        kill: bool,
    },
    Close,
}

fn act() -> impl Strategy<Value = Act> {
    let size = prop_oneof![6 => 0usize..200, 3 => 200usize..3000, 1 => 3000usize..20_000];
    prop_oneof![
        10 => (prop::collection::vec(size, 1..6), prop::bool::weighted(0.15))
            .prop_map(|(sizes, new_term)| Act::Append { sizes, new_term }),
        2 => (0u64..=16).prop_map(|keep| Act::Truncate { keep }),
        2 => Just(Act::Vote),
        2 => (0u64..=16).prop_map(|upto| Act::Commit { upto }),
        8 => Just(Act::Turn),
        2 => Just(Act::Idle),
        2 => Just(Act::Read),
        1 => any::<bool>().prop_map(|lose_metadata| Act::Kill { lose_metadata }),
        1 => any::<u64>().prop_map(|seed| Act::PowerCut { seed }),
        3 => (0u64..25, any::<bool>()).prop_map(|(calls, kill)| Act::PowerOffAfter { calls, kill }),
        1 => Just(Act::Close),
    ]
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    prop::collection::vec(act(), 1..60)
}

/// One change of the log.
#[derive(Clone)]
enum Step {
    Push(LogRecord),
    Truncate(u64),
}

impl Step {
    fn apply(&self, log: &mut Vec<LogRecord>) {
        match self {
            Step::Push(r) => log.push(r.clone()),
            Step::Truncate(first_removed) => log.retain(|r| r.id.index < *first_removed),
        }
    }
}

/// An operation that waits for its answer.
struct Pending {
    answer: Answer,
    /// Steps of the log, and the vote, once it is answered.
    steps: usize,
    vote: Option<Vote>,
    /// What was known to be committed when it was submitted, if it carries that.
    committed_end: u64,
}

struct World {
    node: Node,
    storage: Option<Storage>,
    /// The log as last recovered.
    base: Vec<LogRecord>,
    /// What was submitted since, and how much of it was answered.
    steps: Vec<Step>,
    acked_steps: usize,
    votes: Vec<Option<Vote>>,
    acked_vote: Option<Vote>,
    pending: Vec<Pending>,
    committed_end: u64,
    /// What a recovery must find at least.
    committed_floor: u64,
    term: u64,
    seed: u64,
    kill: bool,
}

type Check = Result<(), String>;

macro_rules! check {
    ($ok:expr, $($why:tt)*) => {
        if !$ok {
            return Err(format!($($why)*));
        }
    };
}

impl World {
    fn new(files: SimFiles) -> Self {
        let mut node = Node::over(files);
        node.options.execution = Execution::Manual;
        node.options.batch_bytes = 8 * 1024;
        World {
            node,
            storage: None,
            base: Vec::new(),
            steps: Vec::new(),
            acked_steps: 0,
            votes: vec![None],
            acked_vote: None,
            pending: Vec::new(),
            committed_end: 0,
            committed_floor: 0,
            term: 1,
            seed: 0,
            kill: false,
        }
    }

    fn run(&mut self, acts: &[Act]) -> Check {
        self.reopen()?;
        for act in acts {
            self.act(act)?;
            if self.node.files.is_off() {
                self.restart_disk();
                self.crash()?;
            }
        }
        self.power_cut()
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
        let (steps, vote) = (self.steps.len(), self.votes.last().copied().flatten());
        let committed_end = if carries_committed { self.committed_end } else { 0 };
        self.pending.push(Pending {
            answer,
            steps,
            vote,
            committed_end,
        });
        done
    }

    fn act(&mut self, act: &Act) -> Check {
        match act {
            Act::Append { sizes, new_term } => {
                self.term += u64::from(*new_term);
                let first = self.log().last().map_or(0, |r| r.id.index + 1);
                let records: Vec<_> = (first..)
                    .zip(sizes)
                    .map(|(i, s)| record(self.term, i, payload(self.term, i, *s)))
                    .collect();
                self.steps.extend(records.iter().cloned().map(Step::Push));
                let done = self.pend(true);
                self.storage().append(records, done);
            }
            Act::Truncate { keep } => {
                let end = self.log().last().map_or(0, |r| r.id.index + 1);
                let first_removed = self.committed_end + (end - self.committed_end) * keep / 16;
                self.term += 1;
                self.steps.push(Step::Truncate(first_removed));
                let done = self.pend(true);
                self.storage().truncate_after(first_removed.checked_sub(1), done);
            }
            Act::Vote => {
                self.term += 1;
                let vote = Vote {
                    term: self.term,
                    node: 3,
                    committed: self.term.is_multiple_of(2),
                };
                self.votes.push(Some(vote));
                let done = self.pend(false);
                self.storage().save_vote(vote, done);
            }
            Act::Commit { upto } => self.commit(*upto),
            Act::Turn => {
                self.storage().turn();
                self.collect()?;
            }
            Act::Idle => {
                while self.storage().turn() > 0 {}
                self.storage().idle();
                self.collect()?;
                if self.storage().failed().borrow().is_none() {
                    self.committed_floor = self.committed_end;
                }
            }
            Act::Read => self.compare_reads()?,
            Act::Kill { lose_metadata } => {
                if *lose_metadata {
                    self.node.metadata = Arc::default();
                }
                self.crash()?;
            }
            Act::PowerCut { seed } => {
                self.seed ^= seed;
                self.power_cut()?;
            }
            Act::PowerOffAfter { calls, kill } => {
                self.kill = *kill;
                self.node.files.power_off_after(*calls);
            }
            Act::Close => {
                let done = self.pend(true);
                self.storage().close(done);
                while self.storage().turn() > 0 {}
                self.collect()?;
                self.crash()?;
            }
        }
        Ok(())
    }

    fn commit(&mut self, upto: u64) {
        let mut acked = self.base.clone();
        self.steps[..self.acked_steps]
            .iter()
            .for_each(|s| s.apply(&mut acked));
        // What a later, unanswered truncation removes is not committed.
        let log = self.log();
        let common = acked.iter().zip(&log).take_while(|(a, b)| a == b).count() as u64;
        let end = self.committed_end + common.saturating_sub(self.committed_end) * upto / 16;
        if let Some(last) = end.checked_sub(1).and_then(|i| log.get(i as usize)) {
            self.committed_end = end;
            self.storage().save_committed(last.id);
        }
    }

    /// Takes the answers that have come: in order, and none an error unless the power is off.
    fn collect(&mut self) -> Check {
        let mut waits = false;
        for p in std::mem::take(&mut self.pending) {
            if p.answer.is_ok() {
                check!(!waits, "an answer overtook another");
                self.acked_steps = self.acked_steps.max(p.steps);
                self.acked_vote = p.vote.or(self.acked_vote);
                self.committed_floor = self.committed_floor.max(p.committed_end);
            } else {
                check!(
                    !p.answer.is_err() || self.node.files.is_off(),
                    "an answer was an error"
                );
                waits = true;
                self.pending.push(p);
            }
        }
        Ok(())
    }

    fn compare_reads(&self) -> Check {
        match read_all(self.storage()) {
            Ok(read) => check!(
                read == self.log(),
                "read {} records, not {}",
                read.len(),
                self.log().len()
            ),
            Err(e) => check!(self.node.files.is_off(), "{e}"),
        }
        Ok(())
    }

    /// After the power went off: cuts it, or makes it a mere killing of the process.
    fn restart_disk(&mut self) {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
        if std::mem::take(&mut self.kill) {
            self.node.files.kill();
        } else {
            self.node.files.power_cut(self.seed);
        }
    }

    fn power_cut(&mut self) -> Check {
        self.kill = false;
        self.restart_disk();
        self.crash()
    }

    fn crash(&mut self) -> Check {
        self.storage = None;
        self.reopen()
    }

    fn reopen(&mut self) -> Check {
        let recovered = loop {
            match self.node.open() {
                Ok((storage, recovered)) => {
                    self.storage = Some(storage);
                    break recovered;
                }
                Err(_) if self.node.files.is_off() => self.restart_disk(),
                Err(e) => return Err(format!("{e}: {e:?}")),
            }
        };
        let found = match read_all(self.storage()) {
            Ok(found) => found,
            Err(_) if self.node.files.is_off() => {
                self.restart_disk();
                return self.crash();
            }
            Err(e) => return Err(e.to_string()),
        };
        let mut log = self.base.clone();
        let mut matches = false;
        for m in 0..=self.steps.len() {
            matches |= m >= self.acked_steps && log == found;
            if let Some(step) = self.steps.get(m) {
                step.apply(&mut log);
            }
        }
        let (acked, all, len) = (self.acked_steps, self.steps.len(), found.len());
        check!(
            matches,
            "{len} records are the log after none of steps {acked} to {all}"
        );
        check!(
            recovered.last == found.last().map(|r| r.id),
            "last is {:?}",
            recovered.last
        );
        let since = self.votes.iter().position(|v| *v == self.acked_vote).unwrap();
        check!(
            self.votes[since..].contains(&recovered.vote),
            "vote is {:?}",
            recovered.vote
        );
        let committed = recovered.committed.map_or(0, |c| c.index + 1);
        let (floor, end) = (self.committed_floor, self.committed_end);
        check!(
            (floor..=end).contains(&committed),
            "committed is {committed}, not {floor} to {end}"
        );

        self.base = found;
        self.steps.clear();
        self.pending.clear();
        self.acked_steps = 0;
        self.votes = vec![recovered.vote];
        self.acked_vote = recovered.vote;
        self.committed_end = committed;
        self.committed_floor = committed;
        Ok(())
    }
}

proptest! {
    #[test]
    fn what_was_answered_survives_everything(seed: u64, acts in acts()) {
        let mut world = World::new(SimFiles::new(seed));
        world.seed = seed;
        if let Err(why) = world.run(&acts) {
            return Err(TestCaseError::fail(why));
        }
    }
}

#[test]
fn a_sync_that_does_nothing_is_noticed() {
    let mut runner = TestRunner::deterministic();
    let noticed = (0..200).filter(|seed| {
        let acts = acts().new_tree(&mut runner).unwrap().current();
        let mut world = World::new(SimFiles::with_noop_sync(*seed));
        world.seed = *seed;
        world.run(&acts).is_err()
    });
    let noticed = noticed.count();
    assert!(noticed > 50, "only {noticed} of 200 histories noticed");
}
