//! What `cargo fuzz` calls: the request path, given any bytes of a client (`fuzz/`).
//!
//! What the server gets is read as a server would read it, with a scanner of its own: no command of it may be one that is
//! refused, however the client's bytes were cut, and nothing else may be there than what was let pass.

use crate::client::inspect::{Verdict, inspect, names_set_repl};
use crate::client::peers::{Member, Peers};
use crate::client::requests::{Offence, Requests};
use crate::client::wait::Wait;
use crate::pause::Asked;
use bytes::BytesMut;
use redoubt_resp::request::{RequestEvent, RequestHead, RequestScanner};
use redoubt_resp::stream::encode_command;
use redoubt_types::limits::REQUEST_HOLD_BYTES_MAX;
use target::Target;

#[path = "../../fuzz/target.rs"]
pub mod target;

/// All of them.
pub const TARGETS: [Target; 1] = [Target {
    name: "pass",
    run: pass,
    seeds,
}];

/// What markers of the target begin with.
const PREFIX: &str = "FZ-";
/// Bytes of an input that say how the others are cut, and how much of the output there may be at once.
const CUT_BYTES: usize = 4;

/// Stands for many of its kind.
const MANY: u8 = 0xf5;
/// So many.
const MANY_BYTES: usize = 40_000;
/// What an input may grow to, bytes.
const BYTES_MAX: usize = 300_000;

/// Bytes of a client.
///
/// # Panics
/// When it finds a fault.
pub fn pass(input: &[u8]) {
    let Some((cuts, bytes)) = input.split_first_chunk::<CUT_BYTES>() else {
        return;
    };
    // One byte stands for many, or the fuzzer would not come to large commands.
    let many = |b: &u8| std::iter::repeat_n(*b, if *b == MANY { MANY_BYTES } else { 1 });
    let bytes: Vec<u8> = bytes.iter().flat_map(many).take(BYTES_MAX).collect();
    let got = passed(&bytes, *cuts);
    let whole = passed(&bytes, [255; CUT_BYTES]);
    let (commands, rest) = read(&got.bytes);
    assert_eq!(commands, read(&whole.bytes).0, "the cutting is seen");
    assert_eq!(got.offence, whole.offence);
    let mut want = BytesMut::new();
    for command in expected(&bytes) {
        want.extend_from_slice(&command);
    }
    let complete: Vec<u8> = commands.iter().flat_map(|c| c.body.iter().copied()).collect();
    // Those before an error, none behind it, and never all of the one that has it.
    assert!(complete == want, "something else was passed on");
    if let Some(head) = rest {
        let passes = matches!(
            judged(&head),
            Verdict::Forward | Verdict::ForwardMonitor | Verdict::ForwardUnlessSetRepl(_)
        );
        assert!(passes, "a part of a refused command was passed on");
    }
}

/// What the request path did.
#[derive(Default)]
struct Got {
    bytes: Vec<u8>,
    offence: Option<Offence>,
}

fn passed(bytes: &[u8], cuts: [u8; CUT_BYTES]) -> Got {
    let (_, member) = clients();
    let mut requests = Requests::new(member, PREFIX.into());
    let (mut input, mut got) = (BytesMut::new(), Got::default());
    let mut lengths = cuts.iter().cycle().map(|n| usize::from(*n).pow(2) + 1);
    let mut rest = bytes;
    while let (false, Some(n)) = (rest.is_empty(), lengths.next()) {
        let (piece, behind) = rest.split_at(n.min(rest.len()));
        rest = behind;
        input.extend_from_slice(piece);
        loop {
            let (before, mut output) = (input.len(), BytesMut::new());
            let passed = requests.pass(&mut input, &mut output, n);
            got.bytes.extend_from_slice(&output);
            if let Some(offence) = passed.error {
                assert_eq!(got.offence.replace(offence), None, "it is told once");
            }
            if output.is_empty() && before == input.len() && !requests.is_paused() {
                break;
            }
        }
        assert!(input.len() <= REQUEST_HOLD_BYTES_MAX || got.offence.is_some());
    }
    got
}

/// One client.
fn clients() -> (Peers, Member) {
    let peers = Peers::default();
    let member = peers.join(7, "127.0.0.1:7".to_owned());
    (peers, member)
}

/// A command as a server reads it.
#[derive(Debug, PartialEq, Eq)]
struct Command {
    head: RequestHead,
    body: Vec<u8>,
}

/// The whole commands of what a server gets, and the head of one that is not complete.
fn read(bytes: &[u8]) -> (Vec<Command>, Option<RequestHead>) {
    let (mut scanner, mut input) = (RequestScanner::new(), BytesMut::from(bytes));
    let (mut commands, mut open) = (Vec::new(), None::<Command>);
    while let Ok(Some(event)) = scanner.next(&mut input) {
        match event {
            RequestEvent::Head(head) => {
                open = Some(Command {
                    head,
                    body: Vec::new(),
                })
            }
            RequestEvent::Body { bytes, last } => {
                if let Some(command) = &mut open {
                    command.body.extend_from_slice(&bytes);
                }
                if last {
                    commands.extend(open.take());
                }
            }
        }
    }
    (commands, open.map(|command| command.head))
}

fn judged(head: &RequestHead) -> Verdict {
    let (peers, _member) = clients();
    inspect(head, &peers)
}

/// What stands in the place of each whole command that a client sent.
fn expected(bytes: &[u8]) -> Vec<Vec<u8>> {
    let marker = |code: u8| {
        let mut out = BytesMut::new();
        encode_command(&[format!("{PREFIX}{code:02}").as_bytes()], &mut out);
        out.to_vec()
    };
    let answered = |wait: &Wait| {
        let mut out = BytesMut::new();
        wait.encode(&mut out);
        out.to_vec()
    };
    let pause = |asked: Asked, code: u8, in_multi: bool| {
        if in_multi {
            return marker(code);
        }
        let (mut out, name) = (BytesMut::new(), format!("{PREFIX}{}", asked.code()));
        encode_command(&[b"CLIENT", b"KILL", b"TYPE", name.as_bytes()], &mut out);
        out.to_vec()
    };
    let (commands, open) = read(bytes);
    let (mut all, mut in_multi) = (Vec::new(), false);
    for Command { head, body } in commands {
        match () {
            () if head.is(0, "multi") && head.arg_count == 1 => in_multi = true,
            () if ["exec", "discard", "reset"].iter().any(|w| head.is(0, w)) => in_multi = false,
            () => {}
        }
        all.push(match judged(&head) {
            Verdict::Forward | Verdict::ForwardMonitor => body,
            Verdict::ForwardUnlessSetRepl(code) => {
                let first_piece = &body[..body.len().min(REQUEST_HOLD_BYTES_MAX)];
                if names_set_repl(first_piece) {
                    marker(code.get())
                } else {
                    body
                }
            }
            Verdict::Answer(wait) => answered(&wait),
            Verdict::Pause(asked, code) => pause(asked, code.get(), in_multi),
            Verdict::Refuse(code) => marker(code.get()),
        });
    }
    // One that is refused is so as soon as its head is there.
    match open.as_ref().map(judged) {
        Some(Verdict::Refuse(code)) => all.push(marker(code.get())),
        Some(Verdict::Answer(wait)) => all.push(answered(&wait)),
        Some(Verdict::Pause(asked, code)) => all.push(pause(asked, code.get(), in_multi)),
        _ => {}
    }
    all
}

/// Inputs that reach far.
pub fn seeds() -> Vec<Vec<u8>> {
    let seed = |bytes: &[u8]| [&[0, 2, 1, 9], bytes].concat();
    vec![
        seed(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n*1\r\n$8\r\nSHUTDOWN\r\n*1\r\n$4\r\nPING\r\n"),
        seed(b"MULTI\r\nreplicaof no one\r\nWAIT 1 0\r\nWAIT 3 10\r\n\r\nMONITOR\r\nCLIENT PAUSE 9 WRITE\r\nDISCARD\r\nCLIENT PAUSE 0\r\nclient pause x\r\nCLIENT UNPAUSE\r\nCLIENT KILL ID 7\r\nGET \"\r\n"),
        seed(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$80000\r\n\xf5\xf5\r\n*1\r\n$4\r\nSYNC\r\n*3\r\n$3\r\nSET\r\n$80000\r\n\xf5\xf5x\r\n"),
        seed(b"*2\r\n$7\r\nMIGRATE\r\n$80000\r\n\xf5\xf5\r\n*1\r\n$x\r\n"),
        seed(b"*3\r\n$4\r\nEVAL\r\n$80000\r\n\xf5\xf5\r\n$1\r\n0\r\n*3\r\n$4\r\nEVAL\r\n$14\r\nredis.set_repl\r\n$1\r\n0\r\n"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_seed_corpus_is_there_and_passes() {
        target::take_seeds(&TARGETS);
    }

    proptest! {
        /// A little of what the fuzzer does, at every run.
        #[test]
        fn what_is_near_to_a_seed_passes(
            seed in 0..seeds().len(),
            edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3usize), 0..8),
        ) {
            let mut bytes = seeds().swap_remove(seed);
            for (at, byte, how) in edits {
                let at = at.index(bytes.len());
                match how {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    _ => {
                        bytes.truncate(at.max(CUT_BYTES));
                    }
                }
            }
            pass(&bytes);
        }
    }
}
