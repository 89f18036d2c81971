//! The fence: one `INFO replication` for each batch of replies, whoever they belong to.
//!
//! Decides what an answer means for the session. Promises that a batch gets a fence point only from one
//! well-formed answer that carries role, replid and offset together, asked after the batch was sealed, on a
//! connection proven by run_id (H9). A busy server is asked again, however long (H11, H25); a lost connection is
//! made and proven again and the question repeated, which is as good: a later fence covers at least as much. A
//! server that gives no fence for another reason (an ACL, a renamed command) ends the session after a while: its
//! replies can never be released, and beginning again says why to whoever can mend it.
//!
//! One fence is outstanding at a time, and the next batch fills meanwhile: the more clients there are, the
//! more replies share one.

use super::{Control, OWN, ProveError, prove};
use crate::hold::BatchId;
use crate::session::{EndReason, Session};
use redoubt_env::{Env, planted};
use redoubt_resp::info::{FenceAnswer, fence_of};
use redoubt_resp::reply::Value;
use redoubt_types::limits::{FENCE_ANSWER_MAX, UPSTREAM_RETRY_PAUSE};
use redoubt_types::{BootTime, Offset};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// What is asked.
pub(crate) const FENCE: &[&[u8]] = &[b"INFO", b"replication", OWN];

/// What an answer means for the batch that waits for it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The fence point.
    Point(Offset),
    /// Not yet, as long as it takes: it is busy, or not reached, of which capture decides for how long.
    NotYet,
    /// It answered, and that was no fence: why.
    Failed(String),
    /// The server is not the session's any more.
    Changed(String),
}

/// How long a server may answer with what is no fence.
#[derive(Debug)]
pub(crate) struct Patience {
    failing_max: Duration,
    failing_since: Option<BootTime>,
}

impl Patience {
    pub(crate) fn new(failing_max: Duration) -> Self {
        Patience {
            failing_max,
            failing_since: None,
        }
    }

    /// The fence point that an answer gives, `None` for one that is not there yet.
    ///
    /// # Errors
    /// When the session can't go on.
    pub(crate) fn point(&mut self, meaning: Meaning, now: BootTime) -> Result<Option<Offset>, EndReason> {
        let why = match meaning {
            Meaning::Failed(why) => why,
            Meaning::Changed(why) => return Err(EndReason::ServerChanged(why)),
            Meaning::Point(offset) => {
                self.failing_since = None;
                return Ok(Some(offset));
            }
            Meaning::NotYet => {
                self.failing_since = None;
                return Ok(None);
            }
        };
        let failing = now.since(*self.failing_since.get_or_insert(now));
        tracing::debug!(why, ?failing, "no fence");
        if failing > self.failing_max {
            let why = format!("it gave no fence for {failing:?}: {why}");
            return Err(EndReason::ServerChanged(why));
        }
        Ok(None)
    }
}

/// Asks for fences as long as the session lasts. Ends it when the server's role, replid or process is not the
/// session's any more, when its offset goes back, or when it answers, and with no fence, for `failing_max`.
pub async fn run(session: Arc<Session>, env: Env, failing_max: Duration) {
    // Without fences nothing is ever released: the session must not outlive this task, however that ends.
    let _end = session.end_with_guard("nobody asks it for fences any more");
    let mut fencer = Fencer {
        session: &session,
        env: &env,
        failing_max,
        link: None,
    };
    tokio::select! {
        // The end first: no fence point is given to a session that is over.
        biased;
        _ = session.wait_end() => {}
        reason = fencer.fence_batches() => session.end(reason),
    }
}

struct Fencer<'a> {
    session: &'a Session,
    env: &'a Env,
    failing_max: Duration,
    link: Option<Control>,
}

impl Fencer<'_> {
    /// Fences batch after batch; returns why that can't go on.
    async fn fence_batches(&mut self) -> EndReason {
        loop {
            let batch = self.session.hold.next_batch().await;
            if let Err(reason) = self.fence(batch).await {
                return reason;
            }
        }
    }

    /// Gives one sealed batch its fence point, however many attempts that takes.
    async fn fence(&mut self, batch: BatchId) -> Result<(), EndReason> {
        let mut patience = Patience::new(self.failing_max);
        loop {
            while planted::held("pause_before_fence") {
                self.env.sleep(UPSTREAM_RETRY_PAUSE).await;
            }
            let asked = self.session.pressure.mark();
            let meaning = self.ask().await;
            if let Some(offset) = patience.point(meaning, self.env.now())? {
                let fenced = self.session.hold.fenced(batch, offset);
                self.session.pressure.written(offset, asked);
                return fenced.map_err(|e| EndReason::ServerChanged(e.to_string()));
            }
            self.env.sleep(UPSTREAM_RETRY_PAUSE).await;
        }
    }

    /// Asks once, over a new connection if there is none.
    async fn ask(&mut self) -> Meaning {
        let mut control = match self.link.take() {
            Some(control) => control,
            None => match prove(self.session, self.env).await {
                Ok(proven) => proven.control,
                Err(ProveError::Changed(why)) => return Meaning::Changed(why),
                Err(error @ ProveError::Refused(_)) => return Meaning::Failed(error.to_string()),
                Err(ProveError::Unavailable(error)) => return not_reached(&error),
            },
        };
        match control.call(FENCE, FENCE_ANSWER_MAX).await {
            Ok(answer) => {
                self.link = Some(control);
                meaning_of(self.session, &answer)
            }
            Err(error) => not_reached(&error),
        }
    }
}

fn not_reached(error: &io::Error) -> Meaning {
    tracing::debug!(%error, "fence connection");
    Meaning::NotYet
}

/// What an answer to `INFO replication` means for the session.
pub(crate) fn meaning_of(session: &Session, answer: &Value) -> Meaning {
    match fence_of(answer) {
        FenceAnswer::Master { replid, offset } => {
            // H9: an offset of another history compares with nothing. Told REPLICAOF and NO ONE from outside,
            // a server keeps its run_id and counts on in a new history, whose offset need not be lower.
            if replid != session.replid && !planted::on("h09_fence_ignores_replid") {
                return Meaning::Changed(format!("its replid is {replid}, not {}", session.replid));
            }
            Meaning::Point(offset)
        }
        // H11: busy is not gone.
        FenceAnswer::Busy if planted::on("h11_busy_is_gone") => Meaning::Changed("it is busy".to_owned()),
        // H25: nor is it an answer. What a script has published is out before its effects are in the stream.
        FenceAnswer::Busy if planted::on("h25_busy_is_a_fence") => Meaning::Point(session.hold.committed()),
        FenceAnswer::Busy => Meaning::NotYet,
        FenceAnswer::NotMaster if planted::on("h25_any_role_is_a_fence") => {
            Meaning::Point(session.hold.committed())
        }
        FenceAnswer::NotMaster => Meaning::Changed("it is no master any more".to_owned()),
        FenceAnswer::Malformed => {
            let said = answer.as_error().unwrap_or("what is no fence");
            tracing::warn!(said, "INFO replication was not answered with a fence");
            Meaning::Failed(format!("INFO replication was answered with {said}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hold::Hold;
    use redoubt_types::{Epoch, ReplId, RunId};

    fn id(n: u8) -> ReplId {
        ReplId::from_random([n; 20])
    }

    fn session() -> Session {
        let env = Env::real();
        let hold = Hold::new(Offset::ZERO, env.now(), env);
        Session::new(
            Epoch::FIRST,
            id(1),
            RunId::from_random([2; 20]),
            "127.0.0.1:1".to_owned().into(),
            hold,
            u64::MAX,
        )
    }

    fn info(role: &str, replid: ReplId, offset: u64) -> Value {
        let zeros = "0".repeat(40);
        let text = format!(
            "# Replication\r\nrole:{role}\r\nconnected_slaves:0\r\nmaster_failover_state:no-failover\r\n\
             master_replid:{replid}\r\nmaster_replid2:{zeros}\r\nmaster_repl_offset:{offset}\r\n\
             second_repl_offset:-1\r\nrepl_backlog_active:1\r\nrepl_backlog_size:1048576\r\n\
             repl_backlog_first_byte_offset:1\r\nrepl_backlog_histlen:{offset}\r\n"
        );
        Value::Bulk(text.into())
    }

    #[tokio::test]
    async fn h09_a_fence_is_role_replid_and_offset_of_the_session() {
        let session = session();
        assert_eq!(
            meaning_of(&session, &info("master", id(1), 42)),
            Meaning::Point(Offset::new(42))
        );
        assert!(matches!(
            meaning_of(&session, &info("master", id(3), 42)),
            Meaning::Changed(_)
        ));
        assert!(matches!(
            meaning_of(&session, &info("slave", id(1), 42)),
            Meaning::Changed(_)
        ));
    }

    #[tokio::test]
    async fn h11_busy_means_not_yet() {
        let session = session();
        let busy = Value::Error("BUSY Redis is busy running a script.".into());
        assert_eq!(meaning_of(&session, &busy), Meaning::NotYet);
    }

    #[tokio::test]
    async fn h25_what_is_no_masters_answer_is_no_fence() {
        let session = session();
        for odd in [
            Value::Null,
            Value::Int(7),
            Value::Bulk("role:master\r\n".into()),
            Value::Error("NOAUTH".into()),
        ] {
            let meaning = meaning_of(&session, &odd);
            assert!(matches!(meaning, Meaning::Failed(_)), "{odd:?}: {meaning:?}");
        }
    }
}
