//! Every call that a storage makes is made to fail once, of all that it does in its life: what was answered is there, the
//! vote never goes back, whatever failed says so, and nothing panics.

use super::history::Act;
use super::world::World;
use super::*;
use redoubt_env::sim_files::{Call, Fault};
use std::collections::BTreeMap;

fn append(sizes: &[usize], new_term: bool) -> Act {
    Act::Append {
        sizes: sizes.to_vec(),
        new_term,
    }
}

/// A life in which everything happens: a first start, a bootstrap, votes, appends, rolls, truncations, marks, an ordered
/// end, starts with and without a torn end, rot, its repair, a start with the patch, and merges before and after.
fn life() -> Vec<Act> {
    let grow = |times: usize| {
        let act = |i| [append(&[700, 10 * i, 2000], i == 1), Act::Turn];
        (0..times).flat_map(act).collect::<Vec<_>>()
    };
    let torn = [
        append(&[900, 900, 900], true),
        // The write itself: a first part of it is in the page cache when the process is killed.
        Act::PowerOffAfter { calls: 0, kill: true },
        Act::Turn,
    ];
    let parts: [&[Act]; 10] = [
        &[Act::Identity, Act::Turn, Act::Vote, Act::Turn],
        &grow(8),
        &[Act::Commit { upto: 8 }, Act::Truncate { keep: 10 }, Act::Turn],
        &[append(&[20_000], true), Act::Vote, Act::Turn, Act::Read],
        &[Act::Idle, Act::Vote, append(&[30; 5], true), Act::Close],
        &[Act::Merge, Act::Read],
        &grow(3),
        &torn,
        // Of the first segment, so that sealed ones follow.
        &[Act::Rot { record: 4, byte: 70 }, Act::Read, Act::Vote],
        &[append(&[100], true), Act::Idle, Act::Read, Act::Kill],
    ];
    let mut life = parts.concat();
    life.extend(grow(8));
    life.extend([Act::Merge, Act::Read, Act::Vote, Act::Turn, Act::Kill, Act::Read]);
    life
}

/// Lives a life of its own, in which the call `fail` says fails: which one from the start, how, and whether only the
/// process ends with it.
fn live(seed: u64, fail: Option<(u64, Fault, bool)>) -> World {
    let mut world = World::new(SimFiles::new(seed), seed);
    if let Some((nth, fault, kill)) = fail {
        world.fail(nth, fault, kill);
    }
    if let Err(why) = world.run(&life()) {
        panic!("seed {seed}, {fail:?}, {:?}: {why}", world.files().failed_calls());
    }
    world
}

#[test]
fn every_call_may_fail_once_and_nothing_answered_is_lost() {
    let mut failed: BTreeMap<Call, u32> = BTreeMap::new();
    // Of the seeds with which the write that is cut short leaves a torn end.
    for seed in (0..).filter(|seed| live(*seed, None).cuts > 0).take(2) {
        let whole = live(seed, None);
        assert_eq!((whole.healed, whole.refused), (1, 0), "it is to be repaired once");
        assert_eq!(
            (whole.merges, whole.merged_again),
            (2, 1),
            "merged, and merged again"
        );
        for nth in 1..=whole.files().all_calls() {
            for (fault, kill) in [Fault::Io, Fault::NoSpace]
                .into_iter()
                .flat_map(|f| [(f, false), (f, true)])
            {
                let world = live(seed, Some((nth, fault, kill)));
                let calls = world.files().failed_calls();
                assert_eq!(calls.len(), 1, "call {nth} is made in every life");
                *failed.entry(calls[0]).or_default() += 1;
            }
        }
    }
    println!(
        "{} calls were made to fail: {failed:?}",
        failed.values().sum::<u32>()
    );
    // All that a storage uses; it never asks for free space.
    assert_eq!(failed.len(), 11, "{failed:?}");
}
