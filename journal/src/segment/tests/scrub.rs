//! H7: what rots is found without anybody asking for it.

use super::repair::{flip, heal, long_log, patched, places};
use super::*;
use format::Kind;
use redoubt_env::sim_files::{Call, Fault};
use std::time::Duration;

fn check(storage: &Storage) -> Checked {
    let mut heard = 0;
    let checked = storage.check(&mut |bytes| {
        heard += bytes;
        true
    });
    assert_eq!(heard, checked.bytes);
    assert_eq!(checked.unchecked, Vec::<String>::new());
    checked
}

#[test]
fn a_whole_log_is_found_whole_wherever_it_was_cut_or_repaired() {
    let mut node = Node::new(1);
    let want = long_log(&node);
    // A torn end, cut.
    let (storage, _) = node.open().unwrap();
    node.files.power_off_after(1);
    storage.append(
        vec![
            record(2, 32, payload(2, 32, 3000)),
            record(2, 33, payload(2, 33, 3000)),
        ],
        Answer::default().done(),
    );
    drop(storage);
    (0..)
        .find(|seed| {
            node.files.power_cut(*seed);
            node.open()
                .is_ok_and(|(_, recovered)| recovered.truncated_bytes > 0)
                || *seed == 50
        })
        .unwrap();
    let (storage, _) = node.open().unwrap();
    let kept = read_all(&storage).unwrap();
    assert!(kept.starts_with(&want));
    fill(&storage, 3, kept.len() as u64, 50, 900);
    storage.idle();
    let want = read_all(&storage).unwrap();
    let clean = check(&storage);
    assert_eq!((clean.rot.len(), clean.mended.len()), (0, 0));
    let lies: u64 = places(&node).iter().map(|(.., h)| h.span()).sum();
    assert!(
        clean.bytes > lies,
        "{} bytes were read, {lies} lie there",
        clean.bytes
    );
    drop(storage);
    // A patch over a record, one over a seal, and a header that only the seal before tells.
    node.metadata = Arc::default();
    let all = places(&node);
    let record = all.iter().find(|(.., h)| h.payload_bytes > 0).unwrap();
    let seal = all.iter().find(|(.., h)| h.kind == Kind::Seal).unwrap();
    flip(&node, record.0, record.1 + 70);
    flip(&node, seal.0, seal.1 + 20);
    assert_eq!(heal(&node, &want), 2);
    flip(&node, 3, 100);
    let (storage, _) = node.open().unwrap();
    assert_eq!(check(&storage).rot, []);
    assert_eq!(*storage.rot().borrow(), None);
}

#[test]
fn whatever_rots_is_found_and_healed_at_the_next_opening() {
    let template = Node::new(1);
    long_log(&template);
    for (segment, offset, header) in places(&template) {
        let node = Node::new(1);
        let want = long_log(&node);
        let (storage, _) = node.open().unwrap();
        let byte = if header.payload_bytes > 0 { 70 } else { 20 };
        flip(&node, segment, offset + byte);
        let rot = Rot {
            path: node.segment(segment),
            segment: Some(segment),
            offset: offset.into(),
        };
        assert_eq!(check(&storage).rot, std::slice::from_ref(&rot), "{header:?}");
        assert_eq!(*storage.rot().borrow(), Some(rot), "{header:?}");
        // In order, which marks the end: else damage there would look torn.
        storage.close(Answer::default().done());
        drop(storage);
        heal(&node, &want);
        let (storage, _) = node.open().unwrap();
        assert_eq!(check(&storage).rot, [], "{header:?}");
        let found = read_all(&storage).unwrap();
        assert!(found == want, "{header:?}: {} of {}", found.len(), want.len());
    }
}

#[test]
fn what_is_durable_but_not_yet_marked_is_looked_at_too() {
    let node = Node::new(1);
    let (storage, _) = node.open().unwrap();
    fill(&storage, 1, 0, 3, 500);
    let (segment, offset, _) = places(&node)[2];
    flip(&node, segment, offset + 70);
    assert_eq!(check(&storage).rot[0].offset, u64::from(offset));
    let answer = Answer::default();
    storage.close(answer.done());
    assert!(answer.is_ok());
    assert!(
        matches!(node.open(), Err(OpenError::Rot { index: 2, .. })),
        "closed in order, it is rot, and not torn"
    );
}

#[test]
fn a_patch_that_rots_is_found() {
    let (node, want) = patched();
    let (storage, _) = node.open().unwrap();
    let patch = file::path_of(Path::new(DIR), patch::PATCH_BIT | 1);
    node.files.flip_bit(&patch, 4096 + 100, 0);
    let rot = check(&storage).rot;
    assert_eq!((rot.len(), &rot[0].path, rot[0].segment), (1, &patch, None));
    drop(storage);
    assert_eq!(heal(&node, &want), 1);
}

#[test]
fn h05_a_copy_of_the_vote_that_rots_is_made_again() {
    let node = Node::new(1);
    let vote = Vote {
        term: 9,
        node: 3,
        committed: true,
    };
    for bad in [100, 4096 + 30] {
        let (storage, _) = node.open().unwrap();
        storage.save_vote(vote, Answer::default().done());
        let path = Path::new(DIR).join("vote");
        let whole = node.bytes(&path);
        node.files.flip_bit(&path, bad, 2);
        assert_eq!(check(&storage).mended, ["vote"]);
        assert_eq!(node.bytes(&path), whole);
        assert_eq!(check(&storage).mended, Vec::<&str>::new());
        drop(storage);
        assert_eq!(node.open().unwrap().1.vote, Some(vote));
    }
}

#[test]
fn what_the_disk_cannot_read_is_repaired_like_what_it_reads_wrongly() {
    let mut node = Node::new(1);
    let want = long_log(&node);
    node.metadata = Arc::default();
    // Reads at an opening: find one that gets all of a sealed segment, and one of the pages that are tried then.
    let mut repaired = 0;
    for nth in 1..20 {
        node.files.fail_nth(Call::Read, nth, Fault::Io);
        node.files.fail_nth(Call::Read, nth + 3, Fault::Io);
        match node.open() {
            Err(OpenError::Rot { .. }) => {
                repaired += 1;
                heal(&node, &want);
            }
            Ok(_) | Err(OpenError::Io { .. } | OpenError::Slots { .. }) => {}
            Err(e) => panic!("{e}"),
        }
        while node.open().is_err() {}
        assert!(read_all(&node.open().unwrap().0).unwrap() == want, "read {nth}");
    }
    assert!(repaired > 0);
    // And while it runs.
    let (storage, _) = node.open().unwrap();
    node.files.fail_nth(Call::Read, 1, Fault::Io);
    let read = ready(storage.read(0, 1, 1)).unwrap();
    assert!(read == want[..1], "what can't be read lies behind it");
    // A chunk, and then the record alone.
    node.files.fail_nth(Call::Read, 1, Fault::Io);
    node.files.fail_nth(Call::Read, 2, Fault::Io);
    assert_eq!(ready(storage.read(0, 1, 1)), Err(ReadError::Damaged { index: 0 }));
    assert!(storage.rot().borrow().is_some());
}

#[test]
fn the_scrubbing_thread_finds_rot_by_itself_and_ends_with_its_storage() {
    let mut node = Node::new(1);
    long_log(&node);
    node.options.execution = Execution::Threads;
    node.options.scrub_every = Duration::from_millis(1);
    let (storage, _) = node.open().unwrap();
    let (segment, offset, _) = places(&node)[4];
    flip(&node, segment, offset + 70);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut rot = storage.rot();
    runtime.block_on(async {
        assert!(rot.wait_for(Option::is_some).await.is_ok());
    });
    assert_eq!(rot.borrow().as_ref().unwrap().segment, Some(segment));
    drop(storage);
    runtime.block_on(async { while rot.changed().await.is_ok() {} });
}

#[test]
fn what_comes_after_the_end_is_answered() {
    let mut node = Node::new(1);
    node.options.execution = Execution::Threads;
    let (storage, _) = node.open().unwrap();
    let (tx, rx) = std::sync::mpsc::channel();
    let done = |name: &'static str| {
        let tx = tx.clone();
        Box::new(move |result: io::Result<()>| tx.send((name, result.is_ok())).unwrap())
    };
    storage.close(done("close"));
    assert_eq!(rx.recv().unwrap(), ("close", true));
    storage.append(vec![record(1, 0, payload(1, 0, 9))], done("append"));
    assert_eq!(rx.recv().unwrap(), ("append", false));
    assert!(!storage.check(&mut |_| true).unchecked.is_empty());
}
