use super::*;
use bytes::BytesMut;
use redoubt_resp::request::{RequestEvent, RequestScanner};
use redoubt_resp::stream::encode_command;

/// Those of one client.
fn judged_head(head: &RequestHead) -> Verdict {
    let peers = Peers::default();
    let _member = peers.join(42, "127.0.0.1:5000".to_owned());
    inspect(head, &peers)
}

fn head_of(bytes: &[u8]) -> RequestHead {
    let mut input = BytesMut::from(bytes);
    match RequestScanner::new().next(&mut input) {
        Ok(Some(RequestEvent::Head(head))) => head,
        other => panic!("no head in {other:?}"),
    }
}

/// The verdict on a command whose arguments are the words of `line`.
fn judged(line: &str) -> Verdict {
    let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    judged_args(&args)
}

fn judged_args(args: &[&[u8]]) -> Verdict {
    let mut bytes = BytesMut::new();
    encode_command(args, &mut bytes);
    judged_head(&head_of(&bytes))
}

fn is_refused(line: &str) -> bool {
    matches!(judged(line), Verdict::Refuse(_))
}

#[test]
fn what_would_break_the_promise_is_refused_in_any_case_of_letters() {
    for line in [
        "REPLICAOF NO ONE",
        "replicaof 127.0.0.1 6379",
        "SlaveOf NO ONE",
        "FAILOVER",
        "failover to h 1 force",
        "PSYNC ? -1",
        "SYNC",
        "REPLCONF ACK 0",
        "SHUTDOWN",
        "shutdown NOSAVE",
        "CONFIG REWRITE",
        "config rewrite",
        "CONFIG SET repl-backlog-size 1",
        "CONFIG SET maxmemory 1 REPL-BACKLOG-TTL 1",
        "CONFIG SET a 1 b 2 min-replicas-to-write 1",
        "CONFIG SET a 1 b 2 c 3 d 4",
        "CONFIG SET min-slaves-max-lag 1",
        "CONFIG SET slave-read-only no",
        "CONFIG SET replica-announce-ip x",
        "CONFIG SET client-output-buffer-limit x",
        "CONFIG SET requirepass x",
        "DEBUG POPULATE 5",
        "DEBUG RELOAD",
        "debug change-repl-id",
        "DEBUG SEGFAULT",
        "ACL SETUSER default -@dangerous",
        "acl deluser default",
        "acl deluser bob default",
        "acl deluser a b c d e f g",
        "ACL LOAD",
        "MIGRATE h 6379 k 0 1000",
        "CLIENT PAUSE 1000 WRITE x",
        "CLIENT KILL TYPE replica",
        "CLIENT KILL 127.0.0.1:5001",
        "CLIENT KILL ID 43",
        "CLIENT KILL ID 42 43",
        "CLIENT KILL ID 42 ID 43",
        "CLIENT KILL ADDR 127.0.0.1:5001",
        "CLIENT KILL USER default",
        "CLIENT KILL SKIPME no",
        "CLIENT KILL LADDR 127.0.0.1:6379",
        "CLIENT KILL TYPE normal",
        "CLIENT UNBLOCK 41",
        "client unblock 43 ERROR",
        "CLIENT KILL TYPE pubsub TYPE normal",
        "CLIENT KILL TYPE pubsub NOSUCHFILTER 1",
        "CLIENT KILL ID 42 SKIPME",
        "CLIENT KILL ID 42 ADDR 127.0.0.1:5000 SKIPME no MAXAGE 1",
        "MODULE LOAD /x.so",
        "MODULE LOADEX /x.so",
        "module unload x",
        "EVAL redis.set_repl(0) 0",
        "SCRIPT LOAD redis.set_repl(0)",
        "FUNCTION LOAD redis.set_repl(0)",
        "FUNCTION LOAD REPLACE redis.set_repl(0)",
    ] {
        assert!(is_refused(line), "{line}");
    }
}

#[test]
fn users_that_the_proxy_does_not_use_are_the_clients_own_business() {
    let peers = Peers::new("redoubt");
    let refused = |line: &str| {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut bytes = BytesMut::new();
        encode_command(&args, &mut bytes);
        matches!(inspect(&head_of(&bytes), &peers), Verdict::Refuse(_))
    };
    let of_default = [
        "ACL SETUSER default on >x",
        "ACL DELUSER bob default",
        "CONFIG SET requirepass x",
        "CLIENT KILL USER default",
    ];
    for line in of_default {
        assert!(!refused(line), "{line}");
    }
    for line in [
        "ACL SETUSER bob on >x",
        "ACL SETUSER",
        "acl deluser bob",
        "ACL LIST",
        "CLIENT KILL USER bob",
    ] {
        assert!(!refused(line) && !is_refused(line), "{line}");
    }
    for line in [
        "ACL SETUSER redoubt off",
        "acl deluser bob redoubt",
        "ACL LOAD",
        "CLIENT KILL USER redoubt",
        "CLIENT KILL USER redoubt SKIPME yes",
        "ACL SETUSER Redoubt on",
    ] {
        // The names of users are exact.
        assert_eq!(refused(line), !line.contains("Redoubt"), "{line}");
    }
    // Those who share a connection have the default user there.
    peers.guard("default");
    for line in of_default {
        assert!(refused(line), "{line}");
    }
}

#[test]
fn everything_else_is_the_servers_own_business() {
    for line in [
        "GET replicaof",
        "SET k v",
        "INFO replication",
        "ROLE",
        "MULTI",
        "EXEC",
        "HELLO 3",
        "SUBSCRIBE c",
        "CONFIG",
        "CONFIG GET *",
        "CONFIG RESETSTAT",
        "CONFIG SET maxmemory 100mb",
        "CONFIG SET save 60",
        "CONFIG SET appendonly yes",
        "CONFIG SET a 1 b 2 c 3",
        "DEBUG",
        "DEBUG OBJECT k",
        "debug sleep 0.1",
        "DEBUG DIGEST",
        "DEBUG DIGEST-VALUE k",
        "DEBUG SET-ACTIVE-EXPIRE 0",
        "DEBUG STRINGMATCH-LEN 10 x",
        "CLIENT",
        "CLIENT LIST",
        "CLIENT ID",
        "CLIENT NO-EVICT on",
        "CLIENT REPLY OFF",
        "CLIENT KILL 127.0.0.1:5000",
        "CLIENT UNBLOCK 42 TIMEOUT",
        "CLIENT UNBLOCK",
        "CLIENT KILL ID 42",
        "client kill addr 127.0.0.1:5000",
        "CLIENT KILL ID 42 SKIPME no",
        "CLIENT KILL TYPE PubSub SKIPME no",
        "CLIENT KILL USER alice",
        "CLIENT KILL ID 42 LADDR 127.0.0.1:6379",
        "CLIENT KILL",
        "WAIT x 0",
        "MODULE LIST",
        "EVAL return(1) 0",
        "EVAL return(KEYS[1]) 1 set_repl",
        "SCRIPT FLUSH",
        "SCRIPT EXISTS set_repl",
        "FUNCTION LIST",
        "REPLICAOFF x",
    ] {
        assert_eq!(judged(line), Verdict::Forward, "{line}");
    }
    assert_eq!(judged("monitor"), Verdict::ForwardMonitor);
}

#[test]
fn inline_commands_are_judged_as_the_server_reads_them() {
    for line in [
        "shutdown\r\n",
        "\"SHUT\\x44OWN\"\r\n",
        "'shutdown' nosave\n",
        "  config   Rewrite \r\n",
    ] {
        let verdict = judged_head(&head_of(line.as_bytes()));
        assert!(matches!(verdict, Verdict::Refuse(_)), "{line:?}");
    }
    assert_eq!(judged_head(&head_of(b"get shutdown\r\n")), Verdict::Forward);
}

#[test]
fn a_long_script_is_judged_by_its_bytes() {
    let script = format!("{}redis.set_repl(redis.REPL_NONE)", "-- x\n".repeat(500));
    let verdict = judged_args(&[b"EVAL", script.as_bytes(), b"0"]);
    assert!(matches!(verdict, Verdict::ForwardUnlessSetRepl(_)), "{verdict:?}");
    assert!(names_set_repl(script.as_bytes()));
    assert!(!names_set_repl(b"return redis.replicate_commands()"));
}

#[test]
fn what_lies_beyond_the_inspected_bytes_is_refused() {
    let big = vec![b'x'; 70_000];
    let verdict = judged_args(&[b"CONFIG", b"SET", b"maxmemory", &big, b"repl-backlog-size", b"1"]);
    assert!(matches!(verdict, Verdict::Refuse(_)), "{verdict:?}");
    assert_eq!(judged_args(&[b"SET", &big, b"v"]), Verdict::Forward);
    assert_eq!(
        judged_args(&[&big, b"v"]),
        Verdict::Forward,
        "no command has such a name"
    );
}

#[test]
fn a_refusal_says_what_and_why_on_one_line() {
    assert!(RULES.len() < 100, "a code has two digits");
    for n in 0..RULES.len() as u8 {
        let text = RefusalCode::new(n).unwrap().text();
        assert!(text.starts_with("ERR "), "{text}");
        assert!(!text.contains(['\r', '\n']), "{text}");
    }
    assert!(RefusalCode::new(RULES.len() as u8).is_none());
    let Verdict::Refuse(code) = judged("shutdown") else {
        panic!("refused")
    };
    assert!(
        code.text().starts_with("ERR SHUTDOWN is refused by Redoubt: "),
        "{}",
        code.text()
    );
}

#[test]
fn rules_are_written_as_they_are_compared() {
    for rule in RULES {
        assert_eq!(rule.command, rule.command.to_ascii_lowercase());
    }
}

#[test]
fn h23_effects_that_mean_something_else_later_are_refused() {
    for line in [
        "HPERSIST h FIELDS 1 f",
        "HGETEX h persist FIELDS 1 f",
        "XADD s IDMP p 1 * f v",
        "xadd s nomkstream idmpauto p * f v",
        "XADD s MAXLEN ~ 5 LIMIT 9 IDMP p 1 * f v",
        "XADD s MAXLEN 5 IDMPAUTO p * f v",
    ] {
        assert!(is_refused(line), "{line}");
    }
    for line in [
        "XADD s * idmp v",
        "XADD s 1-1 f idmp",
        "XADD s MAXLEN = 5 * idmp 1",
        "XADD s NOMKSTREAM * f v",
    ] {
        assert_eq!(judged(line), Verdict::Forward, "{line}");
    }
}

#[test]
fn a_pause_is_the_proxys_to_do_and_a_wrong_one_the_servers_to_tell() {
    for line in ["CLIENT PAUSE 1", "client pause 1 write", "CLIENT UNPAUSE"] {
        assert!(matches!(judged(line), Verdict::Pause(..)), "{line}");
    }
    for line in [
        "CLIENT PAUSE",
        "CLIENT PAUSE x",
        "CLIENT PAUSE 1 x",
        "CLIENT UNPAUSE 1",
    ] {
        assert_eq!(judged(line), Verdict::Forward, "{line}");
    }
}
