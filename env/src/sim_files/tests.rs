//! The simulated disk keeps what it must, and loses what it may.

use super::*;
use crate::files::{File, Files, Mode};
use std::io::{self, IoSlice};

fn dir() -> &'static Path {
    Path::new("/d")
}

fn file(files: &SimFiles, name: &str) -> Arc<dyn File> {
    files.create_dir(dir()).unwrap();
    files.open(&dir().join(name), Mode::CreateNew).unwrap()
}

fn put(file: &Arc<dyn File>, pos: u64, bytes: &[u8]) {
    file.write_at(&[IoSlice::new(bytes)], pos).unwrap();
}

#[test]
fn what_was_synced_is_there_after_a_cut_and_what_was_not_may_be_in_any_state() {
    let (mut lost, mut kept, mut sectors, mut bytes_torn) = (0, 0, 0, 0);
    for seed in 0..200 {
        let files = SimFiles::new(seed);
        let f = file(&files, "f");
        put(&f, 0, &[1; 4096]);
        f.sync_data().unwrap();
        files.sync_dir(dir()).unwrap();
        put(&f, 2048, &[2; 4096]);
        files.power_cut(seed);
        assert!(f.len().is_err(), "a file opened before the cut is dead");
        let bytes = files.contents(&dir().join("f")).unwrap();
        assert_eq!(bytes[..2048], [1; 2048]);
        assert!(bytes.iter().all(|b| [0, 1, 2].contains(b)));
        let whole_sectors = bytes.chunks(512).all(|s| s.iter().all(|b| *b == s[0]));
        match bytes.iter().filter(|b| **b == 2).count() {
            0 => lost += 1,
            4096 => kept += 1,
            _ if whole_sectors => sectors += 1,
            _ => bytes_torn += 1,
        }
    }
    assert!(
        lost > 10 && kept > 10 && sectors > 10 && bytes_torn > 10,
        "lost {lost}, kept {kept}, torn at sectors {sectors}, within them {bytes_torn}"
    );
}

/// In how many of 200 power cuts after `make` the state that `is` asks for comes out.
fn cuts(make: impl Fn(&SimFiles), is: impl Fn(&SimFiles) -> bool) -> usize {
    let came_out = (0..200).filter(|seed| {
        let files = SimFiles::new(*seed);
        make(&files);
        files.power_cut(*seed);
        is(&files)
    });
    came_out.count()
}

#[test]
fn a_later_write_may_survive_an_earlier_one() {
    let two_files = |files: &SimFiles| {
        let (f, g) = (file(files, "f"), file(files, "g"));
        files.sync_dir(dir()).unwrap();
        put(&f, 0, &[1; 100]);
        put(&f, 10_000, &[2; 100]);
        put(&g, 0, &[3; 100]);
    };
    let holds = |files: &SimFiles, name: &str, byte: u8| {
        files
            .contents(&dir().join(name))
            .unwrap()
            .iter()
            .filter(|b| **b == byte)
            .count()
            == 100
    };
    let within = cuts(two_files, |files| holds(files, "f", 2) && !holds(files, "f", 1));
    let across = cuts(two_files, |files| holds(files, "g", 3) && !holds(files, "f", 1));
    assert!(
        within > 5 && across > 5,
        "within a file {within}, across files {across}"
    );
}

#[test]
fn a_length_may_survive_what_was_written_up_to_there() {
    let grown = |files: &SimFiles| {
        let f = file(files, "f");
        files.sync_dir(dir()).unwrap();
        put(&f, 0, &[1; 3000]);
    };
    let zeros = cuts(grown, |files| {
        files.contents(&dir().join("f")).unwrap() == [0; 3000]
    });
    assert!(zeros > 2, "{zeros}");
}

#[test]
fn changes_of_names_survive_in_any_order_but_each_file_has_one_name() {
    let other = Path::new("/other");
    let at = |dir: &Path, name: &str| dir.join(name);
    let make = |files: &SimFiles| {
        files.create_dir(other).unwrap();
        file(files, "early");
        let f = files.open(&at(other, "f.new"), Mode::CreateNew).unwrap();
        put(&f, 0, b"f");
        f.sync_data().unwrap();
        files.rename(&at(other, "f.new"), &at(other, "f")).unwrap();
    };
    let later_only = |files: &SimFiles| files.paths() == [at(other, "f")];
    assert!(
        cuts(make, later_only) > 5,
        "the other directory's earlier change is lost"
    );
    let both = |files: &SimFiles| files.paths() == [at(dir(), "early"), at(other, "f")];
    assert!(cuts(make, both) > 5);
    let twice = |files: &SimFiles| {
        let paths = files.paths();
        paths.contains(&at(other, "f")) && paths.contains(&at(other, "f.new"))
    };
    assert_eq!(cuts(make, twice), 0);

    // Within one directory too.
    let siblings = |files: &SimFiles| ["a", "b"].iter().for_each(|name| drop(file(files, name)));
    let only_b = |files: &SimFiles| files.paths() == [at(dir(), "b")];
    assert!(cuts(siblings, only_b) > 5);
    let synced = |files: &SimFiles| {
        make(files);
        files.sync_dir(other).unwrap();
    };
    assert_eq!(cuts(synced, |files| files.paths().contains(&at(other, "f"))), 200);
    assert!(cuts(synced, later_only) > 5, "the other directory was not synced");
}

#[test]
fn a_rename_to_a_synced_directory_takes_the_file_along() {
    let other = Path::new("/other");
    let make = |files: &SimFiles| {
        files.create_dir(other).unwrap();
        file(files, "f");
        files.rename(&dir().join("f"), &other.join("f")).unwrap();
        files.sync_dir(other).unwrap();
    };
    assert_eq!(cuts(make, |files| files.paths() == [other.join("f")]), 200);
}

#[test]
fn a_name_is_durable_only_with_its_directory() {
    let survived = |sync: bool| {
        (0..50).filter(move |seed| {
            let files = SimFiles::new(*seed);
            let f = file(&files, "f");
            f.sync_data().unwrap();
            if sync {
                files.sync_dir(dir()).unwrap();
            }
            files.rename(&dir().join("f"), &dir().join("g")).unwrap();
            if sync {
                files.sync_dir(dir()).unwrap();
            }
            files.power_cut(*seed);
            files.paths() == [dir().join("g")]
        })
    };
    assert_eq!(survived(true).count(), 50);
    assert!((1..50).contains(&survived(false).count()));
}

#[test]
fn a_sync_that_does_nothing_loses() {
    let lost = (0..50).filter(move |seed| {
        let files = SimFiles::with_noop_sync(*seed);
        let f = file(&files, "f");
        put(&f, 0, &[1; 512]);
        f.sync_data().unwrap();
        files.sync_dir(dir()).unwrap();
        files.power_cut(*seed);
        files.contents(&dir().join("f")).unwrap() != [1; 512]
    });
    assert!(lost.count() > 10);
}

#[test]
fn a_failed_sync_is_not_mended_by_another() {
    let make = |files: &SimFiles| {
        let f = file(files, "f");
        files.sync_dir(dir()).unwrap();
        put(&f, 0, &[1; 512]);
        files.fail_nth(Call::Sync, 1, Fault::Io);
        assert_eq!(f.sync_data().unwrap_err().raw_os_error(), Some(5));
        f.sync_data().unwrap();
        assert_eq!(files.contents(&dir().join("f")).unwrap(), [1; 512]);
    };
    let kept = cuts(make, |files| {
        files.contents(&dir().join("f")).unwrap() == [1; 512]
    });
    assert!(
        (10..150).contains(&kept),
        "{kept} of 200 were on the disk all the same"
    );
}

#[test]
fn any_chosen_call_fails_and_may_have_happened() {
    let calls = |files: &SimFiles| {
        let step = || {
            let f = file(files, "f");
            f.write_at(&[IoSlice::new(&[1; 9])], 0)?;
            f.sync_data()?;
            files.rename(&dir().join("f"), &dir().join("g"))?;
            files.list(dir())?;
            files.remove(&dir().join("g"))
        };
        step()
    };
    let whole = SimFiles::new(1);
    calls(&whole).unwrap();
    // The first two are of `file`, which expects no fault.
    assert_eq!(whole.all_calls(), 7);
    let failed = (3..=7).flat_map(|nth| {
        let files = SimFiles::new(nth);
        files.fail_nth_of_all(nth, Fault::NoSpace);
        assert_eq!(calls(&files).unwrap_err().raw_os_error(), Some(28));
        assert_eq!(files.all_calls(), nth);
        files.failed_calls()
    });
    let kinds = [Call::Write, Call::Sync, Call::Rename, Call::List, Call::Remove];
    assert!(failed.eq(kinds));

    let renamed = (0..50).filter(|seed| {
        let files = SimFiles::new(*seed);
        file(&files, "f");
        files.fail_nth(Call::Rename, 1, Fault::Io);
        assert!(files.rename(&dir().join("f"), &dir().join("g")).is_err());
        files.paths() == [dir().join("g")]
    });
    assert!((5..45).contains(&renamed.count()));
}

#[test]
fn a_full_disk_takes_nothing_until_there_is_room() {
    let full = |error: io::Error| assert_eq!(error.raw_os_error(), Some(28));
    let files = SimFiles::new(1);
    assert_eq!(files.free_space(), u64::MAX);
    files.set_capacity(Some(6 * 4096));
    let f = file(&files, "f");
    assert_eq!(files.free_space(), 5 * 4096, "a file takes a block by itself");
    put(&f, 0, &[1; 4097]);
    assert_eq!(files.free_space(), 3 * 4096);
    // As much as fits is written; what is there can be written over.
    full(f.write_at(&[IoSlice::new(&[2; 5 * 4096])], 4096).unwrap_err());
    assert_eq!(files.free_space(), 0);
    assert_eq!(files.contents(&dir().join("f")).unwrap()[4096..], [2; 4 * 4096]);
    put(&f, 4096, &[3; 4096]);
    full(f.set_len(6 * 4096).unwrap_err());
    full(files.open(&dir().join("g"), Mode::CreateNew).err().unwrap());

    files.set_capacity(Some(9 * 4096));
    put(&file(&files, "g"), 0, &[4; 4096]);
    // What has no name any more takes its room as long as it is open.
    files.remove(&dir().join("f")).unwrap();
    assert_eq!(files.free_space(), 4096);
    drop(f);
    assert_eq!(files.free_space(), 7 * 4096);
    files.set_capacity(None);
    put(&file(&files, "h"), 0, &[5; 99 * 4096]);
}

#[test]
fn a_sync_that_is_held_waits_while_others_go_on_and_covers_what_was_written_before_it() {
    let files = SimFiles::new(1);
    let (f, g) = (file(&files, "f"), file(&files, "g"));
    files.sync_dir(dir()).unwrap();
    put(&f, 0, &[1; 512]);
    let slow = files.hold_syncs(2);
    f.sync_data().unwrap();
    put(&f, 0, &[2; 512]);
    let synced = std::thread::scope(|scope| {
        let sync = scope.spawn(|| f.sync_data());
        slow.wait_for(1);
        put(&f, 0, &[3; 512]);
        put(&g, 0, &[3; 512]);
        assert!(!sync.is_finished());
        drop(slow);
        sync.join().unwrap()
    });
    synced.unwrap();
    let after = (0..50).map(|seed| {
        let files = SimFiles::new(seed);
        let f = file(&files, "f");
        files.sync_dir(dir()).unwrap();
        put(&f, 0, &[2; 512]);
        let slow = files.hold_syncs(1);
        std::thread::scope(|scope| {
            let sync = scope.spawn(|| f.sync_data());
            slow.wait_for(1);
            put(&f, 0, &[3; 512]);
            drop(slow);
            sync.join().unwrap().unwrap();
        });
        files.power_cut(seed);
        files.contents(&dir().join("f")).unwrap()
    });
    let after: Vec<_> = after.collect();
    assert!(after.iter().all(|bytes| bytes.iter().all(|b| [2, 3].contains(b))));
    assert!(
        after.iter().any(|bytes| bytes.contains(&2)),
        "the later write is not covered"
    );
}

#[test]
fn a_held_sync_ends_with_its_process() {
    let files = SimFiles::new(1);
    let f = file(&files, "f");
    let slow = files.hold_syncs(1);
    std::thread::scope(|scope| {
        let sync = scope.spawn(|| f.sync_data());
        slow.wait_for(1);
        files.kill();
        assert!(sync.join().unwrap().is_err());
    });
}

#[test]
fn the_power_fails_after_so_many_changes_and_stays_off() {
    let files = SimFiles::new(1);
    let f = file(&files, "f");
    files.power_off_after(1);
    put(&f, 0, &[1; 512]);
    assert!(f.sync_data().is_err());
    assert!(f.read_at(&mut [0; 1], 0).is_err());
    assert!(files.is_off());
    files.power_cut(1);
    assert!(files.list(dir()).is_ok());
}

#[test]
fn the_same_seed_leaves_the_same_bytes() {
    let run = || {
        let files = SimFiles::new(7);
        let f = file(&files, "f");
        files.sync_dir(dir()).unwrap();
        (0..20).for_each(|i| put(&f, i * 700, &[i as u8 + 1; 900]));
        files.power_cut(99);
        files.contents(&dir().join("f"))
    };
    assert_eq!(run(), run());
}

#[test]
fn a_lock_excludes_until_it_is_dropped() {
    let files = SimFiles::new(1);
    files.create_dir(dir()).unwrap();
    let held = files.lock_dir(dir()).unwrap();
    assert_eq!(
        files.lock_dir(dir()).err().unwrap().kind(),
        io::ErrorKind::WouldBlock
    );
    drop(held);
    drop(files.lock_dir(dir()).unwrap());
}

#[test]
fn a_killed_process_loses_nothing_until_the_power_is_cut() {
    let killed = |files: &SimFiles| {
        let f = file(files, "f");
        put(&f, 0, &[1; 512]);
        let lock = files.lock_dir(dir()).unwrap();
        files.kill();
        assert!(f.sync_data().is_err());
        assert!(files.lock_dir(dir()).is_ok());
        drop(lock);
        assert_eq!(files.contents(&dir().join("f")).unwrap(), [1; 512]);
    };
    let lost = cuts(killed, |files| files.paths().is_empty());
    assert!((50..150).contains(&lost), "{lost} of 200");
}
