//! Appends in order and exactly once, across broken streams and leader changes.
//!
//! What is sent when, and what an answer means, is decided in [`window`]; the task in [`pump`] carries it out.
//! [`Appender`] is the writer's end of both.

mod pump;
mod window;
#[cfg(test)]
mod window_tests;

pub use window::{AppendStart, Appended};

use crate::client::Inner;
use crate::error::AppendError;
use bytes::Bytes;
use pump::{Pump, Pushed};
use redoubt_env::Task;
use redoubt_types::limits::{APPEND_WINDOW_BYTES, APPEND_WINDOW_ENTRIES, ENTRY_PAYLOAD_BYTES_MAX};
use redoubt_types::{Offset, WallTime};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Keeps appends in order and exactly once across reconnects and leader changes.
///
/// Unavailability is not an error: it tries for ever, and the caller has a deadline of its own.
#[derive(Debug)]
pub struct Appender {
    pushes: mpsc::Sender<Pushed>,
    answers: mpsc::Receiver<Result<Appended, AppendError>>,
    /// Lengths of the entries whose answers the caller has not taken yet: so neither channel ever fills.
    outstanding: VecDeque<usize>,
    outstanding_bytes: usize,
    end: Offset,
    committed: Offset,
    ended: Option<AppendError>,
    _task: Task<()>,
}

impl Appender {
    pub(crate) fn new(inner: Arc<Inner>, start: AppendStart) -> Self {
        let (pushes, pushed) = mpsc::channel(APPEND_WINDOW_ENTRIES);
        // One more than the window, for the final error.
        let (answered, answers) = mpsc::channel(APPEND_WINDOW_ENTRIES + 1);
        let env = inner.env.clone();
        let task = env.spawn(Pump::new(inner, start, pushed, answered).run());
        Appender {
            pushes,
            answers,
            outstanding: VecDeque::with_capacity(APPEND_WINDOW_ENTRIES),
            outstanding_bytes: 0,
            end: start.start,
            committed: start.start,
            ended: None,
            _task: task,
        }
    }

    /// Whether another entry may be pushed: the window holds [`APPEND_WINDOW_ENTRIES`] entries and
    /// [`APPEND_WINDOW_BYTES`] bytes (and the entry that crosses that), until [`Appender::next`] takes answers.
    pub fn has_room(&self) -> bool {
        self.outstanding.len() < APPEND_WINDOW_ENTRIES && self.outstanding_bytes < APPEND_WINDOW_BYTES
    }

    /// Appends whole groups, or a fragment of one, captured at `captured`. Offsets and chain are counted here.
    ///
    /// # Panics
    /// When there is no room, or `payload` is empty or larger than [`ENTRY_PAYLOAD_BYTES_MAX`].
    pub fn push(&mut self, payload: Bytes, captured: WallTime) {
        let len = payload.len();
        assert!(
            (1..=ENTRY_PAYLOAD_BYTES_MAX).contains(&len),
            "an entry of {len} bytes was pushed"
        );
        assert!(
            self.has_room(),
            "an entry was pushed into a full window of {} bytes",
            self.outstanding_bytes
        );
        self.outstanding.push_back(len);
        self.outstanding_bytes += len;
        self.end = self.end.advance(len as u64);
        // The channel is as long as the window. It may be closed, after a final error that `next` tells.
        let _ = self.pushes.try_send(Pushed { payload, captured });
    }

    /// End of what was pushed.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// End of what is known to be committed, as of the answers that [`Appender::next`] returned.
    pub fn committed(&self) -> Offset {
        self.committed
    }

    /// Waits for the next answer; they come in the order of the pushes. Cancel-safe. While nothing is
    /// unanswered it waits for ever.
    ///
    /// # Errors
    /// [`AppendError`], which is final: every further call returns it again.
    ///
    /// # Panics
    /// When the stream's task has panicked.
    pub async fn next(&mut self) -> Result<Appended, AppendError> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        match self.answers.recv().await {
            Some(Ok(appended)) => {
                if let Some(len) = self.outstanding.pop_front() {
                    self.outstanding_bytes -= len;
                }
                self.committed = appended.end;
                Ok(appended)
            }
            Some(Err(error)) => {
                self.ended = Some(error.clone());
                Err(error)
            }
            None => panic!("the append stream's task has panicked"),
        }
    }
}
