//! `redoubt dev up`: everything before the first component is started.
//!
//! In this order, and why: the programs are found before anything is touched; DIR is locked before anything in it is
//! looked at; cluster.json goes before the processes it may speak of; what a killed supervisor left running
//! ends before ports are judged, since it has them.

use super::control::{self, Control};
use super::core::Restart;
use super::layout::{JOURNALS, Kind, Layout, PORT_BASE};
use super::paths::Paths;
use super::programs::Programs;
use super::signals::Signals;
use super::supervisor::{Setup, Supervisor};
use super::{leftovers, ports};
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::plain_files;
use redoubt_env::Env;
use redoubt_env::files::{DirLock, Files, Mode};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What `dev up` was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Where everything lies.
    pub(crate) dir: PathBuf,
    /// The first port; what DIR was made with when nothing is said.
    pub(crate) port_base: Option<u16>,
    /// Journal nodes; what DIR was made with when nothing is said.
    pub(crate) journals: Option<u16>,
    /// Replicas.
    pub(crate) replicas: u16,
    /// What happens when a component dies.
    pub(crate) restart: Restart,
    /// How long everything may take to be healthy.
    pub(crate) timeout: Duration,
    /// The server's program.
    pub(crate) redis_server: Option<PathBuf>,
    /// Further arguments for components.
    pub(crate) more: Vec<(Kind, OsString)>,
    /// How to speak.
    pub(crate) output: Output,
}

/// What DIR was made with. The journal's nodes know each other by their addresses from bootstrap on, so neither can
/// be changed by another `dev up`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Made {
    port_base: u16,
    journals: u16,
}

/// Runs a cluster until it is asked to end.
///
/// # Errors
/// When it can't be started, is not healthy in time, or was killed.
pub(crate) async fn up(env: &Env, options: Options) -> Result<(), Failure> {
    let programs = Programs::find(options.redis_server.as_deref(), options.more.clone()).await?;
    let paths = open(env, &options.dir)?;
    // From here on a Ctrl-C waits until everything can be ended in order.
    let signals = Signals::listen().map_err(|e| Failure::io("listen for signals", &e))?;
    let _lock = lock(env, &paths)?;
    let result = under_lock(env, options, &paths, programs, signals).await;
    control::remove(env, &paths);
    result
}

async fn under_lock(
    env: &Env,
    options: Options,
    paths: &Paths,
    programs: Programs,
    signals: Signals,
) -> Result<(), Failure> {
    let files = env.files().as_ref();
    remove_cluster_file(files, paths)?;
    let layout = agreed_layout(files, paths, &options)?;
    let parts = layout.parts();
    let control = Control::listen(env, paths).map_err(|e| {
        Failure::io(
            format_args!("listen on a socket in {}", paths.dir().display()),
            &e,
        )
    })?;
    let left = leftovers::find(files, paths)?;
    leftovers::end(env, paths, &left, |line| output::note(&line)).await?;
    ports::check_free(env, &parts).await?;
    if let Some(warning) = ports::warning(files, &parts) {
        output::note(&format!("note: {warning}"));
    }
    let setup = Setup {
        parts,
        paths: paths.clone(),
        programs,
        restart: options.restart,
        timeout: options.timeout,
    };
    Supervisor::new(env.clone(), setup, options.output, control)
        .run(signals)
        .await
}

/// Makes DIR if it is missing; returns it as an absolute path without links, which is what /proc shows too.
///
/// # Errors
/// What the operating system says.
pub(crate) fn open(env: &Env, dir: &Path) -> Result<Paths, Failure> {
    let failed =
        |e: io::Error| Failure::io(format_args!("use {} as a cluster's directory", dir.display()), &e);
    env.files().create_dir(dir).map_err(failed)?;
    Ok(Paths::new(dir.canonicalize().map_err(failed)?))
}

/// Locks DIR, and writes our pid into the lock's file for those who find it locked.
///
/// # Errors
/// When another process has it; the sentence names its pid.
pub(crate) fn lock(env: &Env, paths: &Paths) -> Result<Box<dyn DirLock>, Failure> {
    let files = env.files().as_ref();
    let dir = paths.dir().display();
    let lock = files.lock_dir(paths.dir()).map_err(|e| {
        if e.kind() != io::ErrorKind::WouldBlock {
            return Failure::io(format_args!("lock {dir}"), &e);
        }
        let holder = plain_files::read(files, &paths.lock()).unwrap_or_default();
        let holder = String::from_utf8_lossy(&holder).trim().to_owned();
        let holder = if holder.is_empty() { "another process".to_owned() } else { format!("process {holder}") };
        Failure::failed(format!(
            "{dir} is in use by {holder}: stop it with `redoubt dev down --dir {dir}`, or choose another --dir"
        ))
    })?;
    let pid = format!("{}\n", std::process::id());
    let written = files.open(&paths.lock(), Mode::Write).and_then(|file| {
        file.set_len(0)?;
        file.write_at(&[IoSlice::new(pid.as_bytes())], 0)
    });
    written.map_err(|e| Failure::io(format_args!("write {}", paths.lock().display()), &e))?;
    Ok(lock)
}

/// Removes cluster.json.
///
/// # Errors
/// What the operating system says.
pub(crate) fn remove_cluster_file(files: &dyn Files, paths: &Paths) -> Result<(), Failure> {
    let path = paths.cluster();
    plain_files::remove(files, &path).map_err(|e| Failure::io(format_args!("remove {}", path.display()), &e))
}

/// The layout that DIR was made with, or the one asked for if DIR is new; then it is recorded.
fn agreed_layout(files: &dyn Files, paths: &Paths, options: &Options) -> Result<Layout, Failure> {
    let path = paths.layout();
    let failed = |e: io::Error| Failure::io(format_args!("use {}", path.display()), &e);
    let made = match plain_files::read(files, &path) {
        Ok(content) => Some(serde_json::from_slice::<Made>(&content).map_err(|e| failed(e.into()))?),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(failed(e)),
    };
    let layout = decide_layout(made, options, &paths.dir().display().to_string()).map_err(Failure::failed)?;
    let now = Made {
        port_base: layout.port_base(),
        journals: layout.journals(),
    };
    if made.is_none() {
        plain_files::replace(files, &path, &serde_json::to_vec(&now).unwrap_or_default()).map_err(failed)?;
    }
    Ok(layout)
}

fn decide_layout(made: Option<Made>, options: &Options, dir: &str) -> Result<Layout, String> {
    let asked = Layout::new(
        options
            .port_base
            .or(made.map(|m| m.port_base))
            .unwrap_or(PORT_BASE),
        options.journals.or(made.map(|m| m.journals)).unwrap_or(JOURNALS),
        options.replicas,
    )?;
    match made {
        Some(Made { port_base, journals })
            if (asked.port_base(), asked.journals()) != (port_base, journals) =>
        {
            Err(format!(
                "the cluster in {dir} was made with --port-base {port_base} --journals {journals}, and its nodes know \
                 each other by these addresses: leave both options out, or choose another --dir"
            ))
        }
        _ => Ok(asked),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(port_base: Option<u16>, journals: Option<u16>) -> Options {
        Options {
            dir: PathBuf::new(),
            port_base,
            journals,
            replicas: 1,
            restart: Restart::Never,
            timeout: Duration::ZERO,
            redis_server: None,
            more: Vec::new(),
            output: Output::Table,
        }
    }

    #[test]
    fn a_cluster_keeps_the_ports_it_was_made_with() {
        let new = decide_layout(None, &options(None, None), "d").unwrap();
        assert_eq!((new.port_base(), new.journals()), (7000, 3));
        let made = Some(Made {
            port_base: 8000,
            journals: 5,
        });
        let again = decide_layout(made, &options(None, None), "d").unwrap();
        assert_eq!((again.port_base(), again.journals()), (8000, 5));
        assert!(decide_layout(made, &options(Some(8000), Some(5)), "d").is_ok());
        let refused = decide_layout(made, &options(Some(9000), None), "d").unwrap_err();
        assert!(refused.contains("--port-base 8000 --journals 5"), "{refused}");
        assert!(decide_layout(made, &options(None, Some(3)), "d").is_err());
    }
}
