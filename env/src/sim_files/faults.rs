//! Which call fails, and when the power goes.

use std::collections::BTreeMap;
use std::io;

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// `open` of a file that exists.
    Open,
    /// `open` that makes a file; `create_dir`.
    Create,
    /// `read_at`, `len`.
    Read,
    /// `write_at`, `set_len`.
    Write,
    /// Setting space aside.
    Allocate,
    /// `sync_data`.
    Sync,
    /// `list`.
    List,
    /// `rename`.
    Rename,
    /// `remove`.
    Remove,
    /// `sync_dir`.
    SyncDir,
    /// `lock_dir`.
    Lock,
}

impl Call {
    const fn changes(self) -> bool {
        !matches!(self, Call::Open | Call::Read | Call::List | Call::Lock)
    }
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `EIO`.
    Io,
    /// `ENOSPC`.
    NoSpace,
}

impl Fault {
    pub(super) fn error(self) -> io::Error {
        match self {
            Fault::Io => rustix::io::Errno::IO.into(),
            Fault::NoSpace => rustix::io::Errno::NOSPC.into(),
        }
    }
}

/// What becomes of a call.
pub(super) struct Verdict {
    /// What it returns, unless what it was to do can't be done.
    pub(super) answer: io::Result<()>,
    /// Whether it has its effect, which a failed call may have all the same.
    pub(super) happens: bool,
}

struct Plan {
    /// `None` for any kind.
    call: Option<Call>,
    nth: u64,
    fault: Fault,
}

pub(super) struct Faults {
    random: Random,
    calls: BTreeMap<Call, u64>,
    planned: Vec<Plan>,
    failed: Vec<Call>,
    /// Changing calls left before the power fails.
    left: Option<u64>,
    off: bool,
}

impl Faults {
    pub(super) const fn new(seed: u64) -> Self {
        Faults {
            random: Random::new(seed),
            calls: BTreeMap::new(),
            planned: Vec::new(),
            failed: Vec::new(),
            left: None,
            off: false,
        }
    }

    pub(super) fn fail_nth(&mut self, call: Option<Call>, nth: u64, fault: Fault) {
        let nth = self.calls(call) + nth;
        self.planned.push(Plan { call, nth, fault });
    }

    pub(super) fn power_off_after(&mut self, calls: u64) {
        self.left = Some(calls);
    }

    pub(super) fn power_on(&mut self) {
        self.left = None;
        self.off = false;
    }

    pub(super) const fn is_off(&self) -> bool {
        self.off
    }

    pub(super) fn calls(&self, call: Option<Call>) -> u64 {
        match call {
            Some(call) => self.calls.get(&call).copied().unwrap_or(0),
            None => self.calls.values().sum(),
        }
    }

    pub(super) fn failed(&self) -> &[Call] {
        &self.failed
    }

    /// Counts a call and says what becomes of it.
    pub(super) fn begin(&mut self, call: Call) -> Verdict {
        let off_before = self.off;
        if call.changes() && !self.off {
            match &mut self.left {
                Some(0) => self.off = true,
                Some(left) => *left -= 1,
                None => {}
            }
        }
        if self.off {
            return Verdict {
                answer: Err(no_power()),
                happens: !off_before && self.below(2) == 0,
            };
        }
        *self.calls.entry(call).or_insert(0) += 1;
        let (of_kind, of_all) = (self.calls(Some(call)), self.calls(None));
        let due = |plan: &Plan| match plan.call {
            Some(kind) => kind == call && plan.nth == of_kind,
            None => plan.nth == of_all,
        };
        match self.planned.iter().position(due) {
            Some(at) => {
                let fault = self.planned.swap_remove(at).fault;
                self.failed.push(call);
                Verdict {
                    answer: Err(fault.error()),
                    happens: self.below(2) == 0,
                }
            }
            None => Verdict {
                answer: Ok(()),
                happens: true,
            },
        }
    }

    /// A number below `n`, which is not 0.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.random.below(n)
    }

    pub(super) fn random(&mut self) -> &mut Random {
        &mut self.random
    }
}

pub(super) fn no_power() -> io::Error {
    io::Error::other("the power is off")
}

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and the same on every machine.
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}
