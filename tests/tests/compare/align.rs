//! Which reply answers which command, found by the plain server's own replies.

use super::frame::Frame;
use super::generate::{Sent, State};
use super::rules::{self, Alike};
use super::table::Covered;
use std::collections::{BTreeSet, VecDeque};

/// One connection's commands that wait for their replies.
#[derive(Default)]
pub(crate) struct Aligned {
    waiting: VecDeque<Sent>,
    /// How many channels of the first of them were confirmed.
    confirmed: usize,
    in_multi: bool,
    queued: Vec<Sent>,
    /// What it listens to: which kind of subscription, and the channel or pattern.
    subscriptions: BTreeSet<(u8, Vec<u8>)>,
    sentinels: usize,
}

impl Aligned {
    pub(crate) fn state(&self) -> State {
        State {
            in_multi: self.in_multi,
            subscribed: !self.subscriptions.is_empty(),
        }
    }

    /// The sentinel whose turn it is on this connection.
    pub(crate) fn next_sentinel(&mut self) -> &'static str {
        self.sentinels += 1;
        if self.sentinels.is_multiple_of(2) {
            "ping"
        } else {
            "echo"
        }
    }

    pub(crate) fn sent(&mut self, commands: Vec<Sent>) {
        self.waiting.extend(commands);
    }

    /// Compares what came from both sides.
    ///
    /// # Errors
    /// What differs.
    pub(crate) fn compare(
        &mut self,
        plain: &[Frame],
        proxied: &[Frame],
        covered: &mut Covered,
    ) -> Result<(), String> {
        let (plain, proxied) = (patterns_in_order(plain), patterns_in_order(proxied));
        for (i, a) in plain.iter().enumerate() {
            let sent = self.answered(a);
            let Some(b) = proxied.get(i) else {
                return Err(format!(
                    "{}: {} from the plain server, nothing from the proxy",
                    name(&sent),
                    a.show()
                ));
            };
            if let Some(sent) = sent.as_ref().filter(|sent| !sent.sentinel) {
                covered.count(sent, a.is_error());
            }
            self.judge(a, b, sent.as_ref())
                .map_err(|()| format!("{}:\n  plain   {}\n  proxied {}", name(&sent), a.show(), b.show()))?;
            if let Some(sent) = sent {
                self.follow(a, sent);
            }
        }
        match proxied.get(plain.len()) {
            Some(more) => Err(format!("more from the proxy: {}", more.show())),
            None => Ok(()),
        }
    }

    /// The command that a frame answers; none for a push.
    fn answered(&mut self, frame: &Frame) -> Option<Sent> {
        let word = frame.items().first().map(Frame::bytes).unwrap_or_default();
        let pushed = matches!(frame.kind(), b'>' | b'*');
        let counts = frame.items().len() == 3 && frame.items()[2].kind() == b':';
        let confirms = pushed && counts && word.ends_with(b"subscribe");
        let message = pushed && [&b"message"[..], b"pmessage", b"smessage"].contains(&word);
        if message || (frame.kind() == b'>' && !confirms) {
            return None;
        }
        if confirms {
            let of_kind = self.subscribe(word, frame);
            self.drop_silent();
            if self.waiting.front().is_some_and(|s| s.name.as_bytes() == word) {
                self.confirmed += 1;
                // Who leaves all is told of each, or once that there was none.
                let channels = self.waiting[0].args.len() - 1;
                let left_all = channels == 0 && of_kind == 0;
                if left_all || channels == self.confirmed {
                    self.confirmed = 0;
                    return self.waiting.pop_front();
                }
            }
            return None;
        }
        self.drop_silent();
        self.waiting.pop_front()
    }

    /// Takes note of a confirmation: how many subscriptions of its kind there are now.
    fn subscribe(&mut self, word: &[u8], frame: &Frame) -> usize {
        let kind = match word {
            b"psubscribe" | b"punsubscribe" => b'p',
            b"ssubscribe" | b"sunsubscribe" => b's',
            _ => b'c',
        };
        let key = (kind, frame.items()[1].bytes().to_vec());
        if word.ends_with(b"unsubscribe") {
            self.subscriptions.remove(&key);
        } else {
            self.subscriptions.insert(key);
        }
        self.subscriptions.iter().filter(|(k, _)| *k == kind).count()
    }

    fn drop_silent(&mut self) {
        while self.waiting.front().is_some_and(|s| s.silent) {
            self.waiting.pop_front();
        }
    }

    fn judge(&self, a: &Frame, b: &Frame, sent: Option<&Sent>) -> Result<(), ()> {
        let leaves_all = |sent: &&Sent| sent.args.len() == 1 && sent.name.ends_with("unsubscribe");
        let Some(sent) = sent.filter(|sent| !leaves_all(sent)) else {
            return if pushed_alike(a, b) { Ok(()) } else { Err(()) };
        };
        if let Some(label) = sent.refused {
            let refusal = format!("ERR {label} is refused by Redoubt: ");
            let refused = b.kind() == b'-' && b.bytes().starts_with(refusal.as_bytes());
            let stands_in = a
                .bytes()
                .starts_with(b"ERR unknown command 'REFUSED-BY-THE-PROXY'");
            return if refused && stands_in { Ok(()) } else { Err(()) };
        }
        let executed = sent.name == "exec" && !a.items().is_empty();
        let same = if executed && a.items().len() == self.queued.len() && a.kind() == b.kind() {
            a.items().len() == b.items().len()
                && a.items()
                    .iter()
                    .zip(b.items())
                    .zip(&self.queued)
                    .all(|((a, b), sent)| rules::alike(a, b, rule(sent)))
        } else {
            // A queued command's answer is not its own.
            let alike = if a.says("QUEUED") { Alike::Same } else { rule(sent) };
            rules::alike(a, b, alike)
        };
        if same { Ok(()) } else { Err(()) }
    }

    /// What a reply says about the connection.
    fn follow(&mut self, frame: &Frame, sent: Sent) {
        match sent.name.as_str() {
            "multi" if frame.says("OK") => self.in_multi = true,
            // One that is written wrong discards what was queued.
            "exec" if frame.bytes().starts_with(b"EXECABORT") => self.end_multi(),
            "exec" if sent.args.len() == 1 && !frame.bytes().starts_with(b"ERR") => self.end_multi(),
            "discard" if frame.says("OK") => self.end_multi(),
            "reset" if frame.says("RESET") => {
                self.end_multi();
                self.subscriptions.clear();
            }
            _ if frame.says("QUEUED") && self.in_multi => self.queued.push(sent),
            _ => {}
        }
    }

    fn end_multi(&mut self) {
        self.in_multi = false;
        self.queued.clear();
    }
}

/// Whether what answers no command, or leaves all channels, is the same.
fn pushed_alike(a: &Frame, b: &Frame) -> bool {
    // Which names a connection by its id.
    let broken = |f: &Frame| f.items().len() == 2 && f.items()[0].says("tracking-redir-broken");
    // Who leaves all channels leaves them in the order of a hash table.
    let left = |f: &Frame| {
        let [word, channel, rest] = f.items() else {
            return None;
        };
        let leaves = word.bytes().ends_with(b"unsubscribe");
        leaves.then(|| (word.clone(), channel.kind(), rest.clone()))
    };
    a == b || (broken(a) && broken(b)) || (left(a).is_some() && left(a) == left(b))
}

/// A message comes once for each of its subscriber's patterns that it matches, in the order of a hash table.
fn patterns_in_order(frames: &[Frame]) -> Vec<Frame> {
    let mut frames = frames.to_vec();
    let same = |a: &Frame, b: &Frame| is_pattern(a) && is_pattern(b);
    for run in frames.chunk_by_mut(same) {
        if is_pattern(&run[0]) {
            run.sort_unstable();
        }
    }
    frames
}

fn is_pattern(frame: &Frame) -> bool {
    frame.items().first().is_some_and(|word| word.says("pmessage"))
}

/// The rule of a command as it is written.
fn rule(sent: &Sent) -> Alike {
    let digest = sent
        .args
        .get(1)
        .is_some_and(|a| a.to_ascii_lowercase().starts_with(b"digest"));
    match rules::of(&sent.name).0 {
        Alike::Type if sent.name == "debug" && digest => Alike::Same,
        // From its middle, a scan shows whatever the hash table has there.
        Alike::Scan
            if sent
                .args
                .get(1 + usize::from(sent.name != "scan"))
                .is_none_or(|c| c != b"0") =>
        {
            Alike::Type
        }
        alike => alike,
    }
}

fn name(sent: &Option<Sent>) -> String {
    match sent {
        None => "a push".to_owned(),
        Some(sent) => {
            let args: Vec<String> = sent.args.iter().map(|a| a.escape_ascii().to_string()).collect();
            args.join(" ")
        }
    }
}
