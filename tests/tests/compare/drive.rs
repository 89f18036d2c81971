//! Sends one program to two servers, and compares what comes back.
//!
//! Commands of different connections never run at once: a step is over when all of its replies have come, or its
//! client is seen to be blocked, on both sides. What the plain server answered tells how much is to come from the
//! other.

use super::align::Aligned;
use super::frame::{self, Frame};
use super::generate::{CONNECTIONS, Sent, State, Step};
use super::special;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How long the other side may take for what the plain server has answered.
const PATIENCE: Duration = Duration::from_secs(20);

/// One connection to one server.
struct Line {
    stream: TcpStream,
    came: Vec<u8>,
    ended: bool,
    /// The server's own id for it.
    id: u64,
}

impl Line {
    fn open(port: u16) -> Line {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap_or_else(|e| panic!("port {port}: {e}"));
        stream.set_nodelay(true).expect("a socket takes its options");
        let mut line = Line {
            stream,
            came: Vec::new(),
            ended: false,
            id: 0,
        };
        line.id = line.ask(&["CLIENT", "ID"]).int().expect("an id") as u64;
        line
    }

    fn ask(&mut self, words: &[&str]) -> Frame {
        let args: Vec<Vec<u8>> = words.iter().map(|w| w.as_bytes().to_vec()).collect();
        self.ask_bytes(&args)
    }

    fn ask_bytes(&mut self, args: &[Vec<u8>]) -> Frame {
        self.send(&array(args));
        self.frame(Instant::now() + PATIENCE).expect("an answer")
    }

    /// What a server that has closed does not take is told by what it sent last.
    fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Reads what comes within `wait`; whether something came.
    fn fill(&mut self, wait: Duration) -> bool {
        if self.ended {
            return false;
        }
        let wait = wait.max(Duration::from_micros(100));
        self.stream
            .set_read_timeout(Some(wait))
            .expect("a socket takes its options");
        let mut buf = [0; 64 * 1024];
        match self.stream.read(&mut buf) {
            Ok(0) => self.ended = true,
            Ok(n) => self.came.extend_from_slice(&buf[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return false,
            Err(_) => self.ended = true,
        }
        true
    }

    /// The next frame, if all of it comes before `end`.
    fn frame(&mut self, end: Instant) -> Option<Frame> {
        loop {
            if let Some((frame, len)) = (!self.came.is_empty())
                .then(|| frame::parse(&self.came))
                .flatten()
            {
                self.came.drain(..len);
                return Some(frame);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || self.ended {
                return None;
            }
            self.fill(left);
        }
    }

    /// All frames that have come.
    fn frames(&mut self) -> Vec<Frame> {
        let (mut frames, mut at) = (Vec::new(), 0);
        while at < self.came.len()
            && let Some((frame, len)) = frame::parse(&self.came[at..])
        {
            frames.push(frame);
            at += len;
        }
        self.came.drain(..at);
        frames
    }
}

/// One of the two sides: where commands are sent, and a connection straight to the server that executes them.
struct Side {
    port: u16,
    lines: Vec<Line>,
    control: Line,
}

/// What a server says about one of its clients.
#[derive(Debug)]
struct Seen {
    blocked: bool,
    /// Its last command, if it has read everything.
    last: Option<String>,
}

impl Side {
    fn open(port: u16, server: u16) -> Side {
        Side {
            port,
            lines: (0..CONNECTIONS).map(|_| Line::open(port)).collect(),
            control: Line::open(server),
        }
    }

    /// `None` when the server has no such client any more.
    fn look(&mut self, connection: usize) -> Option<Seen> {
        let id = self.lines[connection].id.to_string();
        let told = self.control.ask(&["CLIENT", "LIST", "ID", &id]);
        let text = String::from_utf8_lossy(told.bytes()).into_owned();
        let field = |name: &str| {
            text.split_whitespace()
                .find_map(|f| f.strip_prefix(name))
                .unwrap_or_default()
        };
        let read = field("qbuf=") == "0";
        (!text.is_empty()).then(|| Seen {
            blocked: field("flags=").contains('b'),
            last: read.then(|| field("cmd=").to_owned()),
        })
    }

    fn encode(&self, step: &Step, plain: bool, sentinel: &[&str; 2]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for sent in &step.commands {
            match sent.raw {
                Some(raw) => bytes.extend_from_slice(raw.as_bytes()),
                // Another command that the server refuses, in its place.
                None if plain && sent.refused.is_some() => {
                    bytes.extend_from_slice(&array(&[b"REFUSED-BY-THE-PROXY".to_vec()]));
                }
                None if sent.inline => {
                    bytes.extend_from_slice(&sent.args.join(&b' '));
                    bytes.extend_from_slice(b"\r\n");
                }
                None => {
                    let own = |arg: &Vec<u8>| match special::is_id(arg) {
                        Some(n) => self.lines[n].id.to_string().into_bytes(),
                        None => arg.clone(),
                    };
                    bytes.extend_from_slice(&array(&sent.args.iter().map(own).collect::<Vec<_>>()));
                }
            }
        }
        bytes.extend_from_slice(&array(&sentinel.map(|w| w.as_bytes().to_vec())));
        bytes
    }
}

fn array(args: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// How a step ended on the plain server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    /// Its last command, a sentinel, was answered.
    Answered,
    /// It was executed without an answer that could be told from others: queued, or kept silent.
    Executed,
    Blocked,
    Closed,
}

/// What is to come of a step.
#[derive(Clone, Debug, Default)]
struct Due {
    token: String,
    sentinel: &'static str,
}

/// Both sides of the comparison.
pub(crate) struct Both {
    plain: Side,
    proxied: Side,
    aligned: Vec<Aligned>,
    /// Who is blocked, and what it still owes.
    blocked: Vec<Option<Due>>,
    steps: u64,
}

impl Both {
    /// Over a plain server, and over a proxy whose server can be asked directly as well.
    pub(crate) fn open(plain: u16, proxy: u16, master: u16) -> Both {
        Both {
            plain: Side::open(plain, plain),
            proxied: Side::open(proxy, master),
            aligned: (0..CONNECTIONS).map(|_| Aligned::default()).collect(),
            blocked: vec![None; CONNECTIONS],
            steps: 0,
        }
    }

    /// Has both sides answer, and returns the plain server's answer.
    pub(crate) fn ask(&mut self, args: &[Vec<u8>]) -> Frame {
        self.proxied.lines[0].ask_bytes(args);
        self.plain.lines[0].ask_bytes(args)
    }

    pub(crate) fn states(&self) -> Vec<State> {
        self.aligned.iter().map(Aligned::state).collect()
    }

    pub(crate) fn may_send(&self, connection: usize) -> bool {
        self.blocked[connection].is_none()
    }

    /// Who is blocked.
    pub(crate) fn blocked(&self) -> Vec<usize> {
        (0..CONNECTIONS).filter(|c| self.blocked[*c].is_some()).collect()
    }

    /// Runs one step on both sides.
    ///
    /// # Errors
    /// What differed.
    pub(crate) fn run(&mut self, step: Step, covered: &mut super::table::Covered) -> Result<(), String> {
        let c = step.connection;
        self.steps += 1;
        let token = format!("token-{}-{c}", self.steps);

        // Two in turn: a server tells of a client's last command, and that must not be the one of the step before.
        let sentinel = self.aligned[c].next_sentinel();
        for (side, plain) in [(&mut self.plain, true), (&mut self.proxied, false)] {
            let bytes = side.encode(&step, plain, &[sentinel, &token]);
            side.lines[c].send(&bytes);
        }
        let kills = step.commands.iter().any(|sent| sent.name == "client|kill");
        let wait_through = step.wait_through;
        self.aligned[c].sent(step.commands);
        let mut last = Sent::of(&[sentinel, &token]);
        last.sentinel = true;
        self.aligned[c].sent(vec![last]);
        self.settle(c, &Due { token, sentinel }, wait_through, covered)?;
        for other in (0..CONNECTIONS).filter(|other| *other != c) {
            let due = self.blocked[other].clone();
            if due.is_none() && !kills {
                continue;
            }
            // Those that went on, and those that are no more.
            let seen = self.plain.look(other);
            if seen.as_ref().is_none_or(|seen| due.is_some() && !seen.blocked) {
                self.blocked[other] = None;
                self.settle(other, &due.unwrap_or_default(), false, covered)?;
            }
        }
        Ok(())
    }

    fn settle(
        &mut self,
        c: usize,
        due: &Due,
        wait_through: bool,
        covered: &mut super::table::Covered,
    ) -> Result<(), String> {
        let settled = settled(&mut self.plain, c, due, wait_through)?;
        let plain = self.plain.lines[c].frames();
        let (mut proxied, end) = (Vec::new(), Instant::now() + PATIENCE);
        while (proxied.len() < plain.len() || settled == Settled::Closed)
            && let Some(frame) = self.proxied.lines[c].frame(end)
        {
            proxied.push(frame);
        }
        self.aligned[c].compare(&plain, &proxied, covered)?;
        match settled {
            Settled::Answered => {}
            Settled::Executed | Settled::Blocked => {
                self.blocked[c] = (settled == Settled::Blocked).then(|| due.clone());
                self.await_master(c, settled, due, end)?;
            }
            Settled::Closed => {
                if !self.proxied.lines[c].ended {
                    return Err(format!(
                        "connection {c}: closed by the plain server, open at the proxy"
                    ));
                }
                self.plain.lines[c] = Line::open(self.plain.port);
                self.proxied.lines[c] = Line::open(self.proxied.port);
                self.aligned[c] = Aligned::default();
            }
        }
        Ok(())
    }

    /// Waits until the proxy's server is as far as the plain one.
    fn await_master(&mut self, c: usize, settled: Settled, due: &Due, end: Instant) -> Result<(), String> {
        loop {
            let there = match self.proxied.look(c) {
                None => {
                    return Err(format!(
                        "connection {c}: closed by the proxy, {settled:?} on the plain server"
                    ));
                }
                Some(seen) if settled == Settled::Blocked => seen.blocked,
                Some(seen) => seen.last.as_deref() == Some(due.sentinel),
            };
            if there {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(format!(
                    "connection {c}: {settled:?} on the plain server, not on the proxy's"
                ));
            }
        }
    }
}

/// Waits until the plain server has executed all that it can of what connection `c` sent.
fn settled(plain: &mut Side, c: usize, due: &Due, wait_through: bool) -> Result<Settled, String> {
    let (end, last) = (Instant::now() + PATIENCE, format!("{}\r\n", due.token));
    loop {
        if Instant::now() > end {
            let seen = plain.look(c);
            return Err(format!(
                "the plain server does not get on with connection {c}: {seen:?}, {due:?}"
            ));
        }
        if plain.lines[c].ended {
            return Ok(Settled::Closed);
        }
        if plain.lines[c].came.ends_with(last.as_bytes()) {
            return Ok(Settled::Answered);
        }
        if plain.lines[c].fill(Duration::from_millis(1)) {
            continue;
        }
        let settled = match plain.look(c) {
            None => None,
            Some(seen) if seen.blocked => (!wait_through).then_some(Settled::Blocked),
            Some(seen) => (seen.last.as_deref() == Some(due.sentinel)).then_some(Settled::Executed),
        };
        if let Some(settled) = settled {
            // The server has written everything of the round before by the time that it answers again.
            plain.look(c);
            while plain.lines[c].fill(Duration::from_micros(100)) {}
            match plain.lines[c].came.ends_with(last.as_bytes()) {
                true => return Ok(Settled::Answered),
                false if plain.lines[c].ended => return Ok(Settled::Closed),
                false => return Ok(settled),
            }
        }
    }
}
