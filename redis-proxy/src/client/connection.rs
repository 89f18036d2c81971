//! One client's connection, and its connection to the server.
//!
//! The shell around [`Requests`] and [`Replies`]: one task moves bytes in four directions and waits for the
//! release, the session's end, backpressure and the release deadline. Promises that nothing is written that is
//! not released, and that nothing at all is written once the session is over or the deadline has passed: the
//! connection is dropped then, as when a server dies.
//!
//! Each round looks at the session's end first, then writes what is released, reads the server, writes the
//! server, reads the client: work that is under way goes before new work.

mod reading;

use super::replies::Replies;
use super::requests::Requests;
use super::shared::Names;
use super::ties::PLAIN_STREAK;
use super::turn::Turn;
use crate::pause;
use crate::session::Session;
use bytes::{Buf, BytesMut};
use redoubt_env::net::Conn;
use redoubt_env::{Env, planted};
use redoubt_types::BootTime;
use redoubt_types::limits::{CLIENT_LINGER, CLIENT_READ_BYTES_MAX, CLIENT_READ_BYTES_MIN, CLIENT_ROUNDS_MAX};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

type Waiting<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How a connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The server closed its side, and everything that it had sent was delivered.
    Delivered,
    /// It is dropped as it is.
    Dropped(&'static str),
    /// The client needs no connection of its own any more, and has had all its answers.
    Loose,
}

/// A client that needs no connection of its own any more.
pub(super) struct Loose {
    /// Its connection.
    pub(super) client: Box<dyn Conn>,
    /// What it has sent that was not passed on: nothing, or part of a command.
    pub(super) input: BytesMut,
    /// What it has said about itself.
    pub(super) names: Names,
    /// The connection that it had, if the server is to be asked which version of RESP was spoken there at last.
    pub(super) unsure: Option<Box<dyn Conn>>,
}

/// What one direction did when it was tried.
enum Step {
    Progress,
    Idle,
    Close(Ended),
}

/// A client's connection in service.
pub(super) struct Connection {
    env: Env,
    session: Arc<Session>,
    release_deadline: Duration,
    client: Box<dyn Conn>,
    /// Before the server connection, so that it is dropped before that: it holds the client's place among its peers.
    requests: Requests,
    upstream: Box<dyn Conn>,
    replies: Replies,
    input: BytesMut,
    outbound: BytesMut,
    client_read: ReadSize,
    upstream_read: ReadSize,
    client_read_side: ClientRead,
    upstream_write_side: UpstreamWrite,
    /// Whether the server connection can be read.
    upstream_readable: bool,
    /// What the client is told when the server has closed.
    last_line: Option<String>,
    turn: Turn,
    paused: pause::Watcher,
    /// Since when requests wait for that.
    waits_since: Option<BootTime>,
    deadline: Option<Waiting<()>>,
    /// Until when a WAIT for more replicas than there are keeps the client's next requests, or a CLIENT PAUSE that is not
    /// answered.
    pause: Option<Waiting<()>>,
    /// Once the proxy is to stop: ready when that is a while ago.
    drain: Option<Waiting<()>>,
}

/// What the client's bytes are read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientRead {
    Requests,
    /// Nothing but its end, after a protocol error: what waits for an answer must not outlive its client.
    EndOnly,
    Ended,
}

/// Whether the server can be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UpstreamWrite {
    Open,
    /// To be closed when everything is written.
    Closing,
    Closed,
}

/// How much to read at once: doubled while reads fill what they are given, halved when they come far short.
struct ReadSize(usize);

impl ReadSize {
    fn learn(&mut self, n: usize) {
        if n >= self.0 {
            self.0 = (self.0 * 2).min(CLIENT_READ_BYTES_MAX);
        } else if n < self.0 / 4 {
            self.0 = (self.0 / 2).max(CLIENT_READ_BYTES_MIN);
        }
    }
}

impl Connection {
    /// A connection whose server side is proven.
    pub(super) fn new(
        env: Env,
        session: Arc<Session>,
        release_deadline: Duration,
        (client, input): (Box<dyn Conn>, BytesMut),
        upstream: Box<dyn Conn>,
        requests: Requests,
        replies: Replies,
    ) -> Self {
        Connection {
            turn: Turn::new(Arc::clone(&session)),
            paused: pause::Watcher::new(Arc::clone(&session), env.clone()),
            waits_since: None,
            env,
            session,
            release_deadline,
            client,
            upstream,
            requests,
            replies,
            input,
            outbound: BytesMut::new(),
            client_read: ReadSize(CLIENT_READ_BYTES_MIN),
            upstream_read: ReadSize(CLIENT_READ_BYTES_MIN),
            client_read_side: ClientRead::Requests,
            upstream_write_side: UpstreamWrite::Open,
            upstream_readable: true,
            last_line: None,
            deadline: None,
            pause: None,
            drain: None,
        }
    }

    /// Serves until the connection ends, and ends it. From when `drains` is ready, it ends once the client has the answers
    /// to what it had sent.
    ///
    /// # Errors
    /// How it ended. What is returned else goes on being served.
    pub(super) async fn run(mut self, drains: impl Future<Output = ()>) -> Result<Loose, Ended> {
        let session = Arc::clone(&self.session);
        let mut drains = pin!(drains);
        let mut over = pin!(session.wait_end());
        let ended = poll_fn(|cx| {
            if over.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ended::Dropped("the session is over"));
            }
            if self.drain.is_none() && drains.as_mut().poll(cx).is_ready() {
                self.begin_drain(cx);
            }
            self.poll(cx)
        })
        .await;
        match ended {
            Ended::Loose => {
                let (names, said_hello) = self.requests.into_names();
                return Ok(Loose {
                    client: self.client,
                    input: self.input,
                    names,
                    unsure: said_hello.then_some(self.upstream),
                });
            }
            Ended::Delivered => {
                drop(self.requests);
                drop(self.upstream);
                linger(&self.env, self.client).await;
            }
            Ended::Dropped(_) => {}
        }
        Err(ended)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        // Before anything is asked of the hold, or a release in between would wake nobody.
        self.replies.waiter().register(cx.waker());
        for round in 1.. {
            let mut progress = false;
            for direction in [
                Self::write_client,
                Self::read_upstream,
                Self::write_upstream,
                Self::read_client,
            ] {
                match direction(self, cx) {
                    Step::Progress => progress = true,
                    Step::Idle => {}
                    Step::Close(ended) => return Poll::Ready(ended),
                }
            }
            if !progress {
                if self.is_loose() {
                    return Poll::Ready(Ended::Loose);
                }
                break;
            }
            if round == CLIENT_ROUNDS_MAX {
                cx.waker().wake_by_ref();
                break;
            }
        }
        ready!(self.poll_deadline(cx));
        Poll::Ready(Ended::Dropped("it waited past the deadline"))
    }

    /// Whether the client needs this connection no more, and nothing is under way on it.
    fn is_loose(&self) -> bool {
        let quiet = self.client_read_side == ClientRead::Requests
            && self.outbound.is_empty()
            && self.replies.is_empty()
            && self.replies.small_answers() >= PLAIN_STREAK.into();
        quiet && self.requests.owes_before_leaving() == Some(self.replies.answers())
    }

    /// Writes what is released.
    fn write_client(&mut self, cx: &mut Context<'_>) -> Step {
        let released = self.replies.released();
        if !released.is_empty() {
            return match Pin::new(&mut self.client).poll_write(cx, released) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.replies.written(n);
                    Step::Progress
                }
                Poll::Ready(_) => Step::Close(Ended::Dropped("the client is gone")),
                Poll::Pending => Step::Idle,
            };
        }
        if self.upstream_readable || !self.replies.is_empty() {
            return Step::Idle;
        }
        Step::Close(Ended::Delivered)
    }

    /// Reads the server and holds what came.
    fn read_upstream(&mut self, cx: &mut Context<'_>) -> Step {
        let room = self.replies.has_room() || planted::on("hold_without_bound");
        if !self.upstream_readable || !room {
            return Step::Idle;
        }
        let tail = self.replies.tail(self.upstream_read.0);
        let read = poll_read(&mut self.upstream, tail, cx);
        match read {
            Poll::Ready(Ok(n)) if n > 0 => {
                self.upstream_read.learn(n);
                let now = self.env.now();
                match self.replies.received(n, now) {
                    Ok(()) => {
                        for asked in self.replies.take_asked() {
                            self.session.pause.ask(asked, now);
                            self.pause = None;
                        }
                        Step::Progress
                    }
                    Err(_) => Step::Close(Ended::Dropped("the server's answers can't be read")),
                }
            }
            // An error is an end like any other: what was received before it stands.
            Poll::Ready(_) => {
                self.upstream_readable = false;
                self.stop_requests(UpstreamWrite::Closed);
                if let Some(line) = self.last_line.take() {
                    self.replies.append_line(&line, self.env.now());
                }
                Step::Progress
            }
            Poll::Pending => Step::Idle,
        }
    }

    /// Writes what the server is to get, and its end.
    fn write_upstream(&mut self, cx: &mut Context<'_>) -> Step {
        if self.upstream_write_side == UpstreamWrite::Closed {
            return Step::Idle;
        }
        if !self.outbound.is_empty() {
            return match Pin::new(&mut self.upstream).poll_write(cx, &self.outbound) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.outbound.advance(n);
                    Step::Progress
                }
                // The server has closed; what it sent before that is still to be read.
                Poll::Ready(_) => {
                    self.stop_requests(UpstreamWrite::Closed);
                    Step::Progress
                }
                Poll::Pending => Step::Idle,
            };
        }
        if self.upstream_write_side == UpstreamWrite::Closing {
            return match Pin::new(&mut self.upstream).poll_shutdown(cx) {
                Poll::Ready(_) => {
                    self.upstream_write_side = UpstreamWrite::Closed;
                    Step::Progress
                }
                Poll::Pending => Step::Idle,
            };
        }
        Step::Idle
    }

    /// Ready when bytes have been held, or waited for their turn, past the deadline. The timer is set for the oldest ones and left alone
    /// until it fires: a timer per reply would cost more than the reply.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(since) = self
            .replies
            .held_since()
            .into_iter()
            .chain(self.waits_since)
            .min()
        {
            let at = since.plus(self.release_deadline);
            let env = self.env.clone();
            let timer = self
                .deadline
                .get_or_insert_with(|| Box::pin(async move { env.sleep_until(at).await }));
            ready!(timer.as_mut().poll(cx));
            self.deadline = None;
            if self.env.now() >= at && !planted::on("no_deadline") {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}

/// Ends a connection so that the client sees everything that was delivered: behind the end of stream, what it
/// still sends is read and dropped for a moment, since closing with unread bytes would reset the connection.
pub(super) async fn linger(env: &Env, mut client: Box<dyn Conn>) {
    let drained = async {
        client.shutdown().await?;
        let mut scrap = [0; 4096];
        while client.read(&mut scrap).await? > 0 {}
        io::Result::Ok(())
    };
    // However that ends, the connection ends.
    let _ = env.timeout(CLIENT_LINGER, drained).await;
}

fn poll_read(conn: &mut Box<dyn Conn>, to: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    pin!(conn.read_buf(to)).poll(cx)
}
