use super::*;
use proptest::prelude::*;
use redoubt_types::LineageStep;

fn id(n: u8) -> ReplId {
    ReplId::from_random([n; 20])
}

/// A lineage whose replid `i` (counted from 0) begins at the `i`-th of `begins`.
fn lineage(begins: &[u64]) -> Lineage {
    let steps: Vec<LineageStep> = begins
        .iter()
        .enumerate()
        .map(|(i, from)| LineageStep {
            replid: id(i as u8),
            from: Offset::new(*from),
            epoch: None,
        })
        .collect();
    Lineage::from_steps(&steps).unwrap()
}

fn partial(n: u8, held: u64) -> PsyncAsk {
    PsyncAsk::Partial {
        replid: id(n),
        held: Offset::new(held),
    }
}

fn continues(lineage: &Lineage, tail: u64, begin: u64, ask: &PsyncAsk) -> bool {
    let newest = lineage.last().replid;
    // Anywhere between the two: who is before it continues all the same.
    let base = Offset::new(begin + tail.saturating_sub(begin) / 2);
    match answer(lineage, Offset::new(tail), Offset::new(begin), base, ask) {
        PsyncAnswer::Continue { replid, from } => {
            assert_eq!(replid, newest);
            assert!(matches!(ask, PsyncAsk::Partial { held, .. } if *held == from));
            true
        }
        PsyncAnswer::FullResync { replid, at } => {
            assert_eq!((replid, at), (newest, base));
            false
        }
    }
}

#[test]
fn both_ends_of_what_is_there_can_be_continued() {
    let l = lineage(&[0, 150]);
    for (ask, want) in [
        (partial(1, 99), false),
        (partial(1, 100), true),
        (partial(1, 200), true),
        (partial(1, 201), false),
        (partial(2, 150), false),
        (PsyncAsk::Full, false),
    ] {
        assert_eq!(continues(&l, 200, 100, &ask), want, "{ask:?}");
    }
}

#[test]
fn h15_a_replid_is_valid_up_to_its_end_and_is_answered_with_the_newest() {
    // Replid 0 ended at 150, 1 wrote nothing, 2 is being written.
    let l = lineage(&[0, 150, 150]);
    for (n, end) in [(0, 150), (1, 150), (2, 200)] {
        assert!(continues(&l, 200, 0, &partial(n, 0)));
        assert!(continues(&l, 200, 0, &partial(n, end)));
        assert!(!continues(&l, 200, 0, &partial(n, end + 1)));
    }
}

#[test]
fn an_empty_journal_continues_a_replica_that_is_at_its_beginning() {
    let l = lineage(&[0]);
    assert!(continues(&l, 0, 0, &partial(0, 0)));
    assert!(!continues(&l, 0, 0, &partial(0, 1)));
    assert!(!continues(&l, 0, 0, &PsyncAsk::Full));
}

proptest! {
    #[test]
    fn only_what_is_held_and_valid_is_continued(
        steps in prop::collection::vec(0u64..20, 1..5),
        behind in 0u64..20,
        begin in 0u64..60,
        n in 0u8..6,
        held in prop_oneof![(0u64..120).prop_map(Err), (0usize..3, -1i64..2).prop_map(Ok)],
    ) {
        let mut at = 0;
        let begins: Vec<u64> = steps.iter().enumerate().map(|(i, d)| { at += if i == 0 { 0 } else { *d }; at }).collect();
        let (l, tail) = (lineage(&begins), at + behind);
        // By the bytes: everything held must be ours under that replid, everything behind it must be there.
        let next = begins.get(usize::from(n) + 1).copied().unwrap_or(tail);
        let end = begins.get(usize::from(n)).map(|_| next);
        // Half of the time at an edge, or one beside it.
        let held = match held {
            Err(held) => held,
            Ok((edge, by)) => [begin, end.unwrap_or(tail), tail][edge].saturating_add_signed(by),
        };
        let want = end.is_some_and(|end| (begin..=end).contains(&held));
        prop_assert_eq!(continues(&l, tail, begin, &partial(n, held)), want);
    }
}

#[test]
fn answers_and_acknowledgements_are_what_servers_understand() {
    let line = |answer: PsyncAnswer, psync2| {
        let mut out = BytesMut::new();
        answer.encode(psync2, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    };
    let go_on = PsyncAnswer::Continue {
        replid: id(0xab),
        from: Offset::new(7),
    };
    assert_eq!(line(go_on, true), format!("+CONTINUE {}\r\n", "ab".repeat(20)));
    assert_eq!(line(go_on, false), "+CONTINUE\r\n");
    let full = PsyncAnswer::FullResync {
        replid: id(0xab),
        at: Offset::new(7),
    };
    assert_eq!(line(full, true), format!("+FULLRESYNC {} 7\r\n", "ab".repeat(20)));
    let mut out = BytesMut::new();
    ack_command(Offset::new(134), &mut out);
    getack(&mut out);
    assert_eq!(
        &out[..],
        b"*3\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$3\r\n134\r\n*3\r\n$8\r\nREPLCONF\r\n$6\r\nGETACK\r\n$1\r\n*\r\n"
    );
}

fn requests(commands: &[&[&str]]) -> Vec<u8> {
    let mut out = BytesMut::new();
    for command in commands {
        let args: Vec<&[u8]> = command.iter().map(|a| a.as_bytes()).collect();
        encode_command(&args, &mut out);
    }
    out.to_vec()
}

/// Feeds a master's handshake in pieces of `piece` bytes.
fn master_hears(bytes: &[u8], piece: usize) -> (Option<PsyncRequest>, String, Vec<u8>) {
    let mut handshake = MasterHandshake::new();
    let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
    let mut parts = bytes.chunks(piece);
    while let Some(part) = parts.next() {
        input.extend_from_slice(part);
        if let Some(request) = handshake.feed(&mut input, &mut out).unwrap() {
            parts.for_each(|part| input.extend_from_slice(part));
            return (
                Some(request),
                String::from_utf8(out.to_vec()).unwrap(),
                input.to_vec(),
            );
        }
    }
    (None, String::from_utf8(out.to_vec()).unwrap(), input.to_vec())
}

#[test]
fn a_stock_replica_is_heard_out() {
    let replid = "ab".repeat(20);
    let asked = [
        requests(&[
            &["PING"],
            &["AUTH", "x"],
            &["REPLCONF", "listening-port", "7001"],
            &["REPLCONF", "ip-address", "10.0.0.1"],
            &[
                "REPLCONF",
                "capa",
                "eof",
                "capa",
                "psync2",
                "capa",
                "dual-channel",
                "capa",
                "skip-rdb-checksum",
            ],
            &["REPLCONF", "version", "9.1.2"],
            &["REPLCONF", "rdb-channel", "1"],
            &["REPLCONF", "capa"],
            &["REPLCONF", "listening-port", "70000"],
        ]),
        b"SYNC\r\n\nINFO\r\n".to_vec(),
        requests(&[
            &["psync", &replid, "135", "FAILOVER"],
            &["PSYNC", &replid, "135"],
            &["REPLCONF", "ACK", "134"],
        ]),
    ]
    .concat();
    for piece in [asked.len(), 1, 7] {
        let (request, answers, rest) = master_hears(&asked, piece);
        assert_eq!(
            request,
            Some(PsyncRequest {
                ask: partial(0xab, 134),
                eof: true,
                psync2: true,
                port: Some(7001),
                ip: Some("10.0.0.1".into()),
                version: Some("9.1.2".into()),
            })
        );
        let want = [
            "+PONG",
            "+OK",
            "+OK",
            "+OK",
            "+OK",
            "+OK",
            "-ERR Unrecognized REPLCONF option",
            "-ERR syntax error",
            "-ERR value is not an integer or out of range",
            "-ERR SYNC is not supported, use PSYNC",
            "-ERR only the replication handshake is answered here",
            "-ERR PSYNC takes a replication id and an offset here",
        ];
        assert_eq!(answers, want.map(|line| format!("{line}\r\n")).concat());
        assert_eq!(rest, requests(&[&["REPLCONF", "ACK", "134"]]));
    }
}

#[test]
fn psync_of_what_no_history_can_be_asks_for_everything() {
    let replid = "ab".repeat(20);
    for ask in [
        ["?", "-1"],
        [replid.as_str(), "0"],
        [replid.as_str(), "-1"],
        ["abc", "5"],
        ["?", "5"],
    ] {
        let (request, ..) = master_hears(&requests(&[&["PSYNC", ask[0], ask[1]]]), 1000);
        assert_eq!(request.map(|r| r.ask), Some(PsyncAsk::Full), "{ask:?}");
    }
    let (request, ..) = master_hears(&requests(&[&["PSYNC", &replid, "1"]]), 1000);
    assert_eq!(request.map(|r| r.ask), Some(partial(0xab, 0)));
}

#[test]
fn a_replica_that_sends_nonsense_is_bounded() {
    let feed = |bytes: &[u8]| {
        let (mut input, mut out) = (BytesMut::from(bytes), BytesMut::new());
        MasterHandshake::new().feed(&mut input, &mut out)
    };
    assert!(matches!(feed(b"*1\r\n+x\r\n"), Err(HandshakeError::Protocol(_))));
    assert_eq!(feed(&vec![b'x'; 20_000]), Err(HandshakeError::TooLarge));
    assert_eq!(
        feed(&requests(&[&["PING", &"x".repeat(20_000)]])),
        Err(HandshakeError::TooLarge)
    );
    assert_eq!(feed(b"*1\r\n$500000000\r\n"), Ok(None));
}

#[test]
fn acknowledgements_are_offsets() {
    let sent = [
        b"\n\n".to_vec(),
        requests(&[
            &["REPLCONF", "ACK", "0"],
            &["replconf", "ack", "134", "FACK", "100"],
            &["REPLCONF", "ACK", "-1"],
            &["REPLCONF", "something", "new"],
            &["REPLCONF", "ACK"],
        ]),
    ]
    .concat();
    for piece in [sent.len(), 1] {
        let (mut acks, mut seen, mut input) = (ReplicaAcks::new(), Vec::new(), BytesMut::new());
        for part in sent.chunks(piece) {
            input.extend_from_slice(part);
            acks.feed(&mut input, |ack| {
                seen.push((ack.offset.get(), ack.durable.map(Offset::get)))
            })
            .unwrap();
        }
        assert_eq!(seen, [(0, None), (134, Some(100))]);
    }
    let mut input = BytesMut::from(&b"SET a b\r\n"[..]);
    assert_eq!(
        ReplicaAcks::new().feed(&mut input, |_| {}),
        Err(HandshakeError::Unexpected)
    );
}

/// Runs capture's handshake against `answers`, one per request, fed byte by byte with newlines between.
fn ask_master(
    auth: bool,
    answers: &[&str],
) -> (Vec<String>, Result<Option<HandshakeOutcome>, MasterAnswerError>) {
    let auth = auth.then(|| Auth {
        user: Some("u".into()),
        password: "p".into(),
    });
    let identity = ReplicaIdentity {
        auth,
        listening_port: 7000,
    };
    let (mut out, mut input) = (BytesMut::new(), BytesMut::new());
    let mut handshake = ReplicaHandshake::start(identity, id(0xab), Offset::new(134), &mut out);
    let mut sent = Vec::new();
    for answer in answers {
        let request = out.split();
        let args = crate::stream::commands(&request)
            .next()
            .unwrap()
            .unwrap()
            .args
            .join(&b' ');
        sent.push(String::from_utf8(args).unwrap());
        for byte in format!("\n\n{answer}\r\n").bytes() {
            input.extend_from_slice(&[byte]);
            match handshake.feed(&mut input, &mut out) {
                Ok(None) => {}
                done => {
                    assert!(out.is_empty());
                    return (sent, done);
                }
            }
        }
    }
    (sent, Ok(None))
}

#[test]
fn a_stock_master_is_asked_for_the_byte_behind_what_is_held() {
    let replid = "ab".repeat(20);
    let other = "cd".repeat(20);
    let (sent, outcome) = ask_master(
        true,
        &["-NOAUTH x", "+OK", "+OK", "+OK", &format!("+CONTINUE {other}")],
    );
    assert_eq!(
        sent,
        [
            "PING",
            "AUTH u p",
            "REPLCONF listening-port 7000",
            "REPLCONF capa eof capa psync2",
            &format!("PSYNC {replid} 135")
        ]
    );
    assert_eq!(
        outcome,
        Ok(Some(HandshakeOutcome::Continue {
            replid: Some(id(0xcd))
        }))
    );
}

#[test]
fn every_answer_of_a_master_has_one_meaning() {
    let other = "cd".repeat(20);
    let full = HandshakeOutcome::FullResync {
        replid: id(0xcd),
        offset: Offset::new(7),
    };
    for (answer, want) in [
        (
            "+CONTINUE".to_string(),
            HandshakeOutcome::Continue { replid: None },
        ),
        (format!("+FULLRESYNC {other} 7"), full),
        ("-LOADING x".into(), HandshakeOutcome::Retry("LOADING x".into())),
        ("-BUSY x".into(), HandshakeOutcome::Retry("BUSY x".into())),
        (
            "-NOMASTERLINK x".into(),
            HandshakeOutcome::Retry("NOMASTERLINK x".into()),
        ),
        ("-ERR x".into(), HandshakeOutcome::Refused("ERR x".into())),
        ("-NOPERM x".into(), HandshakeOutcome::Refused("NOPERM x".into())),
    ] {
        assert_eq!(
            ask_master(false, &["+PONG", "+OK", "+OK", &answer]).1,
            Ok(Some(want)),
            "{answer}"
        );
    }
    for answer in [
        "+CONTINUE x",
        "+FULLRESYNC x 7",
        "+FULLRESYNC",
        ":1",
        "",
        "+OK",
        "$5",
    ] {
        // An empty line is a keepalive too, and says nothing yet.
        let result = ask_master(false, &["+PONG", "+OK", "+OK", answer]).1;
        assert!(result.is_err(), "{answer:?}: {result:?}");
    }
    assert_eq!(
        ask_master(false, &["-LOADING x"]).1,
        Ok(Some(HandshakeOutcome::Retry("LOADING x".into())))
    );
    assert!(matches!(
        ask_master(false, &["-NOAUTH x"]).1,
        Ok(Some(HandshakeOutcome::Refused(_)))
    ));
}

#[test]
fn the_stream_behind_the_answer_is_left_alone() {
    let identity = ReplicaIdentity {
        auth: None,
        listening_port: 1,
    };
    let mut out = BytesMut::new();
    let mut handshake = ReplicaHandshake::start(identity, id(1), Offset::ZERO, &mut out);
    let mut input = BytesMut::from(&b"+PONG\r\n+OK\r\n+OK\r\n+CONTINUE\r\n\n*1\r\n$4\r\nPING\r\n"[..]);
    let outcome = handshake.feed(&mut input, &mut out).unwrap();
    assert_eq!(outcome, Some(HandshakeOutcome::Continue { replid: None }));
    // Not even a newline is taken: behind the answer every byte is the stream's.
    assert_eq!(&input[..], b"\n*1\r\n$4\r\nPING\r\n");
}

#[test]
fn a_password_is_never_printed() {
    let auth = Auth {
        user: None,
        password: "secret".into(),
    };
    assert!(!format!("{auth:?}").contains("secret"));
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut out = BytesMut::new();
        let _ = MasterHandshake::new().feed(&mut BytesMut::from(&bytes[..]), &mut out);
        let _ = ReplicaAcks::new().feed(&mut BytesMut::from(&bytes[..]), |_| {});
        let identity = ReplicaIdentity { auth: None, listening_port: 1 };
        let mut handshake = ReplicaHandshake::start(identity, id(1), Offset::ZERO, &mut out);
        let _ = handshake.feed(&mut BytesMut::from(&bytes[..]), &mut out);
    }
}
