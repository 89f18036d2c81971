//! The bytes on the disk: they are what docs/disk-format.md says, and stay so.

use super::*;
use format::{
    Follows, HeaderCopy, Kind, Position, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES,
    SegmentHeader,
};
use proptest::prelude::*;
use recover::{Image, Walked, walk};
use redoubt_types::{ClusterId, NodeId, ReplId};
use std::fmt::Write;

const GENERATION: u64 = 0x1122_3344_5566_7788;

fn header() -> SegmentHeader {
    SegmentHeader {
        segment: 3,
        generation: GENERATION,
        node: 0xaabb,
        follows: Follows::Seal,
        previous_end: Position {
            segment: 2,
            offset: 9000,
        },
        previous_link: 0xdead_beef,
        durable: Position {
            segment: 2,
            offset: 8936,
        },
        next_index: 42,
        before: Some(HeaderCopy {
            generation: 0x99,
            follows: Follows::Cut,
            previous_end: Position {
                segment: 1,
                offset: 7000,
            },
            previous_link: 0xfeed,
            durable: Position {
                segment: 1,
                offset: 6936,
            },
            next_index: 21,
            crc: 0xbeef,
        }),
    }
}

/// A segment with one record of each kind, each linked to the one before, plus `skew`.
fn segment(skew: u32) -> Vec<u8> {
    let (mut bytes, mut link) = header().encode();
    let mut add = |kind, payload: &[u8], (term, leader, index): (u64, u64, u64)| {
        let at = Position {
            segment: 3,
            offset: bytes.len() as u32,
        };
        let h = RecordHeader {
            kind,
            payload_bytes: payload.len() as u32,
            payload_crc: format::checksum(GENERATION, at, payload),
            term,
            leader,
            index,
            durable: Position {
                segment: 3,
                offset: SEGMENT_HEADER_BYTES,
            },
            committed_end: 40,
            link: link.wrapping_add(skew),
        };
        let (head, crc) = h.encode(GENERATION, at);
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(payload);
        bytes.resize(at.offset as usize + h.span() as usize, 0);
        link = crc;
    };
    add(Kind::Log(RecordKind::Blank), b"", (5, 7, 42));
    add(Kind::Log(RecordKind::Normal), b"SET k v", (5, 7, 43));
    add(Kind::Log(RecordKind::Membership), b"three voters", (5, 7, 44));
    add(Kind::Truncate, b"", (0, 0, 44));
    add(Kind::Mark, b"", (0, 0, 0));
    add(Kind::Seal, b"", (4, 0x99, 44));
    bytes
}

fn identity() -> Identity {
    let member = |n: u64| SeedMember {
        node: NodeId::new(n).unwrap(),
        name: format!("journal-{n}"),
        address: format!("10.0.0.{n}:7100"),
    };
    Identity {
        node: NodeId::new(1).unwrap(),
        name: "journal-1".to_owned(),
        cluster: Some(ClusterMembershipSeed {
            cluster: ClusterId::new([0xc1; 16]),
            replid: ReplId::from_random([0xab; 20]),
            members: vec![member(1), member(2)],
        }),
    }
}

/// Rows of 16 bytes, without those that are all zeros.
fn dump(name: &str, bytes: &[u8]) -> String {
    let mut out = format!("{name}, {} bytes\n", bytes.len());
    for (i, row) in bytes
        .chunks(16)
        .enumerate()
        .filter(|(_, row)| row.iter().any(|b| *b != 0))
    {
        let hex: Vec<_> = row.iter().map(|b| format!("{b:02x}")).collect();
        writeln!(out, "{:06x}  {}", i * 16, hex.join(" ")).unwrap();
    }
    out
}

#[test]
fn the_format_is_the_golden_one() {
    let vote = Vote {
        term: 9,
        node: 7,
        committed: true,
    };
    let vote = slots::encode(&persisted::VOTE_MAGIC, 3, &persisted::encode_vote(Some(vote)));
    let identity = slots::encode(
        &persisted::IDENTITY_MAGIC,
        2,
        &persisted::encode_identity(&identity()),
    );
    let witness = end::Witness {
        durable: Position {
            segment: 3,
            offset: 5000,
        },
        header: header(),
    };
    assert_eq!(end::Witness::decode(&witness.encode()), Some(witness));
    let second = SegmentHeader {
        segment: 4,
        ..header()
    };
    let member = |header: SegmentHeader, bytes| merged::Member {
        header,
        header_crc: header.encode().1,
        bytes,
    };
    let merged = merged::Merged::new(vec![member(header(), 4600), member(second, 5000)]).unwrap();
    assert_eq!(merged::Merged::decode(&merged.encode()), Ok(merged.clone()));
    let from: Vec<_> = merged.lie(Path::new(DIR)).map(|(_, lies)| lies.byte(0)).collect();
    assert_eq!((from, merged.file_bytes()), (vec![4096, 12288], 20480));
    let found = [
        dump("segment", &segment(0)),
        dump("vote", &vote),
        dump("end", &witness.encode()),
        dump("identity", &identity),
        dump("table of a merged file", &merged.encode()),
    ]
    .join("\n");
    assert_eq!(
        found,
        include_str!("golden.txt"),
        "the format changed: it needs a new version\n{found}"
    );
}

#[test]
fn a_segment_whose_header_has_no_copies_is_read() {
    // As files were written before there were any: zeros in their places, which the block's own checksum covers.
    let node = Node::new(1);
    let (storage, _) = node.open().unwrap();
    drop(storage);
    let path = node.segment(1);
    let mut bytes = node.bytes(&path);
    let block = &mut bytes[..SEGMENT_HEADER_BYTES as usize];
    block[2048..2180].fill(0);
    let crc = format::seal_block(block);
    let (header, read) = SegmentHeader::decode(block).unwrap();
    assert_eq!(read, crc);
    assert_ne!(header.encode().1, crc, "another block");
    node.files.put(&path, &bytes);
    let (storage, _) = node.open().unwrap();
    fill(&storage, 1, 0, 40, 900);
    let want = read_all(&storage).unwrap();
    drop(storage);
    assert!(node.files.contents(&node.segment(2)).is_some());
    let (storage, recovered) = node.open().unwrap();
    assert_eq!(recovered.truncated_bytes, 0);
    assert!(read_all(&storage).unwrap() == want);
    // Merged, its header is told by a table: not well enough to be made again.
    assert!(node.merge_all(&storage) > 0);
    drop(storage);
    let lies = node.lies(1);
    node.files.flip_bit(&lies.path, lies.byte(30), 1);
    assert!(matches!(node.open(), Err(OpenError::Rot { .. })));
    node.files.flip_bit(&lies.path, lies.byte(30), 1);
    assert!(read_all(&node.open().unwrap().0).unwrap() == want);
}

/// The header of a segment, and how far its records go.
fn walked(bytes: &[u8]) -> (SegmentHeader, Walked) {
    let (header, crc) = SegmentHeader::decode(&bytes[..SEGMENT_HEADER_BYTES as usize]).unwrap();
    let image = Image::new(&header, crc, bytes);
    let (before, patches) = (index::LogIndex::default(), patch::Patches::default());
    let walked = walk(&image, &before, None, &patches).unwrap();
    (header, walked)
}

#[test]
fn the_golden_format_is_read() {
    let bytes = segment(0);
    let (read, walked) = walked(&bytes);
    assert_eq!(read, header());
    assert_eq!(walked.end.offset as usize, bytes.len());
    assert_eq!(walked.sealed.unwrap().next_segment, 4);
    assert_eq!((walked.log.ids.first_index(), walked.log.ids.end), (Some(42), 44));
    assert_eq!(
        (walked.log.removes_from, walked.log.committed_end),
        (Some(44), 40)
    );
    let payload = persisted::encode_identity(&identity());
    assert_eq!(persisted::decode_identity(&payload), Some(identity()));
    for cut in 0..payload.len() {
        assert_eq!(persisted::decode_identity(&payload[..cut]), None);
    }
}

#[test]
fn a_record_that_does_not_link_to_the_one_before_is_not_read() {
    let bytes = segment(1);
    let (_, walked) = walked(&bytes);
    assert_eq!(walked.end.offset, SEGMENT_HEADER_BYTES);
}

proptest! {
    #[test]
    fn a_record_is_valid_only_in_its_place(
        payload in prop::collection::vec(any::<u8>(), 0..200),
        id in any::<(u64, u64, u64)>(),
        generation in any::<u64>(),
        other in any::<u64>(),
        place in any::<(u32, u32)>(),
        flip in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let ((term, leader, index), (segment, offset)) = (id, place);
        let at = Position { segment, offset };
        let header = RecordHeader {
            kind: Kind::Log(RecordKind::Normal),
            payload_bytes: payload.len() as u32,
            payload_crc: format::checksum(generation, at, &payload),
            term,
            leader,
            index,
            durable: Position { segment, offset: 0 },
            committed_end: index,
            link: 7,
        };
        let (mut bytes, crc) = header.encode(generation, at);
        prop_assert_eq!(RecordHeader::decode(&bytes, generation, at), Some((header, crc)));
        prop_assert!(header.owns(&payload, generation, at));
        prop_assert_eq!(Position::from_u64(at.to_u64()), at);
        let elsewhere = Position { offset: offset ^ 8, ..at };
        prop_assert_eq!(RecordHeader::decode(&bytes, generation, elsewhere), None);
        if other != generation {
            prop_assert_eq!(RecordHeader::decode(&bytes, other, at), None);
        }
        bytes[flip.index(RECORD_HEADER_BYTES as usize)] ^= 1 << bit;
        prop_assert_eq!(RecordHeader::decode(&bytes, generation, at), None);
    }

    #[test]
    fn any_bytes_are_decoded_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
        let at = Position { segment: 1, offset: 4096 };
        prop_assert_eq!(RecordHeader::decode(&bytes, 1, at), None);
        prop_assert!(SegmentHeader::decode(&bytes).is_err());
        persisted::decode_identity(&bytes);
        prop_assert_eq!(summary::Summary::decode(&bytes, header().segment, header().generation), None);
    }
}
