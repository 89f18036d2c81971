//! What a tail passes on, and what it does not.

use super::verify::{Marked, Received, Rejected, TailEvent, Verified, Verifier};
use bytes::Bytes;
use proptest::prelude::*;
use redoubt_types::{Chain, Db, Epoch, Lineage, LineageStep, Offset, ReplId, Txid, WallTime, payload_crc};

const STREAM: &[u8] = b"abcdefghijklmnopqrstuvwxyz";

fn off(n: usize) -> Offset {
    Offset::new(n as u64)
}

fn chain_at(n: usize) -> Chain {
    Chain::EMPTY.extend(&STREAM[..n])
}

fn id(n: u8) -> ReplId {
    ReplId::from_random([n; 20])
}

fn step(n: u8, from: usize) -> LineageStep {
    LineageStep {
        replid: id(n),
        from: off(from),
        epoch: Epoch::new(u64::from(n)),
    }
}

/// Replid 0 from the beginning, then `steps`.
fn lineage(steps: &[LineageStep]) -> Lineage {
    let mut lineage = Lineage::new(id(0));
    for s in steps {
        lineage.push(*s, s.from).unwrap();
    }
    lineage
}

fn entry_of(replid: u8, from: usize, to: usize) -> Received {
    let payload = Bytes::copy_from_slice(&STREAM[from..to]);
    Received {
        start: off(from),
        chain: chain_at(from),
        crc: payload_crc(&payload),
        payload,
        epoch: Epoch::FIRST,
        replid: id(replid),
        first_txid: Txid::FIRST,
        groups: 1,
        db: Db::default(),
        at_group_start: true,
        captured: WallTime::default(),
    }
}

fn entry(from: usize, to: usize) -> Received {
    entry_of(0, from, to)
}

/// A verifier from `from` on, whose first stream has begun.
fn begun(from: usize, lineage: &Lineage) -> Verifier {
    let mut v = Verifier::new(off(from));
    v.opened();
    v.start(lineage, off(STREAM.len())).unwrap();
    v
}

fn reopen(v: &mut Verifier, lineage: &Lineage) -> Result<(), Rejected> {
    v.opened();
    v.start(lineage, off(STREAM.len()))
}

/// What was passed on: `began` with its steps, bytes with their offset, steps with their replid.
fn passed(v: &mut Verifier) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(verified) = v.pop() {
        all.push(match verified {
            Verified::Began(l) => format!("began {}", l.len()),
            Verified::Event(TailEvent::Entry(e)) => {
                assert_eq!(e.chain_end, chain_at(e.start.get() as usize + e.bytes.len()));
                let trimmed = if e.trimmed { " trimmed" } else { "" };
                format!("{} {}{trimmed}", e.start, String::from_utf8_lossy(&e.bytes))
            }
            Verified::Event(TailEvent::Lineage(s)) => format!("step {} at {}", s.epoch.unwrap(), s.from),
            Verified::Event(TailEvent::Mark { tail, .. }) => format!("mark {tail}"),
            Verified::Event(TailEvent::End) => "end".to_owned(),
        });
    }
    all
}

fn damaged(r: Result<(), Rejected>) -> bool {
    matches!(r, Err(Rejected::Damaged(_)))
}

fn misbehaved(r: Result<(), Rejected>) -> bool {
    matches!(r, Err(Rejected::Misbehaved(_)))
}

fn forked(r: Result<(), Rejected>) -> bool {
    matches!(r, Err(Rejected::Forked(_)))
}

#[test]
fn the_first_entry_is_trimmed_to_the_wanted_offset_on_every_stream() {
    let mut v = begun(3, &lineage(&[]));
    v.entry(entry(0, 5)).unwrap();
    v.entry(entry(5, 7)).unwrap();
    assert_eq!(v.mark(off(7), chain_at(7)), Ok(Marked::Level));
    assert_eq!(passed(&mut v), ["began 1", "3 de trimmed", "5 fg", "mark 7"]);
    reopen(&mut v, &lineage(&[])).unwrap();
    v.entry(entry(5, 9)).unwrap();
    assert_eq!(
        passed(&mut v),
        ["7 hi trimmed"],
        "another node's cuts don't matter"
    );
}

#[test]
fn h07_a_wrong_checksum_or_chain_is_never_passed_on() {
    let mut v = begun(0, &lineage(&[]));
    v.entry(entry(0, 4)).unwrap();
    let mut rotten = entry(4, 8);
    rotten.payload = Bytes::from_static(b"eXgh");
    assert!(damaged(v.entry(rotten)));
    let mut other_chain = entry(4, 8);
    other_chain.chain = Chain::from_u64(1);
    assert!(damaged(v.entry(other_chain)));
    assert_eq!(passed(&mut v), ["began 1", "0 abcd"]);
    assert_eq!(v.position(), off(4));
}

#[test]
fn gaps_and_repetitions_are_never_passed_on() {
    for (from, wrong) in [
        (0, entry(1, 4)),
        (4, entry(0, 4)),
        (4, entry(5, 6)),
        (4, entry(4, 4)),
    ] {
        let mut v = begun(from, &lineage(&[]));
        assert!(misbehaved(v.entry(wrong.clone())), "{from} {wrong:?}");
    }
    let mut v = begun(0, &lineage(&[]));
    v.entry(entry(0, 4)).unwrap();
    assert!(
        misbehaved(v.entry(entry(2, 6))),
        "only a stream's first entry may overlap"
    );
    assert!(misbehaved(v.entry(entry(6, 8))));
    let mut end = entry(4, 8);
    end.start = Offset::new(u64::MAX);
    assert!(misbehaved(v.entry(end)));
    assert!(
        matches!(v.mark(off(8), chain_at(8)), Err(Rejected::Misbehaved(_))),
        "a mark that skips bytes"
    );
}

#[test]
fn a_stream_begins_with_its_start() {
    let mut v = Verifier::new(off(0));
    v.opened();
    assert!(misbehaved(v.entry(entry(0, 2))));
    v.start(&lineage(&[]), off(0)).unwrap();
    assert!(misbehaved(v.start(&lineage(&[]), off(0))));
}

#[test]
fn another_history_on_another_node_is_a_fork() {
    let mut v = begun(0, &lineage(&[]));
    v.entry(entry(0, 4)).unwrap();
    reopen(&mut v, &lineage(&[])).unwrap();
    let mut other = entry(4, 8);
    other.chain = Chain::from_u64(1);
    assert!(forked(v.entry(other)));
    reopen(&mut v, &lineage(&[])).unwrap();
    assert!(matches!(
        v.mark(off(4), Chain::from_u64(1)),
        Err(Rejected::Forked(_))
    ));
    assert!(forked(reopen(&mut v, &Lineage::new(id(9)))));
}

#[test]
fn a_mark_tells_the_chain_where_nothing_was_read_yet() {
    let mut v = begun(4, &lineage(&[]));
    assert_eq!(v.mark(off(4), chain_at(4)), Ok(Marked::Level));
    assert_eq!(v.chain(), Some(chain_at(4)));
    assert_eq!(v.mark(off(3), chain_at(3)), Ok(Marked::Behind));
    assert_eq!(passed(&mut v), ["began 1", "mark 4"]);
}

#[test]
fn steps_up_to_the_wanted_offset_belong_to_the_beginning_and_later_ones_come_in_their_place() {
    let mut v = begun(
        4,
        &lineage(&[step(1, 2), step(2, 4), step(3, 4), step(4, 6), step(5, 6)]),
    );
    v.entry(entry_of(3, 4, 6)).unwrap();
    v.entry(entry_of(5, 6, 8)).unwrap();
    let all = ["began 4", "4 ef", "step 4 at 6", "step 5 at 6", "6 gh"];
    assert_eq!(passed(&mut v), all);
    // The node may tell what its start told once more.
    v.step(step(5, 6)).unwrap();
    assert_eq!(passed(&mut v), [""; 0]);
}

#[test]
fn h15_each_step_is_passed_on_once_across_nodes_epochs_without_bytes_included() {
    let mut v = begun(0, &lineage(&[]));
    v.entry(entry(0, 4)).unwrap();
    v.step(step(1, 4)).unwrap();
    // A node that lags: it tells of step 1 later.
    reopen(&mut v, &lineage(&[])).unwrap();
    v.step(step(1, 4)).unwrap();
    v.step(step(2, 4)).unwrap();
    v.entry(entry_of(2, 4, 6)).unwrap();
    // One that is ahead: its start tells of step 3, which lies in the future, and of step 4.
    reopen(
        &mut v,
        &lineage(&[step(1, 4), step(2, 4), step(3, 8), step(4, 8)]),
    )
    .unwrap();
    v.entry(entry_of(2, 6, 8)).unwrap();
    // And a lagging one again.
    reopen(&mut v, &lineage(&[step(1, 4), step(2, 4)])).unwrap();
    v.step(step(3, 8)).unwrap();
    v.step(step(4, 8)).unwrap();
    v.entry(entry_of(4, 8, 9)).unwrap();
    let all = [
        "began 1",
        "0 abcd",
        "step 1 at 4",
        "step 2 at 4",
        "4 ef",
        "6 gh",
        "step 3 at 8",
        "step 4 at 8",
        "8 i",
    ];
    assert_eq!(passed(&mut v), all);
}

#[test]
fn no_byte_is_passed_on_across_a_step_or_under_another_replid() {
    let mut v = begun(0, &lineage(&[step(1, 4)]));
    assert!(damaged(v.entry(entry(0, 6))), "across a step");
    assert!(damaged(v.entry(entry_of(1, 0, 4))), "under a later replid");
    v.entry(entry(0, 4)).unwrap();
    assert!(damaged(v.entry(entry(4, 6))), "under an earlier replid");
    assert!(misbehaved(v.step(step(2, 9))), "ahead of its place");
    assert!(forked(v.step(step(3, 2))), "behind what was passed on");
    assert!(forked(
        reopen(&mut v, &lineage(&[step(1, 4), step(2, 4)])).and_then(|()| {
            v.entry(entry_of(2, 4, 6))?;
            reopen(&mut v, &lineage(&[step(1, 4), step(2, 4), step(3, 5)]))
        })
    ));
}

proptest! {
    #[test]
    fn any_cuts_on_any_nodes_give_the_same_bytes_and_steps(
        from in 0usize..26,
        step_at in 0usize..=26,
        cuts in prop::collection::vec((1usize..9, any::<bool>(), any::<bool>()), 60),
    ) {
        let whole = lineage(&[step(1, step_at)]);
        let mut v = begun(from, &whole);
        let mut cuts = cuts.into_iter();
        let mut at = from;
        while at < STREAM.len() {
            let Some((len, break_here, knows)) = cuts.next() else { break };
            if break_here {
                let seen = if knows { &whole } else { &lineage(&[]) };
                reopen(&mut v, seen).unwrap();
                // Entries of this node may begin earlier, but never lie across a step.
                let back = len.min(at - if step_at <= at { step_at.min(at) } else { 0 });
                if !knows && step_at <= at {
                    v.step(step(1, step_at)).unwrap();
                }
                at -= back;
            }
            let end = if at < step_at { (at + len).min(step_at) } else { at + len };
            let end = end.min(STREAM.len());
            if off(end) <= v.position() {
                at = v.position().get() as usize;
                reopen(&mut v, &whole).unwrap();
                continue;
            }
            v.entry(entry_of(u8::from(step_at <= at), at, end)).unwrap();
            at = end;
        }
        let mut bytes = Vec::new();
        let mut steps = 0;
        while let Some(verified) = v.pop() {
            match verified {
                Verified::Event(TailEvent::Entry(e)) => bytes.extend_from_slice(&e.bytes),
                Verified::Event(TailEvent::Lineage(_)) => {
                    prop_assert_eq!(from + bytes.len(), step_at);
                    steps += 1;
                }
                _ => {}
            }
        }
        prop_assert_eq!(&bytes[..], &STREAM[from..at]);
        prop_assert_eq!(steps, usize::from(step_at > from && step_at <= at));
    }
}
