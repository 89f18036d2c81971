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
    fn error(self) -> io::Error {
        match self {
            Fault::Io => rustix::io::Errno::IO.into(),
            Fault::NoSpace => rustix::io::Errno::NOSPC.into(),
        }
    }
}

pub(super) struct Faults {
    random: Random,
    calls: BTreeMap<Call, u64>,
    planned: Vec<(Call, u64, Fault)>,
    /// Changing calls left before the power fails.
    left: Option<u64>,
    off: bool,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        Faults {
            random: Random::new(seed),
            calls: BTreeMap::new(),
            planned: Vec::new(),
            left: None,
            off: false,
        }
    }

    pub(super) fn fail_nth(&mut self, call: Call, nth: u64, fault: Fault) {
        self.planned.push((call, self.calls(call) + nth, fault));
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

    pub(super) fn calls(&self, call: Call) -> u64 {
        self.calls.get(&call).copied().unwrap_or(0)
    }

    /// Counts a call and says whether it fails.
    pub(super) fn check(&mut self, call: Call) -> io::Result<()> {
        if call.changes() && !self.off {
            match &mut self.left {
                Some(0) => self.off = true,
                Some(left) => *left -= 1,
                None => {}
            }
        }
        if self.off {
            return Err(io::Error::other("the power is off"));
        }
        let count = self.calls.entry(call).or_insert(0);
        *count += 1;
        let count = *count;
        match self
            .planned
            .iter()
            .position(|(c, nth, _)| *c == call && *nth == count)
        {
            Some(at) => Err(self.planned.swap_remove(at).2.error()),
            None => Ok(()),
        }
    }

    /// A number below `n`, which is not 0.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.random.below(n)
    }
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
