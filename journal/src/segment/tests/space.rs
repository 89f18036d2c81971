//! H4: a full disk stops data while there is room for everything else.

use super::*;
use crate::segment::space::Space;
use std::time::Duration;

const SEGMENT: u64 = 16 * 1024;

fn space(node: &Node) -> Space {
    let files: Arc<dyn redoubt_env::files::Files> = Arc::new(node.files.clone());
    files.create_dir(Path::new(DIR)).unwrap();
    let options = Options {
        reserve_bytes: 2 * SEGMENT,
        ..node.options
    };
    Space::open(&files, Path::new(DIR), &options).unwrap()
}

fn room(space: &Space) -> Room {
    *space.room().borrow()
}

fn provide(space: &Space) -> usize {
    (0..).find(|_| !space.provide().unwrap()).unwrap()
}

#[test]
fn spares_are_made_until_the_disk_is_full_and_again_when_it_is_not() {
    let node = Node::new(1);
    let files = || node.files.free_space();
    let one = space(&node);
    one.active_has(SEGMENT);
    assert_eq!(provide(&one), 3, "the next segment, and two of reserve");
    // All that is there is taken by others.
    node.files.set_capacity(Some(0));
    assert_eq!(
        (files(), provide(&one), room(&one)),
        (0, 0, Room::Plenty),
        "nothing is missing"
    );
    let taken = one.take().unwrap();
    assert_eq!(room(&one), Room::Plenty, "another may be made in a moment");
    assert_eq!((provide(&one), room(&one)), (0, Room::Low));
    one.active_has(0);
    assert_eq!(room(&one), Room::Low, "the reserve is whole");
    one.take().unwrap();
    one.active_has(SEGMENT);
    assert_eq!(room(&one), Room::Low);
    one.take().unwrap();
    one.active_has(SEGMENT / 2);
    assert_eq!(room(&one), Room::None);
    assert_eq!(one.take(), None);
    node.files.set_capacity(None);
    assert_eq!((provide(&one), room(&one)), (3, Room::Plenty));
    assert_eq!(taken.filled, 0);
}

#[test]
fn spares_are_taken_over_at_the_next_opening_unless_they_have_the_wrong_size() {
    let node = Node::new(1);
    let one = space(&node);
    provide(&one);
    let again = space(&node);
    assert_eq!(provide(&again), 0);
    let file = redoubt_env::files::Files::open(
        &node.files,
        &again.take().unwrap().path,
        redoubt_env::files::Mode::Write,
    );
    file.unwrap().set_len(SEGMENT + 1).unwrap();
    assert_eq!(provide(&space(&node)), 1);
}

#[test]
fn the_spare_that_comes_next_is_filled_once_its_turn_is_near() {
    let node = Node::new(1);
    let one = space(&node);
    one.active_has(SEGMENT);
    provide(&one);
    assert_eq!(one.take().unwrap().filled, 0);
    provide(&one);
    one.active_has(SEGMENT / 4);
    provide(&one);
    assert_eq!(one.take().unwrap().filled, SEGMENT);
}

/// Appends until the storage has no more room than `until` and the disk is full; returns the next index. On a busy machine
/// spares may be used faster than they are made: then it waits, as whoever admits data does.
fn fill_up(node: &Node, storage: &Storage, from: u64, until: Room) -> u64 {
    let is_full = || node.files.free_space() < SEGMENT + 8192;
    let mut next = from;
    let (tx, rx) = std::sync::mpsc::channel();
    loop {
        if *storage.room().borrow() >= until {
            if is_full() {
                return next;
            }
            std::thread::yield_now();
            continue;
        }
        let tx = tx.clone();
        let done = Box::new(move |result: io::Result<()>| tx.send(result).unwrap());
        storage.append(vec![record(1, next, payload(1, next, 1000))], done);
        rx.recv().unwrap().expect("there is room for what is asked");
        next += 1;
        assert!(next < from + 10_000, "the disk is never full");
    }
}

fn close(storage: Storage) {
    let (tx, rx) = std::sync::mpsc::channel();
    storage.close(Box::new(move |result| tx.send(result).unwrap()));
    rx.recv().unwrap().unwrap();
}

#[test]
fn h04_no_write_fails_for_want_of_space_and_all_goes_on_by_itself_when_there_is_some() {
    let mut node = Node::new(1);
    node.options.execution = Execution::Threads;
    node.options.reserve_bytes = 4 * SEGMENT;
    node.files.set_capacity(Some(40 * SEGMENT));
    let (storage, _) = node.open().unwrap();
    let low = fill_up(&node, &storage, 0, Room::Low);
    let none = fill_up(&node, &storage, low, Room::None);
    let between = (none - low) * 1000;
    assert!(
        between >= SEGMENT,
        "only {between} bytes were left for control entries"
    );
    assert!(storage.failed().borrow().is_none());
    close(storage);
    // It starts, is read and votes on a disk that is full.
    let (storage, _) = node.open().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut room = storage.room();
        assert!(room.wait_for(|r| *r != Room::Plenty).await.is_ok());
        let read = storage.read(0, 1, 1).await.unwrap();
        assert_eq!(read[0].payload, payload(1, 0, 1000));
    });
    let (tx, rx) = std::sync::mpsc::channel();
    let vote = Vote {
        term: 3,
        node: 1,
        committed: false,
    };
    storage.save_vote(vote, Box::new(move |result| tx.send(result).unwrap()));
    rx.recv_timeout(Duration::from_secs(10)).unwrap().unwrap();
    node.files.set_capacity(None);
    runtime.block_on(async {
        let mut room = storage.room();
        assert!(room.wait_for(|r| *r == Room::Plenty).await.is_ok());
    });
    for i in none..none + 100 {
        let (tx, rx) = std::sync::mpsc::channel();
        storage.append(
            vec![record(1, i, payload(1, i, 1000))],
            Box::new(move |result| tx.send(result).unwrap()),
        );
        rx.recv().unwrap().unwrap();
    }
    close(storage);
    node.options.execution = Execution::Immediate;
    let log = read_all(&node.open().unwrap().0).unwrap();
    assert_eq!(log.len() as u64, none + 100);
    assert!(log.iter().all(|r| r.payload == payload(1, r.id.index, 1000)));
}
