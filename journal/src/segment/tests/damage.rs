//! Any bit of any file changes, any file ends anywhere, or is gone: nothing wrong is ever read, and with others that have the
//! log it is whole again, or the node says that it can't be the voter that it was.

use super::repair::{patched, try_heal};
use super::*;
use redoubt_env::sim_files::{Call, Fault};
use std::collections::BTreeMap;

/// How often a node is opened until it is whole.
const TIMES: usize = 9;
/// Damages that are tried.
const CASES: u64 = 10_000;

/// What befalls a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Harm {
    BitFlipped,
    CutShort,
    Gone,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Found, and closed with another node's records.
    Repaired,
    /// Found, and made again from what the node itself has.
    Mended,
    /// Found, and the node refuses to be a voter.
    Refused,
    /// Bytes that say nothing.
    NothingLost,
}

struct Random(u64);

impl Random {
    /// SplitMix64.
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

const VOTE: Vote = Vote {
    term: 3,
    node: 7,
    committed: true,
};

/// Files and what is in them.
type Contents = Vec<(PathBuf, Vec<u8>)>;

/// What a quiet node has on its disk after a life in which something was repaired.
fn template() -> (Contents, Vec<KeyValue>, Vec<LogRecord>) {
    let (node, _) = patched();
    let (storage, _) = node.open().unwrap();
    fill(&storage, 3, 32, 45, 900);
    let first = storage.merge(&mut |_| true);
    assert!(matches!(first, Merging::Done { files: 3, .. }), "{first:?}");
    fill(&storage, 3, 45, 54, 900);
    let voted = Answer::default();
    storage.save_vote(VOTE, voted.done());
    assert!(voted.is_ok());
    storage.idle();
    let log = read_all(&storage).unwrap();
    drop(storage);
    (contents(&node), node.metadata.all(), log)
}

/// All that is on the disk, but the lock.
pub(super) fn contents(node: &Node) -> Contents {
    let paths = node.files.paths().into_iter().filter(|p| !p.ends_with("LOCK"));
    paths.map(|p| (p.clone(), node.bytes(&p))).collect()
}

fn harm(node: &Node, path: &Path, random: &mut Random) -> Harm {
    let mut bytes = node.bytes(path);
    match random.below(20) {
        0..=11 => {
            let at = random.below(bytes.len() as u64);
            node.files.flip_bit(path, at, random.below(8) as u8);
            Harm::BitFlipped
        }
        12..=18 => {
            bytes.truncate(random.below(bytes.len() as u64) as usize);
            node.files.put(path, &bytes);
            Harm::CutShort
        }
        _ => {
            node.files.lose(path);
            Harm::Gone
        }
    }
}

/// Every record that can be read is the one that was written.
fn nothing_wrong_is_read(storage: &Storage, log: &[LogRecord]) {
    for want in log {
        let index = want.id.index;
        match ready(storage.read(index, index + 1, u64::MAX)) {
            Ok(read) => assert!(read == [want.clone()], "record {index} is another one"),
            // Also where the file is gone: others have what was in it.
            Err(ReadError::Damaged { .. }) => {}
            Err(e) => panic!("{e}"),
        }
    }
}

/// Whether a check that reads everything and changes nothing finds damage.
fn is_found(node: &Node) -> bool {
    let env = Env::real().with_files(Arc::new(node.files.clone()));
    match Salvage::open(&env, Path::new(DIR), &MapMetadata::default(), &mut |_| {}) {
        Ok(s) => !(s.gaps().is_empty() && s.spoilt_copies().is_empty() && s.spoilt_headers().is_empty()),
        Err(_) => true,
    }
}

/// Opens the node, and reads all of it, so many times at most, with another node's records where it wants them.
pub(super) fn healed(
    node: &Node,
    log: &[LogRecord],
    times: usize,
) -> Result<(Storage, Recovered, usize), OpenError> {
    let mut closed = 0;
    for _ in 0..times {
        match node.open() {
            Ok((storage, recovered)) => {
                // A start believes the summaries of sealed segments; what rotted there is found by reading it.
                if storage.check(&mut |_| true).rot.is_empty() {
                    return Ok((storage, recovered, closed));
                }
            }
            Err(OpenError::Rot { .. }) => closed += try_heal(node, log)?,
            Err(e) => return Err(e),
        }
    }
    panic!("it does not heal");
}

#[test]
fn any_bit_and_any_cut_of_any_file_is_found_and_repaired() {
    let (files, metadata, log) = template();
    for name in [
        "identity",
        "vote",
        "end",
        "editlog-0000000001-0000000003",
        "contents-0000000001-0000000003",
        "editlog-0000000004",
        "patch-0000000001",
    ] {
        assert!(files.iter().any(|(p, _)| p.ends_with(name)), "there is no {name}");
    }
    let mut random = Random(1);
    let mut table: BTreeMap<(String, Harm), BTreeMap<Outcome, u64>> = BTreeMap::new();
    for case in 0..CASES {
        let node = Node::new(case);
        for (path, bytes) in &files {
            node.files.put(path, bytes);
        }
        if random.below(2) == 0 {
            metadata
                .iter()
                .for_each(|(k, v)| node.metadata.put(k, v).unwrap());
        }
        let (path, _) = &files[random.below(files.len() as u64) as usize];
        // A node that runs while it happens, and has little of it in memory.
        let running = (random.below(2) == 0).then(|| node.open().unwrap().0);
        let harm = harm(&node, path, &mut random);
        if let Some(storage) = running {
            nothing_wrong_is_read(&storage, &log);
            drop(storage);
            node.files.kill();
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let what = format!("case {case}: {name}, {harm:?}");
        let is_found = is_found(&node);
        let outcome = match healed(&node, &log, TIMES) {
            Ok((storage, recovered, closed)) => {
                assert!(read_all(&storage).unwrap() == log, "{what}: another log");
                assert_eq!(recovered.vote, Some(VOTE), "{what}");
                assert_eq!(recovered.committed, None, "{what}");
                fill(&storage, 4, 54, 59, 900);
                let more = read_all(&storage).unwrap();
                assert!(more.starts_with(&log) && more.len() == 59, "{what}");
                storage.idle();
                drop(storage);
                let (storage, _) = node.open().unwrap();
                assert!(read_all(&storage).unwrap() == more, "{what}: another log later");
                match closed {
                    0 if is_found => Outcome::Mended,
                    0 => Outcome::NothingLost,
                    _ => Outcome::Repaired,
                }
            }
            Err(e) => {
                // One copy can be made again from the other; without both, the node can't know what it has promised.
                let of_whom = name == "vote" || name == "identity";
                assert!(of_whom && harm != Harm::BitFlipped, "{what}: {e}");
                assert!(
                    matches!(e, OpenError::Slots { .. } | OpenError::Missing { .. }),
                    "{what}: {e}"
                );
                Outcome::Refused
            }
        };
        let kind = match merged::range_of(&name) {
            Some(_) if name.starts_with("editlog") => "merged editlog".to_owned(),
            _ => name.split('-').next().unwrap().to_owned(),
        };
        *table.entry((kind, harm)).or_default().entry(outcome).or_default() += 1;
    }
    println!("{CASES} damages, none of them read:");
    for ((kind, harm), outcomes) in &table {
        println!("  {kind}, {harm:?}: {outcomes:?}");
    }
    // Bits that say nothing are those of the zeros that no record lies in, or that fill one up to a multiple of eight bytes; a
    // copy has none, all of it is checked.
    let lost_nothing = table
        .iter()
        .filter(|(_, o)| o.contains_key(&Outcome::NothingLost));
    assert!(lost_nothing.clone().all(|((kind, harm), _)| match kind.as_str() {
        "editlog" | "merged editlog" => *harm != Harm::Gone,
        // Nothing lies in it any more.
        "used" => true,
        kind => kind == "patch" && *harm == Harm::BitFlipped,
    }));
    let repaired = |kind: &str, harm| {
        let outcomes = table.get(&(kind.to_owned(), harm));
        outcomes
            .and_then(|o| o.get(&Outcome::Repaired))
            .copied()
            .unwrap_or(0)
    };
    for (kind, harm) in [
        ("editlog", Harm::BitFlipped),
        ("editlog", Harm::CutShort),
        ("editlog", Harm::Gone),
        ("merged editlog", Harm::BitFlipped),
        ("merged editlog", Harm::CutShort),
        ("merged editlog", Harm::Gone),
        ("patch", Harm::BitFlipped),
    ] {
        assert!(
            repaired(kind, harm) > 0,
            "{kind} was never repaired after {harm:?}"
        );
    }
}

/// A log that was quiet long ago, and then had `count` records more.
fn written_since(node: &Node, count: u64) -> Vec<LogRecord> {
    let (storage, _) = node.open().unwrap();
    fill(&storage, 1, 0, 5, 100);
    storage.idle();
    let beside = Path::new(DIR).join(end::END);
    let witness = node.bytes(&beside);
    fill(&storage, 1, 5, 5 + count, 100);
    let log = read_all(&storage).unwrap();
    drop(storage);
    assert_eq!(node.bytes(&beside), witness, "it says nothing of the rest");
    log
}

#[test]
fn a_file_that_is_cut_short_anywhere_behind_an_old_witness_or_lost_is_had_again_as_a_whole() {
    let length = {
        let node = Node::new(1);
        written_since(&node, 40);
        node.bytes(&node.segment(1)).len()
    };
    let mut repaired = 0;
    for cut in (0..length).step_by(11) {
        let node = Node::new(1);
        let log = written_since(&node, 40);
        let path = node.segment(1);
        let whole = node.bytes(&path);
        node.files.put(&path, &whole[..cut]);
        let Ok((storage, recovered, closed)) = healed(&node, &log, TIMES) else {
            panic!("cut at {cut}");
        };
        let read = read_all(&storage).unwrap();
        if closed > 0 {
            repaired += 1;
            assert!(
                read == log,
                "cut at {cut}: {} of {} are there",
                read.len(),
                log.len()
            );
        } else {
            // Behind the witness nothing tells of what was there: docs/disk-format.md, "What remains".
            assert!(read.len() >= 5 && log.starts_with(&read), "cut at {cut}");
            assert!(recovered.last.is_some());
        }
    }
    assert!(repaired > 300, "{repaired} were repaired");
}

#[test]
fn the_witness_is_never_old_while_the_log_is_in_use() {
    let mut node = Node::new(1);
    node.options.execution = Execution::Threads;
    node.options.idle_after = std::time::Duration::from_millis(1);
    let (storage, _) = node.open().unwrap();
    let beside = Path::new(DIR).join(end::END);
    let (mut testimonies, mut last) = (0, node.bytes(&beside));
    let env = Env::real();
    let (began, (_pauses, pause)) = (env.now(), std::sync::mpsc::channel::<()>());
    // As a lease is renewed: never quiet for a second.
    for n in 0.. {
        let (done, answered) = std::sync::mpsc::channel();
        storage.append(
            vec![record(1, n, "renewed")],
            Box::new(move |r| done.send(r).unwrap()),
        );
        answered.recv().unwrap().unwrap();
        let _ = pause.recv_timeout(std::time::Duration::from_millis(100));
        let now = node.bytes(&beside);
        testimonies += u32::from(now != last);
        last = now;
        if testimonies == 2 {
            break;
        }
        assert!(
            env.now().since(began) < std::time::Duration::from_secs(20),
            "{testimonies}"
        );
    }
}

#[test]
fn a_page_that_can_not_be_read_is_as_one_that_is_damaged() {
    let (files, _, log) = template();
    let fresh = || {
        let node = Node::new(1);
        files.iter().for_each(|(path, bytes)| node.files.put(path, bytes));
        node
    };
    let node = fresh();
    let before = node.files.calls(Call::Read);
    node.open().unwrap();
    let reads = node.files.calls(Call::Read) - before;
    let numbers = files
        .iter()
        .filter_map(|(p, _)| file::number_of(p.file_name()?.to_str()?));
    let last = numbers.max().unwrap();
    let mut opened = 0;
    for nth in 1..=reads {
        let node = fresh();
        node.files.fail_nth(Call::Read, nth, Fault::Io);
        match node.open() {
            Ok((storage, _)) => {
                opened += 1;
                assert!(read_all(&storage).unwrap() == log, "read {nth}");
            }
            Err(OpenError::Rot { .. }) => {
                let (storage, ..) = healed(&node, &log, TIMES).unwrap();
                assert!(read_all(&storage).unwrap() == log, "read {nth}");
            }
            Err(OpenError::Io { path, .. }) => {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                let refused = ["identity", "vote", &format!("editlog-{last:010}")];
                assert!(refused.contains(&&*name), "read {nth} of {name}");
            }
            Err(e) => panic!("read {nth}: {e}"),
        }
    }
    assert!(opened > 4, "{opened} of {reads}");
}
