//! The running components, as child processes.
//!
//! Promises: a child is reaped nowhere but in [`Children::next_exit`], so a pid that is still in the table is the
//! child's, and a signal to it can't reach anybody else. Each child leads a process group of its own: a Ctrl-C in the
//! terminal reaches the supervisor only, and what a server forked can be killed with it.

use super::layout::Part;
use super::paths::Paths;
use super::proc;
use super::programs::Call;
use crate::plain_files;
use redoubt_env::Env;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::future::{Future, poll_fn};
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::task::Poll;
use tokio::process::{Child, Command};

/// Child processes by component.
#[derive(Default)]
pub(crate) struct Children {
    running: BTreeMap<usize, Child>,
}

impl Children {
    /// Starts a component; returns its pid. Its output goes to its log, and its identity to `DIR/NAME/pid`.
    ///
    /// # Errors
    /// When its folder or log can't be written, or the program can't be started.
    pub(crate) fn spawn(
        &mut self,
        env: &Env,
        paths: &Paths,
        index: usize,
        part: &Part,
        call: &Call,
    ) -> io::Result<u32> {
        let files = env.files().as_ref();
        let folder = paths.component(&part.name);
        files.create_dir(&folder)?;
        let log = open_log(&paths.log(part), env, call)?;
        let child = Command::new(&call.program)
            .args(&call.args)
            .current_dir(&folder)
            // Logs are files.
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", call.program.display())))?;
        let pid = child.id().unwrap_or_default();
        self.running.insert(index, child);
        let program = call.program.file_name().unwrap_or_default().to_string_lossy();
        // A supervisor that is killed before this line leaves a process without a record: such a one is found by
        // the folder that it works in.
        if let Some(identity) = proc::identify(files, pid, &program) {
            let record = serde_json::to_vec(&identity).unwrap_or_default();
            plain_files::replace(files, &paths.pid(&part.name), &record)?;
        }
        Ok(pid)
    }

    /// Waits until a child ends, and takes it out of the table. Never returns while there is none. Cancel-safe.
    pub(crate) async fn next_exit(&mut self) -> (usize, String) {
        let (index, status) = poll_fn(|cx| {
            for (index, child) in &mut self.running {
                if let Poll::Ready(status) = pin!(child.wait()).poll(cx) {
                    return Poll::Ready((*index, status));
                }
            }
            Poll::Pending
        })
        .await;
        self.running.remove(&index);
        (
            index,
            status.map_or_else(|e| format!("its end can't be learnt: {e}"), how_it_ended),
        )
    }

    /// Whether a child was killed, by whomever, and is not reaped yet.
    pub(crate) fn is_dying(&self, env: &Env, index: usize) -> bool {
        let pid = self.running.get(&index).and_then(Child::id);
        pid.is_some_and(|pid| proc::is_dying(env.files().as_ref(), pid))
    }

    /// Asks a child to end; nothing if it has ended.
    pub(crate) fn terminate(&self, index: usize) {
        if let Some(pid) = self.running.get(&index).and_then(Child::id) {
            proc::terminate(pid);
        }
    }

    /// Kills a child and what it forked; nothing if it has ended.
    pub(crate) fn kill(&self, index: usize) {
        if let Some(pid) = self.running.get(&index).and_then(Child::id) {
            proc::kill_group(pid);
        }
    }
}

/// The log, open at its end, behind a line that says what begins here.
fn open_log(path: &Path, env: &Env, call: &Call) -> io::Result<std::fs::File> {
    let mut log = OpenOptions::new().create(true).append(true).open(path)?;
    let args: Vec<_> = call.args.iter().map(|a| a.to_string_lossy()).collect();
    let now = crate::wall::shown(env.wall());
    writeln!(
        log,
        "--- {now} redoubt dev up starts {} {}",
        call.program.display(),
        args.join(" ")
    )?;
    Ok(log)
}

fn how_it_ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with exit code {code}"),
        (None, Some(signal)) => format!("it was ended by signal {signal}{}", signal_name(signal)),
        (None, None) => "it ended".to_owned(),
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        _ => "",
    }
}
