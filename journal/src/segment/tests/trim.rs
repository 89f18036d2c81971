//! The log's beginning moves: what is trimmed is gone for good, what is not is there, and the state up to there too.

use super::history::Act;
use super::world::World;
use super::*;
use redoubt_env::sim_files::Fault;
use std::ops::Range;

/// A log of so many segments.
fn log(node: &Node, segments: u32) -> (Storage, Vec<LogRecord>) {
    let (storage, _) = node.open().unwrap();
    let mut index = 0;
    while node.segment_bytes(segments).is_none() {
        fill(&storage, 1 + index / 30, index, index + 1, 900);
        index += 1;
    }
    storage.idle();
    let all = read_all(&storage).unwrap();
    (storage, all)
}

fn trim(storage: &Storage, last: LogId, state: &[u8]) -> Answer {
    let answer = Answer::default();
    storage.begin_behind(last, state.to_vec(), answer.done());
    answer
}

fn not_found(storage: &Storage, indexes: Range<u64>) {
    for index in indexes {
        let read = ready(storage.read(index, index + 1, u64::MAX));
        assert!(
            matches!(read, Err(ReadError::NotFound { .. })),
            "{index}: {read:?}"
        );
    }
}

#[test]
fn what_is_trimmed_is_gone_and_what_follows_is_there_also_after_a_restart() {
    // At the beginning of a file, in the midst of one, and before the last record.
    for at in 0..3 {
        let node = Node::new(1);
        let (storage, all) = log(&node, 6);
        let starts = storage.starts();
        assert_eq!(starts.len(), 6, "each has records: {starts:?}");
        let first = match at {
            0 => starts[3],
            1 => starts[3] + 5,
            _ => all.len() as u64 - 1,
        };
        let last = all[first as usize - 1].id;
        assert!(trim(&storage, last, b"state").is_ok());
        assert_eq!(storage.first_index(), Some(first));
        assert_eq!(
            storage.log_id_at(first - 1),
            Some(last),
            "the last one's id is known"
        );
        assert_eq!(storage.log_id_at(first.saturating_sub(2)), None);
        not_found(&storage, 0..first);
        assert!(read_all(&storage).unwrap() == all[first as usize..]);
        let gone = if at < 2 { 3 } else { 5 };
        assert_eq!(storage.remove_trimmed(), gone);
        assert_eq!(storage.remove_trimmed(), 0);
        fill(&storage, 9, all.len() as u64, all.len() as u64 + 40, 900);
        let now = read_all(&storage).unwrap();
        drop(storage);
        node.files.power_cut(3);
        let (storage, recovered) = node.open().unwrap();
        assert_eq!(recovered.beginning.as_deref(), Some(&b"state"[..]));
        assert!(read_all(&storage).unwrap() == now);
        not_found(&storage, 0..first);
        // And again.
        let later = *storage.starts().last().unwrap();
        let last = now[(later - first) as usize - 1].id;
        assert!(trim(&storage, last, b"later").is_ok());
        assert!(storage.remove_trimmed() > 0);
        assert_eq!(node.paths("beginning").len(), 1);
        assert_eq!(node.paths("editlog").len(), 1);
    }
}

#[test]
fn a_log_that_does_not_reach_so_far_goes_on_there() {
    for records in [0, 5, 40] {
        let node = Node::new(2);
        let (storage, _) = node.open().unwrap();
        fill(&storage, 1, 0, records, 900);
        let last = LogId {
            term: 7,
            leader: 0,
            index: 100,
        };
        assert!(trim(&storage, last, b"theirs").is_ok());
        assert_eq!(
            (storage.first_index(), storage.last_log_id()),
            (Some(101), Some(last))
        );
        not_found(&storage, 0..101);
        drop(storage);
        node.files.power_cut(4);
        let (storage, recovered) = node.open().unwrap();
        assert_eq!(recovered.last, Some(last));
        assert_eq!(recovered.beginning.as_deref(), Some(&b"theirs"[..]));
        fill(&storage, 7, 101, 140, 900);
        let now = read_all(&storage).unwrap();
        assert_eq!((now[0].id.index, now.len()), (101, 39));
        drop(storage);
        node.files.kill();
        let (storage, _) = node.open().unwrap();
        assert!(read_all(&storage).unwrap() == now);
        assert_eq!(
            node.paths("editlog-0000000001"),
            [] as [PathBuf; 0],
            "removed by the opening"
        );
    }
}

#[test]
fn a_record_that_is_not_of_this_log_trims_nothing() {
    let node = Node::new(3);
    let (storage, all) = log(&node, 4);
    let other = LogId {
        term: 99,
        ..all[20].id
    };
    assert!(trim(&storage, other, b"").is_err());
    assert!(storage.failed().borrow().is_some(), "it is nothing to go on with");
    drop(storage);
    let (storage, recovered) = node.open().unwrap();
    assert_eq!(recovered.beginning, None);
    assert!(read_all(&storage).unwrap() == all);
}

#[test]
fn a_damaged_copy_of_the_beginning_is_made_again_and_two_are_refused() {
    let node = Node::new(4);
    let (storage, all) = log(&node, 4);
    let first = storage.starts()[2];
    assert!(trim(&storage, all[first as usize - 1].id, b"state").is_ok());
    storage.remove_trimmed();
    drop(storage);
    let path = node.paths("beginning").remove(0);
    let whole = node.bytes(&path);
    let half = whole.len() as u64 / 2;
    for byte in [9, half + 9] {
        node.files.flip_bit(&path, byte, 1);
        let (storage, recovered) = node.open().unwrap();
        assert_eq!(recovered.beginning.as_deref(), Some(&b"state"[..]));
        drop(storage);
        assert!(node.bytes(&path) == whole, "made again");
    }
    for byte in [9, half + 9] {
        node.files.flip_bit(&path, byte, 1);
    }
    assert!(matches!(node.open(), Err(OpenError::Rot { .. })));
    node.files.lose(&path);
    assert!(node.open().is_err(), "what is missing is missed");
}

#[test]
fn what_rots_behind_the_beginning_is_repaired_and_what_lay_before_is_not_missed() {
    let mut node = Node::new(5);
    let (storage, all) = log(&node, 6);
    let first = storage.starts()[3];
    assert!(trim(&storage, all[first as usize - 1].id, b"state").is_ok());
    storage.remove_trimmed();
    drop(storage);
    // Else a summary would be taken for what is there.
    node.metadata = Arc::default();
    for (segment, offset, _) in repair::places(&node).into_iter().step_by(7) {
        repair::flip(&node, segment, offset + 70);
        match node.open() {
            Ok(_) => panic!("{segment} at {offset}: not found"),
            Err(OpenError::Rot { .. }) => {
                let healed = repair::try_heal(&node, &all);
                assert!(matches!(healed, Ok(1)), "{segment} at {offset}: {healed:?}");
            }
            Err(e) => panic!("{segment} at {offset}: {e}"),
        }
        let (storage, _) = node.open().unwrap();
        assert!(read_all(&storage).unwrap() == all[first as usize..]);
    }
}

#[test]
fn the_power_may_go_off_at_any_moment() {
    let template = Node::new(6);
    let (storage, all) = log(&template, 5);
    let first = storage.starts()[2];
    let last = all[first as usize - 1].id;
    drop(storage);
    let mut trimmed = 0;
    for seed in 0..4 {
        for calls in 0..40 {
            let node = Node::new(6);
            let (storage, _) = log(&node, 5);
            node.files.power_off_after(calls);
            let answer = trim(&storage, last, b"state");
            let is_told = answer.is_ok();
            storage.remove_trimmed();
            drop(storage);
            node.files.power_cut(seed * 100 + calls);
            let (storage, recovered) = node.open().unwrap_or_else(|e| panic!("{calls}: {e}"));
            let found = read_all(&storage).unwrap();
            match recovered.beginning {
                None => assert!(found == all && !is_told, "{calls}"),
                Some(state) => {
                    assert_eq!(state, b"state");
                    assert!(found == all[first as usize..], "{calls}");
                    trimmed += 1;
                }
            }
            assert!(node.paths("beginning").len() <= 1, "{calls}");
        }
    }
    assert!((4..160).contains(&trimmed), "{trimmed} of 160");
}

/// A life in which the log is trimmed: at a file and within one, merged and not, and with nothing left.
fn life() -> Vec<Act> {
    let grow = Act::Append {
        sizes: vec![700, 3000, 2000, 3000],
        new_term: false,
    };
    let trim = |upto, at_a_file| {
        [
            Act::Commit { upto: 16 },
            Act::Trim { upto, at_a_file },
            Act::Turn,
            Act::RemoveTrimmed,
        ]
    };
    let mut life = vec![
        grow.clone(),
        Act::Turn,
        grow.clone(),
        Act::Turn,
        grow.clone(),
        Act::Turn,
    ];
    life.extend(trim(8, true));
    life.extend([
        grow.clone(),
        Act::Turn,
        Act::Merge,
        grow.clone(),
        Act::Turn,
        Act::Kill,
    ]);
    life.extend(trim(9, false));
    life.extend([Act::Read, Act::Kill, grow, Act::Turn]);
    life.extend(trim(16, false));
    life.extend([Act::Read, Act::Vote, Act::Turn, Act::Read]);
    life
}

#[test]
fn every_call_may_fail_once_and_what_is_not_trimmed_is_there() {
    let live = |fail: Option<(u64, Fault, bool)>| {
        let mut world = World::new(SimFiles::new(7), 7);
        if let Some((nth, fault, kill)) = fail {
            world.fail(nth, fault, kill);
        }
        if let Err(why) = world.run(&life()) {
            panic!("{fail:?}, {:?}: {why}", world.files().failed_calls());
        }
        world
    };
    let whole = live(None);
    assert!(
        whole.removed > 1 && whole.merges == 1,
        "{} removed",
        whole.removed
    );
    for nth in 1..=whole.files().all_calls() {
        for kill in [false, true] {
            live(Some((nth, Fault::Io, kill)));
            live(Some((nth, Fault::NoSpace, kill)));
        }
    }
}
