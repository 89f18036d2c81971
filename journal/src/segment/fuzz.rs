//! Targets of `cargo fuzz`: see [`crate::fuzz`].

use super::end::Witness;
use super::format::{
    Follows, Kind, Position, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader,
};
use super::merged::{Member, Merged};
use super::model::{Execution, LogId, LogRecord, Options, RecordKind};
use super::recover::Cursor;
use super::summary::Summary;
use super::{MapMetadata, OpenError, Salvage, Storage, file, format, persisted};
use futures_util::FutureExt;
use redoubt_env::Env;
use redoubt_env::sim_files::SimFiles;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const DIR: &str = "/node";
const GENERATION: u64 = 0x1122_3344_5566_7788;
/// The files that an input holds, in this order.
const FILES: [&str; 7] = [
    "editlog-0000000001",
    "editlog-0000000002",
    "editlog-0000000003",
    "patch-0000000001",
    "end",
    "editlog-0000000001-0000000002",
    "contents-0000000001-0000000002",
];

/// Bytes as a record.
pub(crate) fn record(bytes: &[u8]) {
    let at = Position {
        segment: 1,
        offset: SEGMENT_HEADER_BYTES,
    };
    if let Some((header, _)) = RecordHeader::decode(bytes, GENERATION, at) {
        let payload = bytes.get(RECORD_HEADER_BYTES as usize..).unwrap_or_default();
        let payload = payload.get(..header.payload_bytes as usize).unwrap_or_default();
        let _ = header.owns(payload, GENERATION, at);
        assert!(header.span() >= u64::from(RECORD_HEADER_BYTES));
        let (again, _) = header.encode(GENERATION, at);
        let read = RecordHeader::decode(&again, GENERATION, at).map(|(header, _)| header);
        assert_eq!(read, Some(header), "what is read is not what is written");
    }
    let _ = SegmentHeader::decode(bytes);
    let _ = SegmentHeader::decode_again(bytes);
}

/// Bytes as each value that lies in a block or in the metadata.
pub(crate) fn values(bytes: &[u8]) {
    let header = first_header();
    let _ = Summary::decode(bytes, header.segment, header.generation);
    let _ = Witness::decode(bytes);
    if let Ok(merged) = Merged::decode(bytes) {
        let again = Merged::decode(&merged.encode());
        assert_eq!(again.ok(), Some(merged), "what is read is not what is written");
    }
    let _ = persisted::decode_vote(bytes);
    let _ = persisted::decode_identity(bytes);
    let _ = super::slots::decode(&persisted::VOTE_MAGIC, bytes);
}

/// Bytes as the files of a node's directory: each with its length, 16 bits, before it.
///
/// Whatever they hold, the directory opens or is refused; if it opens, it can be read, and what is appended is there when it
/// is opened again.
pub(crate) fn directory(mut bytes: &[u8]) {
    let files = formatted();
    for name in FILES {
        let Some((len, rest)) = bytes.split_first_chunk::<2>() else {
            break;
        };
        let len = usize::from(u16::from_le_bytes(*len)).min(rest.len());
        let (content, rest) = rest.split_at(len);
        if len > 0 {
            files.put(&Path::new(DIR).join(name), content);
        }
        bytes = rest;
    }
    let env = Env::real().with_files(Arc::new(files));
    let metadata = MapMetadata::default();
    if let Ok(salvage) = Salvage::open(&env, Path::new(DIR), &metadata, &mut |_| {}) {
        salvage.gaps().iter().for_each(|gap| drop(gap.describe()));
        let _ = salvage.read(0, u64::MAX, 1 << 16);
    }
    let Ok(storage) = open(&env) else { return };
    let next = storage.last_log_id().map_or(0, |id| id.index.wrapping_add(1));
    let first = storage.first_index().unwrap_or(0);
    let _ = storage.read(first, u64::MAX, 1 << 16).now_or_never();
    let term = storage.last_log_id().map_or(1, |id| id.term);
    if next == 0 && storage.last_log_id().is_some() {
        return;
    }
    let appended = log_record(term, next, b"appended");
    storage.append(
        vec![appended.clone()],
        Box::new(|done| assert!(done.is_ok(), "{done:?}")),
    );
    drop(storage);
    let storage = match open(&env) {
        Ok(storage) => storage,
        Err(e) => panic!("it opened before: {e}"),
    };
    let read = storage.read(next, next + 1, 1 << 16).now_or_never();
    let read = read.and_then(Result::ok).unwrap_or_default();
    assert!(read == [appended], "what was appended is not there");
}

fn open(env: &Env) -> Result<Storage, OpenError> {
    let options = Options {
        segment_bytes: 16 * 1024,
        cache_bytes: 512,
        zero_ahead_bytes: 2 * 1024,
        execution: Execution::Immediate,
        ..Options::default()
    };
    let metadata = Arc::new(MapMetadata::default());
    Storage::open(env, Path::new(DIR), "n1", options, metadata).map(|(storage, _)| storage)
}

fn log_record(term: u64, index: u64, payload: &'static [u8]) -> LogRecord {
    LogRecord {
        id: LogId {
            term,
            leader: 0,
            index,
        },
        kind: RecordKind::Normal,
        payload: payload.into(),
    }
}

/// A node's directory, freshly formatted; always the same but for its random ids, which under fuzzing nothing compares.
fn formatted() -> SimFiles {
    let files = SimFiles::new(1);
    let env = Env::real().with_files(Arc::new(files.clone()));
    drop(open(&env));
    let path = |name: &str| Path::new(DIR).join(name);
    let identity = persisted::encode_identity(&super::Identity {
        node: NODE,
        name: "n1".to_owned(),
        cluster: None,
    });
    let slot = super::slots::encode(&persisted::IDENTITY_MAGIC, 1, &identity);
    files.put(&path(super::open::IDENTITY), &[slot.clone(), slot].concat());
    let first: PathBuf = file::path_of(Path::new(DIR), 1);
    files.put(&first, &segment(&first_header(), &[]));
    files.lose(&path(super::end::END));
    files
}

const NODE: redoubt_types::NodeId = match redoubt_types::NodeId::new(7) {
    Some(node) => node,
    None => unreachable!(),
};

fn first_header() -> SegmentHeader {
    SegmentHeader {
        segment: 1,
        generation: GENERATION,
        node: NODE.get(),
        follows: Follows::Nothing,
        previous_end: Position::default(),
        previous_link: 0,
        durable: Position::default(),
        next_index: 0,
        before: None,
    }
}

/// A record's kind, its term, leader and index, and its payload.
type Record<'a> = (Kind, (u64, u64, u64), &'a [u8]);

/// A segment of these records, each linked to the one before.
fn segment(header: &SegmentHeader, records: &[Record<'_>]) -> Vec<u8> {
    let (mut bytes, crc) = header.encode();
    let mut end = Cursor::start(crc);
    for (kind, (term, leader, index), payload) in records {
        let at = Position {
            segment: header.segment,
            offset: end.offset,
        };
        let record = RecordHeader {
            kind: *kind,
            payload_bytes: payload.len() as u32,
            payload_crc: format::checksum(header.generation, at, payload),
            term: *term,
            leader: *leader,
            index: *index,
            durable: Position {
                segment: header.segment,
                offset: SEGMENT_HEADER_BYTES,
            },
            committed_end: index.saturating_sub(1),
            link: end.link,
        };
        let (head, crc) = record.encode(header.generation, at);
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(payload);
        bytes.resize(at.offset as usize + record.span() as usize, 0);
        end = Cursor {
            offset: bytes.len() as u32,
            link: crc,
        };
    }
    bytes
}

const LOG: Kind = Kind::Log(RecordKind::Normal);

fn first_segment() -> Vec<u8> {
    let records: [Record<'_>; 7] = [
        (Kind::Log(RecordKind::Blank), (1, 0, 0), b""),
        (LOG, (1, 0, 1), b"one"),
        (LOG, (1, 0, 2), b"two"),
        (Kind::Truncate, (0, 0, 2), b""),
        (LOG, (2, 0, 2), b"another two"),
        (Kind::Mark, (0, 0, 0), b""),
        (Kind::Seal, (2, GENERATION + 1, 3), b""),
    ];
    segment(&first_header(), &records)
}

pub(crate) fn record_seeds() -> Vec<Vec<u8>> {
    let first = first_segment();
    let (header, records) = first.split_at(SEGMENT_HEADER_BYTES as usize);
    vec![header.to_vec(), records.to_vec()]
}

pub(crate) fn value_seeds() -> Vec<Vec<u8>> {
    let witness = Witness {
        durable: Position {
            segment: 1,
            offset: 5000,
        },
        header: first_header(),
    };
    let vote = super::Vote {
        term: 3,
        node: 7,
        committed: true,
    };
    let vote = persisted::encode_vote(Some(vote));
    vec![
        witness.encode(),
        super::slots::encode(&persisted::VOTE_MAGIC, 4, &vote),
        vote,
    ]
}

/// The header that follows a segment of these bytes, whose last record is a seal.
fn header_behind(before: &SegmentHeader, bytes: &[u8], next_index: u64) -> SegmentHeader {
    let at = |offset: usize| Position {
        segment: before.segment,
        offset: offset as u32,
    };
    let seal = bytes.len() - RECORD_HEADER_BYTES as usize;
    let sealed = RecordHeader::decode(&bytes[seal..], before.generation, at(seal));
    SegmentHeader {
        segment: before.segment + 1,
        generation: before.generation + 1,
        follows: Follows::Seal,
        previous_end: at(bytes.len()),
        previous_link: sealed.map_or(0, |(_, crc)| crc),
        durable: at(seal),
        next_index,
        before: Some(before.copy(before.encode().1)),
        ..first_header()
    }
}

/// A merged file of these segments, and the table of it.
fn merged(segments: &[(SegmentHeader, &[u8])]) -> Option<(Vec<u8>, Vec<u8>)> {
    let members = segments.iter().map(|(header, bytes)| Member {
        header: *header,
        header_crc: header.encode().1,
        bytes: bytes.len() as u32,
    });
    let merged = Merged::new(members.collect())?;
    let table = merged.encode();
    let mut file = table.clone();
    for ((_, lies), (_, bytes)) in merged.lie(Path::new(DIR)).zip(segments) {
        file.resize(lies.byte(0) as usize, 0);
        file.extend_from_slice(bytes);
    }
    Some((file, table))
}

pub(crate) fn directory_seeds() -> Vec<Vec<u8>> {
    let first = first_segment();
    let seal = first.len() - RECORD_HEADER_BYTES as usize;
    let second_header = header_behind(&first_header(), &first, 3);
    let three: Record<'_> = (LOG, (2, 0, 3), b"three");
    let second = segment(&second_header, &[three, (Kind::Mark, (0, 0, 0), b"")]);
    let sealed = segment(
        &second_header,
        &[three, (Kind::Seal, (3, GENERATION + 2, 4), b"")],
    );
    let third_header = header_behind(&second_header, &sealed, 4);
    let third = segment(&third_header, &[(LOG, (2, 0, 4), b"four")]);
    let both = merged(&[(first_header(), &first), (second_header, &sealed)]);
    let (both, table) = both.unwrap_or_default();
    let joined = |files: &[&[u8]]| {
        let mut all = Vec::new();
        for file in files {
            all.extend_from_slice(&(file.len() as u16).to_le_bytes());
            all.extend_from_slice(file);
        }
        all
    };
    let torn = &second[..second.len() - RECORD_HEADER_BYTES as usize - 20];
    let mut rotten = first.clone();
    rotten[SEGMENT_HEADER_BYTES as usize + 80] ^= 1;
    vec![
        joined(&[&first[..seal]]),
        joined(&[&first, &second]),
        joined(&[&first, torn]),
        joined(&[&rotten, &second]),
        joined(&[&[], &[], &third, &[], &[], &both, &table]),
        joined(&[&first, &sealed, &third, &[], &[], &both[..both.len() - 99], &[]]),
    ]
}
