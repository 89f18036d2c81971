//! Proof that a connection leads to the session's server process (H9).
//!
//! A name or an address may lead two connections to two servers, and a server that was killed and restarted
//! answers at the same port with older data and plausible offsets. So no byte of a client passes over a
//! connection whose other end has not named the session's `run_id` on that very connection; a connection
//! can't change its process later.

use super::{Control, OWN};
use crate::session::{EndReason, Session};
use bytes::BytesMut;
use redoubt_env::net::Conn;
use redoubt_env::{Env, planted};
use redoubt_resp::info::parse_server;
use redoubt_resp::reply::Value;
use redoubt_types::limits::{PROVE_DEADLINE, UPSTREAM_RETRY_PAUSE};
use std::io;

/// A connection to the session's server process.
pub struct Proven {
    /// The connection; nothing but the proof has passed over it.
    pub control: Control,
    /// Its id, as the server counts connections.
    pub id: u64,
    /// Its address, as the server sees it.
    pub addr: String,
}

impl Proven {
    /// The bare connection, with what the server sent past the proof.
    ///
    /// # Errors
    /// When the connection has failed.
    pub fn into_conn(self) -> io::Result<(Box<dyn Conn>, BytesMut)> {
        self.control.into_conn()
    }
}

/// Why a connection is not proven.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// Another process answers: the session has been ended.
    #[error("{0}")]
    Changed(String),
    /// The server takes no connection: its own error text.
    #[error("the server refuses: {0}")]
    Refused(String),
    /// No connection, or no answer. Worth another try.
    #[error("the server can't be asked: {0}")]
    Unavailable(#[from] io::Error),
}

/// Connects to the session's server, as the proxy's user, and has it name its process. Waits while the server is busy with a script
/// (H11), for as long as the session lasts: the caller sets the deadline, if any.
///
/// # Errors
/// When another process answers, which ends the session; when the server refuses; or when it can't be asked.
pub async fn prove(session: &Session, env: &Env) -> Result<Proven, ProveError> {
    let mut control = Control::connect(env, &session.upstream, PROVE_DEADLINE).await?;
    loop {
        let commands: &[&[&[u8]]] = &[&[b"INFO", b"server", OWN], &[b"CLIENT", b"INFO"]];
        let answers = control.call_all(commands, PROVE_DEADLINE).await?;
        if let Some(error) = answers.iter().find_map(Value::as_error) {
            if is_for_now(error) {
                env.sleep(UPSTREAM_RETRY_PAUSE).await;
                continue;
            }
            return Err(ProveError::Refused(error.to_owned()));
        }
        let [server, client] = answers.as_slice() else {
            return Err(io::Error::other("two commands had not two answers").into());
        };
        check_process(session, server)?;
        let (id, addr) = own_connection(client)
            .ok_or_else(|| io::Error::other("CLIENT INFO does not tell the connection's id and address"))?;
        return Ok(Proven { control, id, addr });
    }
}

/// The same for a connection that a client is to have: proven as the proxy's user, and then left as the server leaves a new
/// one. So what the client may do is between it and the server.
///
/// # Errors
/// As [`prove`].
pub async fn prove_for_client(session: &Session, env: &Env) -> Result<Proven, ProveError> {
    let mut proven = prove(session, env).await?;
    if session.upstream.login().is_some() && !planted::on("client_has_the_proxys_login") {
        proven.control.reset(PROVE_DEADLINE).await?;
    }
    Ok(proven)
}

/// What a server says of itself stands for a session: while it is busy with a script, or loads, it has said nothing.
///
/// # Errors
/// When one of its answers is that it is busy. Worth another try.
pub(crate) fn busy_is_no_answer(answers: &[Value]) -> io::Result<()> {
    let busy = answers.iter().filter_map(Value::as_error).find(|e| is_for_now(e));
    busy.map_or(Ok(()), |error| Err(io::Error::other(error.to_owned())))
}

fn is_for_now(error: &str) -> bool {
    error.starts_with("BUSY ") || error.starts_with("LOADING ")
}

fn check_process(session: &Session, server: &Value) -> Result<(), ProveError> {
    let text = server
        .as_bytes()
        .ok_or_else(|| io::Error::other("INFO's answer is no text"))?;
    let info = parse_server(text).map_err(io::Error::other)?;
    if info.run_id != session.run_id && !planted::on("h09_no_run_id") {
        let why = format!(
            "at {} the process {} answers, not the session's {}",
            session.upstream, info.run_id, session.run_id
        );
        session.end(EndReason::ServerChanged(why.clone()));
        return Err(ProveError::Changed(why));
    }
    Ok(())
}

/// Id and address in an answer to `CLIENT INFO`: `id=7 addr=127.0.0.1:5000 laddr=… …`.
fn own_connection(answer: &Value) -> Option<(u64, String)> {
    let text = answer.as_str()?;
    let field = |name: &str| {
        text.split([' ', '\n'])
            .find_map(|f| f.strip_prefix(name)?.strip_prefix('='))
    };
    Some((field("id")?.parse().ok()?, field("addr")?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_knows_its_id_and_address() {
        let text = "id=7 addr=127.0.0.1:5000 laddr=127.0.0.1:6379 fd=8 name= age=0\n";
        let own = own_connection(&Value::Bulk(text.into()));
        assert_eq!(own, Some((7, "127.0.0.1:5000".to_owned())));
        assert_eq!(own_connection(&Value::Bulk("fd=8".into())), None);
        assert_eq!(own_connection(&Value::Null), None);
    }
}
