//! H7: a torn write is cut, rot is not, and nothing that was cut comes back.

use super::*;
use format::{Kind, Position, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader};
use proptest::prelude::*;

/// Every header in a segment file that checks out, in order.
fn headers(node: &Node, segment: u32) -> Vec<(u32, RecordHeader)> {
    let bytes = node.bytes(&node.segment(segment));
    let (header, _) = SegmentHeader::decode(&bytes[..SEGMENT_HEADER_BYTES as usize]).unwrap();
    let at = |offset| Position { segment, offset };
    (SEGMENT_HEADER_BYTES..bytes.len() as u32)
        .filter_map(|o| {
            Some((
                o,
                RecordHeader::decode(&bytes[o as usize..], header.generation, at(o))?.0,
            ))
        })
        .collect()
}

fn offset_of(node: &Node, segment: u32, index: u64) -> u32 {
    let is_it = |h: &RecordHeader| matches!(h.kind, Kind::Log(_)) && h.index == index;
    headers(node, segment)
        .into_iter()
        .find(|(_, h)| is_it(h))
        .unwrap()
        .0
}

/// Overwrites a sector with zeros, as when it never reached the disk.
fn lose_sector(node: &Node, segment: u32, offset: u32) {
    let path = node.segment(segment);
    let mut bytes = node.bytes(&path);
    let from = offset as usize / 512 * 512;
    bytes[from..from + 512].fill(0);
    node.files.put(&path, &bytes);
}

fn last_index(recovered: &Recovered) -> Option<u64> {
    recovered.last.map(|id| id.index)
}

#[test]
fn h07_torn_tail_is_cut() {
    // One batch of eight records of 600 bytes, of which one sector is missing; others behind it are there.
    for lost in 3..8 {
        let node = Node::new(1);
        let (storage, _) = node.open().unwrap();
        fill(&storage, 1, 0, 3, 600);
        append(
            &storage,
            (3..11).map(|i| record(1, i, payload(1, i, 600))).collect(),
        );
        drop(storage);
        lose_sector(&node, 1, offset_of(&node, 1, lost) + 512);
        let (storage, recovered) = node.open().unwrap();
        let kept = last_index(&recovered).unwrap() + 1;
        assert!(
            kept == lost || kept == lost + 1,
            "the sector of {lost} is lost, {kept} were kept"
        );
        assert!(recovered.truncated_bytes > 600);
        // It is cut for ever: the same indexes are written again, and what lies behind the hole stays dead,
        // also when a mark says that everything before is durable.
        fill(&storage, 2, kept, 20, 100);
        storage.idle();
        let want = read_all(&storage).unwrap();
        drop(storage);
        node.metadata.remove(&summary::key(1)).unwrap();
        let (storage, recovered) = node.open().unwrap();
        assert_eq!(recovered.truncated_bytes, 0);
        assert_eq!(read_all(&storage).unwrap(), want);
        assert!(want[kept as usize..].iter().all(|r| r.id.term == 2));
    }
}

#[test]
fn h07_rot_below_the_mark_is_not_cut() {
    for marked in [true, false] {
        let node = Node::new(1);
        let (storage, _) = node.open().unwrap();
        fill(&storage, 1, 0, 6, 100);
        if marked {
            storage.idle();
        }
        drop(storage);
        let before = node.files.clone();
        let offset = offset_of(&node, 1, 4);
        node.files.flip_bit(&node.segment(1), u64::from(offset) + 70, 2);
        // Without the idle mark, the batch of record 5 already says that record 4 was durable.
        let Err(OpenError::Rot {
            segment,
            position,
            index,
            ..
        }) = node.open()
        else {
            panic!("rot was not refused, marked {marked}");
        };
        assert_eq!((segment, position, index), (1, offset, 4));
        assert_eq!(
            node.bytes(&node.segment(1)),
            before.contents(&node.segment(1)).unwrap(),
            "nothing is changed"
        );
        node.files.flip_bit(&node.segment(1), u64::from(offset) + 70, 2);
        assert_eq!(last_index(&node.open().unwrap().1), Some(5), "restored");
    }
}

#[test]
fn h07_rot_of_the_last_record_is_told_from_a_torn_write_by_the_mark() {
    let node = Node::new(1);
    let (storage, _) = node.open().unwrap();
    fill(&storage, 1, 0, 6, 100);
    let beside = Path::new(DIR).join(end::END);
    let earlier = node.bytes(&beside);
    storage.idle();
    drop(storage);
    // The mark comes first.
    node.files.put(&beside, &earlier);
    node.files
        .flip_bit(&node.segment(1), u64::from(offset_of(&node, 1, 5)) + 70, 2);
    assert!(matches!(node.open(), Err(OpenError::Rot { index: 5, .. })));
}

#[test]
fn h07_what_remains_undecidable_is_rot_of_the_last_batch_and_its_mark_until_the_log_was_quiet() {
    let node = Node::new(1);
    let (storage, _) = node.open().unwrap();
    fill(&storage, 1, 0, 6, 100);
    let beside = Path::new(DIR).join(end::END);
    let earlier = node.bytes(&beside);
    storage.idle();
    drop(storage);
    let quiet = node.bytes(&beside);
    assert_ne!(quiet, earlier);
    let (mark, _) = headers(&node, 1)
        .into_iter()
        .find(|(_, h)| h.kind == Kind::Mark)
        .unwrap();
    node.files
        .flip_bit(&node.segment(1), u64::from(offset_of(&node, 1, 5)) + 70, 2);
    node.files.flip_bit(&node.segment(1), u64::from(mark) + 20, 2);
    assert!(
        matches!(node.open(), Err(OpenError::Rot { index: 5, .. })),
        "the file beside the log tells"
    );
    node.files.put(&beside, &earlier);
    // As docs/disk-format.md says: this looks exactly as a torn write does.
    assert_eq!(last_index(&node.open().unwrap().1), Some(4));
}

#[test]
fn h07_the_header_of_an_unused_segment_is_a_witness_too() {
    // A crash between the next segment's creation and the seal; then rot of the last record before. Nothing
    // behind it in its own file says that it was durable, but the unused segment's header does.
    let node = Node::new(1);
    let (storage, _) = node.open().unwrap();
    fill(&storage, 1, 0, 7, 1600);
    node.files.power_off_after(7);
    storage.append(vec![record(1, 7, payload(1, 7, 1600))], Answer::default().done());
    drop(storage);
    node.files.kill();
    assert!(node.files.contents(&node.segment(2)).is_some());
    assert!(headers(&node, 1).iter().all(|(_, h)| h.kind != Kind::Seal));
    let path = node.segment(1);
    let rotten = u64::from(offset_of(&node, 1, 6)) + 70;
    node.files.flip_bit(&path, rotten, 2);
    assert!(matches!(node.open(), Err(OpenError::Rot { index: 6, .. })));
    node.files.flip_bit(&path, rotten, 2);
    assert_eq!(last_index(&node.open().unwrap().1), Some(6));
}

#[test]
fn h07_truncated_suffix_stays_dead() {
    let node = Node::new(1);
    let (storage, _) = node.open().unwrap();
    fill(&storage, 1, 0, 30, 900);
    let answer = Answer::default();
    storage.truncate_after(Some(4), answer.done());
    assert!(answer.is_ok());
    drop(storage);
    node.files.power_cut(1);
    let (storage, recovered) = node.open().unwrap();
    assert_eq!(last_index(&recovered), Some(4));
    fill(&storage, 2, 5, 7, 100);
    storage.idle();
    drop(storage);
    for (key, _) in node.metadata.all() {
        node.metadata.remove(&key).unwrap();
    }
    let (storage, recovered) = node.open().unwrap();
    assert_eq!(recovered.last, Some(record(2, 6, "").id));
    assert_eq!(
        read_all(&storage)
            .unwrap()
            .iter()
            .map(|r| r.id.term)
            .collect::<Vec<_>>(),
        [1, 1, 1, 1, 1, 2, 2]
    );
    drop(storage);
    // Nor does damage to the truncation itself bring the old records back.
    let found = (1..9).flat_map(|s| headers(&node, s).into_iter().map(move |(o, h)| (s, o, h)));
    let (segment, offset, _) = found
        .into_iter()
        .find(|(_, _, h)| h.kind == Kind::Truncate)
        .unwrap();
    node.files
        .flip_bit(&node.segment(segment), u64::from(offset) + 33, 0);
    assert!(matches!(node.open(), Err(OpenError::Rot { index: 5, .. })));
}

#[test]
fn h07_records_of_an_older_file_in_the_same_place_stay_dead() {
    // What recycling will leave behind: a file's new header, and the old file's records where none is yet.
    let node = Node::new(1);
    let (storage, _) = node.open().unwrap();
    fill(&storage, 1, 0, 9, 100);
    storage.idle();
    drop(storage);
    let old = node.bytes(&node.segment(1));
    let fresh = Node::new(2);
    let (storage, _) = fresh.open().unwrap();
    drop(storage);
    let path = fresh.segment(1);
    let mut mixed = fresh.bytes(&path);
    mixed.resize(old.len(), 0);
    mixed[SEGMENT_HEADER_BYTES as usize..].copy_from_slice(&old[SEGMENT_HEADER_BYTES as usize..]);
    fresh.files.put(&path, &mixed);
    let (storage, recovered) = fresh.open().unwrap();
    assert_eq!(recovered.last, None);
    fill(&storage, 5, 0, 2, 100);
    storage.idle();
    drop(storage);
    assert_eq!(last_index(&fresh.open().unwrap().1), Some(1));
}

#[test]
fn a_damaged_record_is_never_handed_out() {
    let node = Node::new(1);
    let (storage, _) = node.open().unwrap();
    fill(&storage, 1, 0, 40, 1500);
    drop(storage);
    let (segment, index) = (2, headers(&node, 2)[3].1.index);
    let payload_at = offset_of(&node, segment, index) + RECORD_HEADER_BYTES;
    node.files
        .flip_bit(&node.segment(segment), u64::from(payload_at) + 700, 5);
    // The summary of the sealed segment spares its scan at the start, so the rot is found when it is read.
    let (storage, _) = node.open().unwrap();
    let before = ready(storage.read(0, 40, u64::MAX)).unwrap();
    assert_eq!(
        before.len() as u64,
        index,
        "what lies before the damage is served"
    );
    assert_eq!(
        ready(storage.read(index, 40, u64::MAX)),
        Err(ReadError::Damaged { index })
    );
    assert_eq!(
        ready(storage.read(index + 1, 40, 1)).unwrap()[0].id.index,
        index + 1,
        "and what lies behind"
    );
    drop(storage);
    node.metadata.remove(&summary::key(segment)).unwrap();
    assert!(matches!(node.open(), Err(OpenError::Rot { index: i, .. }) if i == index));
}

#[test]
fn a_newer_format_is_refused() {
    for file in ["editlog-0000000001", "vote", "identity"] {
        let node = Node::new(1);
        drop(node.open().unwrap());
        let path = Path::new(DIR).join(file);
        let mut bytes = node.bytes(&path);
        format::put_u32(&mut bytes, 8, 2);
        format::seal_block(&mut bytes[..4096]);
        node.files.put(&path, &bytes);
        let error = node.open().err().unwrap();
        assert!(
            matches!(
                error,
                OpenError::Version {
                    found: 2,
                    supported: 1,
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(error.to_string().contains("newer program"));
    }
}

#[test]
fn a_crash_anywhere_in_a_roll_loses_nothing() {
    let mut rolled = 0;
    for calls in 0..14 {
        for seed in 0..30 {
            let node = Node::new(seed);
            let (storage, _) = node.open().unwrap();
            fill(&storage, 1, 0, 7, 1600);
            node.files.power_off_after(calls);
            let answer = Answer::default();
            storage.append(vec![record(1, 7, payload(1, 7, 1600))], answer.done());
            let acked = answer.is_ok();
            drop(storage);
            if seed % 2 == 0 {
                // The process dies first: the next one finds what it wrote in the page cache, goes on, and
                // then the power fails.
                node.files.kill();
                let (storage, recovered) = node.open().unwrap();
                let next = last_index(&recovered).unwrap() + 1;
                fill(&storage, 1, next, 8, 1600);
            }
            node.files.power_cut(seed);
            let (storage, recovered) = node.open().unwrap();
            let last = last_index(&recovered).unwrap();
            let acked = acked || seed % 2 == 0;
            assert!(
                last == 7 || (last == 6 && !acked),
                "calls {calls}, seed {seed}: last is {last}"
            );
            fill(&storage, 2, last + 1, 20, 1600);
            let all = read_all(&storage).unwrap();
            drop(storage);
            assert_eq!(read_all(&node.open().unwrap().0).unwrap(), all);
            rolled += u64::from(acked);
        }
    }
    assert!(rolled > 0 && rolled < 14 * 30);
}

proptest! {
    #[test]
    fn one_flipped_bit_is_refused_or_harmless(
        sizes in prop::collection::vec(0usize..2500, 1..30),
        cut in 0u64..30,
        segment: prop::sample::Index,
        byte: prop::sample::Index,
        bit in 0u8..8,
        summaries: bool,
    ) {
        let mut node = Node::new(1);
        let (storage, _) = node.open().unwrap();
        for (i, size) in (0..).zip(&sizes) {
            append(&storage, vec![record(1, i, payload(1, i, *size))]);
        }
        if cut < sizes.len() as u64 {
            storage.truncate_after(Some(cut), Answer::default().done());
            fill(&storage, 2, cut + 1, cut + 3, 300);
        }
        storage.idle();
        let want = read_all(&storage).unwrap();
        drop(storage);
        if !summaries {
            node.metadata = Arc::default();
        }
        let segments: Vec<_> = node.files.paths().into_iter().filter(|p| p.starts_with("/node/editlog")
            || p.to_string_lossy().contains("editlog")).collect();
        let path = &segments[segment.index(segments.len())];
        node.files.flip_bit(path, byte.index(node.bytes(path).len()) as u64, bit);
        match node.open() {
            Err(OpenError::Rot { .. }) => {}
            Err(e) => prop_assert!(false, "{e}"),
            Ok((storage, recovered)) => {
                prop_assert_eq!(recovered.last, want.last().map(|r| r.id));
                for r in &want {
                    match ready(storage.read(r.id.index, r.id.index + 1, 1)) {
                        Ok(read) => prop_assert_eq!(&read[..], std::slice::from_ref(r)),
                        Err(ReadError::Damaged { .. }) => prop_assert!(summaries),
                        Err(e) => prop_assert!(false, "{e}"),
                    }
                }
            }
        }
    }
}
