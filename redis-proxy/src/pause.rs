//! CLIENT PAUSE: until when clients' commands are not passed on.
//!
//! The server itself would pause the proxy's own connections too, and with them every fence: so it is never told, and the
//! proxy keeps clients' requests instead. Decides what is paused, as the server would: the latest end that was asked for
//! and the stronger kind win, and UNPAUSE ends both. What may write is the server's own table of commands. Promises that a
//! pause begins only when the server has answered that the client may ask for such. Must not know a client's connection.

mod writes;

pub use writes::Writes;

use crate::session::Session;
use crate::upstream::{OWN, ProveError, prove};
use redoubt_env::{Env, Task};
use redoubt_resp::request::RequestHead;
use redoubt_types::BootTime;
use redoubt_types::limits::{PROVE_DEADLINE, UPSTREAM_RETRY_PAUSE};
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::Context;
use std::time::Duration;
use tokio::sync::watch;

/// What is paused, the weaker first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Commands that write, or may.
    Write,
    /// Every command.
    All,
}

/// A pause in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Paused {
    until: BootTime,
    kind: Kind,
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A pause of so many milliseconds.
    Pause(Kind, u64),
    /// The end of any.
    Unpause,
}

/// What is to be done with a `CLIENT PAUSE` or `UNPAUSE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// The proxy does it.
    Asks(Asked),
    /// The server is to complain of it.
    Wrong,
    /// Some servers would do it, others complain.
    Odd,
}

/// Judges a command; `None` for any other.
pub fn judge(head: &RequestHead) -> Option<Judged> {
    if !head.is(0, "client") {
        return None;
    }
    let hidden = head.is_partial() && head.args.len() < head.arg_count.min(4);
    match head.arg_count {
        2 if head.is(1, "unpause") => return Some(Judged::Asks(Asked::Unpause)),
        _ if head.is(1, "unpause") => return Some(Judged::Wrong),
        _ if !head.is(1, "pause") => return None,
        0..=2 => return Some(Judged::Wrong),
        _ if hidden => return Some(Judged::Odd),
        _ => {}
    }
    let text = std::str::from_utf8(head.arg(2)).unwrap_or_default();
    // As strictly as the server reads it: no `+`, no leading zero.
    let number = text.parse::<i64>().ok().filter(|n| n.to_string() == text);
    let Some(ms) = number.and_then(|n| u64::try_from(n).ok()) else {
        return Some(Judged::Wrong);
    };
    Some(match head.arg_count {
        3 => Judged::Asks(Asked::Pause(Kind::All, ms)),
        4 if head.is(3, "all") => Judged::Asks(Asked::Pause(Kind::All, ms)),
        4 if head.is(3, "write") => Judged::Asks(Asked::Pause(Kind::Write, ms)),
        4 => Judged::Wrong,
        _ => Judged::Odd,
    })
}

impl Asked {
    /// As the code of a marker.
    pub fn code(self) -> String {
        match self {
            Asked::Pause(Kind::All, ms) => format!("pause-all-{ms}"),
            Asked::Pause(Kind::Write, ms) => format!("pause-write-{ms}"),
            Asked::Unpause => "unpause".to_owned(),
        }
    }

    /// What such a code means.
    pub fn of_code(code: &str) -> Option<Self> {
        if code == "unpause" {
            return Some(Asked::Unpause);
        }
        let (kind, ms) = match code.strip_prefix("pause-all-") {
            Some(ms) => (Kind::All, ms),
            None => (Kind::Write, code.strip_prefix("pause-write-")?),
        };
        Some(Asked::Pause(kind, ms.parse().ok()?))
    }
}

/// What of a session's clients is paused.
#[derive(Debug)]
pub struct Pause {
    paused: watch::Sender<Option<Paused>>,
    writes: OnceLock<Arc<Writes>>,
    learning: OnceLock<Task<()>>,
}

impl Default for Pause {
    fn default() -> Self {
        Pause {
            paused: watch::Sender::new(None),
            writes: OnceLock::new(),
            learning: OnceLock::new(),
        }
    }
}

impl Pause {
    /// A client has asked for it, and may: it is in force from now on.
    pub fn ask(&self, asked: Asked, now: BootTime) {
        self.paused.send_modify(|paused| {
            let current = paused.filter(|p| now < p.until);
            *paused = match asked {
                Asked::Unpause => None,
                Asked::Pause(kind, ms) => {
                    let until = now.plus(Duration::from_millis(ms));
                    Some(Paused {
                        until: current.map_or(until, |p| p.until.max(until)),
                        kind: current.map_or(kind, |p| p.kind.max(kind)),
                    })
                }
            };
        });
    }

    /// Which commands may write, once that is known.
    pub fn writes(&self) -> Option<&Arc<Writes>> {
        self.writes.get()
    }
}

/// Asks the session's server which commands may write, unless somebody does.
fn learn(session: &Arc<Session>, env: &Env) {
    session.pause.learning.get_or_init(|| {
        let (session, env) = (Arc::clone(session), env.clone());
        env.clone().spawn(async move {
            while session.ended().is_none() {
                match ask(&session, &env).await {
                    Ok(writes) => {
                        let _first = session.pause.writes.set(Arc::new(writes));
                        // Whoever waits is to look again.
                        session.pause.paused.send_modify(|_| {});
                        return;
                    }
                    Err(error) => tracing::debug!(%error, "the server was not asked which commands write"),
                }
                env.sleep(UPSTREAM_RETRY_PAUSE).await;
            }
        })
    });
}

async fn ask(session: &Session, env: &Env) -> Result<Writes, ProveError> {
    let mut control = prove(session, env).await?.control;
    let questions: &[&[&[u8]]] = &[&[b"PING", OWN], &[b"COMMAND"]];
    let answers = control.call_all(questions, PROVE_DEADLINE).await?;
    Ok(answers.get(1).map(Writes::of).unwrap_or_default())
}

type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One task's view of the pause.
pub struct Watcher {
    env: Env,
    session: Arc<Session>,
    paused: watch::Receiver<Option<Paused>>,
    changed: Waiting,
    /// The end that is awaited.
    end: Option<(BootTime, Waiting)>,
}

impl Watcher {
    /// Of this session's.
    pub fn new(session: Arc<Session>, env: Env) -> Self {
        let paused = session.pause.paused.subscribe();
        Watcher {
            env,
            session,
            changed: changed(paused.clone()),
            paused,
            end: None,
        }
    }

    /// What is paused now. The task is woken when that changes. As long as it is not known what may write, all does.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Option<Kind> {
        while self.changed.as_mut().poll(cx).is_ready() {
            // Seen, or the next wait would be for the same change.
            self.paused.mark_unchanged();
            self.changed = changed(self.paused.clone());
        }
        let Some(Paused { until, kind }) = *self.paused.borrow() else {
            self.end = None;
            return None;
        };
        if self.end.as_ref().is_none_or(|(at, _)| *at != until) {
            let env = self.env.clone();
            self.end = Some((until, Box::pin(async move { env.sleep_until(until).await })));
        }
        // Looked at before the timer is polled, which must not be once it is over.
        if self.env.now() >= until {
            return None;
        }
        if let Some((_, timer)) = &mut self.end
            && timer.as_mut().poll(cx).is_ready()
        {
            self.end = None;
            return None;
        }
        if kind == Kind::Write && self.session.pause.writes().is_none() {
            learn(&self.session, &self.env);
            return Some(Kind::All);
        }
        Some(kind)
    }

    /// Which commands may write, if those are paused.
    pub fn held_writes(&self, paused: Option<Kind>) -> Option<Arc<Writes>> {
        paused.and(self.session.pause.writes().cloned())
    }
}

fn changed(mut watched: watch::Receiver<Option<Paused>>) -> Waiting {
    Box::pin(async move {
        if watched.changed().await.is_err() {
            // The session is gone, and with it whoever asks.
            pending::<()>().await;
        }
    })
}

#[cfg(test)]
mod tests;
