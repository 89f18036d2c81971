//! One program of Redoubt's, started by a test itself rather than by `redoubt dev up`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// Where the binaries are: `REDOUBT_BIN_DIR`, or beside this test's own.
pub(crate) fn binary(name: &str) -> PathBuf {
    if let Some(dir) = std::env::var_os("REDOUBT_BIN_DIR") {
        return Path::new(&dir).join(name);
    }
    let exe = std::env::current_exe().expect("the test's own path");
    // A test lies in target/PROFILE/deps, the benchmark beside what it measures.
    let beside = exe.with_file_name(name);
    if beside.exists() {
        return beside;
    }
    exe.parent()
        .and_then(Path::parent)
        .expect("target/PROFILE/deps")
        .join(name)
}

/// Plants `bugs` in what `command` starts, beside those of the test's own environment, and has it log.
pub(crate) fn plant(command: &mut Command, bugs: &str) {
    let own = std::env::var("REDOUBT_PLANTED_BUGS").unwrap_or_default();
    let all: Vec<&str> = [own.as_str(), bugs]
        .into_iter()
        .filter(|b| !b.is_empty())
        .collect();
    command
        .env("REDOUBT_PLANTED_BUGS", all.join(","))
        .env("RUST_LOG", "info,openraft=error");
}

/// Runs `redoubt` with these arguments; returns exit code, output and errors.
pub async fn redoubt(args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(binary("redoubt"));
    let output = command.args(args).stdin(Stdio::null()).output().await;
    let output = output.expect("redoubt runs");
    let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
    let code = output.status.code().unwrap_or(-1);
    (code, text(output.stdout), text(output.stderr))
}

/// A running program; killed with its handle.
pub struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts `name` with `args`; what it says is added to the file `log`.
    pub fn start(name: &str, args: &[&str], log: &Path) -> Program {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(log);
        let file = file.expect("a log file");
        let mut command = Command::new(binary(name));
        plant(&mut command, "");
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a log file"))
            .stderr(file)
            .kill_on_drop(true);
        let child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{name} does not start: {e}"));
        Program {
            child,
            log: log.to_owned(),
        }
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the program runs")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32).expect("a process id");
        rustix::process::kill_process(pid, signal).expect("the program can be signalled");
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(mut self) -> std::process::ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.child.wait().await.expect("the program ends")
    }

    /// `kill -9`, and waits for the end.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("the program can be killed");
    }

    /// Waits for it to end by itself.
    ///
    /// # Panics
    /// When it has not `within`.
    pub async fn ends(mut self, within: Duration) -> std::process::ExitStatus {
        let ended = tokio::time::timeout(within, self.child.wait()).await;
        let ended = ended.unwrap_or_else(|_| panic!("the program goes on after {within:?}"));
        ended.expect("the program ends")
    }

    /// What it and those before it with the same log have said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}:\n{}", self.log.display(), self.log());
        }
    }
}
