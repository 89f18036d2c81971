//! Capture: reading the master's stream, as its replica.
//!
//! Decides how long a session's capture goes on: a cut link is resumed at the very next byte under the same
//! process and replid, anything else ends the session. Promises that the master is never told that more is
//! held than is committed (H12), that clients are held back while capture is down or too far ahead, and that
//! bytes are taken over exactly as they came. In data-path order: [`link`], [`overlap`], [`buffer`], and the
//! loop that moves bytes on to [`append`](crate::append).

pub mod acks;
pub mod buffer;
pub mod link;
pub mod overlap;

use crate::append::Append;
use crate::session::{EndReason, Session};
use acks::Acks;
use buffer::DoubleBuffer;
use futures_util::FutureExt;
use link::{AttachError, Link, Target};
use redoubt_env::net::BoxFuture;
use redoubt_env::{Env, planted};
use redoubt_types::limits::ACK_EVERY;
use redoubt_types::{BootTime, Offset};
use std::future::{Future, pending};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// How long a cut link waits before it is tried again.
const ATTACH_AGAIN: Duration = Duration::from_millis(100);
/// Silence after which a link is taken for dead. A master sends a PING every 10 s.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long the last captured bytes are waited for when a session ends. They are not acknowledged to anybody;
/// to have them in the journal all the same saves the server a full sync, since it may come back with them.
const DRAIN_MAX: Duration = Duration::from_secs(3);

/// Where the stream comes from.
enum Source {
    /// The master, over a link.
    Link(Link),
    /// Nowhere: a new link is being made, for the byte behind the last one.
    Cut(BoxFuture<'static, Result<Link, EndReason>>),
}

/// One session's capture.
pub struct Capture {
    env: Env,
    session: Arc<Session>,
    terms: CaptureTerms,
    source: Source,
    buffer: DoubleBuffer,
    acks: Acks,
    heard_at: BootTime,
}

/// What capture is told.
#[derive(Clone, Copy, Debug)]
pub struct CaptureTerms {
    /// The port that the server shows for this capture.
    pub listening_port: u16,
    /// How long a server may be unreachable before the session is given up: held replies are not held longer
    /// than this either, and another cell may want the lease.
    pub unreachable_max: Duration,
}

/// What the loop woke up for.
enum Woken {
    Stopped(EndReason),
    Appended(Result<Offset, EndReason>),
    Heard(Heard),
    Beat,
}

enum Heard {
    Bytes(io::Result<usize>),
    Attached(Result<Link, EndReason>),
}

impl Capture {
    /// The capture of `session`, whose stream comes over `link` from where `buffer` begins.
    pub fn new(
        env: Env,
        session: Arc<Session>,
        terms: CaptureTerms,
        link: Link,
        buffer: DoubleBuffer,
    ) -> Self {
        let heard_at = env.now();
        let mut acks = Acks::default();
        acks.attached(link.patience());
        Capture {
            env,
            session,
            terms,
            source: Source::Link(link),
            buffer,
            acks,
            heard_at,
        }
    }

    /// Moves bytes from the master to `append` until the session ends, or until `stop` is ready, which ends
    /// it. What was captured by then is committed if that is possible in a short time. Returns why the session
    /// ended.
    pub async fn run(mut self, mut append: Append, stop: impl Future<Output = ()>) -> EndReason {
        let reason = self.go(&mut append, stop).await;
        let (stops, lost) = match reason {
            EndReason::Shutdown => (true, false),
            EndReason::Fenced(_) | EndReason::AppendRefused(_) => (false, true),
            _ => (false, false),
        };
        if !stops {
            // Nothing that is held may leave any more, from here on.
            self.session.end(reason.clone());
        }
        if !lost
            && self
                .env
                .clone()
                .timeout(DRAIN_MAX, self.drain(&mut append))
                .await
                .is_err()
        {
            tracing::warn!(
                captured = %self.buffer.captured(), committed = %self.buffer.committed(),
                "the last captured bytes could not be committed in time"
            );
        }
        self.session.end(reason);
        self.session.wait_end().await
    }

    async fn go(&mut self, append: &mut Append, stop: impl Future<Output = ()>) -> EndReason {
        let session = Arc::clone(&self.session);
        let env = self.env.clone();
        let mut ended = pin!(session.wait_end());
        let mut stop = pin!(stop);
        let mut beat = pin!(env.sleep(Duration::ZERO));
        loop {
            append.push_from(&mut self.buffer);
            let woken = tokio::select! {
                // The end first, then what makes room, then what fills it.
                biased;
                reason = &mut ended => Woken::Stopped(reason),
                () = &mut stop => Woken::Stopped(EndReason::Shutdown),
                appended = append.next() => Woken::Appended(appended),
                () = &mut beat => Woken::Beat,
                heard = hear(&mut self.source, &mut self.buffer) => Woken::Heard(heard),
            };
            let done = match woken {
                Woken::Stopped(reason) => Err(reason),
                Woken::Appended(Ok(end)) => {
                    self.committed(end).await;
                    Ok(())
                }
                Woken::Appended(Err(reason)) => Err(reason),
                Woken::Beat => {
                    beat.set(env.sleep(ACK_EVERY));
                    self.beat().await;
                    Ok(())
                }
                Woken::Heard(Heard::Bytes(read)) => self.captured(read),
                Woken::Heard(Heard::Attached(link)) => link.map(|link| self.attached(link)),
            };
            if let Err(reason) = done {
                return reason;
            }
            let down = matches!(self.source, Source::Cut(_)) && !planted::on("h12_forward_while_down");
            let (captured, committed) = (self.buffer.captured(), self.buffer.committed());
            session.pressure.capture(captured, committed, down);
        }
    }

    /// Takes over what was read, or makes a new link when there was nothing.
    fn captured(&mut self, read: io::Result<usize>) -> Result<(), EndReason> {
        if planted::on("h11_a_cut_ends_the_session") && !matches!(read, Ok(n) if n > 0) {
            return Err(EndReason::CaptureLost("the link was cut".to_owned()));
        }
        match read {
            Ok(0) => self.cut("the server closed it"),
            Err(e) => self.cut(&e.to_string()),
            Ok(_) => {
                self.heard_at = self.env.now();
                self.acks.captured(self.heard_at);
                let (buffer, wall) = (&mut self.buffer, self.env.wall());
                let filled = self.session.clean.index(|group| buffer.filled(wall, group));
                return filled.map_err(|e| EndReason::BadStream(e.to_string()));
            }
        }
        Ok(())
    }

    fn cut(&mut self, why: &str) {
        tracing::info!(captured = %self.buffer.captured(), why, "the capture link is cut");
        let target = Target {
            upstream: self.session.upstream.clone(),
            run_id: self.session.run_id,
            under: self.session.replid,
            from: self.buffer.captured(),
            listening_port: self.terms.listening_port,
        };
        self.source = Source::Cut(Box::pin(attach_again(
            self.env.clone(),
            target,
            self.terms.unreachable_max,
        )));
    }

    fn attached(&mut self, link: Link) {
        tracing::info!(captured = %self.buffer.captured(), "capture goes on");
        self.heard_at = self.env.now();
        self.acks.attached(link.patience());
        self.source = Source::Link(link);
    }

    async fn committed(&mut self, end: Offset) {
        self.buffer.committed_to(end);
        self.acks.committed(end >= self.buffer.captured(), self.env.now());
        self.ack().await;
    }

    /// Once a second: the master drops a replica that it does not hear from, and refuses writes when
    /// `min-replicas-to-write` is set (H12).
    async fn beat(&mut self) {
        let silent = self.env.now().since(self.heard_at) > SILENCE_MAX;
        if silent && self.buffer.may_read() && matches!(self.source, Source::Link(_)) {
            self.cut("nothing was heard on it, not even a PING");
        }
        let goes_on = self.acks.repeat(self.env.now()) || planted::on("h12_acks_without_commits");
        if goes_on && !planted::on("h12_acks_not_repeated") {
            self.ack().await;
        }
    }

    async fn ack(&mut self) {
        // Never more than is committed: what the master counts as held by a replica it lets WAIT count.
        let captured_counts = planted::on("h12_ack_captured");
        let held = if captured_counts {
            self.buffer.captured()
        } else {
            self.buffer.committed()
        };
        if let Source::Link(link) = &mut self.source
            && let Err(e) = link.ack(held).await
        {
            self.cut(&e.to_string());
        }
    }

    /// Reads what the server has sent already, and waits until all whole groups of it are committed.
    async fn drain(&mut self, append: &mut Append) {
        loop {
            // Lets the network be looked at, so that "nothing there" means that.
            tokio::task::yield_now().await;
            append.push_from(&mut self.buffer);
            let read = match &mut self.source {
                Source::Link(link) if self.buffer.may_read() => link.read(self.buffer.space()).now_or_never(),
                _ => None,
            };
            match read.map(|read| self.captured(read)) {
                Some(Ok(())) => continue,
                Some(Err(_)) => self.cut("its bytes are no stream"),
                None => {}
            }
            if self.buffer.is_drained() {
                return;
            }
            match append.next().await {
                Ok(end) => self.committed(end).await,
                Err(_) => return,
            }
        }
    }
}

/// Waits for bytes, or for a new link. Cancel-safe.
async fn hear(source: &mut Source, buffer: &mut DoubleBuffer) -> Heard {
    match source {
        Source::Link(link) if buffer.may_read() => Heard::Bytes(link.read(buffer.space()).await),
        Source::Link(_) => pending().await,
        Source::Cut(attaching) => Heard::Attached(attaching.await),
    }
}

/// Makes a link under the same process and replid, however often that takes. Anything else than going on at
/// the very next byte is the end of the session.
async fn attach_again(env: Env, target: Target, unreachable_max: Duration) -> Result<Link, EndReason> {
    let mut reached_at = env.now();
    loop {
        while planted::held("pause_before_attach") {
            env.sleep(ATTACH_AGAIN).await;
        }
        match Link::attach(&env, &target).await {
            Ok((link, replid)) if replid == target.under => return Ok(link),
            Ok((_, replid)) => {
                return Err(EndReason::ServerChanged(format!(
                    "it writes under {replid}, not {}",
                    target.under
                )));
            }
            Err(AttachError::Other(why)) => return Err(EndReason::ServerChanged(why)),
            // Waiting would not bring back what its backlog has lost.
            Err(AttachError::NotContinued(why)) if !planted::on("h13_lost_capture_is_waited_for") => {
                return Err(EndReason::CaptureLost(why));
            }
            Err(AttachError::NotNow(why) | AttachError::NotContinued(why)) => {
                tracing::debug!(why, "capture waits for the server");
                reached_at = env.now();
            }
            Err(AttachError::Unreachable(why)) => {
                let away = env.now().since(reached_at);
                if away > unreachable_max {
                    return Err(EndReason::ServerChanged(format!(
                        "not reached for {away:?}: {why}"
                    )));
                }
            }
        }
        env.sleep(ATTACH_AGAIN).await;
    }
}
