//! A verified tail of the journal that goes on from another node when one fails, is silent or damaged.
//!
//! What may be passed on is decided in [`verify`], when a node is given up that seems well in [`doubt`]; the task in
//! [`reader`] carries it out.

mod doubt;
mod reader;
mod verify;
#[cfg(test)]
mod verify_tests;

pub use verify::{TailEvent, TailedEntry};

use crate::client::Client;
use crate::error::TailError;
use reader::{Item, Reader, room_of};
use redoubt_env::Task;
use redoubt_types::limits::TAIL_PREFETCH_BYTES;
use redoubt_types::{Lineage, Offset};
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};

/// Events read ahead at most, whatever their bytes.
const EVENTS_AHEAD_MAX: usize = 1024;

/// A verified tail: every event's payload CRC, offset continuity and chain continuity were checked, also across
/// nodes. Failing, silent and damaged nodes are left for a while, and the tail goes on elsewhere at the same
/// offset. While no node can serve, it tries for ever.
#[derive(Debug)]
pub struct Tailer {
    items: mpsc::Receiver<Item>,
    /// Room for bytes that are read ahead; given back as the consumer takes them.
    room: Arc<Semaphore>,
    lineage: Option<Lineage>,
    ended: Option<Result<TailEvent, TailError>>,
    _task: Task<()>,
}

impl Tailer {
    pub(crate) fn new(client: Client, from: Offset, follow: bool) -> Self {
        let (sender, items) = mpsc::channel(EVENTS_AHEAD_MAX);
        let room = Arc::new(Semaphore::new(TAIL_PREFETCH_BYTES));
        let env = client.inner.env.clone();
        let task = env.spawn(Reader::new(client, from, follow, sender, Arc::clone(&room)).run());
        Tailer {
            items,
            room,
            lineage: None,
            ended: None,
            _task: task,
        }
    }

    /// Waits for the next event. Cancel-safe.
    ///
    /// # Errors
    /// [`TailError`], which is final: every further call returns it again. So is [`TailEvent::End`].
    ///
    /// # Panics
    /// When the tail's task has panicked.
    pub async fn next(&mut self) -> Result<TailEvent, TailError> {
        if let Some(ended) = &self.ended {
            return ended.clone();
        }
        loop {
            match self.items.recv().await {
                Some(Item::Began(lineage)) => self.lineage = Some(lineage),
                Some(Item::Event(event)) => {
                    self.room.add_permits(room_of(&event));
                    match (&event, &mut self.lineage) {
                        // Verified before it was sent: it can't be refused here.
                        (TailEvent::Lineage(step), Some(lineage)) => drop(lineage.push(*step, step.from)),
                        (TailEvent::End, _) => self.ended = Some(Ok(TailEvent::End)),
                        _ => {}
                    }
                    return Ok(event);
                }
                Some(Item::Failed(error)) => {
                    self.ended = Some(Err(error.clone()));
                    return Err(error);
                }
                None => panic!("the tail's task has panicked"),
            }
        }
    }

    /// The lineage as of the events that [`Tailer::next`] returned; `None` before the first.
    pub fn lineage(&self) -> Option<&Lineage> {
        self.lineage.as_ref()
    }
}
