//! `redoubt dev`: whole clusters on one machine.
//!
//! In the order of a cluster's life: [`up`] prepares a directory, [`supervisor`] runs the components that [`layout`]
//! lists by the decisions of [`core`], [`control`] lets other processes ask it for something, and [`leftovers`] ends
//! what a killed one left behind.

mod children;
mod cluster;
mod control;
pub(crate) mod core;
mod health;
pub(crate) mod layout;
mod leftovers;
mod paths;
mod ports;
mod proc;
mod programs;
mod signals;
mod starting;
mod supervisor;
pub(crate) mod up;
mod voice;

use crate::failure::Failure;
use crate::output;
use control::{Answer, Request};
use paths::Paths;
use redoubt_env::Env;
use redoubt_env::files::DirLock;
use std::path::Path;
use std::time::Duration;

/// How long a supervisor that has ended everything may take to be gone.
const GONE_WAIT: Duration = Duration::from_secs(5);

/// `dev start NAME`.
///
/// # Errors
/// When no cluster runs in `dir`, or it can't be done.
pub(crate) async fn start(dir: &Path, name: &str) -> Result<(), Failure> {
    ask(
        dir,
        &Request::Start {
            name: name.to_owned(),
        },
    )
    .await
}

/// `dev stop NAME`.
///
/// # Errors
/// When no cluster runs in `dir`, or it can't be done.
pub(crate) async fn stop(dir: &Path, name: &str) -> Result<(), Failure> {
    ask(
        dir,
        &Request::Stop {
            name: name.to_owned(),
        },
    )
    .await
}

async fn ask(dir: &Path, request: &Request) -> Result<(), Failure> {
    let paths = existing(dir)?;
    match control::ask(&paths, request).await? {
        Some(answer) => say(answer),
        None => Err(Failure::failed(format!(
            "no cluster runs in {}: start it with `redoubt dev up --dir {0}`",
            paths.dir().display()
        ))),
    }
}

fn say(answer: Answer) -> Result<(), Failure> {
    if !answer.ok {
        return Err(Failure::failed(answer.message));
    }
    output::line(&answer.message);
    Ok(())
}

fn existing(dir: &Path) -> Result<Paths, Failure> {
    let dir = dir
        .canonicalize()
        .map_err(|e| Failure::io(format_args!("use {}", dir.display()), &e))?;
    Ok(Paths::new(dir))
}

/// `dev down`: returns once the supervisor is gone, or, where there is none, once what it left behind has ended.
///
/// # Errors
/// When something can't be ended.
pub(crate) async fn down(env: &Env, dir: &Path) -> Result<(), Failure> {
    if !dir.exists() {
        output::line(&format!("nothing runs in {}", dir.display()));
        return Ok(());
    }
    let paths = existing(dir)?;
    if let Some(answer) = control::ask(&paths, &Request::Down).await? {
        let _lock = lock_soon(env, &paths).await?;
        return say(answer);
    }
    let _lock = lock_soon(env, &paths).await?;
    let files = env.files().as_ref();
    up::remove_cluster_file(files, &paths)?;
    let left = leftovers::find(files, &paths)?;
    leftovers::end(env, &paths, &left, |line| output::note(&line)).await?;
    control::remove(env, &paths);
    let what = if left.is_empty() {
        "nothing runs"
    } else {
        "everything has ended that was left running"
    };
    output::line(&format!("{what} in {}", paths.dir().display()));
    Ok(())
}

/// The lock of a supervisor that is about to be gone.
async fn lock_soon(env: &Env, paths: &Paths) -> Result<Box<dyn DirLock>, Failure> {
    let until = env.now().plus(GONE_WAIT);
    loop {
        match up::lock(env, paths) {
            Err(_) if env.now() < until => env.sleep(Duration::from_millis(20)).await,
            result => return result,
        }
    }
}
