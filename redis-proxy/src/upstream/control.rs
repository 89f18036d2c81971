//! A connection for commands of the proxy's own: one command, one answer, each with a deadline.

use super::OWN;
use super::access::{Login, Upstream};
use bytes::BytesMut;
use redoubt_env::Env;
use redoubt_env::net::Conn;
use redoubt_resp::reply::{ReplyScanner, Value, parse_frame};
use redoubt_resp::stream::encode_command;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::Context;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Read at once, bytes: an INFO section fits.
const READ_BYTES: usize = 8 * 1024;
/// An answer to a command of our own at most, bytes; a whole INFO has about 6 KB, COMMAND 200 KB and more with each module.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A connection to a server on which this proxy asks for itself.
///
/// After any failure, and after a call that was dropped before its answer came, the connection is out of
/// step: every further call fails.
pub struct Control {
    env: Env,
    conn: Box<dyn Conn>,
    input: BytesMut,
    /// Who is to be authenticated before the first command.
    login: Option<Login>,
    /// Answers that were asked for and not read.
    unanswered: usize,
    failed: bool,
}

impl Control {
    /// Connects to the server. Where it wants that, the first call authenticates, in the same write.
    ///
    /// # Errors
    /// When that fails, or takes longer than `deadline`.
    pub async fn connect(env: &Env, upstream: &Upstream, deadline: Duration) -> io::Result<Self> {
        let conn = env
            .timeout(deadline, upstream.connect(env))
            .await
            .map_err(timed_out)??;
        Ok(Control {
            login: upstream.login().cloned(),
            ..Control::over(env, conn)
        })
    }

    /// A connection on which nothing is under way.
    pub fn over(env: &Env, conn: Box<dyn Conn>) -> Self {
        Control {
            env: env.clone(),
            conn,
            input: BytesMut::new(),
            login: None,
            unanswered: 0,
            failed: false,
        }
    }

    /// Sends one command and waits for its answer, an error answer included.
    ///
    /// # Errors
    /// When the connection fails, the answer can't be read, or takes longer than `deadline`; `PermissionDenied` when the
    /// server does not let the proxy in. The connection is of no use any more then.
    pub async fn call(&mut self, args: &[&[u8]], deadline: Duration) -> io::Result<Value> {
        let mut answers = self.call_all(&[args], deadline).await?;
        answers
            .pop()
            .ok_or_else(|| io::Error::other("a command got no answer"))
    }

    /// Sends some commands at once and waits for the answers to all of them. There are fewer, the last an error, when the
    /// server closed the connection with that: so it turns away whom it does not take.
    ///
    /// # Errors
    /// As [`Control::call`].
    pub async fn call_all(&mut self, commands: &[&[&[u8]]], deadline: Duration) -> io::Result<Vec<Value>> {
        if self.failed || self.unanswered > 0 {
            return Err(io::Error::other(
                "the connection is out of step after an earlier failure",
            ));
        }
        let env = self.env.clone();
        let result = match env.timeout(deadline, self.exchange(commands)).await {
            Ok(result) => result,
            Err(elapsed) => Err(timed_out(elapsed)),
        };
        self.failed = result.is_err();
        result
    }

    /// Has the server forget who was authenticated: from here on the connection is as a new one is, which authenticates by
    /// itself if the server wants that. It stays one to the same process.
    ///
    /// # Errors
    /// As [`Control::call`], and when the server does not do that.
    pub async fn reset(&mut self, deadline: Duration) -> io::Result<()> {
        // RESET takes no word of the proxy's own: what stands before it tells MONITOR whose it is.
        let commands: &[&[&[u8]]] = &[&[b"INFO", b"reset", OWN], &[b"RESET"]];
        let answers = self.call_all(commands, deadline).await?;
        let answer = answers.last();
        if answer.and_then(Value::as_str) == Some("RESET") {
            return Ok(());
        }
        self.failed = true;
        Err(io::Error::other(format!("RESET was answered with {answer:?}")))
    }

    /// The bare connection, for other bytes than commands and answers, with what was received past the last
    /// answer.
    ///
    /// # Errors
    /// When the connection failed or is out of step.
    pub fn into_conn(self) -> io::Result<(Box<dyn Conn>, BytesMut)> {
        if self.failed || self.unanswered > 0 {
            return Err(io::Error::other(
                "the connection is out of step after an earlier failure",
            ));
        }
        Ok((self.conn, self.input))
    }

    /// Whether the connection is still there, and silent as it should be when nothing was asked. `cx` is woken when that
    /// changes.
    pub fn poll_is_idle(&mut self, cx: &mut Context<'_>) -> bool {
        pin!(self.conn.read_buf(&mut self.input)).poll(cx).is_pending()
    }

    async fn exchange(&mut self, commands: &[&[&[u8]]]) -> io::Result<Vec<Value>> {
        let mut output = BytesMut::new();
        let login = self.login.take();
        if let Some(login) = &login {
            let (user, password) = (login.user(), login.password());
            encode_command(&[b"AUTH", user.as_bytes(), password.as_bytes()], &mut output);
        }
        for args in commands {
            encode_command(args, &mut output);
        }
        self.unanswered = commands.len() + usize::from(login.is_some());
        self.conn.write_all(&output).await?;
        if let Some(login) = &login {
            let answer = self.answer().await?;
            if let Some(error) = answer.as_error() {
                return Err(login.refused(&self.env, error));
            }
            self.unanswered -= 1;
        }
        let mut answers = Vec::with_capacity(commands.len());
        while self.unanswered > 0 {
            match self.answer().await {
                Ok(answer) => answers.push(answer),
                Err(_) if answers.last().is_some_and(|a: &Value| a.as_error().is_some()) => {
                    return Ok(answers);
                }
                Err(error) => return Err(error),
            }
            self.unanswered -= 1;
        }
        Ok(answers)
    }

    async fn answer(&mut self) -> io::Result<Value> {
        let mut scanner = ReplyScanner::new();
        let mut scanned = 0;
        loop {
            let end = scanner
                .next_frame(&self.input[scanned..])
                .map_err(io::Error::other)?;
            if let Some(frame) = end {
                let bytes = self.input.split_to(scanned + frame.end);
                let parsed = parse_frame(&bytes).map_err(io::Error::other)?;
                return parsed
                    .map(|(value, _)| value)
                    .ok_or_else(|| io::Error::other("an answer was cut"));
            }
            scanned = self.input.len();
            if scanned > ANSWER_BYTES_MAX {
                return Err(io::Error::other("an answer is too long"));
            }
            self.input.reserve(READ_BYTES);
            if self.conn.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn timed_out(elapsed: redoubt_env::Elapsed) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, elapsed)
}
