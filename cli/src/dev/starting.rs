//! From the first journal node to a healthy cluster: what runs beside the supervisor's loop until then.

use super::health::{Doctor, Health};
use crate::failure::Failure;
use crate::output;
use crate::plain_files;
use crate::{bootstrap, duration};
use redoubt_env::Env;
use redoubt_env::files::Files;
use redoubt_types::BootTime;
use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::mpsc;

/// Pause between two examinations: everything should be up within a second or two.
const EXAMINE_EVERY: Duration = Duration::from_millis(100);
/// How often is said what is being waited for.
const SAY_EVERY: Duration = Duration::from_secs(3);
/// How long servers are held back until the replay listens: they try again only once a second.
const REPLAY_WAIT: Duration = Duration::from_secs(2);
/// Lines of a log that are shown, and bytes that are searched for them.
const LOG_LINES: usize = 15;
const LOG_BYTES: usize = 8 * 1024;

/// What the supervisor is told.
pub(crate) enum Note {
    /// The journal is a cluster.
    Bootstrapped,
    /// The replay can be connected to.
    ReplayListens,
    /// Everything is healthy.
    Healthy(Vec<Health>),
    /// Not everything was healthy in time.
    Late(Vec<Health>),
    /// It can't become healthy.
    Failed(Failure),
    /// The replicas have all that the journal has.
    ReplicasHaveAll,
}

/// Bootstraps the journal, then waits until everything is healthy, for `timeout` at most.
pub(crate) async fn start(env: Env, doctor: Doctor, timeout: Duration, notes: mpsc::Sender<Note>) {
    let until = env.now().plus(timeout);
    // A send fails only when the supervisor has gone, and this task with it.
    let bootstrapped = with_a_word(
        &env,
        "waiting for the journal nodes",
        bootstrap::bootstrap(doctor.client(), timeout),
    );
    match bootstrapped.await {
        Ok(_) => drop(notes.send(Note::Bootstrapped).await),
        Err(bootstrap::Error::Unavailable(_)) => {
            drop(notes.send(Note::Late(doctor.examine().await)).await);
            return;
        }
        Err(bootstrap::Error::Final(failure)) => {
            drop(notes.send(Note::Failed(failure)).await);
            return;
        }
    }
    doctor.replay_listens(REPLAY_WAIT).await;
    drop(notes.send(Note::ReplayListens).await);
    drop(notes.send(until_healthy(&env, &doctor, until).await).await);
}

/// Does `work`, and says every few seconds that it is still at it.
async fn with_a_word<F: Future>(env: &Env, what: &str, work: F) -> F::Output {
    let mut work = pin!(work);
    loop {
        match env.timeout(SAY_EVERY, work.as_mut()).await {
            Ok(done) => return done,
            Err(_) => output::note(&format!("  {what}")),
        }
    }
}

async fn until_healthy(env: &Env, doctor: &Doctor, until: BootTime) -> Note {
    let mut say_at = env.now().plus(SAY_EVERY);
    let mut progress = Progress::default();
    loop {
        let health = doctor.examine().await;
        for (part, what) in progress.newly_healthy(&health) {
            output::note(&format!("  {}: {what}", doctor.name(part)));
        }
        if health.iter().all(Result::is_ok) {
            return Note::Healthy(health);
        }
        let now = env.now();
        if now >= until {
            return Note::Late(health);
        }
        if now >= say_at {
            say_at = now.plus(SAY_EVERY);
            for (part, health) in health.iter().enumerate() {
                if let Err(why) = health {
                    output::note(&format!("  {} is waited for: {why}", doctor.name(part)));
                }
            }
            output::note(&format!("  ({} left)", duration::shown(until.since(now))));
        }
        env.sleep(EXAMINE_EVERY).await;
    }
}

/// Which components were said to be healthy.
#[derive(Default)]
struct Progress {
    said: BTreeSet<usize>,
}

impl Progress {
    /// Those that are healthy for the first time, and what they do.
    fn newly_healthy<'a>(&mut self, health: &'a [Health]) -> Vec<(usize, &'a str)> {
        let healthy = health
            .iter()
            .enumerate()
            .filter_map(|(part, h)| Some((part, h.as_ref().ok()?.as_str())));
        healthy.filter(|(part, _)| self.said.insert(*part)).collect()
    }
}

/// The last lines of a log, indented; a sentence instead if it can't be read.
pub(crate) fn last_lines(files: &dyn Files, path: &Path) -> String {
    let text = match plain_files::read_end(files, path, LOG_BYTES) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) => return format!("    (it can't be read: {e})"),
    };
    let lines: Vec<_> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_LINES);
    lines[from..]
        .iter()
        .map(|l| format!("    {l}"))
        .collect::<Vec<_>>()
        .join("\n")
}
