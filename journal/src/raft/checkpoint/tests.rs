//! A state made from a checkpoint, and an index made again, are those that a replay of the whole log makes.

use super::*;
use crate::append::{Acquire, AppendEntry, EntryIndex, Genesis, IndexEntry, Session, Verdict};
use crate::raft::machine::{JournalState, Machine};
use crate::raft::pages::Pages;
use crate::raft::types::{Data, Entry, Membership, entry_to_disk, log_id};
use crate::segment::{Execution, MapMetadata, Metadata, Options};
use bytes::Bytes;
use futures_util::FutureExt;
use openraft::EntryPayload;
use proptest::prelude::*;
use redoubt_env::Env;
use redoubt_env::sim_files::SimFiles;
use redoubt_types::{LineageStep, ReplId, RunId, payload_crc};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

const SET: &[u8] = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n";
const SELECT: &[u8] = b"*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n";
/// One group, cut into three fragments: nowhere between commands.
const LARGE: [&[u8]; 3] = [b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$9\r\n12", b"345", b"6789\r\n"];
const EVERY: CheckpointEvery = CheckpointEvery {
    entries: 7,
    bytes: 1000,
};
const NEVER: CheckpointEvery = CheckpointEvery {
    entries: u64::MAX,
    bytes: u64::MAX,
};
const CLUSTER: ClusterId = ClusterId::new([1; 16]);

/// What stands next in the log.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Another term begins, with its leader's blank entry.
    Term,
    Claim(u64),
    Renew,
    Session,
    Lineage(u8),
    Groups(u8),
    /// The next fragment of a large group.
    Fragment,
    /// An append that is refused.
    Refused,
    Membership(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Term),
        1 => (1..9u64).prop_map(Step::Claim),
        4 => Just(Step::Renew),
        1 => Just(Step::Session),
        1 => (1..250u8).prop_map(Step::Lineage),
        8 => (1..30u8).prop_map(Step::Groups),
        6 => Just(Step::Fragment),
        1 => Just(Step::Refused),
        1 => (1..9u64).prop_map(Step::Membership),
    ]
}

/// A node's log, its metadata, the machine over them, and the state that never saw a checkpoint.
struct World {
    env: Env,
    metadata: Arc<MapMetadata>,
    storage: Storage,
    machine: Machine,
    whole: JournalState,
    term: u64,
    /// Fragments of the large group that are in the log.
    fragments: usize,
}

fn open(env: &Env, metadata: &Arc<MapMetadata>) -> Storage {
    let options = Options {
        segment_bytes: 16 * 1024,
        cache_bytes: 512,
        zero_ahead_bytes: 6 * 1024,
        execution: Execution::Immediate,
        ..Options::default()
    };
    let (storage, _) = Storage::open(env, Path::new("/node"), "n1", options, metadata.clone()).unwrap();
    storage
}

impl World {
    /// A journal that has begun, and has a writer.
    fn new() -> Self {
        let env = Env::real().with_files(Arc::new(SimFiles::new(1)));
        let metadata = Arc::new(MapMetadata::default());
        let storage = open(&env, &metadata);
        let state = JournalState::from(None, EVERY, &env);
        let mut world = World {
            machine: Machine::new(env.clone(), storage.clone(), state, None),
            whole: JournalState::from(None, NEVER, &env),
            env,
            metadata,
            storage,
            term: 1,
            fragments: 0,
        };
        world.step(Step::Membership(1));
        world.command(&Command::Genesis(Genesis {
            cluster: CLUSTER,
            replid: ReplId::from_random([251; 20]),
        }));
        world.step(Step::Claim(1));
        world
    }

    fn entry(&mut self, payload: EntryPayload<Data, u64, crate::raft::Peer>) -> Verdict {
        let entry = Entry {
            log_id: log_id(self.term, self.whole.next()),
            payload,
        };
        self.storage
            .append(vec![entry_to_disk(&entry)], Box::new(|done| done.unwrap()));
        let verdict = self.machine.step(&entry).unwrap();
        assert_eq!(self.whole.apply(&entry, &self.env).unwrap(), verdict);
        verdict
    }

    fn command(&mut self, command: &Command) -> Verdict {
        self.entry(EntryPayload::Normal(Data(command.encode())))
    }

    fn append(&mut self, payload: &[u8]) -> Verdict {
        let position = self.whole.admission.position();
        let append = AppendEntry {
            epoch: self.whole.admission.writer().unwrap().epoch,
            replid: self.whole.admission.lineage().unwrap().last().replid,
            start: position.pending_end,
            chain: position.pending_chain,
            payload_crc: payload_crc(payload),
            captured: WallTime::from_ms(self.whole.next()),
            payload: Bytes::copy_from_slice(payload),
        };
        self.command(&Command::Append(append))
    }

    fn step(&mut self, step: Step) {
        let writer = self.whole.admission.writer().cloned();
        let epoch = writer.as_ref().map_or(Epoch::FIRST, |w| w.epoch);
        let tail = self.whole.admission.position().tail;
        match step {
            Step::Term => {
                self.term += 1;
                self.entry(EntryPayload::Blank);
            }
            Step::Claim(holder) => {
                self.fragments = 0;
                self.command(&Command::Acquire(Acquire {
                    holder: HolderId::new(holder).unwrap(),
                    name: format!("cell-{holder}"),
                    lease: Duration::from_secs(3),
                    seen_renewals: self.whole.admission.renewals(),
                    sent: WallTime::from_ms(holder),
                }));
            }
            Step::Renew => {
                let holder = writer.unwrap().holder;
                let sent = WallTime::from_ms(self.whole.next());
                self.command(&Command::Renew { epoch, holder, sent });
            }
            Step::Session => {
                self.command(&Command::Session(Session {
                    epoch,
                    run_id: RunId::from_random([2; 20]),
                    at: tail,
                    server: "redis 7.0.15".into(),
                }));
            }
            Step::Lineage(n) => {
                self.command(&Command::Lineage(LineageStep {
                    replid: ReplId::from_random([n; 20]),
                    from: tail,
                    epoch: Some(epoch),
                }));
            }
            Step::Groups(_) if self.fragments > 0 => self.step(Step::Fragment),
            Step::Groups(n) => {
                let mut payload = if n % 5 == 0 { SELECT.to_vec() } else { Vec::new() };
                payload.extend(SET.repeat(n.into()));
                self.append(&payload);
            }
            Step::Fragment => {
                self.append(LARGE[self.fragments]);
                self.fragments = (self.fragments + 1) % LARGE.len();
            }
            Step::Refused => {
                self.append(b"no stream");
            }
            Step::Membership(id) => {
                let peer = crate::raft::Peer::default();
                let members = Membership::new(
                    vec![BTreeSet::from([id])],
                    std::collections::BTreeMap::from([(id, peer)]),
                );
                self.entry(EntryPayload::Membership(members.unwrap()));
            }
        }
    }

    fn last(&self) -> LogId {
        self.whole.applied.unwrap()
    }

    /// The state that a restart has before it replays the rest, `committed` being known as such.
    fn restarted(&self, committed: LogId) -> JournalState {
        let checkpoint = Checkpoint::newest(&self.storage, Some(committed), CLUSTER);
        JournalState::from(checkpoint, EVERY, &self.env)
    }

    /// A machine that has replayed what `state` lacks.
    fn replayed(&self, state: JournalState) -> Machine {
        let from = state.next();
        let machine = Machine::new(self.env.clone(), self.storage.clone(), state, None);
        for record in self.records(from) {
            machine
                .step(&crate::raft::types::entry_from_disk(record).unwrap())
                .unwrap();
        }
        machine
    }

    fn records(&self, from: u64) -> Vec<crate::segment::LogRecord> {
        let (mut all, mut next) = (Vec::new(), from);
        while next < self.whole.next() {
            let read = self.storage.read(next, u64::MAX, 2000).now_or_never().unwrap();
            let read = read.unwrap();
            next += read.len() as u64;
            all.extend(read);
        }
        all
    }

    fn pages(&self) -> Pages {
        Pages::new(self.env.clone(), self.storage.clone(), EVERY)
    }

    /// Everything from `seek` on, read in steps as a tail does.
    fn read_on(&self, pages: &Pages, machine: &Machine, mut seek: Seek) -> Vec<IndexEntry> {
        let mut all = Vec::new();
        loop {
            let read = pages.read(machine, seek, 3).now_or_never().unwrap().unwrap();
            let Some(last) = read.last() else { return all };
            seek = Seek::Log(last.log_index + 1);
            all.extend(read);
        }
    }
}

fn everything(index: &EntryIndex, seek: Seek) -> Vec<IndexEntry> {
    index.read(seek, usize::MAX).unwrap()
}

/// What becomes of each key of the metadata.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Kept,
    Lost,
    Garbled(usize),
    /// It has the value of a key before it.
    Mistaken,
}

fn spoil(metadata: &MapMetadata, fates: &[Fate]) {
    let mut before = Vec::new();
    for ((key, value), fate) in metadata.all().into_iter().zip(fates.iter().cycle()) {
        match fate {
            Fate::Kept => {}
            Fate::Lost => metadata.remove(&key).unwrap(),
            Fate::Garbled(at) => {
                let mut bad = value.clone();
                let bits = bad.len() * 8;
                if bits > 0 {
                    bad[at % bits / 8] ^= 1 << (at % 8);
                }
                metadata.put(&key, &bad).unwrap();
            }
            Fate::Mistaken => metadata.put(&key, &before).unwrap(),
        }
        before = value;
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        3 => Just(Fate::Kept),
        1 => Just(Fate::Lost),
        1 => any::<usize>().prop_map(Fate::Garbled),
        1 => Just(Fate::Mistaken),
    ]
}

proptest! {
    #[test]
    fn the_state_after_a_restart_is_that_of_a_replay_of_the_whole_log(
        steps in prop::collection::vec(step(), 1..200),
        fates in prop::collection::vec(fate(), 1..20),
        committed in 0..1000u64,
        seeks in prop::collection::vec(0..10_000u64, 0..9),
    ) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        spoil(&world.metadata, &fates);
        let committed = committed % world.whole.next();
        let committed = log_id(world.storage.log_id_at(committed).unwrap().term, committed);

        let state = world.restarted(committed);
        prop_assert!(state.next() <= committed.index + 1);
        let machine = world.replayed(state);
        {
            let state = machine.state();
            prop_assert_eq!(&state.admission, &world.whole.admission);
            prop_assert_eq!(&state.membership, &world.whole.membership);
            prop_assert_eq!(state.applied, world.whole.applied);
            let begins = Seek::Log(state.index.begins_at());
            prop_assert_eq!(everything(&state.index, begins), everything(&world.whole.index, begins));
        }

        let pages = world.pages();
        let tail = world.whole.admission.position().tail.get();
        let offsets = seeks.iter().map(|n| Seek::Offset(Offset::new(n % (tail + 1))));
        let places = seeks.iter().map(|n| Seek::Log(n % world.whole.next()));
        for seek in offsets.chain(places).chain([Seek::Log(0)]) {
            let want = everything(&world.whole.index, seek);
            prop_assert_eq!(world.read_on(&pages, &machine, seek), want, "{:?}", seek);
        }
    }

    #[test]
    fn a_checkpoint_reads_back(steps in prop::collection::vec(step(), 1..60), cut in any::<usize>()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        let Some(standing) = world.whole.admission.standing() else { return Ok(()) };
        let checkpoint = Checkpoint {
            applied: world.last(),
            membership: world.whole.membership.clone(),
            standing,
        };
        let bytes = checkpoint.encode();
        prop_assert_eq!(Checkpoint::decode(&bytes), Some(checkpoint));
        prop_assert_eq!(Checkpoint::decode(&bytes[..cut % bytes.len()]), None);
    }
}

/// A world with a few checkpoints.
fn long() -> World {
    let mut world = World::new();
    for _ in 0..50 {
        world.step(Step::Groups(3));
    }
    world
}

#[test]
fn a_restart_replays_one_stretch_at_most_and_the_index_holds_two() {
    let world = long();
    let state = world.restarted(world.last());
    let replayed = world.whole.next() - state.next();
    assert!(replayed <= EVERY.entries, "{replayed} entries are to be replayed");
    let held = world.whole.next() - world.machine.state().index.begins_at();
    assert!(held <= 2 * EVERY.entries, "{held} entries are held");
}

#[test]
fn inside_a_group_no_checkpoint_is_made() {
    let mut world = long();
    let checkpoints = |world: &World| {
        let all = world.metadata.all();
        all.iter()
            .filter(|(key, _)| key.starts_with(BY_INDEX.as_bytes()))
            .count()
    };
    let before = checkpoints(&world);
    world.step(Step::Fragment);
    for _ in 0..3 * EVERY.entries {
        world.step(Step::Renew);
    }
    assert_eq!(checkpoints(&world), before, "a group is open");
    world.step(Step::Fragment);
    world.step(Step::Fragment);
    assert!(checkpoints(&world) > before, "the group is whole");
}

#[test]
fn checkpoints_that_are_missing_are_made_again_by_whoever_reads_there() {
    let world = long();
    let all = world.metadata.all();
    spoil(&world.metadata, &[Fate::Lost]);
    assert_eq!(world.metadata.all(), []);
    let read = world.read_on(&world.pages(), &world.machine, Seek::Log(40));
    assert_eq!(read, everything(&world.whole.index, Seek::Log(40)));
    let again = world.metadata.all();
    assert!(!again.is_empty());
    assert!(again.iter().all(|kv| all.contains(kv)), "another one was made");
}

#[test]
fn h08_a_checkpoint_of_another_log_is_not_believed() {
    let mut other = World::new();
    other.step(Step::Term);
    for n in 1..50 {
        other.step(Step::Groups(n));
    }
    // The same cluster, the same places in the log, another leader's entries.
    let world = long();
    for (key, value) in other.metadata.all() {
        world.metadata.put(&key, &value).unwrap();
    }
    let machine = world.replayed(world.restarted(world.last()));
    assert_eq!(machine.state().admission, world.whole.admission);
}

#[test]
fn h08_a_checkpoint_beyond_what_is_committed_is_not_believed() {
    let world = long();
    for committed in 0..world.whole.next() {
        let state = world.restarted(log_id(1, committed));
        assert!(
            state.next() <= committed + 1,
            "{committed} is committed, {:?} applied",
            state.applied
        );
    }
    assert_eq!(Checkpoint::newest(&world.storage, None, CLUSTER), None);
}

#[test]
fn a_checkpoint_of_another_cluster_or_version_is_not_believed() {
    let world = long();
    let cluster = ClusterId::new([9; 16]);
    assert_eq!(
        Checkpoint::newest(&world.storage, Some(world.last()), cluster),
        None
    );
    for (key, mut value) in world.metadata.all() {
        if let Some(bytes) = value.len().checked_sub(4) {
            value[0] = VERSION + 1;
            let crc = crc32fast::hash(&value[..bytes]);
            value[bytes..].copy_from_slice(&crc.to_le_bytes());
        }
        world.metadata.put(&key, &value).unwrap();
    }
    assert_eq!(
        Checkpoint::newest(&world.storage, Some(world.last()), CLUSTER),
        None
    );
}

#[cfg(feature = "planted-bugs")]
#[test]
fn each_planted_bug_of_the_checkpoints_is_caught() {
    for (test, bug) in [
        (
            "h08_a_checkpoint_of_another_log_is_not_believed",
            "h08_checkpoint_of_any_log",
        ),
        (
            "h08_a_checkpoint_beyond_what_is_committed_is_not_believed",
            "h08_checkpoint_beyond_committed",
        ),
        (
            "inside_a_group_no_checkpoint_is_made",
            "h03_checkpoint_inside_a_group",
        ),
    ] {
        redoubt_env::planted::assert_catches(&format!("raft::checkpoint::tests::{test}"), bug);
    }
}
