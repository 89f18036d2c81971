//! H7: what rots is closed by what other nodes have, and by nothing else.

use super::*;
use format::{Kind, Position, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader};
use proptest::prelude::*;

fn salvage(node: &Node) -> Result<Salvage, OpenError> {
    let env = Env::real().with_files(Arc::new(node.files.clone()));
    Salvage::open(&env, Path::new(DIR), &*node.metadata, &mut |_| {})
}

/// What another node has of `gap`, whose log is `others`, all of it committed; and the gap as it shows there. `None` when
/// another gap must be closed first, or `others` ends too early.
fn wanted(salvage: &Salvage, mut gap: Gap, others: &[LogRecord]) -> Option<(Gap, Vec<LogRecord>)> {
    if gap.waits() {
        return None;
    }
    others.get(..gap.first_wanted() as usize)?;
    let id_at = |index: Option<u64>| index.map(|i| others[i as usize].id);
    while gap.before() != id_at(gap.first_wanted().checked_sub(1)) {
        let term = id_at(gap.first_wanted().checked_sub(1)).unwrap().term;
        let further_down = gap.first_wanted().checked_sub(2);
        let index = gap.first_wanted() - 1;
        salvage.log_id_at(index).filter(|_| gap.may_step_back())?;
        let before = match further_down {
            Some(i) => Some(salvage.log_id_at(i)?),
            None => None,
        };
        gap = gap.stepped_back(index, term, before);
    }
    let range = |gap: &Gap| gap.first_wanted() as usize..gap.end_wanted(|| others.len() as u64) as usize;
    if let Some(later) = others.get(range(&gap))?.iter().find(|r| gap.is_later(r.id.term)) {
        gap = gap.removed_from(later.id.index);
    }
    Some((gap, others.get(range(&gap))?.to_vec()))
}

/// Repairs until the directory opens; returns how many gaps were closed.
pub(super) fn heal(node: &Node, others: &[LogRecord]) -> usize {
    let mut closed = 0;
    for _ in 0..20 {
        match node.open() {
            Ok(_) => return closed,
            Err(OpenError::Rot { .. }) => {}
            Err(e) => panic!("{e}"),
        }
        closed += try_heal(node, others).unwrap();
    }
    panic!("it does not heal");
}

/// Closes the gaps that can be closed by now; returns how many.
pub(super) fn try_heal(node: &Node, others: &[LogRecord]) -> Result<usize, OpenError> {
    let mut salvage = salvage(node)?;
    let mut closed = 0;
    for gap in salvage.gaps().to_vec() {
        if let Some((gap, records)) = wanted(&salvage, gap, others) {
            let failed = |failure: Failure| OpenError::io("repair", Path::new(DIR))(failure.into());
            salvage.close_gap(&gap, &records).map_err(failed)?;
            closed += 1;
        }
    }
    Ok(closed)
}

/// The records of all segments, where they lie.
pub(super) fn places(node: &Node) -> Vec<(u32, u32, RecordHeader)> {
    let mut found = Vec::new();
    for segment in 1..=999 {
        let Some(bytes) = node.segment_bytes(segment) else {
            // Trimmed, or behind the last one.
            continue;
        };
        let (header, _) = SegmentHeader::decode(&bytes[..SEGMENT_HEADER_BYTES as usize]).unwrap();
        let mut offset = SEGMENT_HEADER_BYTES;
        while let Some(rest) = bytes.get(offset as usize..)
            && let Some((h, _)) = RecordHeader::decode(rest, header.generation, Position { segment, offset })
        {
            found.push((segment, offset, h));
            offset += h.span() as u32;
        }
    }
    found
}

/// As `assert_eq`, which would print every payload.
fn assert_same(found: &[LogRecord], want: &[LogRecord], what: &str) {
    let ids = |all: &[LogRecord]| all.iter().map(|r| r.id).collect::<Vec<_>>();
    assert_eq!(ids(found), ids(want), "{what}");
    assert!(found == want, "other payloads: {what}");
}

pub(super) fn flip(node: &Node, segment: u32, byte: u32) {
    let lies = node.lies(segment);
    node.files.flip_bit(&lies.path, lies.byte(byte), 3);
}

/// A log of three segments that says all that a log can say, marked at its end.
pub(super) fn long_log(node: &Node) -> Vec<LogRecord> {
    let (storage, _) = node.open().unwrap();
    fill(&storage, 1, 0, 12, 900);
    storage.truncate_after(Some(8), Answer::default().done());
    fill(&storage, 2, 9, 30, 900);
    storage.idle();
    fill(&storage, 2, 30, 32, 900);
    storage.idle();
    read_all(&storage).unwrap()
}

#[test]
fn every_single_record_can_rot_and_is_closed_again() {
    let template = Node::new(1);
    let want = long_log(&template);
    let all = places(&template);
    assert!(all.iter().any(|(s, ..)| *s >= 3));
    let (last, undecidable) = all.split_last().unwrap();
    assert_eq!(last.2.kind, Kind::Mark, "without it the last batch looks torn");
    let mut kinds = std::collections::BTreeMap::new();
    for (segment, offset, header) in undecidable {
        // The header, and the payload where there is one.
        for byte in [20, 70] {
            if byte == 70 && header.payload_bytes == 0 {
                continue;
            }
            let mut node = Node::new(1);
            assert_same(&long_log(&node), &want, "the same log");
            node.metadata = Arc::default();
            flip(&node, *segment, offset + byte);
            let damaged = node.bytes(&node.segment(*segment));
            let closed = heal(&node, &want);
            let (storage, recovered) = node.open().unwrap();
            assert_eq!(recovered.truncated_bytes, 0);
            let what = format!("{header:?} at {segment}/{offset}");
            assert_same(&read_all(&storage).unwrap(), &want, &what);
            let now = node.bytes(&node.segment(*segment));
            assert!(now.starts_with(&damaged), "a byte of a segment was written twice");
            // It goes on as any other log.
            fill(&storage, 3, 32, 40, 900);
            let more = read_all(&storage).unwrap();
            drop(storage);
            assert_same(&read_all(&node.open().unwrap().0).unwrap(), &more, "opened again");
            *kinds.entry(format!("{:?}", header.kind)).or_insert(0) += closed;
        }
    }
    println!("{kinds:?}");
    for kind in ["Log(Normal)", "Truncate", "Mark", "Seal"] {
        assert!(
            kinds.get(kind).is_some_and(|n| *n > 0),
            "{kind} never rotted: {kinds:?}"
        );
    }
}

#[test]
fn a_damaged_or_lost_segment_header_is_told_by_others() {
    let template = Node::new(1);
    let want = long_log(&template);
    let segments = places(&template)
        .iter()
        .map(|(segment, ..)| *segment)
        .max()
        .unwrap();
    assert!(segments >= 3);
    for segment in 1..=segments {
        let spoil = |byte| move |node: &Node| flip(node, segment, byte);
        let flips = [9, 17, 30, 44, 52, 60, 66, 90, 2000, 2060, 2180, 4094].map(spoil);
        let flips = flips.iter().map(|f| f as &dyn Fn(&Node));
        let lose_block = |node: &Node| {
            let path = node.segment(segment);
            let mut bytes = node.bytes(&path);
            bytes[..SEGMENT_HEADER_BYTES as usize].fill(0);
            node.files.put(&path, &bytes);
        };
        for spoil in flips.chain([&lose_block as &dyn Fn(&Node)]) {
            let mut node = Node::new(1);
            assert_same(&long_log(&node), &want, "the same log");
            node.metadata = Arc::default();
            let whole = node.bytes(&node.segment(segment));
            spoil(&node);
            assert_eq!(salvage(&node).unwrap().spoilt_headers(), [segment]);
            let (storage, _) = node.open().unwrap();
            assert_same(&read_all(&storage).unwrap(), &want, "told by others");
            assert!(
                node.bytes(&node.segment(segment)) == whole,
                "made again as it was"
            );
            fill(&storage, 3, 32, 60, 900);
            let more = read_all(&storage).unwrap();
            drop(storage);
            assert_same(&read_all(&node.open().unwrap().0).unwrap(), &more, "opened again");
        }
    }
}

/// A node one record of whose long log rotted and was repaired by a patch.
pub(super) fn patched() -> (Node, Vec<LogRecord>) {
    let mut node = Node::new(1);
    let want = long_log(&node);
    node.metadata = Arc::default();
    let (segment, offset, _) = places(&node)[4];
    flip(&node, segment, offset + 70);
    assert_eq!(heal(&node, &want), 1);
    (node, want)
}

#[test]
fn a_segment_that_was_patched_before_it_was_sealed_is_read_without_its_summary() {
    let mut node = Node::new(1);
    let (storage, _) = node.open().unwrap();
    fill(&storage, 1, 0, 5, 900);
    storage.idle();
    let want = read_all(&storage).unwrap();
    drop(storage);
    let (segment, offset, _) = places(&node)[2];
    flip(&node, segment, offset + 20);
    assert_eq!(heal(&node, &want), 1);
    // Its records that can be read in their place replace those of the patch.
    let (storage, _) = node.open().unwrap();
    storage.truncate_after(None, Answer::default().done());
    fill(&storage, 2, 0, 40, 900);
    let want: Vec<_> = (0..40).map(|i| record(2, i, payload(2, i, 900))).collect();
    assert!(node.segment_bytes(3).is_some(), "it was sealed");
    for (key, _) in node.metadata.all() {
        node.metadata.remove(&key).unwrap();
    }
    assert_same(&read_all(&storage).unwrap(), &want, "without summaries");
    drop(storage);
    node.metadata = Arc::default();
    assert_same(&read_all(&node.open().unwrap().0).unwrap(), &want, "opened again");
}

#[test]
fn a_patch_that_rots_is_replaced() {
    let (node, want) = patched();
    for (number, byte) in (1..).zip([30, 4096 + 20, 4096 + 200]) {
        let patch = file::path_of(Path::new(DIR), patch::PATCH_BIT | number);
        node.files.flip_bit(&patch, byte, 1);
        assert!(
            matches!(node.open(), Err(OpenError::Rot { index: 4, .. })),
            "byte {byte}"
        );
        assert_eq!(heal(&node, &want), 1);
        assert_same(&read_all(&node.open().unwrap().0).unwrap(), &want, "healed");
    }
}

#[test]
fn a_crash_anywhere_in_a_repair_leaves_the_gap_or_the_patch() {
    let (mut open, mut closed) = (0, 0);
    for calls in 0..12 {
        for seed in 0..10 {
            let mut node = Node::new(seed);
            let want = long_log(&node);
            node.metadata = Arc::default();
            let (segment, offset, _) = places(&node)[4];
            flip(&node, segment, offset + 70);
            let mut salvage = salvage(&node).unwrap();
            let gap = salvage.gaps()[0];
            node.files.power_off_after(calls);
            let (gap, records) = wanted(&salvage, gap, &want).unwrap();
            let done = salvage.close_gap(&gap, &records).is_ok();
            drop(salvage);
            node.files.power_cut(seed);
            match node.open() {
                Ok((storage, _)) => {
                    assert_same(&read_all(&storage).unwrap(), &want, "patched");
                    closed += 1;
                }
                Err(OpenError::Rot { index: 4, .. }) => {
                    assert!(!done, "it was answered as durable");
                    open += 1;
                    assert_eq!(heal(&node, &want), 1);
                }
                Err(e) => panic!("{e}"),
            }
        }
    }
    assert!(open > 0 && closed > 0, "{open} open, {closed} closed");
}

#[test]
fn a_gap_waits_for_the_one_before_it_rather_than_step_back() {
    // The lost removal before made record 0 another one; the lost record behind must not be taken to have done so.
    let node = Node::new(1);
    let (storage, _) = node.open().unwrap();
    fill(&storage, 1, 0, 1, 0);
    storage.truncate_after(None, Answer::default().done());
    fill(&storage, 2, 0, 4, 0);
    storage.truncate_after(Some(0), Answer::default().done());
    fill(&storage, 3, 1, 2, 0);
    storage.idle();
    let want = read_all(&storage).unwrap();
    drop(storage);
    for (segment, offset, header) in places(&node) {
        let second_removal = header.kind == Kind::Truncate && header.index == 1;
        if matches!(header.kind, Kind::Log(_)) && header.index < 2 && header.term > 1
            || header.kind == Kind::Truncate && !second_removal
        {
            flip(&node, segment, offset + 20);
        }
    }
    let first_pass = salvage(&node).unwrap();
    let gaps = first_pass.gaps();
    assert_eq!(
        gaps.iter().map(Gap::may_step_back).collect::<Vec<_>>(),
        [true, false]
    );
    assert!(wanted(&first_pass, gaps[1], &want).is_none());
    drop(first_pass);
    heal(&node, &want);
    assert_same(&read_all(&node.open().unwrap().0).unwrap(), &want, "healed");
}

#[test]
fn rot_that_is_found_by_a_reader_is_repaired_at_the_next_start() {
    let node = Node::new(1);
    let want = long_log(&node);
    let (segment, offset, header) = places(&node)[4];
    flip(&node, segment, offset + 70);
    // The summary spares the scan.
    let (storage, _) = node.open().unwrap();
    let read = ready(storage.read(header.index, header.index + 1, 1));
    assert_eq!(read, Err(ReadError::Damaged { index: header.index }));
    drop(storage);
    assert_eq!(heal(&node, &want), 1);
    assert_same(&read_all(&node.open().unwrap().0).unwrap(), &want, "healed");
}

/// Logs as leaders could have had them: one per term, each a beginning of an earlier one and then records of its own.
/// `(parent, kept, own)` for each.
fn histories(shape: &[(prop::sample::Index, prop::sample::Index, u64)]) -> Vec<Vec<u64>> {
    let mut logs: Vec<Vec<u64>> = vec![vec![]];
    for (term, (parent, kept, own)) in (1..).zip(shape) {
        let mut log = logs[parent.index(logs.len())].clone();
        log.truncate(kept.index(log.len() + 1));
        log.extend((0..*own).map(|_| term));
        logs.push(log);
    }
    logs
}

proptest! {
    #[test]
    fn whatever_rots_below_the_last_mark_is_closed_by_what_others_have(
        shape in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1u64..9), 1..6),
        follows in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..8),
        small in any::<bool>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..7),
    ) {
        let mut node = Node::new(1);
        let (storage, _) = node.open().unwrap();
        let logs = histories(&shape);
        let size = |term: u64, index: u64| if small { 0 } else { ((term * 977 + index * 613) % 2500) as usize };
        let log_record = |term: u64, index: u64| record(term, index, payload(term, index, size(term, index)));
        // What the node has been told, by whichever leader: whole logs, or beginnings of them.
        let mut stands: Vec<u64> = Vec::new();
        let mut switch = |log: &[u64]| {
            let same = stands.iter().zip(log).take_while(|(a, b)| a == b).count();
            if same < stands.len() && same < log.len() {
                storage.truncate_after((same as u64).checked_sub(1), Answer::default().done());
                stands.truncate(same);
            }
            for term in log.iter().skip(stands.len()) {
                append(&storage, vec![log_record(*term, stands.len() as u64)]);
                stands.push(*term);
            }
        };
        for (which, upto) in &follows {
            let log = &logs[which.index(logs.len())];
            switch(&log[..upto.index(log.len() + 1)]);
        }
        // All of this is committed in the end, and more that the others have.
        let log = logs.iter().max_by_key(|log| (log.last().copied(), log.len())).unwrap();
        switch(log);
        let length = stands.len() as u64;
        storage.idle();
        let want = read_all(&storage).unwrap();
        drop(storage);
        prop_assume!(stands == *log);
        node.metadata = Arc::default();
        let all = places(&node);
        let (last, before) = all.split_last().unwrap();
        prop_assert_eq!(last.2.kind, Kind::Mark);
        prop_assume!(!before.is_empty());
        for (at, bit) in &flips {
            let (segment, offset, header) = &before[at.index(before.len())];
            let byte = at.index(header.span() as usize) as u32;
            node.files.flip_bit(&node.segment(*segment), u64::from(offset + byte), *bit);
        }
        let mut others = want.clone();
        others.extend((length..60).map(|i| record(9, i, payload(9, i, 300))));
        heal(&node, &others);
        let (storage, recovered) = node.open().unwrap();
        prop_assert_eq!(recovered.truncated_bytes, 0);
        let found = read_all(&storage).unwrap();
        prop_assert!(found.len() >= want.len(), "{} of {} are there", found.len(), want.len());
        assert_same(&found, &others[..found.len()], "healed");
        let next = found.len() as u64;
        fill(&storage, 10, next, next + 3, 700);
        let more = read_all(&storage).unwrap();
        drop(storage);
        assert_same(&read_all(&node.open().unwrap().0).unwrap(), &more, "opened again");
    }
}
