//! One connection to the target: what it is asked and told.
//!
//! Promises that nothing is sent to be queued before the server has said OK to MULTI, and that MULTI stands behind a WATCH of the
//! position's key whose value was seen since. A server that refused MULTI (an ACL, for instance) and took what follows would
//! apply a batch without its position. All three travel behind the EXEC before, so they cost no round trip.

use super::batch::{Batch, Outcome, judge, passes};
use super::endpoint::Endpoint;
use crate::keyspace::keys_by_db;
use bytes::BytesMut;
use redoubt_env::net::{Conn, Net};
use redoubt_env::{Env, planted};
use redoubt_resp::info::parse_info;
use redoubt_resp::reply::{ReplyScanner, Value, parse_frame};
use redoubt_resp::stream::encode_command;
use redoubt_types::Db;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Connecting, and the answers to a small question, at most.
const ASK_DEADLINE: Duration = Duration::from_secs(20);
/// A transaction at most. A large FLUSHALL takes a while. What is executed later all the same does no harm: it was sent behind a
/// WATCH, and so were its successors.
const APPLY_DEADLINE: Duration = Duration::from_secs(120);
/// Read at once, bytes.
const READ_BYTES: usize = 64 * 1024;
/// How the connection is called in the server's CLIENT LIST.
const NAME: &[u8] = b"redoubt-replay";

/// What went wrong with the target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TargetError {
    /// The connection is gone, or never was. What was under way may have happened or not.
    #[error("{0}")]
    Lost(String),
    /// It can't, for now.
    #[error("{0}")]
    Later(String),
    /// It refuses, and would again.
    #[error("it answered {command} with: {error}")]
    Refused {
        /// The command's name.
        command: String,
        /// What it said.
        error: String,
    },
}

impl TargetError {
    /// The same, of what `command` says.
    pub(super) fn about(self, command: &str) -> Self {
        match self {
            TargetError::Refused { error, .. } => TargetError::Refused {
                command: command.to_owned(),
                error,
            },
            other => other,
        }
    }
}

/// What the server says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// Keys by database.
    pub(super) keys: Vec<(Db, u64)>,
    pub(super) is_replica: bool,
    pub(super) is_cluster: bool,
    /// It has a limit of memory, and drops keys at it.
    pub(super) evicts: bool,
}

/// See the module's head.
pub(super) struct Target {
    env: Env,
    conn: Box<dyn Conn>,
    input: BytesMut,
}

impl Target {
    /// Connects, and authenticates if the endpoint says as whom.
    pub(super) async fn open(
        env: &Env,
        net: &Arc<dyn Net>,
        endpoint: &Endpoint,
    ) -> Result<Self, TargetError> {
        let connecting = env.timeout(ASK_DEADLINE, net.connect(endpoint.address())).await;
        let lost = |e: &dyn std::fmt::Display| TargetError::Lost(format!("it can't be reached: {e}"));
        let conn = connecting.map_err(|e| lost(&e))?.map_err(|e| lost(&e))?;
        let mut target = Target {
            env: env.clone(),
            conn,
            input: BytesMut::new(),
        };
        if let Some(auth) = endpoint.auth() {
            target.call(&auth).await?;
        }
        // For people; not every server lets everybody.
        target.ask(&[vec![b"CLIENT", b"SETNAME", NAME]]).await?;
        Ok(target)
    }

    /// What decides whether it may be followed into.
    pub(super) async fn state(&mut self) -> Result<State, TargetError> {
        let answer = self.call(&[b"INFO"]).await?;
        let info = parse_info(answer.as_bytes().unwrap_or_default());
        Ok(State {
            keys: keys_by_db(info).collect(),
            is_replica: info.get("role") == Some("slave"),
            is_cluster: info.get("cluster_enabled") == Some("1"),
            evicts: info.get("maxmemory").is_some_and(|max| max != "0")
                && info
                    .get("maxmemory_policy")
                    .is_some_and(|policy| policy != "noeviction"),
        })
    }

    /// How many function libraries it has; none where it knows no functions.
    pub(super) async fn functions(&mut self) -> Result<usize, TargetError> {
        let answers = self.ask(&[vec![b"FUNCTION", b"LIST"]]).await?;
        let libraries = answers.first().and_then(Value::as_array);
        Ok(libraries.map_or(0, <[Value]>::len))
    }

    /// Watches `key` and returns its value.
    pub(super) async fn watch(&mut self, key: &str) -> Result<Option<Vec<u8>>, TargetError> {
        self.call(&[b"WATCH", key.as_bytes()]).await?;
        let value = self.call(&[b"GET", key.as_bytes()]).await?;
        Ok(value.as_bytes().map(<[u8]>::to_vec))
    }

    /// Begins a transaction.
    pub(super) async fn multi(&mut self) -> Result<(), TargetError> {
        self.call(&[b"MULTI"]).await.map(drop)
    }

    /// Has `batch` executed, which ends with `value` being set under `key`, and begins the next transaction. Only behind
    /// [`Target::multi`] or an outcome of [`Outcome::Applied`]; after any other, and any error, the connection is of no use.
    pub(super) async fn apply(
        &mut self,
        batch: &Batch,
        key: &str,
        value: &str,
    ) -> Result<Outcome, TargetError> {
        let env = self.env.clone();
        let applied = env.timeout(APPLY_DEADLINE, self.execute(batch, key, value)).await;
        applied.map_err(|e| TargetError::Lost(format!("it did not answer EXEC: {e}")))?
    }

    async fn execute(&mut self, batch: &Batch, key: &str, value: &str) -> Result<Outcome, TargetError> {
        let mut behind = BytesMut::new();
        encode_command(&[b"EXEC"], &mut behind);
        let next: [&[&[u8]]; 3] = [
            &[b"WATCH", key.as_bytes()],
            &[b"GET", key.as_bytes()],
            &[b"MULTI"],
        ];
        if planted::on("position_apart_from_the_data") {
            self.send(batch.bytes()).await?;
            self.send(&behind).await?;
            for _ in 0..=batch.commands() {
                self.answer().await?;
            }
            self.env.sleep(Duration::from_millis(5)).await;
            behind.clear();
            encode_command(&[b"SET", key.as_bytes(), value.as_bytes()], &mut behind);
            next.iter().for_each(|c| encode_command(c, &mut behind));
            self.send(&behind).await?;
            for _ in 0..4 {
                self.answer().await?;
            }
            return Ok(Outcome::Applied);
        }
        next.iter()
            .for_each(|command| encode_command(command, &mut behind));
        self.send(batch.bytes()).await?;
        self.send(&behind).await?;
        let mut queued = Vec::with_capacity(batch.commands());
        for _ in 0..batch.commands() {
            queued.push(self.answer().await?);
        }
        let outcome = judge(batch, &queued, &self.answer().await?);
        if outcome != Outcome::Applied {
            return Ok(outcome);
        }
        let (_watch, get, multi) = (self.answer().await?, self.answer().await?, self.answer().await?);
        if let Some(error) = multi.as_error() {
            return Err(refused("MULTI", error));
        }
        // Somebody else may have written it between EXEC and WATCH.
        let unchanged = get.as_bytes() == Some(value.as_bytes());
        Ok(if unchanged {
            Outcome::Applied
        } else {
            Outcome::Moved
        })
    }

    /// Sends one command and returns its answer; an error is an error.
    pub(super) async fn call(&mut self, args: &[&[u8]]) -> Result<Value, TargetError> {
        let answers = self.ask(&[args.to_vec()]).await?;
        let answer = answers.into_iter().next().unwrap_or(Value::Null);
        match answer.as_error() {
            Some(error) => Err(refused(&String::from_utf8_lossy(args[0]), error)),
            None => Ok(answer),
        }
    }

    /// Sends some commands and returns the answers to all of them, errors among them.
    pub(super) async fn ask(&mut self, commands: &[Vec<&[u8]>]) -> Result<Vec<Value>, TargetError> {
        let env = self.env.clone();
        let asked = async {
            let mut output = BytesMut::new();
            commands.iter().for_each(|args| encode_command(args, &mut output));
            self.send(&output).await?;
            let mut answers = Vec::with_capacity(commands.len());
            for _ in commands {
                answers.push(self.answer().await?);
            }
            Ok(answers)
        };
        let answered = env.timeout(ASK_DEADLINE, asked).await;
        answered.map_err(|e| TargetError::Lost(format!("it did not answer: {e}")))?
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), TargetError> {
        let sent = self.conn.write_all(bytes).await;
        sent.map_err(|e| TargetError::Lost(format!("the connection failed: {e}")))
    }

    async fn answer(&mut self) -> Result<Value, TargetError> {
        let wrong = |e: &dyn std::fmt::Display| {
            TargetError::Lost(format!("it does not answer as a server does: {e}"))
        };
        let mut scanner = ReplyScanner::new();
        let mut scanned = 0;
        loop {
            let found = scanner
                .next_frame(&self.input[scanned..])
                .map_err(|e| wrong(&e))?;
            if let Some(frame) = found {
                let bytes = self.input.split_to(scanned + frame.end);
                let parsed = parse_frame(&bytes).map_err(|e| wrong(&e))?;
                return parsed
                    .map(|(value, _)| value)
                    .ok_or_else(|| wrong(&"an answer was cut"));
            }
            scanned = self.input.len();
            self.input.reserve(READ_BYTES);
            match self.conn.read_buf(&mut self.input).await {
                Ok(0) => return Err(TargetError::Lost("it closed the connection".to_owned())),
                Ok(_) => {}
                Err(e) => return Err(TargetError::Lost(format!("the connection failed: {e}"))),
            }
        }
    }
}

fn refused(command: &str, error: &str) -> TargetError {
    if passes(error) {
        TargetError::Later(error.to_owned())
    } else {
        TargetError::Refused {
            command: command.to_owned(),
            error: error.to_owned(),
        }
    }
}
