//! The replica's side: what capture says to a stock master so that it sends its stream.

use crate::number::unsigned;
use crate::stream::encode_command;
use bytes::{Buf, Bytes, BytesMut};
use redoubt_types::limits::LINE_BYTES_MAX;
use redoubt_types::{Offset, ReplId};

/// How to log in to the master.
#[derive(Clone, PartialEq, Eq)]
pub struct Auth {
    /// The user, or the default one.
    pub user: Option<String>,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// What the replica says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaIdentity {
    /// How to log in, if the master wants it.
    pub auth: Option<Auth>,
    /// The port that the master shows in INFO and ROLE.
    pub listening_port: u16,
}

/// How the handshake ended. The bytes behind the answer stay in the input: they are the stream's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandshakeOutcome {
    /// The stream goes on from the byte that was asked for.
    Continue {
        /// The master's replid; `None` when it said a bare `+CONTINUE`: the one that was asked for.
        replid: Option<ReplId>,
    },
    /// The master can't continue and is about to send its whole data set, which capture never accepts: close.
    FullResync {
        /// The master's replid.
        replid: ReplId,
        /// The offset that its data set would have.
        offset: Offset,
    },
    /// The master can't answer now (it is loading, busy, or not connected itself): close and try again.
    Retry(String),
    /// The master says no: the text of its error.
    Refused(String),
}

/// A master's answer that can't be understood: close.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the master answered {step} with {}", .line.escape_ascii())]
pub struct MasterAnswerError {
    /// What was asked.
    pub step: &'static str,
    /// The answer's beginning.
    pub line: Bytes,
}

/// Steps, in order; each is sent when the one before was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Ping,
    Auth,
    Port,
    Capabilities,
    Psync,
    Done,
}

/// Asks a stock master for its stream from one offset on.
#[derive(Clone, Debug)]
pub struct ReplicaHandshake {
    identity: ReplicaIdentity,
    replid: ReplId,
    held: Offset,
    step: Step,
}

impl ReplicaHandshake {
    /// A handshake that asks for everything of `replid` behind `held`, and appends its first request to `out`.
    pub fn start(identity: ReplicaIdentity, replid: ReplId, held: Offset, out: &mut BytesMut) -> Self {
        let handshake = ReplicaHandshake {
            identity,
            replid,
            held,
            step: Step::Ping,
        };
        handshake.send(out);
        handshake
    }

    /// Takes answers off the front of `input` and appends the next request to `out`. Returns the outcome when
    /// there is one; `feed` must not be called after that.
    ///
    /// # Errors
    /// When an answer can't be understood.
    pub fn feed(
        &mut self,
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Result<Option<HandshakeOutcome>, MasterAnswerError> {
        while self.step != Step::Done {
            let Some(line) = self.take_line(input)? else {
                return Ok(None);
            };
            if let Some(outcome) = self.judge(&line)? {
                self.step = Step::Done;
                return Ok(Some(outcome));
            }
            self.step = match self.step {
                Step::Ping if self.identity.auth.is_some() => Step::Auth,
                Step::Ping | Step::Auth => Step::Port,
                Step::Port => Step::Capabilities,
                Step::Capabilities => Step::Psync,
                Step::Psync | Step::Done => Step::Done,
            };
            self.send(out);
        }
        Ok(None)
    }

    /// Whether PSYNC was sent and not answered yet. A master that can continue answers at once; one that
    /// sends newlines instead has put a full sync off (for its diskless delay, or while it forks for another).
    pub fn awaits_psync(&self) -> bool {
        self.step == Step::Psync
    }

    fn send(&self, out: &mut BytesMut) {
        match self.step {
            Step::Ping => encode_command(&[b"PING"], out),
            Step::Auth => {
                if let Some(Auth { user, password }) = &self.identity.auth {
                    let mut args: Vec<&[u8]> = vec![b"AUTH"];
                    args.extend(user.as_ref().map(String::as_bytes));
                    args.push(password.as_bytes());
                    encode_command(&args, out);
                }
            }
            Step::Port => {
                let port = self.identity.listening_port.to_string();
                encode_command(&[b"REPLCONF", b"listening-port", port.as_bytes()], out);
            }
            Step::Capabilities => encode_command(&[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"], out),
            Step::Psync => {
                let number = self.held.psync().to_string();
                encode_command(&[b"PSYNC", self.replid.as_bytes(), number.as_bytes()], out);
            }
            Step::Done => {}
        }
    }

    /// The next answer's line, without its CR LF. A master sends newlines to keep a waiting replica alive.
    fn take_line(&self, input: &mut BytesMut) -> Result<Option<Bytes>, MasterAnswerError> {
        let alive = input.iter().take_while(|b| **b == b'\n').count();
        input.advance(alive);
        let Some(lf) = input.iter().take(LINE_BYTES_MAX).position(|b| *b == b'\n') else {
            if input.len() >= LINE_BYTES_MAX {
                return Err(self.not_understood(input));
            }
            return Ok(None);
        };
        let line = input.split_to(lf + 1).freeze();
        match line.strip_suffix(b"\r\n") {
            Some(text) => Ok(Some(line.slice_ref(text))),
            None => Err(self.not_understood(&line)),
        }
    }

    fn not_understood(&self, line: &[u8]) -> MasterAnswerError {
        let step = match self.step {
            Step::Ping => "PING",
            Step::Auth => "AUTH",
            Step::Port => "REPLCONF listening-port",
            Step::Capabilities => "REPLCONF capa",
            Step::Psync | Step::Done => "PSYNC",
        };
        MasterAnswerError {
            step,
            line: Bytes::copy_from_slice(&line[..line.len().min(128)]),
        }
    }

    /// What an answer means at this step; `None` to go on.
    fn judge(&self, line: &Bytes) -> Result<Option<HandshakeOutcome>, MasterAnswerError> {
        if let Some(error) = line.strip_prefix(b"-") {
            let text = String::from_utf8_lossy(error).into_owned();
            // Before AUTH a master may want a password even for PING.
            if self.step == Step::Ping && self.identity.auth.is_some() && text.starts_with("NOAUTH") {
                return Ok(None);
            }
            const NOT_NOW: [&str; 4] = ["LOADING", "BUSY", "MASTERDOWN", "NOMASTERLINK"];
            let code = text.split(' ').next().unwrap_or_default();
            return Ok(Some(if NOT_NOW.contains(&code) {
                HandshakeOutcome::Retry(text)
            } else {
                HandshakeOutcome::Refused(text)
            }));
        }
        let words: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
        match (self.step, words.as_slice()) {
            (Step::Ping, [b"+PONG"]) | (Step::Auth | Step::Port | Step::Capabilities, [b"+OK"]) => Ok(None),
            (Step::Psync, [b"+CONTINUE"]) => Ok(Some(HandshakeOutcome::Continue { replid: None })),
            (Step::Psync, [b"+CONTINUE", replid]) => {
                let replid = ReplId::parse(replid).map_err(|_| self.not_understood(line))?;
                Ok(Some(HandshakeOutcome::Continue { replid: Some(replid) }))
            }
            (Step::Psync, [b"+FULLRESYNC", replid, offset]) => {
                let replid = ReplId::parse(replid).map_err(|_| self.not_understood(line))?;
                let offset = unsigned(offset).ok_or_else(|| self.not_understood(line))?;
                Ok(Some(HandshakeOutcome::FullResync {
                    replid,
                    offset: Offset::new(offset),
                }))
            }
            _ => Err(self.not_understood(line)),
        }
    }
}
