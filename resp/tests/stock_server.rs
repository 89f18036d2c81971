//! What the state machines take for granted, asked of a real redis-server on loopback.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test outside of any cluster: it talks to a real process"
)]

use bytes::{Bytes, BytesMut};
use redoubt_resp::info::{Role, parse_replication, parse_server};
use redoubt_resp::psync::{
    HandshakeOutcome, MasterHandshake, PsyncAnswer, PsyncAsk, PsyncRequest, ReplicaAcks, ReplicaHandshake,
    ReplicaIdentity, empty_rdb,
};
use redoubt_resp::reply::{ReplyRewriter, Value, parse_frame};
use redoubt_resp::request::{RequestEvent, RequestScanner};
use redoubt_resp::stream::encode_command;
use redoubt_types::{Offset, ReplId};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);
const NAP: Duration = Duration::from_millis(20);

/// A redis-server that ends with its owner.
struct Server {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(args: &[&str]) -> Server {
        // Another process may take the port between the two: then the server exits, and another is tried.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            let dir = tempfile::tempdir().unwrap();
            let mut child = Command::new("redis-server")
                .args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string()])
                .args(args)
                .current_dir(dir.path())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            for _ in 0..500 {
                if child.try_wait().unwrap().is_some() {
                    break;
                }
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Server {
                        child,
                        port,
                        _dir: dir,
                    };
                }
                std::thread::sleep(NAP);
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("no redis-server came up");
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn ask(&self, args: &[&str]) -> Value {
        let args: Vec<&[u8]> = args.iter().map(|a| a.as_bytes()).collect();
        let mut out = BytesMut::new();
        encode_command(&args, &mut out);
        let mut stream = self.connect();
        stream.write_all(&out).unwrap();
        let mut input = BytesMut::new();
        loop {
            if let Some((value, _)) = parse_frame(&input).unwrap() {
                return value;
            }
            more(&mut stream, &mut input);
        }
    }

    fn replication(&self) -> redoubt_resp::info::ReplicationInfo {
        let answer = self.ask(&["INFO", "replication"]);
        parse_replication(answer.as_bytes().unwrap()).unwrap()
    }
}

/// Reads what there is, at least one byte.
fn more(stream: &mut TcpStream, input: &mut BytesMut) {
    let mut buffer = [0; 4096];
    let n = stream.read(&mut buffer).unwrap();
    assert!(
        n > 0,
        "the server closed the connection after {}",
        input.escape_ascii()
    );
    input.extend_from_slice(&buffer[..n]);
}

/// Accepts a replica and hears its handshake.
fn accept(listener: &TcpListener) -> (TcpStream, PsyncRequest) {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut handshake, mut input, mut out) = (MasterHandshake::new(), BytesMut::new(), BytesMut::new());
    loop {
        let request = handshake.feed(&mut input, &mut out).unwrap();
        stream.write_all(&out.split()).unwrap();
        if let Some(request) = request {
            assert!(input.is_empty());
            return (stream, request);
        }
        more(&mut stream, &mut input);
    }
}

/// Reads acknowledgements until one says `offset`.
fn await_ack(stream: &mut TcpStream, offset: Offset) {
    let (mut acks, mut input, mut last) = (ReplicaAcks::new(), BytesMut::new(), None);
    while last != Some(offset) {
        more(stream, &mut input);
        acks.feed(&mut input, |ack| last = Some(ack.offset)).unwrap();
        assert!(last <= Some(offset), "{last:?} was acknowledged of {offset}");
    }
}

/// Asks a server for its stream, and returns how that ends.
fn ask_for_stream(server: &Server, replid: ReplId, held: Offset) -> HandshakeOutcome {
    let mut stream = server.connect();
    let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
    let identity = ReplicaIdentity {
        auth: None,
        listening_port: 7,
    };
    let mut handshake = ReplicaHandshake::start(identity, replid, held, &mut out);
    loop {
        stream.write_all(&out.split()).unwrap();
        more(&mut stream, &mut input);
        if let Some(outcome) = handshake.feed(&mut input, &mut out).unwrap() {
            return outcome;
        }
    }
}

#[test]
fn a_stock_server_is_fed_from_nothing_continues_after_a_cut_and_keeps_the_numbering_when_promoted() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let master_port = listener.local_addr().unwrap().port().to_string();
    let server = Server::start(&["--replicaof", "127.0.0.1", &master_port]);
    let replid = ReplId::from_random([0x5a; 20]);

    // Nothing held: the empty RDB at offset 0, in `$len` framing, so the stream may follow at once.
    let (mut link, request) = accept(&listener);
    assert_eq!(
        (request.ask, request.eof, request.psync2),
        (PsyncAsk::Full, true, true)
    );
    assert_eq!(request.port, Some(server.port));
    let mut out = BytesMut::new();
    PsyncAnswer::FullResync {
        replid,
        at: Offset::ZERO,
    }
    .encode(request.psync2, &mut out);
    out.extend_from_slice(format!("${}\r\n", empty_rdb().len()).as_bytes());
    out.extend_from_slice(empty_rdb());
    let mut first = BytesMut::new();
    encode_command(&[b"SELECT", b"3"], &mut first);
    encode_command(&[b"SET", b"k", b"v"], &mut first);
    out.extend_from_slice(&first);
    link.write_all(&out).unwrap();
    let held = Offset::new(first.len() as u64);
    await_ack(&mut link, held);
    let info = server.replication();
    assert_eq!(
        (info.role, info.replid, info.offset),
        (Role::Replica, replid, held)
    );
    assert_eq!(
        (info.link_up, info.sync_in_progress, info.slave_repl_offset),
        (true, false, Some(held))
    );

    // A cut: it asks for the byte behind what it holds.
    drop(link);
    let (mut link, request) = accept(&listener);
    assert_eq!(request.ask, PsyncAsk::Partial { replid, held });
    let mut out = BytesMut::new();
    PsyncAnswer::Continue { replid, from: held }.encode(request.psync2, &mut out);
    let mut second = BytesMut::new();
    encode_command(&[b"APPEND", b"k", b"w"], &mut second);
    out.extend_from_slice(&second);
    link.write_all(&out).unwrap();
    let held = held.advance(second.len() as u64);
    await_ack(&mut link, held);

    // Promoted: another replid, and the old one stays valid up to exactly here.
    assert_eq!(server.ask(&["REPLICAOF", "NO", "ONE"]).as_str(), Some("OK"));
    let info = server.replication();
    assert_eq!((info.role, info.offset), (Role::Master, held));
    assert_eq!((info.replid2, info.second_offset), (Some(replid), Some(held)));
    let promoted = HandshakeOutcome::Continue {
        replid: Some(info.replid),
    };
    assert_eq!(ask_for_stream(&server, replid, held), promoted);
    assert_eq!(ask_for_stream(&server, replid, Offset::ZERO), promoted);
    assert!(matches!(
        ask_for_stream(&server, replid, held.advance(1)),
        HandshakeOutcome::FullResync { .. }
    ));
    let server_info = server.ask(&["INFO"]);
    let server_info = parse_server(server_info.as_bytes().unwrap()).unwrap();
    assert_eq!(
        (server_info.tcp_port, server_info.unexpected_error_replies),
        (Some(server.port), Some(0))
    );
    assert!(server_info.version >= (7, 0, 0) && !server_info.loading);
}

#[test]
fn a_refused_command_takes_the_place_of_an_unknown_one_in_order_and_aborts_its_transaction() {
    let server = Server::start(&[]);
    let mut stream = server.connect();
    let mut sent = BytesMut::new();
    for command in [
        "SET k v",
        "rdbt:1 x y",
        "MULTI",
        "GET k",
        "rdbt:2",
        "EXEC",
        "nothing",
        "GET k",
    ] {
        encode_command(
            &command.split(' ').map(str::as_bytes).collect::<Vec<_>>(),
            &mut sent,
        );
    }
    stream.write_all(&sent).unwrap();
    let mut rewriter = ReplyRewriter::new("rdbt:");
    let (mut out, mut frames) = (BytesMut::new(), 0);
    while frames < 8 {
        let mut input = BytesMut::new();
        more(&mut stream, &mut input);
        let refusal = |code: &[u8]| Some(Bytes::from([b"-ERR refused ", code].concat()));
        rewriter
            .rewrite(&input, &mut out, refusal, |_| frames += 1)
            .unwrap();
    }
    let want = "+OK\r\n-ERR refused 1\r\n+OK\r\n+QUEUED\r\n-ERR refused 2\r\n\
        -EXECABORT Transaction discarded because of previous errors.\r\n\
        -ERR unknown command 'nothing', with args beginning with: \r\n$1\r\nv\r\n";
    assert_eq!(std::str::from_utf8(&out).unwrap(), want);
}

/// What our scanner says of `bytes`: commands seen, and the error.
fn scanned(bytes: &[u8]) -> (usize, Option<String>) {
    let (mut scanner, mut input, mut commands) = (RequestScanner::new(), BytesMut::from(bytes), 0);
    loop {
        match scanner.next(&mut input) {
            Ok(Some(RequestEvent::Body { last, .. })) => commands += usize::from(last),
            Ok(Some(RequestEvent::Head(_))) => {}
            Ok(None) => return (commands, None),
            Err(e) => return (commands, Some(format!("ERR {e}"))),
        }
    }
}

#[test]
fn the_scanner_sees_the_commands_and_the_errors_that_the_server_sees() {
    let server = Server::start(&[]);
    let long = |kind: &str| [kind.as_bytes(), &vec![b'1'; 70_000]].concat();
    let cases: Vec<Vec<u8>> = vec![
        b"PING\r\n\r\n*0\r\n*-1\r\n*-7\r\n\n   \nPING\n*1\r\n$4\r\nPING\r\n\"PING\"\r\n'PI\"N'G\r\n".to_vec(),
        b"PING \"\\x41\\n\"\r\nPING a b c\r\n\x0bPING\r\n".to_vec(),
        b"PING\r\n*x\r\n".to_vec(),
        b"PING\r\n*03\r\n".to_vec(),
        b"*\r\n".to_vec(),
        b"*3000000000\r\n".to_vec(),
        b"*1\r\n$x\r\n".to_vec(),
        b"*1\r\n$-1\r\n".to_vec(),
        b"*1\r\n$8589934593\r\n".to_vec(),
        b"*1\r\nxyz\r\n".to_vec(),
        b"PING \"a\r\n".to_vec(),
        b"PING 'a'b\r\n".to_vec(),
        long("*"),
        long("*1\r\n$"),
        long(""),
    ];
    for bytes in cases {
        let shown = bytes[..bytes.len().min(60)].escape_ascii().to_string();
        let (commands, error) = scanned(&bytes);
        let mut stream = server.connect();
        stream.write_all(&bytes).unwrap();
        if error.is_none() {
            // A command behind tells when the server has read all.
            stream.write_all(b"ECHO the-end\r\n").unwrap();
        }
        let (mut input, mut answers, mut server_error) = (BytesMut::new(), 0, None);
        loop {
            while let Some((value, used)) = parse_frame(&input).unwrap() {
                let _ = input.split_to(used);
                match value.as_error() {
                    Some(text) if text.starts_with("ERR Protocol error") => {
                        server_error = Some(text.to_owned())
                    }
                    _ => answers += 1,
                }
                if value.as_str() == Some("the-end") {
                    answers -= 1;
                    server_error = Some(String::new());
                }
            }
            if server_error.is_some() {
                break;
            }
            more(&mut stream, &mut input);
        }
        assert_eq!(
            (answers, server_error),
            (commands, Some(error.unwrap_or_default())),
            "{shown}"
        );
    }
}
