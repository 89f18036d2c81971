//! Editlogs are merged behind the back of all who use them: nothing that anybody reads changes, whatever fails meanwhile.

use super::repair::{flip, heal, patched};
use super::*;
use redoubt_env::sim_files::{Call, Fault};

/// Names of the files that segments lie in, and of what lies beside them.
pub(super) fn editlogs(node: &Node) -> Vec<String> {
    let paths = [node.paths("contents"), node.paths("editlog")].concat();
    let name = |p: &PathBuf| p.file_name().unwrap().to_string_lossy().into_owned();
    paths.iter().map(name).collect()
}

/// A log with several sealed segments.
fn grown(node: &Node) -> (Storage, Vec<LogRecord>) {
    let (storage, _) = node.open().unwrap();
    fill(&storage, 1, 0, 60, 900);
    let log = read_all(&storage).unwrap();
    (storage, log)
}

#[test]
fn every_byte_of_every_segment_stays() {
    let node = Node::new(1);
    let (storage, log) = grown(&node);
    let before: Vec<_> = (1..=4).map(|n| node.segment_bytes(n).unwrap()).collect();
    assert!(matches!(
        storage.merge(&mut |_| true),
        Merging::Done { files: 4, .. }
    ));
    let now = [
        "contents-0000000001-0000000004",
        "editlog-0000000001-0000000004",
        "editlog-0000000005",
    ];
    assert_eq!(editlogs(&node), now);
    for (number, before) in (1..).zip(before) {
        let now = node.segment_bytes(number).unwrap();
        let (same, behind) = before.split_at(now.len());
        assert!(now == same, "segment {number} has other bytes");
        assert!(
            behind.iter().all(|b| *b == 0),
            "segment {number} is not all there"
        );
    }
    assert!(read_all(&storage).unwrap() == log);
    // Once more when there are neighbours of its size, and again after a start without and with metadata.
    fill(&storage, 1, 60, 120, 900);
    let log = read_all(&storage).unwrap();
    drop(storage);
    for metadata in [Arc::default(), node.metadata.clone()] {
        let node = Node {
            files: node.files.clone(),
            metadata,
            options: node.options,
        };
        let (storage, recovered) = node.open().unwrap();
        assert_eq!(recovered.truncated_bytes, 0);
        assert!(read_all(&storage).unwrap() == log);
        node.merge_all(&storage);
        assert!(read_all(&storage).unwrap() == log);
        assert_eq!(storage.check(&mut |_| true).rot, []);
    }
    assert!(editlogs(&node).len() < 8, "{:?}", editlogs(&node));
}

#[test]
fn merged_files_are_merged_again() {
    let mut node = Node::new(1);
    // Each restart ends a segment, as a torn end does.
    node.options.merge_at_files = 2;
    let mut largest = 0;
    for round in 0..24 {
        let (storage, _) = node.open().unwrap();
        fill(&storage, 1, 10 * round, 10 * round + 10, 700);
        while let Merging::Done { bytes, .. } = storage.merge(&mut |_| true) {
            largest = largest.max(bytes);
        }
        assert_eq!(read_all(&storage).unwrap().len() as u64, 10 * round + 10);
    }
    assert!(largest > 40 * 1024, "none became larger than {largest} bytes");
    assert!(largest <= node.options.merge_bytes + 4 * 4096, "{largest} bytes");
}

#[test]
fn who_has_an_old_file_open_reads_on() {
    let node = Node::new(1);
    let (storage, log) = grown(&node);
    let old = layout::Lies::alone(Path::new(DIR), 2)
        .open(&node.files, redoubt_env::files::Mode::Read)
        .unwrap();
    let before = file::read_all(&*old, Path::new("old")).unwrap();
    // Reads what is in the files, and so has them open.
    assert!(read_all(&storage).unwrap() == log);
    assert!(matches!(storage.merge(&mut |_| true), Merging::Done { .. }));
    assert!(node.files.contents(&node.segment(2)).is_none());
    assert!(file::read_all(&*old, Path::new("old")).unwrap() == before);
    assert!(read_all(&storage).unwrap() == log);
}

#[test]
fn tailers_and_writers_are_not_disturbed() {
    let mut node = Node::new(1);
    node.options.execution = Execution::Threads;
    node.options.merge_every = std::time::Duration::from_millis(1);
    node.options.merge_bytes_per_second = u64::MAX;
    node.options.merge_at_files = 2;
    node.options.reserve_bytes = 0;
    let (storage, _) = node.open().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut merged = false;
    for n in 0..400 {
        let (done, answered) = std::sync::mpsc::channel();
        storage.append(
            vec![record(1, n, payload(1, n, 900))],
            Box::new(move |r| done.send(r).unwrap()),
        );
        answered.recv().unwrap().unwrap();
        let from = n.saturating_sub(60);
        let read = runtime.block_on(storage.read(from, n + 1, u64::MAX)).unwrap();
        assert_eq!(read.first().map(|r| r.id.index), Some(from));
        assert!(read.iter().all(|r| r.payload == payload(1, r.id.index, 900)));
        merged |= editlogs(&node).iter().any(|n| n.starts_with("contents"));
    }
    assert!(merged, "nothing was merged meanwhile");
}

#[test]
fn the_caller_decides_how_fast_it_goes_and_whether() {
    let node = Node::new(1);
    let (storage, log) = grown(&node);
    let before = editlogs(&node);
    let mut told = 0;
    let stopped = storage.merge(&mut |bytes| {
        told += bytes;
        told < 30_000
    });
    assert!(matches!(stopped, Merging::NotNow(_)), "{stopped:?}");
    assert_eq!(editlogs(&node), before);
    told = 0;
    let Merging::Done { bytes, .. } = storage.merge(&mut |bytes| {
        told += bytes;
        true
    }) else {
        panic!("it is not merged");
    };
    // Read, written, and read again.
    assert!(told > 3 * (bytes - 4 * 4096), "{told} of 3 x {bytes}");
    assert!(read_all(&storage).unwrap() == log);
}

#[test]
fn nothing_is_changed_once_the_storage_is_closed() {
    let node = Node::new(1);
    let (storage, log) = grown(&node);
    let before = editlogs(&node);
    let merging = storage.clone();
    let stopped = merging.merge(&mut |_| {
        storage.close(Answer::default().done());
        true
    });
    assert!(matches!(stopped, Merging::NotNow(_)), "{stopped:?}");
    let left = editlogs(&node);
    assert!(
        left.len() == before.len() + 1 && left.iter().any(|n| n.ends_with(".new")),
        "{left:?}"
    );
    drop((storage, merging));
    let (storage, _) = node.open().unwrap();
    assert_eq!(editlogs(&node), before, "what was left is removed");
    assert!(read_all(&storage).unwrap() == log);
}

#[test]
fn what_is_damaged_is_not_merged_and_healed_instead() {
    let node = Node::new(1);
    let (storage, log) = grown(&node);
    let before = editlogs(&node);
    flip(&node, 2, 5000);
    let stopped = storage.merge(&mut |_| true);
    assert!(matches!(stopped, Merging::NotNow(_)), "{stopped:?}");
    assert_eq!(editlogs(&node), before);
    assert_eq!(storage.rot().borrow().as_ref().unwrap().segment, Some(2));
    storage.close(Answer::default().done());
    drop(storage);
    assert_eq!(heal(&node, &log), 1);
    let (storage, _) = node.open().unwrap();
    assert!(
        matches!(storage.merge(&mut |_| true), Merging::Done { .. }),
        "with the patch"
    );
    assert!(read_all(&storage).unwrap() == log);
    drop(storage);
    let (storage, _) = node.open().unwrap();
    assert!(read_all(&storage).unwrap() == log);
}

#[test]
fn what_was_written_wrongly_replaces_nothing() {
    let node = Node::new(1);
    let (storage, log) = grown(&node);
    let before = editlogs(&node);
    let fresh = Path::new(DIR).join("editlog-0000000001-0000000004.new");
    let (files, mut told) = (node.files.clone(), 0);
    let stopped = storage.merge(&mut |bytes| {
        told += bytes;
        // Once the first segment is copied.
        if told == bytes {
            files.flip_bit(&fresh, 10_000, 3);
        }
        true
    });
    assert!(matches!(stopped, Merging::NotNow(_)), "{stopped:?}");
    assert_eq!(editlogs(&node), before);
    assert!(read_all(&storage).unwrap() == log);
    assert_eq!(*storage.rot().borrow(), None, "nothing that counts is damaged");
}

#[test]
fn the_power_may_go_off_at_any_moment() {
    let calls = {
        let node = Node::new(1);
        let (storage, _) = grown(&node);
        let before = node.files.all_calls();
        assert!(matches!(storage.merge(&mut |_| true), Merging::Done { .. }));
        node.files.all_calls() - before
    };
    let (mut merged, mut left) = (0, 0);
    for (nth, kill) in (0..=calls).flat_map(|nth| [(nth, true), (nth, false)]) {
        for seed in 0..if kill { 1 } else { 8 } {
            let node = Node::new(seed);
            let (storage, log) = grown(&node);
            storage.idle();
            node.files.power_off_after(nth);
            storage.merge(&mut |_| true);
            drop(storage);
            match kill {
                true => node.files.kill(),
                false => node.files.power_cut(seed),
            }
            left += usize::from(editlogs(&node).len() > 6);
            let (storage, recovered) = node.open().unwrap();
            assert_eq!(recovered.truncated_bytes, 0, "after {nth} calls");
            assert!(read_all(&storage).unwrap() == log, "after {nth} calls");
            assert_eq!(storage.check(&mut |_| true).rot, [], "after {nth} calls");
            let names = editlogs(&node);
            merged += usize::from(names.iter().any(|n| n.starts_with("contents")));
            assert!(
                names.len() == 5 || (names.len() == 3 && names[0].starts_with("contents")),
                "after {nth} calls: {names:?}"
            );
        }
    }
    assert!(
        merged > 10 && left > 10,
        "{merged} were merged, {left} had something left over"
    );
}

#[test]
fn a_full_disk_and_one_that_fails_are_told_apart() {
    let node = Node::new(1);
    let (storage, log) = grown(&node);
    node.files.set_capacity(Some(node.files.used_space() + 8192));
    let stopped = storage.merge(&mut |_| true);
    assert!(matches!(stopped, Merging::NotNow(_)), "{stopped:?}");
    assert_eq!(*storage.failed().borrow(), None);
    node.files.set_capacity(None);
    node.files.fail_nth(Call::Sync, 1, Fault::Io);
    let stopped = storage.merge(&mut |_| true);
    assert!(matches!(stopped, Merging::NotNow(_)), "{stopped:?}");
    assert!(storage.failed().borrow().is_some(), "a failed sync is final");
    drop(storage);
    node.files.kill();
    let (storage, _) = node.open().unwrap();
    assert!(matches!(storage.merge(&mut |_| true), Merging::Done { .. }));
    assert!(read_all(&storage).unwrap() == log);
}

#[test]
fn a_merged_file_that_is_lost_is_had_again_with_all_that_was_in_it() {
    let (mut node, _) = patched();
    let (storage, _) = node.open().unwrap();
    fill(&storage, 3, 32, 60, 900);
    storage.idle();
    assert!(node.merge_all(&storage) > 0);
    let log = read_all(&storage).unwrap();
    drop(storage);
    let merged = node.lies(2);
    assert!(merged.part.is_some());
    node.files.lose(&merged.path);
    node.metadata = Arc::default();
    assert!(heal(&node, &log) >= 3);
    let (storage, _) = node.open().unwrap();
    assert!(read_all(&storage).unwrap() == log);
    assert_eq!(storage.check(&mut |_| true).rot, []);
    assert_eq!(node.lies(2).part, None, "they have files of their own again");
    // Short ones, with patches for all that was in them.
    assert!(node.merge_all(&storage) > 0);
    assert_eq!(*storage.rot().borrow(), None);
    assert!(read_all(&storage).unwrap() == log);
}

#[test]
fn a_full_disk_has_its_room_again_and_the_next_start_is_as_any() {
    let mut refused = 0;
    for free in (0..160 * 1024).step_by(4096) {
        let node = Node::new(1);
        let (storage, log) = grown(&node);
        storage.idle();
        let (used, before) = (node.files.used_space(), editlogs(&node));
        node.files.set_capacity(Some(used + free));
        if let Merging::NotNow(_) = storage.merge(&mut |_| true) {
            refused += 1;
            assert_eq!(editlogs(&node), before, "{free} bytes were free");
            assert_eq!(node.files.used_space(), used, "{free} bytes were free");
        }
        drop(storage);
        node.files.kill();
        let (storage, _) = node.open().unwrap();
        assert!(read_all(&storage).unwrap() == log);
    }
    assert!(refused > 10, "{refused}");
}

#[test]
fn a_log_that_ends_in_a_merged_file_goes_on_behind_it() {
    let mut node = Node::new(1);
    node.options.merge_at_files = 2;
    for round in 0..4 {
        let (storage, _) = node.open().unwrap();
        fill(&storage, 1, 10 * round, 10 * round + 10, 100);
        drop(storage);
        // Torn: cut by the next start.
        let path = node.segment(round as u32 + 1);
        let mut bytes = node.bytes(&path);
        let len = bytes.len();
        bytes[len - 100] = 7;
        node.files.put(&path, &bytes);
    }
    let (storage, _) = node.open().unwrap();
    assert!(node.merge_all(&storage) > 0);
    let log = read_all(&storage).unwrap();
    drop(storage);
    node.files.lose(&node.segment(5));
    node.files.lose(&Path::new(DIR).join(end::END));
    let (storage, _) = node.open().unwrap();
    append(&storage, vec![record(1, 40, "goes on")]);
    let more = read_all(&storage).unwrap();
    assert!(more.starts_with(&log) && more.len() == log.len() + 1);
    drop(storage);
    assert!(read_all(&node.open().unwrap().0).unwrap() == more);
}

/// Makes spares until there is nothing to do.
fn provide_all(storage: &Storage) {
    while storage.provide().unwrap() {}
}

#[test]
fn a_file_that_is_not_needed_any_more_is_a_segment_again_one_day() {
    let mut node = Node::new(1);
    node.options.reserve_bytes = 0;
    let (storage, _) = node.open().unwrap();
    provide_all(&storage);
    fill(&storage, 1, 0, 60, 900);
    assert!(matches!(storage.merge(&mut |_| true), Merging::Done { .. }));
    let used = node.paths("used-");
    assert_eq!(used.len(), 1, "{used:?}");
    assert!(node.bytes(&used[0]).iter().any(|b| *b != 0));
    provide_all(&storage);
    // It waits until one is missing.
    assert!(node.bytes(&used[0]).iter().all(|b| *b == 0));
    assert_eq!(node.paths("spare-").len(), 1);
    fill(&storage, 1, 60, 72, 900);
    node.files.set_capacity(Some(0));
    provide_all(&storage);
    assert_eq!(node.paths("used-").len(), 0);
    let spare = node.paths("spare-").pop().unwrap();
    assert_eq!(node.bytes(&spare), vec![0; 16 * 1024], "though the disk is full");
    node.files.set_capacity(None);
    fill(&storage, 1, 72, 100, 900);
    let log = read_all(&storage).unwrap();
    drop(storage);
    node.metadata = Arc::default();
    let (storage, recovered) = node.open().unwrap();
    assert_eq!(recovered.truncated_bytes, 0);
    assert!(read_all(&storage).unwrap() == log);
}

#[test]
fn a_file_that_somebody_reads_is_not_used_again() {
    let mut node = Node::new(1);
    node.options.reserve_bytes = 0;
    let (storage, log) = grown(&node);
    // It has all of them open.
    assert!(read_all(&storage).unwrap() == log);
    let before = node.segment_bytes(1).unwrap();
    let reads_on = storage.open_segment(1);
    assert!(matches!(storage.merge(&mut |_| true), Merging::Done { .. }));
    provide_all(&storage);
    assert_eq!(node.paths("used-").len(), 0);
    assert!(file::read_all(&*reads_on, Path::new("old")).unwrap() == before);
}

#[test]
fn the_power_may_go_off_while_a_file_is_made_ready_to_be_used_again() {
    let life = |seed, calls: Option<u64>| {
        let mut node = Node::new(seed);
        node.options.reserve_bytes = 0;
        let (storage, log) = grown(&node);
        storage.idle();
        drop(storage);
        // Nobody has anything open, and no spare is missing.
        let (storage, _) = node.open().unwrap();
        provide_all(&storage);
        if let Some(calls) = calls {
            node.files.power_off_after(calls);
        }
        let before = node.files.all_calls();
        storage.merge(&mut |_| true);
        while storage.provide().unwrap_or(false) {}
        (node.files.all_calls() - before, node, log)
    };
    let (calls, node, _) = life(0, None);
    assert_eq!(node.paths("used-").len(), 1);
    for nth in 0..calls {
        for seed in 0..8 {
            let (_, node, log) = life(seed, Some(nth));
            node.files.power_cut(seed);
            let (storage, _) = node.open().unwrap();
            assert!(read_all(&storage).unwrap() == log, "after {nth} calls");
            assert_eq!(storage.check(&mut |_| true).rot, [], "after {nth} calls");
            provide_all(&storage);
            fill(&storage, 1, 60, 90, 900);
            let log = read_all(&storage).unwrap();
            drop(storage);
            assert!(
                read_all(&node.open().unwrap().0).unwrap() == log,
                "after {nth} calls, later"
            );
        }
    }
}
