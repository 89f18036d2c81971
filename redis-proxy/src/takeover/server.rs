//! The cell's server, as the takeover looks at it and changes it.
//!
//! Promises that what changes a server is said on a connection that has just named the process that is meant
//! (H9), and that a master is never changed on the word of an older look.

use super::fitness::Settings;
use super::look::{Look, Promotion};
use crate::upstream::{Control, Upstream};
use redoubt_env::Env;
use redoubt_resp::info::{InfoError, parse_info, parse_replication, parse_server};
use redoubt_resp::reply::Value;
use redoubt_types::RunId;
use redoubt_types::limits::BACKLOG_BYTES;
use std::io;
use std::time::Duration;

/// How long one command may take. Longer than a fork of a large server.
const CALL_DEADLINE: Duration = Duration::from_secs(3);

/// A server that was asked for something did not do it, for now.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServerError {
    #[error("the server can't be asked: {0}")]
    Unreachable(#[from] io::Error),
    #[error("the server answered {asked} with {answer}")]
    Answer { asked: &'static str, answer: String },
    #[error("{0}")]
    Changed(String),
}

/// A connection to the server, made when it is needed.
pub(super) struct Server {
    env: Env,
    upstream: Upstream,
    /// The replay's host and port.
    replay: (String, String),
    control: Option<Control>,
}

impl Server {
    pub(super) fn new(env: Env, upstream: Upstream, replay: &str) -> Self {
        let (host, port) = replay.rsplit_once(':').unwrap_or((replay, "6379"));
        Server {
            env,
            upstream,
            replay: (host.to_owned(), port.to_owned()),
            control: None,
        }
    }

    /// Asks the server what it is. Only this begins a connection: whatever changes something follows a look
    /// on the same one.
    pub(super) async fn look(&mut self) -> Result<Look, ServerError> {
        if self.control.is_some()
            && let Ok(look) = self.look_on_kept().await
        {
            return Ok(look);
        }
        // None was kept, or its server is gone: that says nothing of who listens there now.
        self.control = Some(Control::connect(&self.env, &self.upstream, CALL_DEADLINE).await?);
        self.look_on_kept().await
    }

    async fn look_on_kept(&mut self) -> Result<Look, ServerError> {
        let answer = self.call("INFO", &[b"INFO"]).await?;
        let text = answer.as_bytes().unwrap_or_default();
        let odd = |e: InfoError| ServerError::Answer {
            asked: "INFO",
            answer: e.to_string(),
        };
        let (server, replication) = (
            parse_server(text).map_err(odd)?,
            parse_replication(text).map_err(odd)?,
        );
        let modules = parse_info(text).fields().filter(|(name, _)| *name == b"module");
        let settings = Settings {
            modules: modules.filter_map(|(_, told)| module(told)).collect(),
            databases: self.get("databases").await?.parse().unwrap_or_default(),
            read_only: self.get("replica-read-only").await? == "yes",
            ignores_maxmemory: self.get("replica-ignore-maxmemory").await? == "yes",
        };
        Ok(Look {
            server,
            replication,
            settings,
        })
    }

    /// What a parameter is set to.
    async fn get(&mut self, name: &str) -> Result<String, ServerError> {
        let answer = self
            .call("CONFIG GET", &[b"CONFIG", b"GET", name.as_bytes()])
            .await?;
        let value = answer.field(name).and_then(Value::as_str);
        Ok(value.unwrap_or_default().to_owned())
    }

    /// Sets the replica's backlog: large enough for an expiry burst during a cut (H13), and kept for ever.
    /// While it is still a replica, since some versions empty the backlog when it is resized. A larger one
    /// that somebody configured stays.
    pub(super) async fn prepare(&mut self, run_id: RunId) -> Result<(), ServerError> {
        let look = self.look_again(run_id).await?;
        if look.is_master() {
            return Err(ServerError::Changed("somebody made it a master".to_owned()));
        }
        let size: u64 = self.get("repl-backlog-size").await?.parse().unwrap_or(0);
        if size < BACKLOG_BYTES {
            self.set("repl-backlog-size", &BACKLOG_BYTES.to_string()).await?;
        }
        self.set("repl-backlog-ttl", "0").await
    }

    /// Checks once more, right before, and promotes. `Ok(Err(_))` says why nothing was done.
    pub(super) async fn promote(&mut self, want: &Promotion) -> Result<Result<Look, String>, ServerError> {
        let look = self.look().await?;
        if let Err(why) = look.promotable(want) {
            return Ok(Err(format!("the check before REPLICAOF NO ONE failed: {why}")));
        }
        self.ok("REPLICAOF NO ONE", &[b"REPLICAOF", b"NO", b"ONE"])
            .await?;
        Ok(Ok(self.look().await?))
    }

    /// Makes the server a replica of the replay, unless it is that already.
    pub(super) async fn demote(&mut self, run_id: RunId) -> Result<(), ServerError> {
        let look = self.look_again(run_id).await?;
        let (host, port) = self.replay.clone();
        if !look.is_master() && look.master_address() == Some(format!("{host}:{port}")) {
            return Ok(());
        }
        self.ok("REPLICAOF", &[b"REPLICAOF", host.as_bytes(), port.as_bytes()])
            .await
    }

    async fn look_again(&mut self, run_id: RunId) -> Result<Look, ServerError> {
        let look = self.look().await?;
        if look.server.run_id != run_id {
            let found = look.server.run_id;
            return Err(ServerError::Changed(format!(
                "its run_id is {found} now, it was {run_id}"
            )));
        }
        Ok(look)
    }

    async fn set(&mut self, name: &str, value: &str) -> Result<(), ServerError> {
        self.ok(
            "CONFIG SET",
            &[b"CONFIG", b"SET", name.as_bytes(), value.as_bytes()],
        )
        .await
    }

    async fn ok(&mut self, asked: &'static str, args: &[&[u8]]) -> Result<(), ServerError> {
        let answer = self.call(asked, args).await?;
        if answer.as_str().is_some_and(|text| text.starts_with("OK")) {
            return Ok(());
        }
        Err(ServerError::Answer {
            asked,
            answer: format!("{answer:?}"),
        })
    }

    /// One command on the kept connection: the one whose process the last look was about.
    async fn call(&mut self, asked: &'static str, args: &[&[u8]]) -> Result<Value, ServerError> {
        let lost = || ServerError::Changed("the connection was lost".to_owned());
        let mut control = self.control.take().ok_or_else(lost)?;
        let answer = control.call(args, CALL_DEADLINE).await?;
        self.control = Some(control);
        match answer.as_error() {
            Some(error) => Err(ServerError::Answer {
                asked,
                answer: format!("{error}{}", advice(error)),
            }),
            None => Ok(answer),
        }
    }
}

/// What people can do about an answer that would stay the same.
fn advice(error: &str) -> &'static str {
    match error.split(' ').next() {
        Some("NOAUTH") => {
            " It wants a password: name a user of its own for the proxy with --upstream-user and --upstream-password-file"
        }
        Some("NOPERM") => " The proxy's user needs more rights: docs/operations.md lists them",
        _ => "",
    }
}

/// A module's name and version, from INFO's `name=bf,ver=20802,api=1,…`.
fn module(told: &[u8]) -> Option<(String, u64)> {
    let told = std::str::from_utf8(told).ok()?;
    let part = |name: &str| {
        told.split(',')
            .find_map(|p| p.strip_prefix(name)?.strip_prefix('='))
    };
    Some((part("name")?.to_owned(), part("ver")?.parse().ok()?))
}
