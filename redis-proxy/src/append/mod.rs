//! Append: handing captured entries to the journal, and passing on what its answers prove.
//!
//! Decides what an answer means for the session: what is committed, that the lease was renewed (by new
//! commits, never by a retry's success), or that the session is over. Order and exactly-once are the
//! [`Appender`]'s. Knows no socket of the server's. Beside it, [`lease`] counts the lease and [`keeper`] renews
//! it.

pub mod keeper;
pub mod lease;

use crate::capture::buffer::DoubleBuffer;
use crate::session::{EndReason, Session};
use futures_util::FutureExt;
use keeper::LeaseKeeper;
use redoubt_client::{AppendError, Appended, Appender};
use redoubt_types::Offset;
use std::sync::Arc;

/// One session's appends.
pub struct Append {
    appender: Appender,
    session: Arc<Session>,
    keeper: LeaseKeeper,
}

impl Append {
    /// The appends of `session`, whose lease `keeper` keeps.
    pub fn new(appender: Appender, session: Arc<Session>, keeper: LeaseKeeper) -> Self {
        Append {
            appender,
            session,
            keeper,
        }
    }

    /// Sends what is to go out of `buffer`, as far as there is room.
    pub fn push_from(&mut self, buffer: &mut DoubleBuffer) {
        while self.appender.has_room()
            && let Some(cut) = buffer.next_cut()
        {
            self.appender.push(cut.payload, cut.captured);
        }
    }

    /// Waits for answers and passes them on. Returns the end of what is committed. Cancel-safe; waits for ever
    /// while nothing is unanswered.
    ///
    /// # Errors
    /// Why the session is over.
    pub async fn next(&mut self) -> Result<Offset, EndReason> {
        let mut answer = self.appender.next().await;
        loop {
            let end = self.answered(answer)?;
            // All that are there already count as one: the server is told once.
            match self.appender.next().now_or_never() {
                Some(next) => answer = next,
                None => return Ok(end),
            }
        }
    }

    fn answered(&self, answer: Result<Appended, AppendError>) -> Result<Offset, EndReason> {
        match answer {
            Ok(Appended {
                end,
                sent_at,
                duplicate,
                ..
            }) => {
                let terms = self.keeper.terms();
                self.session
                    .hold
                    .on_appended(end, sent_at, duplicate, terms.duration, terms.margin);
                if !duplicate {
                    self.keeper.renewed(sent_at);
                }
                Ok(end)
            }
            Err(AppendError::Fenced(why)) => Err(EndReason::Fenced(why)),
            Err(refused @ AppendError::Refused { .. }) => Err(EndReason::AppendRefused(refused.to_string())),
        }
    }
}
