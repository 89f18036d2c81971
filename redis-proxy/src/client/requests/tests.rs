use super::*;
use crate::client::peers::Peers;
use proptest::prelude::*;
use redoubt_resp::reply::Value;

const PREFIX: &str = "REDOUBT-REFUSED-0123456789abcdef-";
const NO_BOUND: usize = usize::MAX;

fn requests() -> Requests {
    let member = Peers::default().join(42, "127.0.0.1:5000".to_owned());
    Requests::new(member, PREFIX.into())
}

fn command(args: &[&[u8]]) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode_command(args, &mut out);
    out.to_vec()
}

fn marker(code: u8) -> Vec<u8> {
    command(&[format!("{PREFIX}{code:02}").as_bytes()])
}

/// Passes `bytes` in pieces of `cut` and returns what the server gets, with the sums of what was told.
fn pass_cut(bytes: &[u8], cut: usize, bound: usize) -> (Vec<u8>, Passed) {
    let mut requests = requests();
    let (mut input, mut sent, mut sum) = (BytesMut::new(), Vec::new(), Passed::default());
    let mut go = |input: &mut BytesMut, sum: &mut Passed| loop {
        let mut output = BytesMut::new();
        let before = input.len();
        let passed = requests.pass(input, &mut output, bound);
        sum.markers += passed.markers;
        sum.monitor |= passed.monitor;
        sum.error = sum.error.take().or(passed.error);
        sent.extend_from_slice(&output);
        if output.is_empty() && input.len() == before {
            break;
        }
    };
    for piece in bytes.chunks(cut.max(1)) {
        input.extend_from_slice(piece);
        go(&mut input, &mut sum);
    }
    (sent, sum)
}

#[test]
fn commands_pass_byte_by_byte_as_they_were_sent() {
    let bytes = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\n*1\r\n$4\r\nping\r\n";
    for cut in 1..bytes.len() {
        let (sent, passed) = pass_cut(bytes, cut, NO_BOUND);
        assert_eq!(sent, bytes, "cut {cut}");
        assert_eq!(passed, Passed::default());
    }
}

#[test]
fn a_refused_command_becomes_a_marker_in_its_place() {
    let bytes = [
        command(&[b"SET", b"a", b"1"]),
        command(&[b"REPLICAOF", b"NO", b"ONE"]),
        b"shutdown nosave\r\n".to_vec(),
        command(&[b"GET", b"a"]),
    ];
    let want = [bytes[0].clone(), marker(0), marker(6), bytes[3].clone()].concat();
    let bytes = bytes.concat();
    for cut in 1..bytes.len() {
        let (sent, passed) = pass_cut(&bytes, cut, NO_BOUND);
        assert_eq!(sent, want, "cut {cut}");
        assert_eq!(passed.markers, 2);
    }
}

#[test]
fn a_wait_becomes_its_answer_and_keeps_what_follows_if_it_has_to() {
    let answer = |asked: [&[u8]; 3]| {
        let script: [&[u8]; 3] = [b"EVAL_RO", b"return 1 -- Redoubt: WAIT", b"0"];
        command(&[&script[..], &asked].concat())
    };
    let set = command(&[b"SET", b"a", b"1"]);
    let bytes = [set.clone(), command(&[b"WAIT", b"1", b"0"]), set.clone()].concat();
    let want = [set.clone(), answer([b"WAIT", b"1", b"0"]), set.clone()].concat();
    for cut in 1..bytes.len() {
        assert_eq!(pass_cut(&bytes, cut, NO_BOUND).0, want, "cut {cut}");
    }

    let mut requests = requests();
    let bytes = [set.clone(), command(&[b"WAIT", b"2", b"70"]), set.clone()].concat();
    let (mut input, mut output) = (BytesMut::from(&bytes[..]), BytesMut::new());
    let passed = requests.pass(&mut input, &mut output, NO_BOUND);
    assert_eq!(passed.pause, Some(Duration::from_millis(70)));
    assert!(requests.is_paused());
    assert_eq!(output, set);
    let passed = requests.pass(&mut input, &mut output, NO_BOUND);
    assert_eq!(passed, Passed::default());
    let want = [set.clone(), answer([b"WAIT", b"2", b"70"]), set].concat();
    assert_eq!(output, want);
}

#[test]
fn nothing_of_a_command_leaves_before_its_head_is_known() {
    let mut requests = requests();
    let (mut input, mut output) = (
        BytesMut::from(&b"*3\r\n$9\r\nREPLICAOF\r\n$2\r\nNO\r\n$3\r\nON"[..]),
        BytesMut::new(),
    );
    assert_eq!(
        requests.pass(&mut input, &mut output, NO_BOUND),
        Passed::default()
    );
    assert!(output.is_empty());
    input.extend_from_slice(b"E\r\n");
    assert_eq!(requests.pass(&mut input, &mut output, NO_BOUND).markers, 1);
    assert_eq!(output, marker(0));
}

#[test]
fn a_large_command_streams_and_a_large_refused_one_is_dropped() {
    let big = vec![b'x'; 300_000];
    let set = command(&[b"SET", b"k", &big]);
    let (sent, _) = pass_cut(&set, 10_000, NO_BOUND);
    assert_eq!(sent, set);
    let (sent, passed) = pass_cut(&command(&[b"REPLICAOF", b"h", &big]), 10_000, NO_BOUND);
    assert_eq!((sent, passed.markers), (marker(0), 1));
}

#[test]
fn a_long_script_is_searched_for_set_repl() {
    let script = format!("{}redis.set_repl(redis.REPL_NONE)", "-- x\n".repeat(500));
    let (sent, passed) = pass_cut(&command(&[b"EVAL", script.as_bytes(), b"0"]), 1000, NO_BOUND);
    assert_eq!(passed.markers, 1);
    assert!(!sent.windows(8).any(|w| w == b"set_repl"));
    let script = script.replace("set_repl", "sha1hex");
    let eval = command(&[b"EVAL", script.as_bytes(), b"0"]);
    assert_eq!(pass_cut(&eval, 1000, NO_BOUND).0, eval);
}

#[test]
fn a_full_output_strands_no_command() {
    let bytes = [
        command(&[b"SET", b"a", b"1"]),
        command(&[b"GET", b"a"]),
        command(&[b"PING"]),
    ]
    .concat();
    let (sent, _) = pass_cut(&bytes, NO_BOUND, 1);
    assert_eq!(sent, bytes);
}

#[test]
fn a_protocol_error_between_commands_is_left_to_the_server() {
    let get = command(&[b"GET", b"k"]);
    let bytes = [
        get.clone(),
        b"*1\r\n+oops\r\n".to_vec(),
        command(&[b"SET", b"k", b"v"]),
    ]
    .concat();
    let (sent, passed) = pass_cut(&bytes, 7, NO_BOUND);
    assert_eq!(passed.error, Some(Offence::LeftToServer));
    assert_eq!(
        sent,
        [get, b"*1\r\n+\r\n".to_vec()].concat(),
        "nothing behind the error is passed on"
    );
}

#[test]
fn a_protocol_error_within_a_command_never_completes_it() {
    let big = vec![b'x'; 100_000];
    let mut bytes = command(&[b"SET", b"k", &big]);
    let end = bytes.len();
    bytes[end - 2..].copy_from_slice(b"!!");
    let (sent, passed) = pass_cut(&bytes, 1000, NO_BOUND);
    let line = "-ERR Protocol error: invalid bulk length".to_owned();
    assert_eq!(passed.error, Some(Offence::Midway(line)));
    assert!(sent.len() <= end - 2 && bytes.starts_with(&sent));
}

#[test]
fn a_refused_command_that_ends_in_an_error_is_no_part_of_one() {
    let big = vec![b'x'; 100_000];
    let mut bytes = command(&[b"REPLICAOF", b"k", &big]);
    let end = bytes.len();
    bytes[end - 2..].copy_from_slice(b"!!");
    let (sent, passed) = pass_cut(&bytes, 1000, NO_BOUND);
    assert_eq!(passed.error, Some(Offence::LeftToServer));
    assert_eq!(sent, [marker(0), b"*1\r\n$x\r\n".to_vec()].concat());
}

proptest! {
    #[test]
    fn the_server_gets_the_same_for_any_cutting(
        words in prop::collection::vec((0usize..6, 0usize..200), 1..30),
        cut in 1usize..400,
        bound in 1usize..300,
    ) {
        let bytes: Vec<u8> = words.iter().flat_map(|(kind, len)| match kind {
            0 => command(&[b"SET", b"k", &vec![b'v'; *len]]),
            1 => command(&[b"DEBUG", b"RELOAD"]),
            2 => b"get k\r\n".to_vec(),
            3 => command(&[b"EVAL", &vec![b' '; len * 10], b"0"]),
            4 => b"\r\n".to_vec(),
            _ => command(&[b"SET", b"k", &vec![b'v'; len * 500]]),
        }).collect();
        let (whole, of_whole) = pass_cut(&bytes, bytes.len(), NO_BOUND);
        let (sent, of_cut) = pass_cut(&bytes, cut, bound);
        prop_assert_eq!(sent, whole);
        prop_assert_eq!(of_cut, of_whole);
    }

    #[test]
    fn garbage_never_panics_and_ends_the_requests(bytes in prop::collection::vec(any::<u8>(), 0..500), cut in 1usize..50) {
        let (_, passed) = pass_cut(&bytes, cut, NO_BOUND);
        prop_assert!(passed.markers <= bytes.len());
    }
}

/// What the server gets of `bytes`, while commands that may write are held or not.
fn pass_held(requests: &mut Requests, bytes: &[u8], held: bool) -> (Vec<u8>, Passed) {
    let (mut input, mut output) = (BytesMut::from(bytes), BytesMut::new());
    requests.hold_writes(held.then(|| Arc::new(Writes::of(&Value::Array(Vec::new())))));
    let passed = requests.pass(&mut input, &mut output, NO_BOUND);
    (output.to_vec(), passed)
}

#[test]
fn a_pause_becomes_a_question_and_nothing_behind_it_passes_before_the_answer() {
    let asked = command(&[
        b"CLIENT",
        b"KILL",
        b"TYPE",
        format!("{PREFIX}pause-write-100").as_bytes(),
    ]);
    let bytes = [
        command(&[b"client", b"pause", b"100", b"WRITE"]),
        command(&[b"GET", b"k"]),
    ]
    .concat();
    let (mut requests, mut input) = (requests(), BytesMut::from(&bytes[..]));
    let mut output = BytesMut::new();
    let passed = requests.pass(&mut input, &mut output, NO_BOUND);
    assert_eq!((&output[..], passed.markers, passed.asked), (&asked[..], 1, true));
    let mut output = BytesMut::new();
    requests.pass(&mut input, &mut output, NO_BOUND);
    assert_eq!(output, command(&[b"GET", b"k"]));
}

#[test]
fn a_pause_in_a_transaction_is_refused() {
    let bytes = [command(&[b"MULTI"]), command(&[b"CLIENT", b"UNPAUSE"])].concat();
    let (sent, passed) = pass_held(&mut requests(), &bytes, false);
    assert_eq!((passed.markers, passed.asked), (1, false));
    assert!(sent.starts_with(&command(&[b"MULTI"])) && !sent.ends_with(b"UNPAUSE\r\n"));
}

#[test]
fn what_is_held_waits_with_all_behind_it_and_reads_before_it_pass() {
    let (get, eval) = (command(&[b"GET", b"k"]), command(&[b"EVAL", b"return 1", b"0"]));
    let mut requests = requests();
    let (sent, _) = pass_held(&mut requests, &[&get[..], &eval, &get].concat(), true);
    assert!(sent == get && requests.is_stalled() && requests.has_pending());
    let (sent, _) = pass_held(&mut requests, b"", true);
    assert!(sent.is_empty() && requests.is_stalled());
    let (sent, _) = pass_held(&mut requests, &get, false);
    assert!(sent == [&eval[..], &get].concat() && !requests.is_stalled());
    // An EXEC waits if something was queued that may write.
    let multi = [&command(&[b"MULTI"])[..], &eval].concat();
    pass_held(&mut requests, &multi, false);
    let exec = command(&[b"EXEC"]);
    assert_eq!(pass_held(&mut requests, &exec, true).0, b"");
    assert_eq!(pass_held(&mut requests, b"", false).0, exec);
    let reads = [&command(&[b"MULTI"])[..], &get, &exec].concat();
    assert_eq!(pass_held(&mut requests, &reads, true).0, reads);
}
