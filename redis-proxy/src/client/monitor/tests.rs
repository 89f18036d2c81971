use super::*;
use redoubt_resp::reply::ReplyScanner;

/// What is shown of `bytes` when they come in pieces of `n`.
fn shown(bytes: &str, n: usize) -> String {
    let (mut monitor, mut scanner) = (Monitor::new(true, true), ReplyScanner::new());
    let mut out = BytesMut::new();
    for piece in bytes.as_bytes().chunks(n) {
        let mut frames = Vec::new();
        scanner.scan(piece, |f| frames.push(f)).unwrap();
        monitor.show(piece, &frames, &mut out);
    }
    String::from_utf8(out.to_vec()).unwrap()
}

fn line(from: &str, command: &str) -> String {
    format!("+1700000000.123456 [0 {from}] {command}\r\n")
}

const A: &str = "127.0.0.1:5000";
const B: &str = "[::1]:5001";
const C: &str = "127.0.0.1:5002";
const AUTH: &str = "\"AUTH\" \"(redacted)\" \"(redacted)\"";

#[test]
fn the_proxys_own_lines_are_left_out_and_nothing_else() {
    let own = [
        line(A, "\"INFO\" \"replication\" \"redoubt\""),
        line(A, "\"INFO\" \"server\" \"redoubt\"") + &line(A, "\"CLIENT\" \"INFO\""),
        line(B, "\"PING\" \"redoubt\"") + &line(B, "\"COMMAND\""),
        line(B, "\"ECHO\" \"shared redoubt\"")
            + &line(B, "\"CLIENT\" \"SETNAME\" \"redoubt-shared\"")
            + &line(B, "\"HELLO\" \"3\""),
        line(B, AUTH)
            + &line(B, "\"INFO\" \"server\" \"redoubt\"")
            + &line(B, "\"CLIENT\" \"INFO\"")
            + &line(B, "\"INFO\" \"reset\" \"redoubt\"")
            + &line(B, "\"RESET\""),
    ];
    let others = [
        "+OK\r\n".to_owned(),
        line(A, "\"CLIENT\" \"INFO\""),
        line(A, "\"INFO\" \"replication\""),
        line(A, "\"SET\" \"k\" \"+1 [0 x] \\\"INFO\\\" \\\"redoubt\\\"\""),
        line(A, "\"ECHO\" \"redoubt-not\""),
        line(A, "\"SET\" \"name\" \"redoubt\""),
        line("lua", "\"INFO\""),
        line(A, "\"RESET\""),
        line(C, AUTH),
        line(C, AUTH) + "$1\r\nx\r\n",
        line(C, AUTH) + &line(A, AUTH) + &line(C, "\"PING\""),
        format!("$4\r\n+1 [\r\n{}", line(B, "\"COMMAND\"")),
        line(A, &format!("\"SET\" \"k\" \"{}\"", "v".repeat(2000))),
        "*2\r\n+1 [0 x] \"INFO\" \"redoubt\"\r\n:1\r\n".to_owned(),
    ];
    let (mut all, mut want) = (String::new(), String::new());
    for other in &others {
        for own in &own {
            all += own;
            all += &line(B, "\"GET\" \"x\"");
            want += &line(B, "\"GET\" \"x\"");
            all += other;
            want += other;
        }
    }
    for n in [1, 2, 7, 100, 1000, 1_000_000] {
        assert_eq!(shown(&all, n), want, "in pieces of {n}");
    }
}

#[test]
fn what_follows_on_another_connection_is_a_clients() {
    let text = line(A, "\"INFO\" \"server\" \"redoubt\"") + &line(B, "\"CLIENT\" \"INFO\"");
    assert_eq!(shown(&text, 9), line(B, "\"CLIENT\" \"INFO\""));
}

#[test]
fn a_wait_is_shown_as_one() {
    for (script, asked) in [
        ("return 1 -- Redoubt: WAIT", "\"wait\" \"1\" \"0\""),
        (
            "return {1,1} -- Redoubt: WAITAOF",
            "\"WAITAOF\" \"1\" \"1\" \"0\"",
        ),
    ] {
        let text = line(A, &format!("\"EVAL_RO\" \"{script}\" \"0\" {asked}"));
        assert_eq!(shown(&text, 5), line(A, asked));
    }
}

#[test]
fn what_begins_within_a_frame_is_passed_on_to_its_end() {
    let (mut monitor, mut out) = (Monitor::new(false, false), BytesMut::new());
    let own = line(A, "\"PING\" \"redoubt\"");
    let bytes = format!("+1 [0 x] \"PING\" \"redoubt\"\r\n{own}");
    let first = bytes.len() - own.len();
    let frames = [first, bytes.len()].map(|end| FrameEnd { end, kind: b'+' });
    monitor.show(bytes.as_bytes(), &frames, &mut out);
    assert_eq!(out, bytes[..first]);
}
