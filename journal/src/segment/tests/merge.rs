//! Editlogs are merged behind the back of all who use them: nothing that anybody reads changes, whatever fails meanwhile.

use super::repair::{flip, heal, patched};
use super::*;
use redoubt_env::sim_files::{Call, Fault};

fn editlogs(node: &Node) -> Vec<String> {
    let paths = node.files.paths().into_iter();
    let names = paths.filter_map(|p| Some(p.file_name()?.to_str()?.to_owned()));
    names
        .filter(|n| n.starts_with("editlog") || n.starts_with("contents"))
        .collect()
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
    let (node, _) = patched();
    let (storage, _) = node.open().unwrap();
    fill(&storage, 3, 32, 60, 900);
    storage.idle();
    assert!(node.merge_all(&storage) > 0);
    let log = read_all(&storage).unwrap();
    drop(storage);
    let lost = node.lies(2).path;
    node.files.lose(&lost);
    assert!(heal(&node, &log) >= 3);
    let (storage, _) = node.open().unwrap();
    assert!(read_all(&storage).unwrap() == log);
    assert_eq!(storage.check(&mut |_| true).rot, []);
    assert!(
        node.files.contents(&lost).is_some(),
        "its headers are there again"
    );
}
