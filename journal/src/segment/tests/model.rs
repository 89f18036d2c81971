//! Random histories against a model: whatever is done, whichever call fails, and whenever the power goes, what was
//! answered is there, nothing truncated comes back, the vote never goes back.

use super::history::Act;
use super::world::World;
use super::*;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use redoubt_env::sim_files::Fault;

fn act() -> impl Strategy<Value = Act> {
    let size = prop_oneof![6 => 0usize..200, 3 => 200usize..3000, 1 => 3000usize..20_000];
    let fault = prop_oneof![Just(Fault::Io), Just(Fault::NoSpace)];
    prop_oneof![
        20 => (prop::collection::vec(size, 1..6), prop::bool::weighted(0.15))
            .prop_map(|(sizes, new_term)| Act::Append { sizes, new_term }),
        4 => (0u64..=16).prop_map(|keep| Act::Truncate { keep }),
        4 => Just(Act::Vote),
        1 => Just(Act::Identity),
        4 => (0u64..=16).prop_map(|upto| Act::Commit { upto }),
        16 => Just(Act::Turn),
        4 => Just(Act::Idle),
        4 => Just(Act::Read),
        2 => Just(Act::Kill),
        2 => any::<u64>().prop_map(|seed| Act::PowerCut { seed }),
        6 => (0u64..25, any::<bool>()).prop_map(|(calls, kill)| Act::PowerOffAfter { calls, kill }),
        6 => (1u64..40, fault, any::<bool>()).prop_map(|(nth, fault, kill)| Act::Fail { nth, fault, kill }),
        2 => (0u64..40_000).prop_map(|free| Act::Full { free }),
        2 => Just(Act::Close),
        2 => (any::<usize>(), any::<u64>()).prop_map(|(record, byte)| Act::Rot { record, byte }),
        6 => Just(Act::Merge),
        3 => (0u64..=16, any::<bool>()).prop_map(|(upto, at_a_file)| Act::Trim { upto, at_a_file }),
        3 => Just(Act::RemoveTrimmed),
        6 => Just(Act::Provide),
    ]
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    prop::collection::vec(act(), 1..60)
}

proptest! {
    #[test]
    fn what_was_answered_survives_everything(seed: u64, acts in acts()) {
        let mut world = World::new(SimFiles::new(seed), seed);
        if let Err(why) = world.run(&acts) {
            return Err(TestCaseError::fail(why));
        }
    }
}

#[test]
fn a_sync_that_does_nothing_is_noticed() {
    let mut runner = TestRunner::deterministic();
    let noticed = (0..200).filter(|seed| {
        let acts = acts().new_tree(&mut runner).unwrap().current();
        let mut world = World::new(SimFiles::with_noop_sync(*seed), *seed);
        world.run(&acts).is_err()
    });
    let noticed = noticed.count();
    assert!(noticed > 50, "only {noticed} of 200 histories noticed");
}
