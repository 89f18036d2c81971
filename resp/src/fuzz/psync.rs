//! What masters and replicas say before the stream, and what a server says about itself.

use super::Cut;
use crate::info::{fence_of, parse_info, parse_replication, parse_server};
use crate::psync::{
    Ack, Auth, HandshakeError, HandshakeOutcome, MasterHandshake, PsyncRequest, ReplicaAcks,
    ReplicaHandshake, ReplicaIdentity,
};
use crate::reply::Value;
use bytes::BytesMut;
use redoubt_types::limits::{HANDSHAKE_REQUEST_BYTES_MAX, LINE_BYTES_MAX};
use redoubt_types::{Offset, ReplId};

/// Bytes of either side. The first says whose.
pub(super) fn run(input: &[u8]) {
    let Some((whose, input)) = input.split_first() else {
        return;
    };
    let Some(cut) = Cut::of(input) else {
        return;
    };
    let whole = [cut.bytes.as_slice()];
    // A line of spaces that is too large is so only while it is not whole, and nothing else is.
    let is_small = cut.bytes.len() <= HANDSHAKE_REQUEST_BYTES_MAX;
    match whose % 4 {
        0 | 2 if !is_small => {
            master(cut.pieces());
            acks(cut.pieces());
        }
        0 => assert_eq!(master(cut.pieces()), master(whole), "the cutting is seen"),
        1 => assert_eq!(replica(cut.pieces()), replica(whole), "the cutting is seen"),
        2 => assert_eq!(acks(cut.pieces()), acks(whole), "the cutting is seen"),
        _ => info(&cut.bytes),
    }
}

/// A replica's requests: what it asked for, what it was answered, and what is left for who reads on.
fn master<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Option<(Option<PsyncRequest>, BytesMut, Option<BytesMut>)> {
    let mut handshake = MasterHandshake::new();
    let (mut input, mut out, mut asked) = (BytesMut::new(), BytesMut::new(), None);
    for piece in pieces {
        input.extend_from_slice(piece);
        if asked.is_none() {
            asked = handshake.feed(&mut input, &mut out).ok()?;
            assert!(asked.is_some() || input.len() <= HANDSHAKE_REQUEST_BYTES_MAX);
        }
    }
    let rest = asked.is_some().then_some(input);
    Some((asked, out, rest))
}

/// A master's answers: what came of them, what was asked, and what of the stream is there.
fn replica<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Option<Option<HandshakeOutcome>>, BytesMut, Option<BytesMut>) {
    let identity = ReplicaIdentity {
        auth: Some(Auth {
            user: None,
            password: "p".to_owned(),
        }),
        listening_port: 7000,
    };
    let (mut input, mut out, mut outcome) = (BytesMut::new(), BytesMut::new(), None);
    let held = Offset::new(99);
    let mut handshake = ReplicaHandshake::start(identity, ReplId::from_random([1; 20]), held, &mut out);
    for piece in pieces {
        input.extend_from_slice(piece);
        if outcome.is_none() {
            outcome = match handshake.feed(&mut input, &mut out) {
                Ok(outcome) => outcome,
                Err(e) => {
                    assert!(e.line.len() <= 128);
                    return (None, out, None);
                }
            };
            assert!(outcome.is_some() || input.len() <= LINE_BYTES_MAX);
        }
    }
    let rest = outcome.is_some().then_some(input);
    (Some(outcome), out, rest)
}

/// A fed replica's acknowledgements, and whether an error follows.
fn acks<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Ack>, bool) {
    let (mut acks, mut input, mut told) = (ReplicaAcks::new(), BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        let fed: Result<(), HandshakeError> = acks.feed(&mut input, |ack| told.push(ack));
        if fed.is_err() {
            return (told, true);
        }
    }
    (told, false)
}

fn info(bytes: &[u8]) {
    for (name, value) in parse_info(bytes).fields() {
        assert!(!name.contains(&b'\n') && !value.contains(&b'\n'));
    }
    let _ = parse_server(bytes);
    let parsed = parse_replication(bytes);
    if let Ok(replication) = &parsed
        && let (Some(_), Some(second)) = (&replication.replid2, replication.second_offset)
    {
        assert!(second.get() < i64::MAX as u64);
    }
    // A fence is what names role, replid and offset, and nothing else is.
    let is_fence = matches!(
        fence_of(&Value::Bulk(bytes.to_vec().into())),
        crate::info::FenceAnswer::Master { .. } | crate::info::FenceAnswer::NotMaster
    );
    assert_eq!(is_fence, parsed.is_ok());
}

fn seed(whose: u8, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    [vec![whose], super::seed(bytes)].concat()
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let id = "0123456789abcdef0123456789abcdef01234567";
    vec![
        seed(
            0,
            format!(
                "*1\r\n$4\r\nPING\r\n*3\r\n$8\r\nREPLCONF\r\n$14\r\nlistening-port\r\n$4\r\n6380\r\n*5\r\n$8\r\nREPLCONF\r\n\
                 $4\r\ncapa\r\n$3\r\neof\r\n$4\r\ncapa\r\n$6\r\npsync2\r\n*3\r\n$5\r\nPSYNC\r\n$40\r\n{id}\r\n$3\r\n100\r\nrest"
            ),
        ),
        seed(
            0,
            "REPLCONF version 9.1.2 ip-address ::1\r\nREPLCONF x\r\nSYNC\r\nPSYNC ? -1\r\n",
        ),
        seed(0, b"*2\r\n$4\r\nAUTH\r\n$17000\r\n\xf5\x22p\r\nPSYNC ? -1\r\n"),
        seed(
            1,
            format!(
                "\n\n-NOAUTH Authentication required.\r\n+OK\r\n+OK\r\n+OK\r\n\n+CONTINUE {id}\r\n*1\r\n"
            ),
        ),
        seed(
            1,
            format!("+PONG\r\n+OK\r\n+OK\r\n+OK\r\n+FULLRESYNC {id} 12\r\n$0\r\n"),
        ),
        seed(1, "+PONG\r\n+OK\r\n+OK\r\n+OK\r\n-NOMASTERLINK Can't SYNC\r\n"),
        seed(1, b"\xf5\xa0+"),
        seed(
            2,
            "*3\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$3\r\n100\r\n\n*5\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$2\r\n-1\r\n$4\r\nFACK\r\n$1\r\n7\r\n",
        ),
        seed(
            3,
            format!(
                "# Replication\r\nrole:master\r\nconnected_slaves:1\r\nslave0:ip=::1,port=1\r\nmaster_replid:{id}\r\n\
                 master_replid2:{id}\r\nmaster_repl_offset:1234\r\nsecond_repl_offset:1235\r\nrepl_backlog_active:1\r\n\
                 repl_backlog_size:1048576\r\nrepl_backlog_first_byte_offset:1\r\nrepl_backlog_histlen:1234\r\n"
            ),
        ),
        seed(
            3,
            format!(
                "redis_version:7.0.15\r\nvalkey_version:8.1.0-rc1\r\nrun_id:{id}\r\ntcp_port:1\r\nrole:slave\r\nloading:0\r\n"
            ),
        ),
    ]
}
