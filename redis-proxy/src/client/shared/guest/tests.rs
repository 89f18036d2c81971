use super::super::flights::{FlightId, Flights, Released};
use super::super::outbox::Total;
use super::super::ready::Ready;
use super::*;
use crate::pressure::Mark;
use proptest::prelude::*;
use redoubt_resp::reply::Value;
use redoubt_resp::stream::encode_command;
use redoubt_types::limits::GUEST_ANSWER_BYTES_MAX;
use tokio::sync::Semaphore;

/// A server that knows SET, GET, EVAL, BLPOP and QUIT.
fn plain() -> Plain {
    let command = |name: &'static str, flag: &'static str| {
        Value::Array(vec![
            Value::Bulk(name.into()),
            Value::Int(-1),
            Value::Array(vec![Value::Simple(flag.into())]),
        ])
    };
    Plain::of(&Value::Array(vec![
        command("set", "write"),
        command("get", "readonly"),
        command("eval", "noscript"),
        command("blpop", "blocking"),
        command("quit", "fast"),
        command("hpersist", "write"),
    ]))
}

fn guest() -> Guest {
    let slot = Slot { key: 0, id: 0 };
    let (conn, _) = tokio::io::duplex(1);
    Guest {
        slot,
        conn: Box::new(conn),
        peer: String::new(),
        signal: Signal::new(0, Arc::<Ready>::default()),
        input: BytesMut::new(),
        outbox: Outbox::new(Total::default()),
        unanswered: 0,
        allowance: Allowance::default(),
        is_full: false,
        next: None,
        then: Then::Stays,
        deferred: false,
        waits_since: None,
        names: Names::default(),
        permit: Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap(),
        scanner: RequestScanner::new(),
    }
}

fn command(args: &[&[u8]]) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode_command(args, &mut out);
    out.to_vec()
}

/// What of `input`, fed in pieces of `cut`, goes to the server, and whether something else than an answer stands for it.
fn taken(input: &[u8], cut: usize) -> (Vec<(Bytes, bool)>, Then) {
    taken_after_looks(input, cut, false)
}

/// The same, with a look at what comes next before anything is taken, if `looks`.
fn taken_after_looks(input: &[u8], cut: usize, looks: bool) -> (Vec<(Bytes, bool)>, Then) {
    let (mut guest, plain, mut out) = (guest(), plain(), Vec::new());
    for piece in input.chunks(cut) {
        guest.input.extend_from_slice(piece);
        if looks {
            guest.look(&plain);
        }
        while let Taken::Command(bytes, instead) = guest.take(&plain, &Peers::default(), None, None) {
            out.push((bytes, instead.is_some()));
        }
    }
    (out, guest.then)
}

/// The arguments of `bytes`, if they are exactly one command, written as every server reads it.
fn one_command(mut bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    fn header(bytes: &mut &[u8], kind: u8) -> Option<usize> {
        let end = bytes.windows(2).position(|w| w == b"\r\n")?;
        let digits = bytes[..end].strip_prefix(&[kind])?;
        let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        *bytes = &bytes[end + 2..];
        plain
            .then(|| std::str::from_utf8(digits).ok()?.parse().ok())
            .flatten()
    }
    let count = header(&mut bytes, b'*')?;
    let mut args = Vec::new();
    for _ in 0..count {
        let len = header(&mut bytes, b'$')?;
        let rest = bytes.get(len..)?.strip_prefix(b"\r\n")?;
        args.push(bytes[..len].to_vec());
        bytes = rest;
    }
    (bytes.is_empty() && count > 0).then_some(args)
}

#[test]
fn plain_commands_go_as_they_came() {
    let (set, get) = (command(&[b"SET", b"k", b"v"]), command(&[b"get", b"k"]));
    let (out, then) = taken(&[&set[..], &get[..]].concat(), 3);
    assert_eq!(out, [(Bytes::from(set), false), (Bytes::from(get), false)]);
    assert!(matches!(then, Then::Stays));
}

#[test]
fn what_is_refused_or_ends_the_client_is_answered_by_the_proxy() {
    for refused in [
        command(&[b"HPERSIST", b"h", b"FIELDS", b"1", b"f"]),
        command(&[b"EVAL", b"redis.set_repl(0)", b"0"]),
        command(&[b"QUIT"]),
        b"*1\r\n$-3\r\n".to_vec(),
    ] {
        let (out, _) = taken(&refused, 1000);
        assert_eq!(
            out,
            [(Bytes::from_static(STAND_IN), true)],
            "{:?}",
            refused.escape_ascii()
        );
    }
}

#[test]
fn a_command_that_needs_its_own_connection_stops_its_client_before_it() {
    for (first, rest) in [
        (command(&[b"BLPOP", b"l", b"0"]), "BLPOP"),
        (b"GET k\r\n".to_vec(), "GET"),
        (command(&[b"SET", b"k", &[b'x'; 100_000]]), "SET"),
    ] {
        let (out, then) = taken(
            &[command(&[b"GET", b"k"]), first, command(&[b"GET", b"k"])].concat(),
            1000,
        );
        assert_eq!(out.len(), 1);
        assert!(
            matches!(then, Then::Moves(Some(head)) if head.is(0, rest)),
            "{rest}"
        );
    }
}

#[test]
fn a_look_is_enough_to_know_that_a_client_moves() {
    let (mut guest, plain) = (guest(), plain());
    guest.input.extend_from_slice(&command(&[b"GET", b"k"]));
    guest.input.extend_from_slice(&command(&[b"BLPOP", b"l", b"0"]));
    guest.look(&plain);
    guest.look(&plain);
    assert!(matches!(guest.then, Then::Stays), "a plain command is before it");
    assert!(matches!(
        guest.take(&plain, &Peers::default(), None, None),
        Taken::Command(..)
    ));
    guest.look(&plain);
    assert!(guest.may_go());
    assert!(matches!(guest.then, Then::Moves(Some(head)) if head.is(0, "BLPOP")));
}

fn piece(flight: FlightId, bytes: &[u8], ends: bool) -> Piece<'_> {
    Piece {
        slot: Slot { key: 0, id: 0 },
        flight,
        bytes,
        ends,
        reads: None,
    }
}

fn up_to(end: FlightId) -> Released {
    Released { end, reads_end: end }
}

#[test]
fn who_gets_large_answers_moves_once_none_is_held_and_takes_the_rest_along() {
    let (mut guest, mut flights) = (guest(), Flights::default());
    guest.unanswered = 2;
    let (first, end) = (
        flights.seal(Mark::default(), &mut BytesMut::new()),
        flights.seal(Mark::default(), &mut BytesMut::new()),
    );
    guest.receive(piece(first, &[b'x'; GUEST_ANSWER_BYTES_MAX], false));
    assert!(matches!(guest.then, Then::Stays));
    guest.receive(piece(first, b"x", true));
    assert!(matches!(guest.then, Then::Moves(None)));
    assert!(matches!(
        guest.take(&plain(), &Peers::default(), None, None),
        Taken::Stopped
    ));
    guest.outbox.released(up_to(end), |_| false);
    assert!(!guest.may_go(), "an answer is missing");
    guest.receive(piece(end, b"+OK\r\n", true));
    assert!(!guest.may_go(), "an answer is held");
    let end = flights.seal(Mark::default(), &mut BytesMut::new());
    guest.outbox.released(up_to(end), |_| false);
    assert!(guest.may_go());
    assert_eq!(guest.outbox.take_released().len(), GUEST_ANSWER_BYTES_MAX + 6);
}

/// Commands, some of them plain, with something wrong here and there.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let arg = prop_oneof![
        Just(b"k".to_vec()),
        prop::collection::vec(any::<u8>(), 0..20),
        Just(b"\r\n*1\r\n$8\r\nFLUSHALL\r\n".to_vec()),
    ];
    let name = prop::sample::select(vec!["SET", "get", "EVAL", "BLPOP", "QUIT", "HPERSIST", "NOSUCH"]);
    let good = (name, prop::collection::vec(arg, 0..4)).prop_map(|(name, args)| {
        let mut all = vec![name.as_bytes()];
        all.extend(args.iter().map(Vec::as_slice));
        command(&all)
    });
    let bad = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..30),
        Just(b"GET k\r\n".to_vec()),
        Just(b"*2\r\n$3\r\nGET\r\n$1\r\nkk\r\n".to_vec()),
        Just(b"*2\r\n$3\r\nGET\r\n$+1\r\nk\r\n".to_vec()),
        Just(b"*2\n$3\r\nGET\r\n$1\r\nk\r\n".to_vec()),
        Just(b"*-1\r\n".to_vec()),
        Just(b"*0\r\n\r\n".to_vec()),
    ];
    let pieces = prop::collection::vec(prop_oneof![4 => good, 1 => bad], 1..8);
    (
        pieces,
        prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    )
        .prop_map(|(pieces, flip)| {
            let mut bytes = pieces.concat();
            if let (Some((at, with)), false) = (flip, bytes.is_empty()) {
                let at = at.index(bytes.len());
                bytes[at] = with;
            }
            bytes
        })
}

proptest! {
    /// Whatever a client sends, what goes to the connection that it shares with others is whole plain commands, which no
    /// server could take for anything else; and it does not depend on how its bytes were cut.
    #[test]
    fn a_hostile_neighbour_sends_nothing_but_whole_commands(input in hostile(), cut in 1usize..50) {
        let (out, _) = taken(&input, cut);
        for (bytes, _) in &out {
            let args = one_command(bytes);
            prop_assert!(args.is_some(), "{}", bytes.escape_ascii());
            let name = args.unwrap()[0].to_ascii_lowercase();
            prop_assert!([&b"set"[..], b"get", b"eval", b"ping"].contains(&&name[..]), "{}", name.escape_ascii());
        }
        prop_assert_eq!(&out, &taken(&input, usize::MAX).0);
        prop_assert_eq!(out, taken_after_looks(&input, cut, true).0);
    }
}
