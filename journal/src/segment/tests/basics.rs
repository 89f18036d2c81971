//! What was appended reads back, before and after it is durable, closed and opened.

use super::*;
use proptest::prelude::*;
use redoubt_env::sim_files::{Call, Fault};
use redoubt_types::{ClusterId, NodeId, ReplId};

#[test]
fn h06_an_empty_directory_is_a_new_incarnation() {
    let node = Node::new(1);
    let (_, first) = node.open().unwrap();
    assert_eq!((first.vote, first.last, first.committed), (None, None, None));
    assert_eq!(first.identity.cluster, None);
    let (_, again) = node.open().unwrap();
    assert_eq!(again.identity, first.identity);
    let other = Node::new(1);
    assert_ne!(other.open().unwrap().1.identity.node, first.identity.node);
}

#[test]
fn records_read_back_from_memory_and_from_many_segments() {
    let node = Node::new(1);
    let (storage, _) = node.open().unwrap();
    let mut want = Vec::new();
    for i in 0..60 {
        let size = [0, 1, 7, 100, 3000, 5000, 40_000][i as usize % 7];
        want.push(record(1 + i / 20, i, payload(1, i, size)));
        append(&storage, vec![want[i as usize].clone()]);
    }
    assert!(
        node.files.contents(&node.segment(5)).is_some(),
        "this is to cross segments"
    );
    assert_eq!(read_all(&storage).unwrap(), want);
    assert_eq!(storage.last_log_id(), Some(want[59].id));
    assert_eq!(storage.log_id_at(25), Some(want[25].id));
    assert_eq!(storage.log_id_at(60), None);
    drop(storage);
    let (storage, recovered) = node.open().unwrap();
    assert_eq!(recovered.last, Some(want[59].id));
    assert_eq!(recovered.truncated_bytes, 0);
    assert_eq!(read_all(&storage).unwrap(), want);
    assert_eq!(ready(storage.read(3, 5, 1)).unwrap(), want[3..4]);
    append(&storage, vec![record(9, 60, "in memory")]);
    want.push(record(9, 60, "in memory"));
    for start in [0, 30, 59, 60] {
        let all = ready(storage.read(start, u64::MAX, u64::MAX)).unwrap();
        assert_eq!(all, want[start as usize..], "from files into memory");
        for max in [0, 1, 8, 9, 3000, 50_000] {
            let some = ready(storage.read(start, u64::MAX, max)).unwrap();
            let bytes: u64 = some.iter().map(|r| r.payload.len() as u64).sum();
            assert_eq!(some, want[start as usize..][..some.len()]);
            assert!(some.len() == 1 || bytes <= max, "{bytes} bytes, not {max}");
        }
    }
    assert_eq!(ready(storage.read(61, 70, 1)).unwrap(), []);
}

#[test]
fn a_record_is_readable_before_it_is_durable() {
    let node = Node::new(1);
    let node = Node {
        options: Options {
            execution: Execution::Manual,
            cache_bytes: 0,
            ..node.options
        },
        ..node
    };
    let (storage, _) = node.open().unwrap();
    let (a, b) = (Answer::default(), Answer::default());
    storage.append(vec![record(1, 0, "a")], a.done());
    storage.append(vec![record(1, 1, "b")], b.done());
    assert!(!a.is_ok());
    assert_eq!(storage.read_cached(0, 2, 100).unwrap().len(), 2);
    let syncs = node.files.calls(Call::Sync);
    assert_eq!(storage.turn(), 2);
    assert!(a.is_ok() && b.is_ok());
    assert_eq!(node.files.calls(Call::Sync) - syncs, 1, "one sync for both");
    assert_eq!(
        storage.read_cached(0, 2, 100),
        None,
        "written records leave a cache of no bytes"
    );
    assert_eq!(read_all(&storage).unwrap().len(), 2);
}

#[test]
fn a_truncated_index_can_be_written_again_while_the_old_one_is_on_its_way() {
    let node = Node::new(1);
    let node = Node {
        options: Options {
            execution: Execution::Manual,
            cache_bytes: 0,
            ..node.options
        },
        ..node
    };
    let (storage, _) = node.open().unwrap();
    let done = || Answer::default().done();
    storage.append((0..4).map(|i| record(1, i, payload(1, i, 50))).collect(), done());
    storage.truncate_after(Some(1), done());
    storage.append(vec![record(2, 2, "new")], done());
    let want = vec![
        record(1, 0, payload(1, 0, 50)),
        record(1, 1, payload(1, 1, 50)),
        record(2, 2, "new"),
    ];
    assert_eq!(read_all(&storage).unwrap(), want);
    while storage.turn() > 0 {}
    assert_eq!(read_all(&storage).unwrap(), want);
    drop(storage);
    assert_eq!(read_all(&node.open().unwrap().0).unwrap(), want);
}

#[test]
fn h08_the_committed_index_is_saved_with_the_next_batch_or_when_idle() {
    let node = Node::new(1);
    let (storage, _) = node.open().unwrap();
    fill(&storage, 1, 0, 5, 10);
    storage.save_committed(LogId {
        term: 1,
        leader: 7,
        index: 2,
    });
    fill(&storage, 1, 5, 6, 10);
    storage.save_committed(LogId {
        term: 1,
        leader: 7,
        index: 4,
    });
    drop(storage);
    let (storage, recovered) = node.open().unwrap();
    assert_eq!(
        recovered.committed.unwrap().index,
        2,
        "the later one had no batch to ride with"
    );
    storage.save_committed(LogId {
        term: 1,
        leader: 7,
        index: 4,
    });
    storage.idle();
    let syncs = node.files.calls(Call::Sync);
    storage.idle();
    assert_eq!(
        node.files.calls(Call::Sync),
        syncs,
        "an idle log that is marked is not written to"
    );
    drop(storage);
    node.files.power_cut(1);
    assert_eq!(node.open().unwrap().1.committed.unwrap().index, 4);
}

#[test]
fn a_failed_sync_is_final() {
    for (call, fault) in [(Call::Sync, Fault::Io), (Call::Write, Fault::NoSpace)] {
        let node = Node::new(3);
        let (storage, _) = node.open().unwrap();
        fill(&storage, 1, 0, 3, 10);
        node.files.fail_nth(call, 1, fault);
        let failed = storage.failed();
        let answers = [(); 5].map(|()| Answer::default());
        storage.append(vec![record(1, 3, "x")], answers[0].done());
        storage.append(vec![record(1, 4, "y")], answers[1].done());
        storage.save_vote(
            Vote {
                term: 5,
                node: 1,
                committed: false,
            },
            answers[2].done(),
        );
        storage.truncate_after(Some(1), answers[3].done());
        storage.close(answers[4].done());
        assert!(answers.iter().all(Answer::is_err), "{call:?}");
        assert!(failed.borrow().is_some());
        drop(storage);
        node.files.power_cut(9);
        let (storage, recovered) = node.open().unwrap();
        assert_eq!(recovered.vote, None);
        assert_eq!(read_all(&storage).unwrap()[..3].len(), 3);
    }
}

#[test]
fn a_failed_vote_is_final_and_what_was_submitted_before_it_is_durable() {
    let node = Node::new(3);
    let node = Node {
        options: Options {
            execution: Execution::Manual,
            ..node.options
        },
        ..node
    };
    let (storage, _) = node.open().unwrap();
    let (a, v) = (Answer::default(), Answer::default());
    storage.append(vec![record(1, 0, "x")], a.done());
    storage.save_vote(
        Vote {
            term: 5,
            node: 1,
            committed: false,
        },
        v.done(),
    );
    node.files.fail_nth(Call::Sync, 2, Fault::Io);
    storage.turn();
    assert!(a.is_ok() && v.is_err());
    assert!(storage.failed().borrow().is_some());
}

#[test]
fn losing_the_metadata_costs_a_rescan_and_garbage_in_it_too() {
    let node = Node::new(1);
    let (storage, _) = node.open().unwrap();
    fill(&storage, 1, 0, 40, 1500);
    storage.truncate_after(Some(25), Answer::default().done());
    fill(&storage, 2, 26, 60, 1500);
    let want = read_all(&storage).unwrap();
    drop(storage);
    let reads = |metadata: Arc<MapMetadata>| {
        let node = Node {
            files: node.files.clone(),
            metadata,
            options: node.options,
        };
        let before = node.files.calls(Call::Read);
        let (storage, _) = node.open().unwrap();
        let reads = node.files.calls(Call::Read) - before;
        assert_eq!(read_all(&storage).unwrap(), want);
        reads
    };
    let with = reads(node.metadata.clone());
    let without = reads(Arc::default());
    let garbage = MapMetadata::default();
    let mixed = MapMetadata::default();
    let all = node.metadata.all();
    assert!(all.len() >= 5);
    for (i, (key, value)) in all.iter().enumerate() {
        let mut bad = value.clone();
        bad[i % value.len()] ^= 4;
        garbage.put(key, &bad).unwrap();
        // A whole summary, but another segment's.
        mixed.put(key, &all[(i + 1) % all.len()].1).unwrap();
    }
    assert_eq!(reads(Arc::new(garbage)), without);
    assert_eq!(reads(Arc::new(mixed)), without);
    assert!(
        with < without,
        "{with} reads with the summaries, {without} without"
    );
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "spoils sled's own files, which are not behind the seam"
)]
fn a_real_disk_and_sled_and_threads_do_the_same() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("node");
    let options = Options {
        segment_bytes: 64 * 1024,
        cache_bytes: 8 * 1024,
        ..Options::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let want: Vec<_> = (0..200).map(|i| record(1, i, payload(1, i, 2000))).collect();
    let open = || {
        let sled = SledMetadata::open(&dir.join("metadata")).unwrap();
        Storage::open(&Env::real(), &dir, "n1", options, Arc::new(sled)).unwrap()
    };
    let close = |storage: Storage| {
        let (tx, rx) = tokio::sync::oneshot::channel();
        storage.close(Box::new(move |r| tx.send(r).unwrap()));
        runtime.block_on(rx).unwrap().unwrap();
    };
    std::fs::create_dir_all(&dir).unwrap();
    let (storage, _) = open();
    assert!(matches!(
        Storage::open(&Env::real(), &dir, "n1", options, Arc::<MapMetadata>::default()),
        Err(OpenError::Locked { .. })
    ));
    for r in &want {
        storage.append(vec![r.clone()], Box::new(|r| r.unwrap()));
    }
    assert_eq!(runtime.block_on(storage.read(0, 1, 1)).unwrap(), want[..1]);
    close(storage);
    for garbage in [false, true] {
        if garbage {
            std::fs::remove_dir_all(dir.join("metadata")).unwrap();
            std::fs::create_dir_all(dir.join("metadata")).unwrap();
            ["db", "conf", "snap.0000000000000001"]
                .iter()
                .for_each(|f| std::fs::write(dir.join("metadata").join(f), [0xa5; 5000]).unwrap());
        }
        let (storage, recovered) = open();
        assert_eq!(recovered.last, Some(want[199].id));
        assert_eq!(recovered.committed, None);
        let read = runtime.block_on(storage.read(10, 60, u64::MAX)).unwrap();
        assert_eq!(read, want[10..60]);
        close(storage);
    }
}

#[test]
fn the_identity_is_kept_and_another_nodes_is_refused() {
    let node = Node::new(1);
    let (storage, recovered) = node.open().unwrap();
    let members = (1..=3).map(|n| SeedMember {
        node: NodeId::new(n).unwrap(),
        name: format!("journal-{n}"),
        address: format!("127.0.0.1:{n}"),
    });
    let seed = ClusterMembershipSeed {
        cluster: ClusterId::new([9; 16]),
        replid: ReplId::from_random([5; 20]),
        members: members.collect(),
    };
    let identity = Identity {
        cluster: Some(seed),
        ..recovered.identity
    };
    let answer = Answer::default();
    storage.save_identity(identity.clone(), answer.done());
    assert!(answer.is_ok());
    drop(storage);
    node.files.power_cut(4);
    assert_eq!(node.open().unwrap().1.identity, identity);
    // Segments of one node in another's directory.
    let other = Node::new(2);
    drop(other.open().unwrap());
    other.files.put(&node.segment(1), &node.bytes(&node.segment(1)));
    assert!(matches!(other.open(), Err(OpenError::Foreign { .. })));
    let env = Env::real().with_files(Arc::new(node.files.clone()));
    let named = Storage::open(&env, Path::new(DIR), "n2", node.options, node.metadata.clone());
    assert!(matches!(named, Err(OpenError::Foreign { .. })));
}

#[test]
fn a_lost_file_is_missed_and_a_strange_one_is_not_formatted_over() {
    let written = || {
        let node = Node::new(1);
        let (storage, _) = node.open().unwrap();
        storage.save_vote(
            Vote {
                term: 3,
                node: 2,
                committed: true,
            },
            Answer::default().done(),
        );
        fill(&storage, 1, 0, 40, 1500);
        node
    };
    let paths: Vec<_> = written().files.paths();
    assert!(paths.len() >= 6, "identity, vote and some segments: {paths:?}");
    for path in paths.into_iter().filter(|p| !p.ends_with("LOCK")) {
        let node = written();
        node.files.lose(&path);
        let error = node.open().err();
        let name = path.file_name().unwrap().to_string_lossy();
        let as_it_should = match &*name {
            "identity" | "vote" => matches!(error, Some(OpenError::Missing { .. })),
            // A witness only: it is made anew.
            "end" => error.is_none(),
            // Others have what was in it.
            _ => matches!(error, Some(OpenError::Rot { .. })),
        };
        assert!(as_it_should, "{path:?}: {error:?}");
    }
    let node = Node::new(1);
    node.files.put(&Path::new(DIR).join("appendonly.aof"), b"x");
    assert!(matches!(node.open(), Err(OpenError::NotOurs { .. })));
}

#[test]
fn where_the_records_of_sealed_segments_lie_is_not_kept_in_memory() {
    let node = Node::new(1);
    let places = |storage: &Storage| {
        let mut found = 0;
        storage.with_shared(|shared| found = shared.places.list.len());
        found
    };
    let (storage, _) = node.open().unwrap();
    fill(&storage, 1, 0, 200, 900);
    // Into a sealed segment, so that a part of it is replaced.
    storage.truncate_after(Some(150), Answer::default().done());
    fill(&storage, 2, 151, 400, 900);
    let want = read_all(&storage).unwrap();
    assert_eq!(want.len(), 400);
    let segments = (1..)
        .take_while(|n| node.files.contents(&node.segment(*n)).is_some())
        .count();
    assert!(
        segments > 20 && places(&storage) < segments + 3,
        "{} of {segments}",
        places(&storage)
    );
    drop(storage);
    let (storage, _) = node.open().unwrap();
    assert!(places(&storage) < segments + 3);
    assert!(read_all(&storage).unwrap() == want, "from the summaries");
    for index in [399, 0, 150, 151, 152, 77] {
        let read = ready(storage.read(index, index + 1, 1)).unwrap();
        assert!(read == want[index as usize..=index as usize], "record {index}");
    }
    drop(storage);
    // What is lost while the node runs is had from the files.
    let (storage, _) = node.open().unwrap();
    for (key, _) in node.metadata.all() {
        node.metadata.remove(&key).unwrap();
    }
    assert!(read_all(&storage).unwrap() == want, "from the files");
}

proptest! {
    #[test]
    fn a_crash_while_formatting_leaves_a_directory_that_can_be_formatted(calls in 0u64..20, seed: u64) {
        let node = Node::new(seed);
        node.files.power_off_after(calls);
        let first = node.open().ok().map(|(_, r)| r.identity);
        node.files.power_cut(seed);
        let (storage, recovered) = node.open().unwrap();
        if let Some(first) = first {
            prop_assert_eq!(first, recovered.identity);
        }
        fill(&storage, 1, 0, 3, 10);
        prop_assert_eq!(read_all(&storage).unwrap().len(), 3);
    }
}
