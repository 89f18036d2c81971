//! A merge that ends anywhere, and then damage of any file: with what others have, all is there again.

use super::damage::{contents, healed};
use super::merge::editlogs;
use super::*;

/// A node with a log of which `nth` calls of a merge were made when the process, or the power, ended; of a merge of merged
/// files, if `again`. And whether the merge was done by then.
fn interrupted(nth: u64, again: bool, kill: bool) -> (Node, Vec<LogRecord>, bool) {
    let mut node = Node::new(nth);
    node.options.merge_bytes = 1 << 20;
    node.options.merge_at_files = 2;
    let (storage, _) = node.open().unwrap();
    fill(&storage, 1, 0, 40, 900);
    if again {
        assert!(matches!(storage.merge(&mut |_| true), Merging::Done { .. }));
        fill(&storage, 1, 40, 110, 900);
    }
    storage.idle();
    let log = read_all(&storage).unwrap();
    node.files.power_off_after(nth);
    let done = matches!(storage.merge(&mut |_| true), Merging::Done { .. });
    drop(storage);
    match kill {
        true => node.files.kill(),
        false => node.files.power_cut(nth),
    }
    (node, log, done)
}

/// One file lost, a bit of it changed, or its end cut off.
fn harm(node: &Node, path: &Path, bytes: &[u8], how: usize) {
    match how {
        0 => node.files.lose(path),
        1..=3 => node
            .files
            .flip_bit(path, [30, bytes.len() / 2, bytes.len() / 3][how - 1] as u64, 1),
        _ => node.files.put(path, &bytes[..bytes.len() * (how - 3) / 4 - how]),
    }
}

#[test]
fn a_crash_within_a_merge_and_then_damage_of_any_file_lose_nothing() {
    let (mut cases, mut repaired) = (0, 0);
    for (again, kill) in [(false, true), (false, false), (true, true)] {
        for nth in 0.. {
            let (template, log, done) = interrupted(nth, again, kill);
            let files = contents(&template);
            let logs = editlogs(&template);
            let harmed = files
                .iter()
                .filter(|(path, bytes)| logs.iter().any(|n| path.ends_with(n)) && !bytes.is_empty());
            for (path, bytes) in harmed {
                for how in 0..7 {
                    let mut node = Node::new(1);
                    node.options = template.options;
                    files.iter().for_each(|(path, bytes)| node.files.put(path, bytes));
                    let summaries = template
                        .metadata
                        .all()
                        .into_iter()
                        .filter(|_| (nth as usize + how).is_multiple_of(2));
                    summaries.for_each(|(k, v)| node.metadata.put(&k, &v).unwrap());
                    harm(&node, path, bytes, how);
                    let what = format!(
                        "{} harmed so: {how}, after {nth} calls, {again}, {kill}: {logs:?}",
                        path.display()
                    );
                    let (storage, _, closed) = healed(&node, &log, 12).unwrap();
                    cases += 1;
                    repaired += usize::from(closed > 0);
                    assert!(read_all(&storage).unwrap() == log, "{what}");
                    node.merge_all(&storage);
                    assert_eq!(*storage.rot().borrow(), None, "{what}");
                    assert!(read_all(&storage).unwrap() == log, "{what}: merged");
                    drop(storage);
                    node.files.kill();
                    node.metadata = Arc::default();
                    let (storage, _, closed) = healed(&node, &log, 12).unwrap();
                    assert_eq!(closed, 0, "{what}: repaired again");
                    assert!(read_all(&storage).unwrap() == log, "{what}: opened again");
                }
            }
            if done {
                break;
            }
        }
    }
    println!("{cases} cases, {repaired} of them repaired");
    assert!(cases > 2000 && repaired > 500, "{cases}, {repaired}");
}
