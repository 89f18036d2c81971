//! The server that is rebuilt into, over one RESP connection: what it says and what it is told.

use crate::config::{TARGET_ANSWER_BYTES_MAX, TARGET_DEADLINE};
use crate::keyspace::keys_by_db;
use bytes::{Buf, BytesMut};
use redoubt_env::Env;
use redoubt_env::net::Conn;
use redoubt_resp::info::{
    InfoError, ReplicationInfo, ServerInfo, parse_info, parse_replication, parse_server,
};
use redoubt_resp::reply::{ReplyError, Value, parse_frame};
use redoubt_resp::stream::encode_command;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What went wrong with the server.
#[derive(Debug, thiserror::Error)]
pub(super) enum TargetError {
    #[error("it can't be reached: {0}")]
    Io(#[from] io::Error),
    #[error("it gave no answer to {0} within {TARGET_DEADLINE:?}")]
    Silent(String),
    #[error("it closed the connection")]
    Closed,
    #[error("it does not answer as a redis-server: {0}")]
    Reply(#[from] ReplyError),
    #[error("it does not answer as a redis-server: {0}")]
    Info(#[from] InfoError),
    #[error("it answered {command} with: {answer}")]
    Refused { command: String, answer: String },
    #[error("{0}")]
    Unexpected(String),
}

/// What the server says about itself.
pub(super) struct TargetState {
    pub(super) server: ServerInfo,
    pub(super) replication: ReplicationInfo,
    /// Keys in all databases.
    pub(super) keys: u64,
    /// Function libraries.
    pub(super) functions: usize,
}

/// A connection to the server.
pub(super) struct Target {
    env: Env,
    conn: Box<dyn Conn>,
    input: BytesMut,
}

impl Target {
    /// Connects to `address` (`host:port`).
    pub(super) async fn connect(env: &Env, address: &str) -> Result<Self, TargetError> {
        let connecting = env.timeout(TARGET_DEADLINE, env.net().connect(address)).await;
        let conn = connecting.map_err(|_| TargetError::Silent("a connection attempt".to_owned()))??;
        Ok(Target {
            env: env.clone(),
            conn,
            input: BytesMut::new(),
        })
    }

    /// Over a connection of its own, for when the first one may be broken: the server is no replica any more.
    pub(super) async fn release(env: &Env, address: &str) -> Result<(), TargetError> {
        Target::connect(env, address).await?.let_go().await
    }

    /// The IP address at which the server sees this program: it can be reached there in turn, unless something
    /// in between translates addresses.
    pub(super) async fn this_side(&mut self) -> Result<String, TargetError> {
        let answer = self.call(&["CLIENT", "INFO"]).await?;
        let address = answer
            .as_str()
            .and_then(|t| t.split(' ').find_map(|field| field.strip_prefix("addr=")));
        let ip = address
            .and_then(|a| a.rsplit_once(':'))
            .map(|(ip, _)| ip.trim_matches(['[', ']']));
        ip.map(str::to_owned)
            .ok_or_else(|| unexpected("CLIENT INFO", &answer))
    }

    /// All that decides whether the server may be rebuilt into.
    pub(super) async fn state(&mut self) -> Result<TargetState, TargetError> {
        let answer = self.call(&["INFO"]).await?;
        let text = answer.as_bytes().ok_or_else(|| unexpected("INFO", &answer))?;
        let server = parse_server(text)?;
        let replication = parse_replication(text)?;
        let keys = keys_by_db(parse_info(text)).map(|(_, keys)| keys).sum();
        // Functions came with 7.0, and a server that is loading does not list them: it is unfit all the same.
        let listable = server.version >= (7, 0, 0) && !server.loading;
        let functions = if listable { self.functions().await? } else { 0 };
        Ok(TargetState {
            server,
            replication,
            keys,
            functions,
        })
    }

    async fn functions(&mut self) -> Result<usize, TargetError> {
        let answer = self.call(&["FUNCTION", "LIST"]).await?;
        answer
            .as_array()
            .map(<[Value]>::len)
            .ok_or_else(|| unexpected("FUNCTION LIST", &answer))
    }

    /// Its replication section.
    pub(super) async fn replication(&mut self) -> Result<ReplicationInfo, TargetError> {
        let answer = self.call(&["INFO", "replication"]).await?;
        let text = answer
            .as_bytes()
            .ok_or_else(|| unexpected("INFO replication", &answer))?;
        Ok(parse_replication(text)?)
    }

    /// Makes it a replica of `host:port`.
    pub(super) async fn replicate_from(&mut self, host: &str, port: &str) -> Result<(), TargetError> {
        self.ok(&["REPLICAOF", host, port]).await
    }

    /// Makes it a master again.
    pub(super) async fn let_go(&mut self) -> Result<(), TargetError> {
        self.ok(&["REPLICAOF", "NO", "ONE"]).await
    }

    async fn ok(&mut self, command: &[&str]) -> Result<(), TargetError> {
        let answer = self.call(command).await?;
        // A server that is what it is told to be already says so behind the OK.
        match answer.as_str() {
            Some(text) if text.starts_with("OK") => Ok(()),
            _ => Err(unexpected(&command.join(" "), &answer)),
        }
    }

    /// Sends one command and returns its answer; an error is a [`TargetError::Refused`].
    async fn call(&mut self, command: &[&str]) -> Result<Value, TargetError> {
        let name = command.join(" ");
        let env = self.env.clone();
        let answered = env.timeout(TARGET_DEADLINE, self.exchange(command)).await;
        let answer = answered.map_err(|_| TargetError::Silent(name.clone()))??;
        match answer.as_error() {
            Some(error) => Err(TargetError::Refused {
                command: name,
                answer: error.to_owned(),
            }),
            None => Ok(answer),
        }
    }

    async fn exchange(&mut self, command: &[&str]) -> Result<Value, TargetError> {
        let mut out = BytesMut::new();
        let args: Vec<&[u8]> = command.iter().map(|a| a.as_bytes()).collect();
        encode_command(&args, &mut out);
        self.conn.write_all(&out).await?;
        loop {
            if let Some((answer, used)) = parse_frame(&self.input)? {
                self.input.advance(used);
                return Ok(answer);
            }
            if self.input.len() > TARGET_ANSWER_BYTES_MAX {
                let why = format!(
                    "its answer to {} has more than {TARGET_ANSWER_BYTES_MAX} bytes",
                    command[0]
                );
                return Err(TargetError::Unexpected(why));
            }
            self.input.reserve(4096);
            if self.conn.read_buf(&mut self.input).await? == 0 {
                return Err(TargetError::Closed);
            }
        }
    }
}

fn unexpected(command: &str, answer: &Value) -> TargetError {
    let mut text = format!("{answer:?}");
    if let Some((end, _)) = text.char_indices().nth(200) {
        text.truncate(end);
    }
    TargetError::Refused {
        command: command.to_owned(),
        answer: text,
    }
}
