use super::*;
use bytes::Bytes;
use redoubt_resp::stream::encode_command;
use redoubt_types::{Chain, Db, Epoch, ReplId};

fn encoded(commands: &[&[&str]]) -> Bytes {
    let mut out = BytesMut::new();
    for command in commands {
        let args: Vec<_> = command.iter().map(|a| a.as_bytes()).collect();
        encode_command(&args, &mut out);
    }
    out.freeze()
}

fn entry(start: u64, bytes: Bytes, first_txid: u64, groups: u32) -> TailedEntry {
    TailedEntry {
        start: Offset::new(start),
        bytes,
        chain_end: Chain::EMPTY,
        epoch: Epoch::FIRST,
        replid: ReplId::from_random([1; 20]),
        first_txid: Txid::new(first_txid).unwrap(),
        groups,
        db: Db::default(),
        at_group_start: true,
        trimmed: false,
        captured: WallTime::from_ms(1_709_164_800_000),
    }
}

const TIME: &str = "2024-02-29T00:00:00.000Z";

#[test]
fn one_command_a_line_and_one_txid_a_transaction() {
    let bytes = encoded(&[
        &["SELECT", "0"],
        &["MULTI"],
        &["SET", "a b", "1\n"],
        &["DEL", "c"],
        &["EXEC"],
        &["PING"],
    ]);
    let lines = Printer::new(Offset::ZERO).entry(&entry(0, bytes, 7, 3)).unwrap();
    assert_eq!(
        lines,
        format!(
            "7 0 {TIME} \"SELECT\" \"0\"\n\
             8 23 {TIME} \"MULTI\"\n\
             8 38 {TIME} \"SET\" \"a b\" \"1\\n\"\n\
             8 68 {TIME} \"DEL\" \"c\"\n\
             8 88 {TIME} \"EXEC\"\n\
             9 102 {TIME} \"PING\"\n"
        )
    );
}

#[test]
fn commands_before_the_wanted_offset_are_not_printed() {
    let bytes = encoded(&[&["SELECT", "0"], &["DEL", "a"], &["DEL", "b"]]);
    let mut printer = Printer::new(Offset::new(24));
    let lines = printer.entry(&entry(0, bytes, 1, 3)).unwrap();
    assert_eq!(lines, format!("3 43 {TIME} \"DEL\" \"b\"\n"));
    assert_eq!(printer.take_note(), None);
}

#[test]
fn entries_whose_beginning_is_missing_are_skipped_until_a_group_begins() {
    let mut printer = Printer::new(Offset::new(10));
    let trimmed = TailedEntry {
        trimmed: true,
        ..entry(5, Bytes::from_static(b"\r\nx"), 1, 1)
    };
    assert_eq!(printer.entry(&trimmed).unwrap(), "");
    let fragment = TailedEntry {
        at_group_start: false,
        ..entry(8, Bytes::from_static(b"yyyyyyyyyyyy"), 1, 1)
    };
    assert_eq!(printer.entry(&fragment).unwrap(), "");
    let lines = printer.entry(&entry(20, encoded(&[&["PING"]]), 2, 1)).unwrap();
    assert_eq!(lines, format!("2 20 {TIME} \"PING\"\n"));
    assert!(printer.take_note().is_some());
}

/// Cuts `bytes` into fragments of one group with txid 5.
fn fragments(bytes: &Bytes, size: usize) -> Vec<TailedEntry> {
    let mut entries = Vec::new();
    for start in (0..bytes.len()).step_by(size) {
        let end = bytes.len().min(start + size);
        let groups = u32::from(end == bytes.len());
        let whole = entry(start as u64, bytes.slice(start..end), 5, groups);
        entries.push(TailedEntry {
            at_group_start: start == 0,
            ..whole
        });
    }
    entries
}

#[test]
fn fragments_are_joined_however_they_are_cut() {
    let bytes = encoded(&[
        &["MULTI"],
        &["SET", "k", &"v".repeat(100)],
        &["DEL", "x"],
        &["EXEC"],
    ]);
    let whole = Printer::new(Offset::ZERO)
        .entry(&entry(0, bytes.clone(), 5, 1))
        .unwrap();
    for size in [1, 7, 64, 100] {
        let mut printer = Printer::new(Offset::ZERO);
        let lines: String = fragments(&bytes, size)
            .iter()
            .map(|e| printer.entry(e).unwrap())
            .collect();
        assert_eq!(lines, whole, "cut every {size} bytes");
    }
}

#[test]
fn a_command_too_large_is_cut_off_and_what_follows_its_group_is_printed() {
    let bytes = encoded(&[
        &["MULTI"],
        &["SET", "k", &"v".repeat(5000)],
        &["DEL", "x"],
        &["EXEC"],
    ]);
    let mut printer = Printer::new(Offset::ZERO);
    printer.join_bytes_max = 1000;
    let mut lines: String = fragments(&bytes, 700)
        .iter()
        .map(|e| printer.entry(e).unwrap())
        .collect();
    let end = bytes.len() as u64;
    lines += &printer.entry(&entry(end, encoded(&[&["PING"]]), 6, 1)).unwrap();
    let shown = "v".repeat(CUT_ARGUMENT_BYTES);
    assert_eq!(
        lines,
        format!(
            "5 0 {TIME} \"MULTI\"\n\
             5 15 {TIME} \"SET\" \"k\" \"{shown}\"... (5000 bytes) ... (cut off; the rest of this group is not shown)\n\
             6 {end} {TIME} \"PING\"\n"
        )
    );
    assert_eq!(printer.take_note(), None);
}

#[test]
fn what_is_no_stream_is_an_error_that_names_its_offset() {
    let bytes = Bytes::from_static(b"*1\r\n$4\r\nPING\r\n+OK\r\n");
    let error = Printer::new(Offset::ZERO)
        .entry(&entry(100, bytes, 1, 1))
        .unwrap_err();
    assert_eq!(error.at, Offset::new(114));
}
