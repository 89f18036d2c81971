//! What a supervisor that was killed left running: found, and ended in order.
//!
//! A component's process is known by `DIR/NAME/pid`, or, if the supervisor died before it wrote that, by the folder
//! that it works in. Nothing else is ever ended: see [`proc::is_alive`].

use super::core::grace;
use super::layout::Kind;
use super::paths::{Paths, kind_of};
use super::proc::{self, Identity};
use crate::duration;
use crate::failure::Failure;
use crate::plain_files;
use redoubt_env::Env;
use redoubt_env::files::Files;
use std::path::Path;
use std::time::Duration;

/// How often is looked whether a process is gone; it is nobody's child here, so nobody tells.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a killed process may take to be gone.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// A component that still runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leftover {
    /// Its name.
    pub(crate) name: String,
    kind: Kind,
    identity: Identity,
}

/// All components of `paths` that run.
///
/// # Errors
/// When DIR can't be read.
pub(crate) fn find(files: &dyn Files, paths: &Paths) -> Result<Vec<Leftover>, Failure> {
    let names = files
        .list(paths.dir())
        .map_err(|e| Failure::io(format_args!("list {}", paths.dir().display()), &e))?;
    let mut found = Vec::new();
    for name in names {
        let Some(kind) = kind_of(&name) else { continue };
        let recorded = plain_files::read(files, &paths.pid(&name)).ok();
        let recorded: Option<Identity> = recorded.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let recorded = recorded.filter(|identity| proc::is_alive(files, identity));
        let identity = recorded.or_else(|| unrecorded(files, &paths.component(&name), &name, kind));
        if let Some(identity) = identity {
            found.push(Leftover { name, kind, identity });
        }
    }
    Ok(found)
}

/// A process that works in `folder` and is called like the component: a redis-server, or one of ours whose
/// arguments hold the component's name.
fn unrecorded(files: &dyn Files, folder: &Path, name: &str, kind: Kind) -> Option<Identity> {
    proc::pids(files).into_iter().find_map(|pid| {
        // First what costs least: most processes are somewhere else.
        if proc::working_directory(pid)? != folder {
            return None;
        }
        let arguments = proc::arguments(files, pid);
        let program = Path::new(arguments.first()?).file_name()?.to_str()?.to_owned();
        let is_ours = if kind.is_server() {
            program.ends_with("-server")
        } else {
            program == format!("redoubt-{}", kind.word()) && arguments.iter().any(|a| a == name)
        };
        if is_ours {
            proc::identify(files, pid, &program)
        } else {
            None
        }
    })
}

/// Ends all of them, kind after kind, each with a bounded wait before it is killed. `say` is told of each.
///
/// # Errors
/// When one does not even end when it is killed.
pub(crate) async fn end(
    env: &Env,
    paths: &Paths,
    leftovers: &[Leftover],
    say: impl Fn(String),
) -> Result<(), Failure> {
    let files = env.files().as_ref();
    for kind in Kind::ENDING {
        let of_kind: Vec<_> = leftovers.iter().filter(|l| l.kind == kind).collect();
        for leftover in &of_kind {
            let pid = leftover.identity.pid;
            say(format!(
                "{} (pid {pid}) was left running by a supervisor that was killed; ending it",
                leftover.name
            ));
            if proc::is_alive(files, &leftover.identity) {
                proc::terminate(pid);
            }
        }
        for leftover in &of_kind {
            let Leftover { name, identity, .. } = leftover;
            if !is_gone_within(env, identity, grace(kind)).await {
                say(format!(
                    "{name} (pid {}) did not end within {}; killing it",
                    identity.pid,
                    duration::shown(grace(kind))
                ));
                proc::kill_group(identity.pid);
                if !is_gone_within(env, identity, KILL_WAIT).await {
                    return Err(Failure::failed(format!(
                        "{name} (pid {}) can't be ended, not even by SIGKILL: end it, then try again",
                        identity.pid
                    )));
                }
            }
            let record = paths.pid(name);
            plain_files::remove(files, &record)
                .map_err(|e| Failure::io(format_args!("remove {}", record.display()), &e))?;
        }
    }
    Ok(())
}

async fn is_gone_within(env: &Env, identity: &Identity, wait: Duration) -> bool {
    let until = env.now().plus(wait);
    while proc::is_alive(env.files().as_ref(), identity) {
        if env.now() >= until {
            return false;
        }
        env.sleep(LOOK_EVERY).await;
    }
    true
}
