//! Processes as the kernel shows them in /proc, and signals to them.
//!
//! Decides whether a process is the one that was started earlier. A pid alone says nothing, since pids are used again:
//! the time at which the process started, in this boot of the machine, is compared too, and what program it is.

use crate::plain_files;
use redoubt_env::files::Files;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What identifies a process for as long as this machine exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// The process, also its process group.
    pub(crate) pid: u32,
    /// When it started, in clock ticks since boot (field 22 of /proc/PID/stat).
    pub(crate) start_ticks: u64,
    /// The boot of the machine that the ticks count from.
    pub(crate) boot_id: String,
    /// File name of its program.
    pub(crate) program: String,
}

/// What /proc/PID/stat says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    flags: u64,
    start_ticks: u64,
}

/// In a process' flags: it is on its way out (PF_EXITING in the kernel's include/linux/sched.h).
const EXITING: u64 = 0x4;
/// SIGKILL in the masks of pending signals in /proc/PID/status.
const KILL_PENDING: u64 = 1 << 8;

/// Parses /proc/PID/stat. The second field is the program's name in parentheses and may itself hold spaces and
/// parentheses: what counts begins behind the *last* one.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // Fields are numbered from 1, the state is the 3rd, the flags are the 9th and the start time is the 22nd.
    let flags = fields.nth(5)?.parse().ok()?;
    let start_ticks = fields.nth(12)?.parse().ok()?;
    Some(Stat {
        state,
        flags,
        start_ticks,
    })
}

/// Whether a process with these arguments runs the program called `program`. Its own name comes first, but for
/// a script the interpreter's does.
fn runs(arguments: &[String], program: &str) -> bool {
    arguments
        .iter()
        .take(2)
        .any(|a| Path::new(a).file_name().is_some_and(|name| name == program))
}

fn proc_file(pid: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

fn stat(files: &dyn Files, pid: u32) -> Option<Stat> {
    let content = plain_files::read(files, &proc_file(pid, "stat")).ok()?;
    let stat = parse_stat(&String::from_utf8_lossy(&content))?;
    // A zombie has ended; only its parent has not asked how.
    (!matches!(stat.state, 'Z' | 'X')).then_some(stat)
}

/// The arguments of a process, its program's name first; empty when there is no such process. A server may have
/// replaced them by a title, which then is split at its spaces.
pub(crate) fn arguments(files: &dyn Files, pid: u32) -> Vec<String> {
    let content = plain_files::read(files, &proc_file(pid, "cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&content);
    let text = text.trim_end_matches('\0');
    let split_at = if text.contains('\0') { '\0' } else { ' ' };
    text.split(split_at)
        .filter(|a| !a.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The directory that a process works in, if we may know.
pub(crate) fn working_directory(pid: u32) -> Option<PathBuf> {
    std::fs::read_link(proc_file(pid, "cwd")).ok()
}

/// All processes.
pub(crate) fn pids(files: &dyn Files) -> Vec<u32> {
    let names = files.list(Path::new("/proc")).unwrap_or_default();
    names.iter().filter_map(|n| n.parse().ok()).collect()
}

/// Which boot of the machine this is.
fn boot_id(files: &dyn Files) -> String {
    let content = plain_files::read(files, Path::new("/proc/sys/kernel/random/boot_id")).unwrap_or_default();
    String::from_utf8_lossy(&content).trim().to_owned()
}

/// The identity of the process `pid` that runs `program`; `None` if there is no such process.
pub(crate) fn identify(files: &dyn Files, pid: u32, program: &str) -> Option<Identity> {
    let Stat { start_ticks, .. } = stat(files, pid)?;
    Some(Identity {
        pid,
        start_ticks,
        boot_id: boot_id(files),
        program: program.to_owned(),
    })
}

/// Whether the process of that identity still runs. False for another process that got its pid.
pub(crate) fn is_alive(files: &dyn Files, identity: &Identity) -> bool {
    stat(files, identity.pid).is_some_and(|s| s.start_ticks == identity.start_ticks)
        && boot_id(files) == identity.boot_id
        && runs(&arguments(files, identity.pid), &identity.program)
}

/// Whether a child that was not reaped yet is gone or was killed: it may take its time until what it writes is
/// written, and does nothing any more.
pub(crate) fn is_dying(files: &dyn Files, pid: u32) -> bool {
    let Some(stat) = stat(files, pid) else {
        return true;
    };
    let status = plain_files::read(files, &proc_file(pid, "status")).unwrap_or_default();
    stat.flags & EXITING != 0 || kill_is_pending(&String::from_utf8_lossy(&status))
}

/// Whether /proc/PID/status tells of a SIGKILL that was sent, to the thread or to the process.
fn kill_is_pending(status: &str) -> bool {
    status
        .lines()
        .filter_map(|line| {
            line.strip_prefix("SigPnd:")
                .or_else(|| line.strip_prefix("ShdPnd:"))
        })
        .filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .any(|mask| mask & KILL_PENDING != 0)
}

/// Asks a process to end (SIGTERM). One that is gone already is none of our business.
pub(crate) fn terminate(pid: u32) {
    if let Some(pid) = to_pid(pid) {
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// Ends a process and whatever it forked, at once (SIGKILL to its process group).
pub(crate) fn kill_group(pid: u32) {
    if let Some(pid) = to_pid(pid) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

fn to_pid(pid: u32) -> Option<Pid> {
    // Pid 1 and a group 1 are never ours, and 0 would mean our own group.
    i32::try_from(pid).ok().filter(|p| *p > 1).and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use redoubt_env::Env;

    #[test]
    fn a_program_may_be_called_anything() {
        let odd = "123 (a) R (b) S 1 123 123 0 -1 4194304 100 0 0 0 0 0 0 0 20 0 1 0 170907 3133440 418";
        assert_eq!(
            parse_stat(odd),
            Some(Stat {
                state: 'S',
                flags: 4_194_304,
                start_ticks: 170_907
            })
        );
        assert_eq!(parse_stat("123 (x) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn who_was_killed_is_dying_until_it_is_reaped() {
        let env = Env::real();
        let files = env.files().as_ref();
        assert!(!is_dying(files, std::process::id()));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(!is_dying(files, child.id()));
        child.kill().unwrap();
        assert!(is_dying(files, child.id()), "at once");
        child.wait().unwrap();
        assert!(is_dying(files, child.id()));
        assert!(kill_is_pending(
            "SigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n"
        ));
        assert!(!kill_is_pending(
            "SigPnd:\t0000000000000001\nSigBlk:\t0000000000000100\n"
        ));
    }

    #[test]
    fn programs_are_known_by_their_file_name() {
        let args = |list: &[&str]| list.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>();
        assert!(runs(
            &args(&["/usr/bin/redis-server", "127.0.0.1:7201"]),
            "redis-server"
        ));
        assert!(runs(
            &args(&["bash", "/opt/redis-server", "--port"]),
            "redis-server"
        ));
        assert!(!runs(&args(&["vim", "-R", "/opt/redis-server"]), "redis-server"));
        assert!(!runs(&args(&["/usr/bin/redis-server-old"]), "redis-server"));
        assert!(!runs(&[], "redis-server"));
    }

    #[tokio::test]
    async fn another_process_with_the_same_pid_is_another() {
        let env = Env::real();
        let files = env.files().as_ref();
        let me = std::process::id();
        let exe = std::env::current_exe().unwrap();
        let mine = identify(files, me, exe.file_name().unwrap().to_str().unwrap()).unwrap();
        assert!(is_alive(files, &mine));
        assert!(!is_alive(
            files,
            &Identity {
                start_ticks: mine.start_ticks + 1,
                ..mine.clone()
            }
        ));
        assert!(!is_alive(
            files,
            &Identity {
                boot_id: "another boot".into(),
                ..mine.clone()
            }
        ));
        assert!(!is_alive(
            files,
            &Identity {
                program: "redis-server".into(),
                ..mine
            }
        ));
    }
}
