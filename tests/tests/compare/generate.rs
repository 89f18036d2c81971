//! Programs: which command comes next on which connection, with which arguments.

use super::grammar::{Argument, Command, Kind};
use super::rules;
use super::special;
use super::values::{self, Dice, Learned};
use std::collections::BTreeMap;

/// One command as it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    /// Which of the server's commands it is; empty for bytes that are no command.
    pub(crate) name: String,
    pub(crate) args: Vec<Vec<u8>>,
    /// How the proxy names it where it refuses it.
    pub(crate) refused: Option<&'static str>,
    /// Whether its reply is kept back by CLIENT REPLY.
    pub(crate) silent: bool,
    /// Bytes that are no command, in the place of one.
    pub(crate) raw: Option<&'static str>,
    /// As a line of text instead of an array.
    pub(crate) inline: bool,
    /// Only ends a step: not counted.
    pub(crate) sentinel: bool,
}

impl Sent {
    pub(crate) fn new(name: &str, args: Vec<Vec<u8>>) -> Sent {
        Sent {
            name: name.to_owned(),
            refused: rules::refused(&args),
            args,
            silent: false,
            raw: None,
            inline: false,
            sentinel: false,
        }
    }

    /// For people.
    pub(crate) fn show(&self) -> String {
        let args: Vec<String> = self
            .args
            .iter()
            .map(|a| format!("{:?}", String::from_utf8_lossy(a)))
            .collect();
        args.join(" ")
    }

    /// A command that is written out.
    pub(crate) fn of(words: &[&str]) -> Sent {
        let args = words.iter().map(|w| w.as_bytes().to_vec()).collect();
        let words: Vec<String> = words.iter().map(|w| w.to_ascii_lowercase()).collect();
        let container = ["client", "xgroup"].contains(&words[0].as_str());
        let name = words[..1 + usize::from(container)].join("|");
        Sent::new(&name, args)
    }
}

/// Commands that one connection sends at once.
pub(crate) struct Step {
    pub(crate) connection: usize,
    pub(crate) commands: Vec<Sent>,
    /// Whether what blocks ends by itself, and is waited for.
    pub(crate) wait_through: bool,
}

impl Step {
    /// Lets a blocked connection go, by one that would not queue that: the first connection's `state`.
    pub(crate) fn unblock(blocked: usize, state: State) -> Step {
        let args = vec![b"CLIENT".to_vec(), b"UNBLOCK".to_vec(), special::id_of(blocked)];
        let mut commands = vec![Sent::new("client|unblock", args)];
        if state.in_multi {
            commands.insert(0, Sent::of(&["DISCARD"]));
        }
        Step {
            connection: 0,
            commands,
            wait_through: false,
        }
    }
}

impl Generator {
    /// One client ends another, or all that subscribe.
    pub(crate) fn kill(&mut self) -> Step {
        let mut args: Vec<Vec<u8>> = ["CLIENT", "KILL"].map(|w| w.as_bytes().to_vec()).into();
        if self.dice.percent(30) {
            args.extend(["TYPE", "pubsub"].map(|w| w.as_bytes().to_vec()));
        } else {
            args.extend([
                b"ID".to_vec(),
                special::id_of(1 + self.dice.roll(CONNECTIONS - 1)),
            ]);
        }
        Step {
            connection: 0,
            commands: vec![Sent::new("client|kill", args)],
            wait_through: false,
        }
    }
}

/// What of a connection's state decides what is sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct State {
    pub(crate) in_multi: bool,
    pub(crate) subscribed: bool,
}

/// Connections by what they do: the first two never leave their requests unanswered, the next two subscribe, the
/// others also block.
pub(crate) const CONNECTIONS: usize = 8;
const SUBSCRIBERS: usize = 2;
const BLOCKERS: usize = 4;

/// What is no command: the server says so and closes.
const WRONG: &[&str] = &[
    "*x\r\n",
    "*1\r\n+oops\r\n",
    "*1\r\n$x\r\n",
    "GET \"k\r\n",
    "*1\r\n$-4\r\n",
];

/// Draws programs.
pub(crate) struct Generator {
    pub(crate) dice: Dice,
    pub(crate) learned: Learned,
    /// With how often each is drawn.
    commands: Vec<(Command, usize)>,
    weights: usize,
    numkeys: Option<usize>,
    /// How many of each of two lists that belong together.
    together: Option<usize>,
    entries: u64,
}

impl Generator {
    pub(crate) fn new(seed: u64, commands: Vec<Command>) -> Generator {
        let commands: Vec<(Command, usize)> = commands
            .into_iter()
            .filter(|c| rules::left_out(&c.name).is_none())
            .map(|c| {
                let weight = weight(&c);
                (c, weight)
            })
            .collect();
        Generator {
            weights: commands.iter().map(|(_, w)| w).sum(),
            commands,
            dice: Dice(seed),
            learned: Learned::default(),
            numkeys: None,
            together: None,
            entries: 0,
        }
    }

    /// Names of all commands that are sent.
    pub(crate) fn names(&self) -> BTreeMap<String, bool> {
        self.commands
            .iter()
            .map(|(c, _)| (c.name.clone(), c.container))
            .collect()
    }

    /// What one of the connections that `may_send` sends next.
    pub(crate) fn step(&mut self, states: &[State], may_send: impl Fn(usize) -> bool) -> Step {
        let connection = loop {
            let c = if self.dice.percent(50) {
                self.dice.roll(SUBSCRIBERS)
            } else {
                self.dice.roll(CONNECTIONS)
            };
            if may_send(c) {
                break c;
            }
        };
        let mut step = Step {
            connection,
            commands: Vec::new(),
            wait_through: false,
        };
        let mut state = states[connection];
        // Who subscribed under RESP2 hears little else than that it can't do this.
        if state.subscribed && self.dice.percent(50) {
            step.commands.push(Sent::of(&["RESET"]));
            state = State::default();
        }
        if !state.in_multi && !state.subscribed && self.dice.percent(2) {
            self.without_replies(&mut step);
            return step;
        }
        let length = match self.dice.roll(10) {
            0..2 => 1 + self.dice.roll(3),
            2..6 => 5 + self.dice.roll(25),
            _ => 20 + self.dice.roll(60),
        };
        while step.commands.len() < length {
            if self.dice.roll(500) == 0 {
                let mut bad = Sent::new("", Vec::new());
                bad.raw = Some(WRONG[self.dice.roll(WRONG.len())]);
                step.commands.push(bad);
                break;
            }
            if self.dice.percent(4) {
                self.make(&mut step.commands);
                continue;
            }
            if !state.in_multi && self.dice.percent(2) {
                self.transaction(&mut step.commands);
                continue;
            }
            let last = self.add(&mut step, &mut state);
            if last {
                break;
            }
        }
        step
    }

    /// Adds one random command; whether nothing may follow it.
    fn add(&mut self, step: &mut Step, state: &mut State) -> bool {
        let command = self.draw(if state.in_multi { 0 } else { step.connection });
        let mut sent = self.write(&command);
        let word = sent.args[0].to_ascii_lowercase();
        match word.as_slice() {
            b"multi" if sent.args.len() == 1 => state.in_multi = true,
            b"discard" | b"reset" if sent.args.len() == 1 => state.in_multi = false,
            b"exec" => state.in_multi = false,
            _ => {}
        }
        let plain = |arg: &Vec<u8>| {
            !arg.is_empty()
                && arg
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || b":-*.".contains(b))
        };
        sent.inline = sent.args.iter().all(plain) && self.dice.percent(5);
        let blocks = command.blocking && !state.in_multi;
        if blocks {
            let forever = step.connection >= BLOCKERS && self.dice.percent(50);
            special::set_timeout(&mut sent.args, if forever { "0" } else { "0.02" });
            step.wait_through = !forever;
        }
        let ends = word == b"quit";
        push(sent, &mut step.commands);
        blocks || ends
    }

    fn draw(&mut self, connection: usize) -> Command {
        loop {
            let mut at = self.dice.roll(self.weights);
            let found = self.commands.iter().find(|(_, weight)| {
                let here = at < *weight;
                at = at.wrapping_sub(*weight);
                here
            });
            let (command, _) = found.expect("weights add up");
            // Within a transaction neither: several confirmations of one command are not one reply.
            let subscribes = command.group == "pubsub" && command.name.ends_with("subscribe");
            if !(subscribes && connection < SUBSCRIBERS) {
                return command.clone();
            }
        }
    }

    /// Writes `command` with random arguments, well-formed most of the time.
    fn write(&mut self, command: &Command) -> Sent {
        let mut args: Vec<Vec<u8>> = command.name.split('|').map(|w| w.as_bytes().to_vec()).collect();
        let words = args.len();
        if self.dice.percent(40) {
            args.iter_mut().for_each(|w| w.make_ascii_uppercase());
        }
        if let Some(special) = special::arguments(self, &command.name) {
            args.extend(special);
            return Sent::new(&command.name, args);
        }
        (self.numkeys, self.together) = (None, None);
        self.arguments(command, &command.arguments, &mut args);
        if command.name == "xadd" {
            self.entries += 1;
            special::settle_entry(&mut self.dice, self.entries, &mut args);
        }
        special::settle(&mut self.dice, &command.name, &mut args);
        if self.dice.percent(5) {
            self.spoil(command, &mut args, words);
        }
        Sent::new(&command.name, args)
    }

    fn arguments(&mut self, command: &Command, all: &[Argument], out: &mut Vec<Vec<u8>>) {
        for argument in all {
            let wanted = self.numkeys.is_some() && argument.kind == Kind::Key;
            if argument.optional && !wanted && self.dice.percent(60) {
                continue;
            }
            let mut times = if argument.multiple {
                1 + self.dice.roll(3)
            } else {
                1
            };
            if argument.multiple && command.name.starts_with("xread") && argument.token.is_none() {
                times = *self.together.get_or_insert(times);
            } else if argument.kind == Kind::Key && argument.multiple {
                times = self.numkeys.take().unwrap_or(times);
            }
            for i in 0..times {
                if let Some(token) = &argument.token
                    && (i == 0 || argument.multiple_token)
                {
                    let lower = self.dice.percent(30);
                    out.push(
                        if lower {
                            token.to_ascii_lowercase()
                        } else {
                            token.clone()
                        }
                        .into_bytes(),
                    );
                }
                match argument.kind {
                    Kind::Token => {}
                    Kind::OneOf => {
                        let chosen = &argument.inner[self.dice.roll(argument.inner.len())];
                        let chosen = Argument {
                            optional: false,
                            ..chosen.clone()
                        };
                        self.arguments(command, std::slice::from_ref(&chosen), out);
                    }
                    Kind::Block => self.arguments(command, &argument.inner, out),
                    Kind::Integer if argument.name == "numkeys" => {
                        let n = self.dice.roll(3) + usize::from(!command.name.contains("eval"));
                        let told = if self.dice.percent(3) {
                            "-1".to_owned()
                        } else {
                            n.to_string()
                        };
                        self.numkeys = Some(n);
                        out.push(told.into_bytes());
                    }
                    _ => out.push(values::value(&mut self.dice, &self.learned, command, argument)),
                }
            }
        }
    }

    /// Makes a command wrong. What blocks keeps its timeout.
    fn spoil(&mut self, command: &Command, args: &mut Vec<Vec<u8>>, words: usize) {
        if command.blocking {
            args.truncate(words);
            return;
        }
        let at = words + self.dice.roll(args.len() - words + 1);
        match self.dice.roll(4) {
            0 => args.truncate(at),
            1 if at < args.len() => drop(args.remove(at)),
            2 if at < args.len() => args.insert(at, args[at].clone()),
            _ => args.push(self.dice.one(&["extra", "-1", "NX", ""]).into()),
        }
    }

    /// Makes a key anew, with something in it.
    fn make(&mut self, to: &mut Vec<Sent>) {
        let n = self.dice.roll(3);
        let key = |kind: &str| format!("{kind}:{n}");
        let made: &[&[&str]] = match self.dice.roll(10) {
            0 => &[&["SET", "s", "10"], &["APPEND", "s", "1"]],
            1 => &[&["RPUSH", "l", "a", "b", "c", "10", "7", "a"]],
            2 => &[&["HSET", "h", "f0", "1", "f1", "two", "f2", "3.5"]],
            3 => &[&["SADD", "e", "a", "b", "c", "7", "m1"]],
            4 => &[&["ZADD", "z", "1", "a", "2", "b", "2", "m1", "3.5", "c", "10", "m3"]],
            5 => &[
                &["XADD", "x", "1-1", "f0", "a"],
                &["XADD", "x", "5-1", "f0", "b", "f1", "c"],
                &["XGROUP", "CREATE", "x", "g0", "0"],
                &["XGROUP", "CREATE", "x", "g1", "$", "MKSTREAM"],
                &[
                    "XREADGROUP",
                    "GROUP",
                    "g0",
                    "c0",
                    "COUNT",
                    "1",
                    "STREAMS",
                    "x",
                    ">",
                ],
            ],
            6 => &[&[
                "GEOADD",
                "g",
                "13.361389",
                "38.115556",
                "Palermo",
                "15.087269",
                "37.502669",
                "Catania",
            ]],
            7 => &[&[
                "ZADD", "y", "0", "a", "0", "b", "0", "c", "0", "m1", "0", "m2", "0", "z",
            ]],
            8 => &[&["SETBIT", "b", "7", "1"], &["SETBIT", "b", "100", "1"]],
            _ => &[&["PFADD", "p", "a", "b", "c", "d"]],
        };
        let is_key = |word: &str| word.len() == 1 && "slhezxgbpy".contains(word);
        let keyed = |words: &[&str]| -> Vec<String> {
            // Only the first word that can be one is the key: elements look alike.
            let at = words.iter().position(|w| is_key(w)).expect("each has a key");
            let of = |(i, w): (usize, &&str)| if i == at { key(w) } else { (*w).to_owned() };
            words.iter().enumerate().map(of).collect()
        };
        let first = keyed(made[0]);
        let name = first
            .iter()
            .find(|w| w.contains(':'))
            .expect("each has a key")
            .clone();
        to.push(Sent::of(&["DEL", &name]));
        for words in made {
            let words = keyed(words);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            to.push(Sent::of(&words));
        }
    }

    /// A whole transaction, perhaps over watched keys.
    fn transaction(&mut self, to: &mut Vec<Sent>) {
        if self.dice.percent(50) {
            let key = values::key(&mut self.dice, "generic");
            to.push(Sent::new("watch", vec![b"WATCH".to_vec(), key]));
        }
        to.push(Sent::of(&["MULTI"]));
        for _ in 0..1 + self.dice.roll(6) {
            let command = self.draw(0);
            if command.group == "transactions" || ["quit", "reset", "hello"].contains(&command.name.as_str())
            {
                continue;
            }
            let mut sent = self.write(&command);
            if command.blocking {
                special::set_timeout(&mut sent.args, "0.02");
            }
            push(sent, to);
        }
        to.push(Sent::of(&[self.dice.one(&["EXEC", "EXEC", "EXEC", "DISCARD"])]));
    }

    /// A pipeline of which some replies are kept back.
    fn without_replies(&mut self, step: &mut Step) {
        let off = self.dice.percent(50);
        step.commands
            .push(Sent::of(&["CLIENT", "REPLY", if off { "OFF" } else { "SKIP" }]));
        let wanted = if off { 1 + self.dice.roll(20) } else { 1 };
        for _ in 0..wanted {
            let command = loop {
                let command = self.draw(0);
                let quiet = !["connection", "pubsub", "transactions"].contains(&command.group.as_str());
                if quiet && !command.blocking && command.name != "spop" {
                    break command;
                }
            };
            let sent = self.write(&command);
            step.commands.push(sent);
        }
        step.commands.iter_mut().for_each(|sent| sent.silent = true);
        step.commands.push(Sent::of(&["CLIENT", "REPLY", "ON"]));
    }
}

/// Adds a command, and what makes both servers' data the same again behind one that draws.
fn push(sent: Sent, to: &mut Vec<Sent>) {
    let drawn_from = (sent.name == "spop").then(|| sent.args.get(1).cloned()).flatten();
    to.push(sent);
    if let Some(key) = drawn_from {
        to.push(Sent::new("del", vec![b"DEL".to_vec(), key]));
    }
}

/// How often a command is drawn, beside others.
fn weight(command: &Command) -> usize {
    match command.name.as_str() {
        "flushall" | "flushdb" | "swapdb" | "function|flush" | "script|flush" | "save" | "quit" => 1,
        "client|reply" => 0,
        "multi" | "exec" | "discard" | "watch" => 10,
        name if name.ends_with("|help") => 1,
        _ if command.container => 1,
        _ => match command.group.as_str() {
            "cluster" => 1,
            "server" => 3,
            "connection" | "scripting" => 8,
            "pubsub" => 5,
            _ => 20,
        },
    }
}
