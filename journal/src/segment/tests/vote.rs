//! H5: a vote that was answered is never taken back.

use super::*;
use proptest::prelude::*;

fn vote(term: u64) -> Vote {
    Vote {
        term,
        node: term % 3,
        committed: term.is_multiple_of(2),
    }
}

fn path() -> PathBuf {
    Path::new(DIR).join("vote")
}

fn save(storage: &Storage, term: u64) -> bool {
    let answer = Answer::default();
    storage.save_vote(vote(term), answer.done());
    answer.is_ok()
}

#[test]
fn h05_rot_of_the_newer_slot() {
    for slot in 0..2 {
        for term in [9, 10] {
            let node = Node::new(1);
            let (storage, _) = node.open().unwrap();
            (1..=term).for_each(|t| assert!(save(&storage, t)));
            drop(storage);
            node.files.flip_bit(&path(), slot * 4096 + 30, 3);
            assert_eq!(
                node.open().unwrap().1.vote,
                Some(vote(term)),
                "slot {slot} rotten"
            );
            // And the copy is restored before the node acts on it.
            node.files.flip_bit(&path(), (1 - slot) * 4096 + 30, 3);
            assert_eq!(
                node.open().unwrap().1.vote,
                Some(vote(term)),
                "slot {} rotten too",
                1 - slot
            );
        }
    }
}

#[test]
fn h05_crash_between_the_votes_slots() {
    for calls in 0..6 {
        for seed in 0..30 {
            let node = Node::new(seed);
            let (storage, _) = node.open().unwrap();
            assert!(save(&storage, 8));
            node.files.power_off_after(calls);
            let answered = save(&storage, 9);
            assert_eq!(answered, calls >= 4, "a vote takes two writes and two syncs");
            drop(storage);
            node.files.power_cut(seed);
            let found = node.open().unwrap().1.vote;
            if answered {
                assert_eq!(found, Some(vote(9)));
            }
            assert!(found == Some(vote(8)) || found == Some(vote(9)), "{found:?}");
            // What was found may be acted on: from then on it survives the rot of either slot.
            node.files.flip_bit(&path(), seed % 2 * 4096 + 100, 1);
            assert_eq!(node.open().unwrap().1.vote, found);
        }
    }
}

#[test]
fn h05_power_cut_while_the_vote_of_a_killed_process_is_copied() {
    for calls in 0..6 {
        for seed in 0..200 {
            let node = Node::new(seed);
            let (storage, _) = node.open().unwrap();
            assert!(save(&storage, 8));
            // Written, and neither synced nor answered.
            node.files.power_off_after(1);
            assert!(!save(&storage, 9));
            drop(storage);
            node.files.kill();
            node.files.power_off_after(calls);
            drop(node.open());
            node.files.power_cut(seed);
            let found = node.open().map(|(_, recovered)| recovered.vote);
            assert!(
                matches!(&found, Ok(found) if [Some(vote(8)), Some(vote(9))].contains(found)),
                "after {calls} calls: {found:?}"
            );
        }
    }
}

#[test]
fn two_rotten_slots_are_refused() {
    let node = Node::new(1);
    let (storage, _) = node.open().unwrap();
    assert!(save(&storage, 8));
    drop(storage);
    node.files.flip_bit(&path(), 20, 0);
    node.files.flip_bit(&path(), 4096 + 20, 0);
    let error = node.open().err().unwrap();
    assert!(matches!(error, OpenError::Slots { .. }));
    assert!(error.to_string().contains("join again"), "{error}");
}

proptest! {
    #[test]
    fn slots_read_what_was_written(sequence: u64, payload in prop::collection::vec(any::<u8>(), 0..4069)) {
        let block = slots::encode(b"RDBTVOTE", sequence, &payload);
        prop_assert_eq!(slots::decode(b"RDBTVOTE", &block), Ok((sequence, payload)));
        prop_assert!(slots::decode(b"RDBTIDEN", &block).is_err());
    }

    #[test]
    fn any_flipped_bit_spoils_a_slot(byte in 0usize..4096, bit in 0u8..8) {
        let mut block = slots::encode(b"RDBTVOTE", 5, b"payload");
        block[byte] ^= 1 << bit;
        prop_assert_eq!(slots::decode(b"RDBTVOTE", &block), Err(format::HeaderError::Damaged));
    }

    #[test]
    fn votes_and_identities_survive_their_encoding(term: u64, node: u64, committed: bool, present: bool) {
        let vote = present.then_some(Vote { term, node, committed });
        prop_assert_eq!(persisted::decode_vote(&persisted::encode_vote(vote)), Some(vote));
        prop_assert_eq!(persisted::decode_vote(b""), None);
    }
}
