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

/// The answer of a node with these records from `from` on.
fn answer(before: (u64, u64), records: Vec<LogRecord>, committed_end: u64) -> v1::RaftFetchResponse {
    let before = LogId {
        term: before.0,
        leader: 0,
        index: before.1,
    };
    fetched(records, Some(before), committed_end).unwrap()
}

fn take(gap: Gap, answer: v1::RaftFetchResponse) -> Result<(Taken, Vec<LogRecord>), String> {
    let mut wanted = Wanted::new(gap, 10);
    let taken = wanted.take(answer)?;
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
fn a_committed_record_of_a_later_term_tells_that_what_is_missing_was_removed() {
    let gap = gap([1; 10], 4);
    assert!(
        take(gap, answer((1, 3), vec![record(2, 4)], 3)).is_err(),
        "if it is committed"
    );
    let mut wanted = Wanted::new(gap, 0);
    assert_eq!(wanted.take(answer((1, 3), vec![record(2, 4)], 5)), Ok(Taken::All));
    assert_eq!((wanted.records.len(), wanted.gap.end_wanted(|| 0)), (0, 4));
}

#[test]
fn h07_another_history_is_not_taken() {
    let gap = gap([1, 1, 1, 2, 2, 2, 2, 2, 2, 2], 4);
    assert_eq!(
        take(gap, answer((1, 3), vec![record(2, 4)], 10)),
        Ok((Taken::OtherBefore(1), vec![]))
    );
    // From where both agree, what stands here in between is replaced.
    let below = LogId {
        term: 1,
        leader: 0,
        index: 2,
    };
    let mut wanted = Wanted::new(gap.stepped_back(1, Some(below)), 0);
    assert_eq!(
        wanted.take(answer((1, 2), vec![record(1, 3), record(2, 4)], 10)),
        Ok(Taken::All)
    );
    assert_eq!(wanted.records, [record(1, 3), record(2, 4)]);
}

#[test]
fn what_comes_in_parts_is_put_together_and_what_does_not_follow_is_refused() {
    let gap = gap([1; 10], 9);
    assert!(gap.is_open_ended(), "only a mark stands behind it");
    // There is room for more records than were lost: all that is committed is taken.
    let mut wanted = Wanted::new(gap, 12);
    assert_eq!(
        wanted.take(answer((1, 8), vec![record(1, 9), record(1, 10)], 12)),
        Ok(Taken::Part)
    );
    assert_eq!(
        wanted.take(answer((1, 10), vec![record(2, 11)], 12)),
        Ok(Taken::All)
    );
    assert_eq!(wanted.records.len(), 3);
    for bad in [vec![record(1, 10)], vec![record(0, 9)]] {
        let refused = Wanted::new(gap, 12).take(answer((1, 8), bad, 12));
        assert!(refused.unwrap_err().contains("does not follow"));
    }
    let refused = Wanted::new(gap, 12).take(answer((1, 8), vec![], 12));
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
