//! Which records of another node are taken for the missing ones.

use super::*;
use crate::segment::{Execution, OpenError};
use crate::segment::{MapMetadata, Options, RecordKind, Storage};
use bytes::Bytes;
use redoubt_env::sim_files::SimFiles;
use std::path::Path;

const DIR: &str = "/node";

fn record(term: u64, index: u64) -> LogRecord {
    LogRecord {
        id: LogId {
            term,
            leader: 0,
            index,
        },
        kind: RecordKind::Normal,
        payload: Bytes::from(vec![index as u8 + 1; 500]),
    }
}

/// The gap that record `lost` leaves in a log of records 0 to 9, of these terms.
fn gap(terms: [u64; 10], lost: u64) -> Gap {
    let files = SimFiles::new(1);
    let env = Env::real().with_files(Arc::new(files.clone()));
    let options = Options {
        execution: Execution::Immediate,
        ..Options::default()
    };
    let open = || {
        Storage::open(
            &env,
            Path::new(DIR),
            "n1",
            options,
            Arc::new(MapMetadata::default()),
        )
    };
    let (storage, _) = open().unwrap();
    for (index, term) in (0..).zip(terms) {
        storage.append(vec![record(term, index)], Box::new(|done| done.unwrap()));
    }
    storage.idle();
    drop(storage);
    let path = Path::new(DIR).join("editlog-0000000001");
    let bytes = files.contents(&path).unwrap();
    let at = bytes
        .windows(500)
        .position(|w| w == vec![lost as u8 + 1; 500])
        .unwrap();
    files.flip_bit(&path, at as u64, 0);
    assert!(matches!(open(), Err(OpenError::Rot { index, .. }) if index == lost));
    let salvage = Salvage::open(&env, Path::new(DIR), &MapMetadata::default(), &mut |_| {}).unwrap();
    salvage.gaps()[0]
}

fn id(term: u64, index: u64) -> LogId {
    LogId {
        term,
        leader: 0,
        index,
    }
}

/// The answer of a node with these records behind `before`.
fn answer(before: (u64, u64), records: Vec<LogRecord>, committed_end: u64) -> v1::RaftFetchResponse {
    fetched(records, Some(id(before.0, before.1)), None, committed_end).unwrap()
}

/// A log whose records are of these terms.
fn log(terms: [u64; 10]) -> impl Fn(u64) -> Option<LogId> + Copy {
    move |index| terms.get(index as usize).map(|term| id(*term, index))
}

const NONE: fn(u64) -> Option<LogId> = |_| None;

fn take(gap: Gap, answer: v1::RaftFetchResponse) -> Result<(Taken, Vec<LogRecord>), String> {
    let mut wanted = Wanted::new(gap, 10);
    let taken = wanted.take(answer, NONE)?;
    Ok((taken, wanted.records))
}

#[test]
fn a_committed_record_is_the_missing_one() {
    let gap = gap([1, 1, 1, 1, 2, 2, 3, 3, 3, 3], 4);
    let took = take(gap, answer((1, 3), vec![record(2, 4)], 5));
    assert_eq!(took, Ok((Taken::All, vec![record(2, 4)])));
}

#[test]
fn h07_a_record_that_may_yet_be_replaced_is_not_taken() {
    // It could be of term 1 or 2: whoever has one of them may have another one than this node acknowledged.
    let gap = gap([1, 1, 1, 1, 2, 2, 3, 3, 3, 3], 4);
    let took = take(gap, answer((1, 3), vec![record(2, 4)], 4));
    assert!(took.unwrap_err().contains("to be committed"));
}

#[test]
fn a_record_of_a_known_term_is_the_missing_one_also_before_it_is_committed() {
    let gap = gap([1; 10], 4);
    let took = take(gap, answer((1, 3), vec![record(1, 4)], 0));
    assert_eq!(took, Ok((Taken::All, vec![record(1, 4)])));
}

#[test]
fn h07_only_a_committed_record_of_a_later_term_tells_that_what_is_missing_was_removed() {
    let gap = gap([1; 10], 4);
    // A leader that was cut off has it, and it will be replaced; what this node lost is committed.
    for committed_end in [3, 4] {
        let refused = take(gap, answer((1, 3), vec![record(2, 4)], committed_end));
        assert!(
            refused.unwrap_err().contains("to be committed"),
            "below {committed_end}"
        );
    }
    let mut wanted = Wanted::new(gap, 0);
    let took = wanted.take(answer((1, 3), vec![record(2, 4)], 5), NONE);
    assert_eq!(took, Ok(Taken::All));
    assert_eq!((wanted.records.len(), wanted.gap.end_wanted(|| 0)), (0, 4));
    // The same, seen from the records before.
    let terms = [1; 10];
    for (committed_end, taken) in [(3, false), (4, true)] {
        let mut wanted = Wanted::new(gap, 0);
        let stepped = wanted.take(answer((2, 3), vec![record(2, 4)], committed_end), log(terms));
        assert_eq!((stepped, wanted.next(), wanted.end()), (Ok(Taken::Part), 3, 3));
        let took = wanted.take(answer((1, 2), vec![], committed_end), log(terms));
        assert_eq!(took == Ok(Taken::All), taken, "{took:?}");
    }
}

#[test]
fn h07_another_history_is_not_taken() {
    let terms = [1, 1, 1, 2, 2, 2, 2, 2, 2, 2];
    let gap = gap(terms, 4);
    let mut wanted = Wanted::new(gap, 0);
    assert_eq!(
        wanted.take(answer((1, 3), vec![record(2, 4)], 10), log(terms)),
        Ok(Taken::Part)
    );
    // From where both agree, what stands here in between is replaced.
    assert_eq!(wanted.next(), 3);
    let took = wanted.take(answer((1, 2), vec![record(1, 3), record(2, 4)], 10), log(terms));
    assert_eq!(took, Ok(Taken::All));
    assert_eq!(wanted.records, [record(1, 3), record(2, 4)]);
}

#[test]
fn a_log_that_ends_earlier_tells_where_both_part() {
    let gap = gap([1; 10], 8);
    let shorter = |last: LogId, committed_end| fetched(vec![], None, Some(last), committed_end).unwrap();
    let mut wanted = Wanted::new(gap, 0);
    let refused = wanted.take(shorter(id(1, 5), 10), log([1; 10]));
    assert!(
        refused.unwrap_err().contains("ends with"),
        "it is the same so far"
    );
    assert_eq!(wanted.take(shorter(id(2, 5), 6), log([1; 10])), Ok(Taken::Part));
    assert_eq!((wanted.next(), wanted.end()), (5, 5));
    assert_eq!(
        wanted.take(answer((1, 4), vec![], 6), log([1; 10])),
        Ok(Taken::All)
    );
}

#[test]
fn h07_nothing_is_said_to_be_removed_while_a_record_before_is_missing() {
    let gap = gap([1; 10], 8);
    let shorter = |index| fetched(vec![], None, Some(id(2, index)), 10).unwrap();
    // Record 4 is missing too. What a peer has there may be that record, or what came after its removal.
    let holey = |index| log([1; 10])(index).filter(|id| id.index != 4);
    for index in [4, 5] {
        let refused = Wanted::new(gap, 0).take(shorter(index), holey);
        assert_eq!(refused, Err(ANOTHER_FIRST.to_owned()), "record {index}");
    }
    assert_eq!(Wanted::new(gap, 0).take(shorter(6), holey), Ok(Taken::Part));
}

#[test]
fn h07_what_one_peer_could_not_prove_is_not_proven_by_another() {
    // Records 4 to 6 are missing. One peer has two of them, committed, and was cut off with a later record of its own.
    let mut gap = gap([1; 10], 6);
    gap = gap.stepped_back(4, 1, Some(id(1, 3)));
    let mut wanted = Wanted::new(gap, 0);
    let cut_off = answer((1, 3), vec![record(1, 4), record(1, 5), record(2, 6)], 6);
    assert!(
        wanted
            .take(cut_off, NONE)
            .unwrap_err()
            .contains("to be committed")
    );
    wanted.next_peer(&gap);
    assert_eq!((wanted.next(), wanted.end()), (6, 7));
    assert_eq!(
        wanted.take(answer((1, 5), vec![record(1, 6)], 10), NONE),
        Ok(Taken::All)
    );
    assert_eq!(wanted.records, [record(1, 4), record(1, 5), record(1, 6)]);
}

#[test]
fn what_one_peer_proved_is_kept_and_what_it_did_not_is_asked_of_the_next() {
    let gap = gap([1, 1, 1, 1, 1, 1, 1, 1, 1, 1], 9);
    assert!(gap.is_open_ended(), "only a mark stands behind it");
    // There is room for more records than were lost: all of the log is taken.
    let mut wanted = Wanted::new(gap, 12);
    let first = answer((1, 8), vec![record(1, 9), record(1, 10)], 10);
    assert_eq!(wanted.take(first, NONE), Ok(Taken::Part));
    wanted.next_peer(&gap);
    assert_eq!(wanted.next(), 10, "one of the two was proven");
    let second = answer((1, 9), vec![record(1, 10), record(2, 11)], 12);
    assert_eq!(wanted.take(second, NONE), Ok(Taken::All));
    assert_eq!(wanted.records.len(), 3);
    for bad in [vec![record(1, 10)], vec![record(0, 9)]] {
        let refused = Wanted::new(gap, 12).take(answer((1, 8), bad, 12), NONE);
        assert!(refused.unwrap_err().contains("does not follow"));
    }
    let refused = Wanted::new(gap, 12).take(answer((1, 8), vec![], 12), NONE);
    assert!(refused.unwrap_err().contains("nothing from 9 on"));
}

#[cfg(feature = "planted-bugs")]
#[test]
fn catches_the_planted_bugs_of_repair() {
    for (test, bug) in [
        (
            "h07_a_record_that_may_yet_be_replaced_is_not_taken",
            "h07_repair_with_anything",
        ),
        ("h07_another_history_is_not_taken", "h07_repair_from_any_history"),
    ] {
        redoubt_env::planted::assert_catches(&format!("raft::repair::tests::{test}"), bug);
    }
}
