//! Stock servers on loopback, each in a temporary directory, ended by pid when dropped.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by test binaries, each of which uses a part"
)]

pub mod fill;

use redoubt_rdb::{RdbReader, Summary};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
const NAP: Duration = Duration::from_millis(20);

/// All servers that are tested: the one of the system, and those that `make versions` fetched.
pub const VERSIONS: [&str; 7] = [
    "redis-6.2.5",
    "redis-7.0",
    "redis-7.2.4",
    "redis-7.4.1",
    "redis-8.2.3",
    "valkey-8.1.8",
    "valkey-9.1.2",
];

/// The program of the server `name`.
fn program(name: &str) -> PathBuf {
    if name == "redis-7.0" {
        return "redis-server".into();
    }
    let (kind, _) = name.split_once('-').unwrap();
    let below = Path::new("servers").join(name).join(format!("{kind}-server"));
    // A test lies in TARGET/PROFILE/deps, what was fetched in TARGET/servers.
    let exe = std::env::current_exe().unwrap();
    let found = exe.ancestors().map(|dir| dir.join(&below)).find(|p| p.is_file());
    found.unwrap_or_else(|| panic!("{name} is not there: `make versions` fetches it"))
}

/// A server's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Text(Vec<u8>),
    Number(i64),
    Nothing,
    Error(String),
    Many(Vec<Answer>),
}

impl Answer {
    pub fn text(self) -> String {
        match self {
            Answer::Text(text) => String::from_utf8_lossy(&text).into_owned(),
            other => panic!("{other:?} is no text"),
        }
    }
}

/// A connection to a server.
pub struct Client(pub BufReader<TcpStream>);

impl Client {
    pub fn send<A: AsRef<[u8]>>(&mut self, args: &[A]) {
        let mut out = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            out.extend_from_slice(format!("${}\r\n", arg.as_ref().len()).as_bytes());
            out.extend_from_slice(arg.as_ref());
            out.extend_from_slice(b"\r\n");
        }
        self.0.get_mut().write_all(&out).unwrap();
    }

    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).unwrap();
        assert!(
            line.ends_with(b"\r\n") || line == b"\n",
            "the server closed the connection"
        );
        String::from_utf8_lossy(&line).trim_end().to_owned()
    }

    pub fn answer(&mut self) -> Answer {
        let line = self.line();
        let (kind, rest) = line.split_at(1);
        match kind {
            "+" => Answer::Text(rest.as_bytes().to_vec()),
            "-" => Answer::Error(rest.to_owned()),
            ":" => Answer::Number(rest.parse().unwrap()),
            "$" | "*" if rest == "-1" => Answer::Nothing,
            "*" => Answer::Many((0..rest.parse().unwrap()).map(|_| self.answer()).collect()),
            "$" => {
                let mut text = vec![0; rest.parse::<usize>().unwrap() + 2];
                self.0.read_exact(&mut text).unwrap();
                text.truncate(text.len() - 2);
                Answer::Text(text)
            }
            _ => panic!("what is {line:?}?"),
        }
    }

    /// The answer, which may be an error.
    pub fn ask<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Answer {
        self.send(args);
        self.answer()
    }

    /// The answer to a command that must succeed.
    pub fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Answer {
        let answer = self.ask(args);
        if let Answer::Error(error) = &answer {
            let args: Vec<_> = args
                .iter()
                .map(|a| a.as_ref().escape_ascii().to_string())
                .collect();
            panic!(
                "{}: {error}",
                args.join(" ").chars().take(200).collect::<String>()
            );
        }
        answer
    }

    /// The same for words that are separated by spaces.
    pub fn run(&mut self, words: &str) -> Answer {
        self.call(&words.split(' ').collect::<Vec<_>>())
    }
}

/// A server that ends with its owner.
pub struct Server {
    child: Child,
    pub port: u16,
    pub dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts the server `name` on a copy of the file `rdb`, if any. A packed list has `small` elements at most, if
    /// that is said.
    pub fn start(name: &str, rdb: Option<&[u8]>, small: Option<u32>, args: &[&str]) -> Server {
        // Another process may take the port between the two: then the server exits, and another is tried.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            let dir = tempfile::tempdir().unwrap();
            if let Some(rdb) = rdb {
                std::fs::write(dir.path().join("dump.rdb"), rdb).unwrap();
            }
            let mut command = Command::new(program(name));
            command.args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string()]);
            command.args(["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"]);
            if let Some(small) = small {
                command.args(thresholds(name, small));
            }
            let log = std::fs::File::create(dir.path().join("log")).unwrap();
            command
                .args(args)
                .current_dir(dir.path())
                .stdout(log)
                .stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            for _ in 0..1500 {
                if child.try_wait().unwrap().is_some() {
                    break;
                }
                if loaded(port) {
                    return Server { child, port, dir };
                }
                std::thread::sleep(NAP);
            }
            let _ = child.kill();
            let _ = child.wait();
            let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
            assert!(
                log.contains("ddress already in use"),
                "{name} did not come up:\n{log}"
            );
        }
        panic!("no port for {name}");
    }

    pub fn client(&self) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client(BufReader::new(stream))
    }

    /// The file that SAVE writes.
    pub fn save(&self) -> Vec<u8> {
        self.client().run("SAVE");
        std::fs::read(self.dir.path().join("dump.rdb")).unwrap()
    }
}

/// Whether the server on `port` answers, and has loaded its file.
fn loaded(port: u16) -> bool {
    let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Client(BufReader::new(stream)).ask(&["PING"]) == Answer::Text(b"PONG".to_vec())
}

/// The settings that decide about encodings, for `small` elements at most.
fn thresholds(name: &str, small: u32) -> Vec<String> {
    let packed = if name == "redis-6.2.5" {
        "ziplist"
    } else {
        "listpack"
    };
    let mut all = vec![
        (format!("hash-max-{packed}-entries"), small),
        (format!("zset-max-{packed}-entries"), small),
        (format!("list-max-{packed}-size"), small.max(1)),
        ("set-max-intset-entries".to_owned(), small),
        ("stream-node-max-entries".to_owned(), small.max(1)),
    ];
    if !["redis-6.2.5", "redis-7.0"].contains(&name) {
        all.push(("set-max-listpack-entries".to_owned(), small));
    }
    let mut args: Vec<_> = all
        .into_iter()
        .flat_map(|(k, v)| [format!("--{k}"), v.to_string()])
        .collect();
    // What is compressed, and how a list's inner nodes are kept, differs too.
    args.extend(["--rdbcompression", "no", "--list-compress-depth", "1"].map(str::to_owned));
    args
}

/// Waits until `f` says so.
pub fn until(what: &str, mut f: impl FnMut() -> bool) {
    for _ in 0..1500 {
        if f() {
            return;
        }
        std::thread::sleep(NAP);
    }
    panic!("waited in vain until {what}");
}

/// What the file `rdb` says, read in pieces of `cut` bytes.
pub fn read(rdb: &[u8], cut: usize) -> Summary {
    let mut reader = RdbReader::new();
    for piece in rdb.chunks(cut) {
        reader.feed(piece).unwrap();
    }
    assert!(reader.is_finished());
    reader.finish().unwrap()
}
