//! The simulated disk keeps what it must, and loses what it may.

use super::*;

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
    let (mut lost, mut kept, mut torn) = (0, 0, 0);
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
        assert!(
            bytes
                .chunks(512)
                .all(|s| [0, 1, 2].contains(&s[0]) && s.iter().all(|b| *b == s[0]))
        );
        match bytes.iter().filter(|b| **b == 2).count() {
            0 => lost += 1,
            4096 => kept += 1,
            _ => torn += 1,
        }
    }
    assert!(
        lost > 10 && kept > 10 && torn > 10,
        "lost {lost}, kept {kept}, torn {torn}"
    );
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
    let files = SimFiles::new(1);
    let f = file(&files, "f");
    files.sync_dir(dir()).unwrap();
    put(&f, 0, &[1; 512]);
    files.fail_nth(Call::Sync, 1, Fault::Io);
    assert_eq!(f.sync_data().unwrap_err().raw_os_error(), Some(5));
    f.sync_data().unwrap();
    assert_eq!(files.contents(&dir().join("f")).unwrap(), [1; 512]);
    files.power_cut(1);
    assert_eq!(files.contents(&dir().join("f")).unwrap(), []);
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
    let files = SimFiles::new(1);
    let f = file(&files, "f");
    put(&f, 0, &[1; 512]);
    let lock = files.lock_dir(dir()).unwrap();
    files.kill();
    assert!(f.sync_data().is_err());
    assert!(files.lock_dir(dir()).is_ok());
    drop(lock);
    assert_eq!(files.contents(&dir().join("f")).unwrap(), [1; 512]);
    files.power_cut(5);
    assert_eq!(files.paths(), Vec::<PathBuf>::new());
}
