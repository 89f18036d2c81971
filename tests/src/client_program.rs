//! A program of another language in `tests/clients/`, which uses a client library as its users do.
//!
//! What such programs say: a line per thing that held, and lines at which a test is to do something, which they wait
//! to be told of on their standard input. Errors go where the test's own do.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// The libraries, as `make clients` installs them: `REDOUBT_CLIENTS_DIR`, or `clients` beside this test's profile.
fn installed(what: &str) -> PathBuf {
    let dir = std::env::var_os("REDOUBT_CLIENTS_DIR").map_or_else(
        || {
            let exe = std::env::current_exe().expect("the test's own path");
            let target = exe.ancestors().nth(3).expect("target/PROFILE/deps/TEST");
            target.join("clients")
        },
        PathBuf::from,
    );
    let path = dir.join(what);
    assert!(
        path.exists(),
        "the client libraries are not installed ({} is missing): `make clients` installs them",
        path.display()
    );
    path
}

/// A running client program; killed with its handle.
pub struct ClientProgram {
    name: String,
    child: Child,
    tell: ChildStdin,
    told: Lines<BufReader<ChildStdout>>,
}

impl ClientProgram {
    /// Starts `tests/clients/NAME` with these arguments, by Python or Node.js as its name ends.
    pub fn start(name: &str, args: &[&str]) -> ClientProgram {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
        let mut command = if name.ends_with(".py") {
            let mut command = Command::new(installed("python/bin/python"));
            // No compiled file is left in the source tree.
            command.arg("-B");
            command
        } else {
            let mut command = Command::new("node");
            command.env("NODE_PATH", installed("node/node_modules"));
            command
        };
        command
            .arg(dir.join(name))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{name} does not start, `make clients` installs what it needs: {e}"));
        let told = BufReader::new(child.stdout.take().expect("its output is piped"));
        ClientProgram {
            name: name.to_owned(),
            tell: child.stdin.take().expect("its input is piped"),
            child,
            told: told.lines(),
        }
    }

    /// The next line that the program says.
    ///
    /// # Panics
    /// When it ends, or says nothing `within` that time.
    async fn next(&mut self, within: Duration) -> Option<String> {
        let line = tokio::time::timeout(within, self.told.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("{} says nothing for {within:?}", self.name));
        let line = line.expect("what it says is text");
        if let Some(line) = &line {
            println!("{}: {line}", self.name);
        }
        line
    }

    /// Waits until the program says `line`; what it said before is returned.
    ///
    /// # Panics
    /// When it ends before that, or says nothing `within` that time.
    pub async fn until(&mut self, line: &str, within: Duration) -> Vec<String> {
        let mut before = Vec::new();
        loop {
            let Some(next) = self.next(within).await else {
                let status = self.child.wait().await;
                panic!("{} ended before it said {line:?}: {status:?}", self.name);
            };
            if next == line {
                return before;
            }
            before.push(next);
        }
    }

    /// Tells the program a line.
    pub async fn tell(&mut self, line: &str) {
        let text = format!("{line}\n");
        let told = self.tell.write_all(text.as_bytes()).await;
        told.unwrap_or_else(|e| panic!("{} does not listen: {e}", self.name));
    }

    /// Waits for the program's end and returns what it said until then.
    ///
    /// # Panics
    /// When it fails, or says nothing `within` that time.
    pub async fn end(mut self, within: Duration) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(line) = self.next(within).await {
            said.push(line);
        }
        let status = tokio::time::timeout(within, self.child.wait()).await;
        let status = status
            .unwrap_or_else(|_| panic!("{} does not end", self.name))
            .expect("its exit status");
        assert!(status.success(), "{} ended with {status}", self.name);
        said
    }
}
