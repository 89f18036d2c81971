use super::*;
use crate::hold::keyed;
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use redoubt_resp::stream::encode_command;
use std::collections::BTreeMap;

fn head(words: &[&str]) -> RequestHead {
    let args: Vec<Bytes> = words
        .iter()
        .map(|w| Bytes::copy_from_slice(w.as_bytes()))
        .collect();
    let arg_count = args.len();
    RequestHead { args, arg_count }
}

fn keys(words: &[&str]) -> ReadKeys {
    ReadKeys::of(&head(&[&["GET"], words].concat())).unwrap()
}

fn group(commands: &[&[&str]]) -> Vec<u8> {
    let mut out = BytesMut::new();
    for command in commands {
        let args: Vec<&[u8]> = command.iter().map(|w| w.as_bytes()).collect();
        encode_command(&args, &mut out);
    }
    out.to_vec()
}

fn off(n: u64) -> Offset {
    Offset::new(n)
}

#[test]
fn h21_a_key_is_clean_when_its_last_effect_is_committed() {
    let known = keyed::tests::some();
    let mut touched = Touched::new(off(10));
    assert_eq!(touched.indexed(), off(10));
    touched.group(Some(&group(&[&["SET", "a", "1"]])), off(50), Some(&known));
    touched.group(Some(&group(&[&["SET", "b", "1"]])), off(90), Some(&known));
    assert_eq!(touched.indexed(), off(90));
    assert!(!touched.are_clean(&keys(&["a"]), off(49)));
    assert!(touched.are_clean(&keys(&["a"]), off(50)));
    assert!(!touched.are_clean(&keys(&["b"]), off(50)));
    assert!(
        !touched.are_clean(&keys(&["a", "b"]), off(50)),
        "each of them counts"
    );
    assert!(touched.are_clean(&keys(&["c"]), off(10)), "nothing touched it");
}

#[test]
fn h03_what_a_transaction_touches_is_dirty_until_all_of_it_is_committed() {
    let known = keyed::tests::some();
    let mut touched = Touched::new(off(0));
    let bytes = group(&[&["MULTI"], &["SET", "a", "1"], &["SET", "b", "1"], &["EXEC"]]);
    touched.group(Some(&bytes), off(bytes.len() as u64), Some(&known));
    assert!(!touched.are_clean(&keys(&["a"]), off(bytes.len() as u64 - 1)));
    assert!(touched.are_clean(&keys(&["a"]), off(bytes.len() as u64)));
}

#[test]
fn h21_whatever_is_unclear_touches_everything() {
    let known = keyed::tests::some();
    let set = group(&[&["SET", "a", "1"]]);
    let with_unclear = group(&[&["MULTI"], &["SET", "a", "1"], &["FLUSHALL"], &["EXEC"]]);
    for (bytes, commands) in [
        (Some(&group(&[&["FLUSHALL"]])), Some(&known)),
        (Some(&with_unclear), Some(&known)),
        (None, Some(&known)),
        (Some(&set), None),
    ] {
        let mut touched = Touched::new(off(0));
        touched.group(bytes.map(Vec::as_slice), off(50), commands);
        assert!(!touched.are_clean(&keys(&["z"]), off(49)), "{bytes:?}");
        assert!(touched.are_clean(&keys(&["z"]), off(50)));
    }
}

#[test]
fn what_is_not_all_shown_is_not_known_to_be_clean() {
    let mut partial = head(&["MGET", "a", "b"]);
    partial.arg_count = 3;
    assert!(ReadKeys::of(&partial).is_some());
    partial.arg_count = 4;
    assert_eq!(ReadKeys::of(&partial), None);
    assert!(ReadKeys::of(&head(&["PING"])).is_some());
}

#[test]
fn a_long_key_is_known_by_what_is_shown_of_it() {
    let known = keyed::tests::some();
    let long = "k".repeat(REQUEST_HEAD_ARG_BYTES_MAX + 500);
    let mut touched = Touched::new(off(0));
    touched.group(Some(&group(&[&["SET", &long, "1"]])), off(9), Some(&known));
    assert!(!touched.are_clean(&keys(&[&long[..REQUEST_HEAD_ARG_BYTES_MAX]]), off(8)));
}

#[cfg(feature = "planted-bugs")]
#[test]
fn catches_reads_that_do_not_ask_for_their_keys() {
    redoubt_env::planted::assert_catches(
        "hold::touched::tests::h21_a_key_is_clean_when_its_last_effect_is_committed",
        "h21_keys_are_not_asked",
    );
}

#[cfg(feature = "planted-bugs")]
#[test]
fn catches_unclear_effects_that_touch_nothing() {
    redoubt_env::planted::assert_catches(
        "hold::touched::tests::h21_whatever_is_unclear_touches_everything",
        "h21_unclear_touches_nothing",
    );
}

const NAMES: &[&str] = &["a", "b", "c", "d", "some longer key", ""];

/// Commands of a group: what it names, and whether it is clear.
fn some_group() -> impl Strategy<Value = (Vec<Vec<&'static str>>, bool)> {
    let name = || prop::sample::select(NAMES);
    let command = prop_oneof![
        4 => (name(), name()).prop_map(|(k, v)| (vec!["SET", k, v], true)),
        2 => prop::collection::vec(name(), 1..6).prop_map(|args| ([&["mset"], &args[..]].concat(), true)),
        1 => name().prop_map(|c| (vec!["PUBLISH", c, "m"], true)),
        1 => Just((vec!["FLUSHALL"], false)),
        1 => name().prop_map(|k| (vec!["JSON.SET", k], false)),
    ];
    prop_oneof![
        command.clone().prop_map(|(args, clear)| (vec![args], clear)),
        prop::collection::vec(command, 1..5).prop_map(|inner| {
            let clear = inner.iter().all(|(_, clear)| *clear);
            let inner = inner.into_iter().map(|(args, _)| args);
            let all = [vec!["MULTI"]].into_iter().chain(inner).chain([vec!["EXEC"]]);
            (all.collect(), clear)
        }),
    ]
}

proptest! {
    /// Against a list of all that was ever touched: exactly what is beyond what is committed is dirty.
    #[test]
    fn h21_what_is_called_clean_is_clean(
        groups in prop::collection::vec(some_group(), 1..30),
        committed in 0u64..3000,
        asked in prop::collection::vec(prop::sample::select(NAMES), 1..8),
    ) {
        let known = keyed::tests::some();
        let (mut touched, mut end) = (Touched::new(off(0)), 0);
        let (mut last, mut everything) = (BTreeMap::<&str, u64>::new(), 0);
        for (commands, clear) in &groups {
            let slices: Vec<&[&str]> = commands.iter().map(Vec::as_slice).collect();
            let bytes = group(&slices);
            end += bytes.len() as u64;
            touched.group(Some(&bytes), off(end), Some(&known));
            for command in commands.iter().filter(|c| c[0] == "SET" || c[0] == "mset") {
                last.extend(command[1..].iter().map(|name| (*name, end)));
            }
            if !clear {
                everything = end;
            }
        }
        let dirty = everything > committed
            || asked.iter().any(|name| last.get(name).is_some_and(|end| *end > committed));
        prop_assert_eq!(touched.are_clean(&keys(&asked), off(committed)), !dirty);
    }
}
