//! `WAIT` and `WAITAOF`: the journal is one replica, and its disks are the fsync.
//!
//! Decides what is sent to the server in their place. A reply leaves only when everything that its client wrote
//! before is committed, so an answer of one, given in its place, is true by the time that it is read: nothing
//! has to be asked. What gives that answer in order, within MULTI and under CLIENT REPLY alike, is a script that
//! reads nothing. Who waits for more replicas than there are waits for as long as it said, before that. Must not
//! know a clock.

use bytes::{Bytes, BytesMut};
use redoubt_resp::request::RequestHead;
use redoubt_resp::stream::encode_command;
use std::time::Duration;

/// Scripts that are nobody else's: the server remembers each, and tells by SCRIPT EXISTS.
const WAIT: &str = "return 1 -- Redoubt: WAIT";
const WAITAOF: &str = "return {1,1} -- Redoubt: WAITAOF";

/// How MONITOR shows the scripts, before what was asked.
pub(super) const SHOWN_BEFORE: [&str; 2] = [
    "\"EVAL_RO\" \"return 1 -- Redoubt: WAIT\" \"0\" ",
    "\"EVAL_RO\" \"return {1,1} -- Redoubt: WAITAOF\" \"0\" ",
];

/// What a `WAIT` becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The script that answers in its place.
    pub script: &'static str,
    /// What was asked, which MONITOR shows.
    pub asked: Vec<Bytes>,
    /// For how long it waits first; [`Duration::MAX`] when it names no end.
    pub pause: Option<Duration>,
}

impl Wait {
    /// Appends the command by which the server gives the answer, in its place in a pipeline or a transaction.
    pub fn encode(&self, output: &mut BytesMut) {
        let mut args: Vec<&[u8]> = vec![b"EVAL_RO", self.script.as_bytes(), b"0"];
        args.extend(self.asked.iter().map(|arg| &arg[..]));
        encode_command(&args, output);
    }
}

/// The answer to a `WAIT` or `WAITAOF`. `None` for any other command, and for arguments that are the server's to
/// complain about.
pub fn judge(head: &RequestHead) -> Option<Wait> {
    let (script, replicas_at) = match head.name().len() {
        4 if head.is(0, "wait") => (WAIT, 1),
        7 if head.is(0, "waitaof") => (WAITAOF, 2),
        _ => return None,
    };
    if head.arg_count != replicas_at + 2 {
        return None;
    }
    if replicas_at == 2 && !(0..=1).contains(&number(head.arg(1))?) {
        return None;
    }
    let replicas = number(head.arg(replicas_at))?;
    let ms = u64::try_from(number(head.arg(replicas_at + 1))?).ok()?;
    if replicas_at == 2 && replicas < 0 {
        return None;
    }
    let timeout = if ms == 0 {
        Duration::MAX
    } else {
        Duration::from_millis(ms)
    };
    Some(Wait {
        script,
        asked: head.args.clone(),
        pause: (replicas > 1).then_some(timeout),
    })
}

/// A number as strictly as the server reads it: no `+`, no leading zero.
fn number(arg: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(arg).ok()?;
    text.parse::<i64>().ok().filter(|n| n.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn judged(line: &str) -> Option<Wait> {
        let args: Vec<Bytes> = line
            .split(' ')
            .map(|w| Bytes::copy_from_slice(w.as_bytes()))
            .collect();
        judge(&RequestHead {
            arg_count: args.len(),
            args,
        })
    }

    #[test]
    fn the_journal_is_one_replica_and_the_fsync() {
        let at_once = |line| judged(line).map(|wait| (wait.script, wait.pause));
        for line in ["WAIT 0 0", "wait 1 0", "WAIT 1 100", "WAIT -3 5"] {
            assert_eq!(at_once(line), Some((WAIT, None)), "{line}");
        }
        for line in ["WAITAOF 1 1 0", "waitaof 0 0 10", "WAITAOF 0 1 1"] {
            assert_eq!(at_once(line), Some((WAITAOF, None)), "{line}");
        }
    }

    #[test]
    fn who_waits_for_more_waits_for_as_long_as_it_said() {
        let pause = |line| judged(line).unwrap().pause;
        assert_eq!(pause("WAIT 2 250"), Some(Duration::from_millis(250)));
        assert_eq!(pause("WAITAOF 1 2 30"), Some(Duration::from_millis(30)));
        assert_eq!(pause("WAIT 2 0"), Some(Duration::MAX));
    }

    #[test]
    fn monitor_knows_the_scripts() {
        for (script, shown) in [WAIT, WAITAOF].iter().zip(SHOWN_BEFORE) {
            assert_eq!(format!("\"EVAL_RO\" \"{script}\" \"0\" "), shown);
        }
    }

    #[test]
    fn what_is_wrong_is_left_to_the_server() {
        for line in [
            "WAIT",
            "WAIT 1",
            "WAIT 1 2 3",
            "WAIT x 1",
            "WAIT 1 x",
            "WAIT 01 1",
            "WAIT 1 +1",
            "WAIT 1 -1",
            "WAIT 99999999999999999999 1",
            "WAITAOF 2 1 0",
            "WAITAOF -1 1 0",
            "WAITAOF 1 -1 0",
            "WAITAOF 1 1",
            "PING",
        ] {
            assert_eq!(judged(line), None, "{line}");
        }
    }
}
