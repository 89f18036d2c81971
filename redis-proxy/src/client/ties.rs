//! What ties a client to a connection of its own.
//!
//! Decides when a client that was given one could do without it again: when none of its commands has left anything on it,
//! and it has sent nothing but plain ones for a while. Must not know a connection.

use super::protocol::{Hello, hello};
use redoubt_resp::request::RequestHead;

/// Plain commands in a row after which a client shares a connection again: one that needs its own every now and then
/// would else move with each of its commands.
pub(super) const PLAIN_STREAK: u32 = 16;

/// Commands that need a connection of their own while they run, and leave nothing on it. Those of MULTI and WATCH are
/// followed apart.
const LEAVES_NOTHING: &[&str] = &[
    "acl",
    "bgrewriteaof",
    "bgsave",
    "blmove",
    "blmpop",
    "blpop",
    "brpop",
    "brpoplpush",
    "bzmpop",
    "bzpopmax",
    "bzpopmin",
    "cluster",
    "command",
    "config",
    "dbsize",
    "flushall",
    "flushdb",
    "sflush",
    "debug",
    "function",
    "info",
    "lastsave",
    "latency",
    "memory",
    "module",
    "object",
    "pubsub",
    "role",
    "save",
    "script",
    "slowlog",
    "wait",
    "waitaof",
    "xread",
    "xreadgroup",
];

/// A client's ties.
#[derive(Debug, Default)]
pub(super) struct Ties {
    multi: bool,
    watching: bool,
    /// Something stays on the connection that is not undone.
    bound: bool,
    /// The connection's version of RESP may not be what it was.
    said_hello: bool,
    plain_streak: u32,
}

impl Ties {
    /// A command is passed on. One that is plain leaves nothing on the connection, but only one that is also sent as a
    /// shared connection takes it, whole and as an array, is a step back there.
    pub(super) fn passed(&mut self, head: &RequestHead, is_plain: bool, is_whole_array: bool) {
        if is_plain && is_whole_array {
            self.plain_streak = self.plain_streak.saturating_add(1);
            return;
        }
        self.plain_streak = 0;
        if is_plain {
            return;
        }
        let is = |word: &&str| head.is(0, word);
        let alone = head.arg_count == 1;
        match () {
            // With arguments it is an error, and changes nothing.
            () if is(&"multi") && alone => self.multi = true,
            () if is(&"watch") => self.watching = true,
            // In a MULTI, however it ends, nothing is queued and nothing is watched after it; outside of one it is an error.
            () if is(&"exec") || (is(&"discard") && alone) => {
                self.watching &= !self.multi;
                self.multi = false;
            }
            // Queued in a MULTI it does nothing until EXEC.
            () if is(&"unwatch") && alone => self.watching &= self.multi,
            () if is(&"multi") || is(&"discard") || is(&"unwatch") => {}
            () if is(&"script") && head.is(1, "debug") => self.bound = true,
            // In a MULTI it may not be executed.
            () if matches!(hello(head), Some(Hello::Version(_))) && !self.multi => self.said_hello = true,
            () if LEAVES_NOTHING.iter().any(is) => {}
            () => self.bound = true,
        }
    }

    /// Whether what is passed on now is executed, and not only queued.
    pub(super) fn is_executed(&self) -> bool {
        !self.multi
    }

    /// Whether the connection's version of RESP may not be what it was.
    pub(super) fn said_hello(&self) -> bool {
        self.said_hello
    }

    /// Whether the connection, once it is quiet, is as good as a new one, and not needed.
    pub(super) fn are_loose(&self) -> bool {
        self.plain_streak >= PLAIN_STREAK && !self.multi && !self.watching && !self.bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn pass(ties: &mut Ties, words: &str) {
        let args: Vec<Bytes> = words
            .split(' ')
            .map(|w| Bytes::copy_from_slice(w.as_bytes()))
            .collect();
        let arg_count = args.len();
        let is_plain = matches!(words, "GET k");
        ties.passed(&RequestHead { args, arg_count }, is_plain, true);
    }

    fn after(words: &[&str]) -> bool {
        let mut ties = Ties::default();
        words.iter().for_each(|w| pass(&mut ties, w));
        (0..PLAIN_STREAK).for_each(|_| pass(&mut ties, "GET k"));
        ties.are_loose()
    }

    #[test]
    fn what_is_undone_or_leaves_nothing_does_not_tie() {
        for words in [
            &["BLPOP l 1"][..],
            &["MULTI", "EXEC"],
            &["WATCH k", "MULTI", "DISCARD"],
            &["WATCH k", "MULTI", "EXEC x"],
            &["WATCH k", "UNWATCH"],
            &["config get x"],
            &["HELLO"],
            &["HELLO 3 SETNAME me"],
        ] {
            assert!(after(words), "{words:?}");
        }
    }

    #[test]
    fn what_stays_on_the_connection_ties() {
        for words in [
            &["MULTI"][..],
            &["MULTI", "DISCARD x"],
            &["WATCH k", "EXEC"],
            &["WATCH k", "DISCARD"],
            &["WATCH k", "UNWATCH x"],
            &["SCRIPT DEBUG YES"],
            &["WATCH k"],
            &["WATCH k", "MULTI", "UNWATCH"],
            &["SELECT 1"],
            &["SUBSCRIBE c"],
            &["HELLO 3 AUTH u p"],
            &["MULTI", "HELLO 3", "EXEC"],
            &["CLIENT REPLY OFF"],
            &["AUTH u p"],
            &["WHO knows"],
        ] {
            assert!(!after(words), "{words:?}");
        }
    }

    #[test]
    fn a_plain_command_that_no_shared_connection_takes_does_not_tie_and_is_no_step_back() {
        let head = RequestHead {
            args: vec![Bytes::from_static(b"GET"), Bytes::from_static(b"k")],
            arg_count: 2,
        };
        let mut ties = Ties::default();
        for _ in 0..100 {
            ties.passed(&head, true, false);
            assert!(!ties.are_loose());
        }
        (0..PLAIN_STREAK).for_each(|_| ties.passed(&head, true, true));
        assert!(ties.are_loose());
    }

    #[test]
    fn one_that_needs_its_own_every_now_and_then_keeps_it() {
        let mut ties = Ties::default();
        for _ in 0..100 {
            pass(&mut ties, "BLPOP l 1");
            pass(&mut ties, "GET k");
            assert!(!ties.are_loose());
        }
    }
}
