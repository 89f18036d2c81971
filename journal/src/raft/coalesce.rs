//! Fewer requests to followers: a commit on its own waits a moment for the entries that follow it.
//!
//! Whenever the committed index moves, openraft sends each follower a request without entries, to say so. Under
//! load the next entries come a moment later and say it again. A request without entries is therefore held
//! for up to [`COMMIT_HOLD`]; whatever comes meanwhile supersedes it: same log before it, and a commit that
//! is not lower. openraft takes an acknowledgement as one of every earlier request that it covers, so
//! an unsent one is missed by nobody. Followers learn of an idle journal's last commit that much later, and
//! nobody waits for that but their readers.

use super::types::TypeConfig;
use futures_util::future::{Either, select};
use futures_util::stream::{Stream, StreamExt, unfold};
use openraft::raft::AppendEntriesRequest;
use redoubt_env::Env;
use std::pin::pin;
use std::time::Duration;

/// How long a request without entries is held at most. Longer than a client's turn-around under load,
/// much shorter than a heartbeat.
const COMMIT_HOLD: Duration = Duration::from_millis(2);

type Request = AppendEntriesRequest<TypeConfig>;

struct State<S> {
    env: Env,
    input: S,
    held: Option<Request>,
}

/// `input` without the requests that later ones supersede. Neither it nor `input` is polled in vain: both may be asked again
/// after their end.
pub(super) fn coalesced<S>(env: Env, input: S) -> impl Stream<Item = Request> + Send
where
    S: Stream<Item = Request> + Send + Unpin + 'static,
{
    unfold(
        State {
            env,
            input: input.fuse(),
            held: None,
        },
        |mut state| async move {
            let request = state.next().await?;
            Some((request, state))
        },
    )
    .fuse()
}

impl<S: Stream<Item = Request> + Unpin> State<S> {
    async fn next(&mut self) -> Option<Request> {
        loop {
            let next = match self.held {
                None => self.input.next().await,
                Some(_) => {
                    let sleep = pin!(self.env.sleep(COMMIT_HOLD));
                    match select(self.input.next(), sleep).await {
                        Either::Left((next, _)) => next,
                        Either::Right(((), _)) => return self.held.take(),
                    }
                }
            };
            match next {
                // What is held goes out even if nothing follows: it may be all that the leader asks.
                None => return self.held.take(),
                Some(request) if request.entries.is_empty() => self.held = Some(request),
                Some(request) => {
                    self.held = None;
                    return Some(request);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{blank, log_id, vote_of};
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    fn request(committed: u64, entries: u64) -> Request {
        AppendEntriesRequest {
            vote: vote_of(1, 1, true),
            prev_log_id: Some(log_id(1, 9)),
            entries: (0..entries).map(|i| blank(10 + i)).collect(),
            leader_commit: Some(log_id(1, committed)),
        }
    }

    fn told(r: &Request) -> (u64, usize) {
        (r.leader_commit.unwrap().index, r.entries.len())
    }

    #[tokio::test]
    async fn a_commit_rides_with_the_entries_that_follow_it() {
        let (tx, rx) = mpsc::channel(8);
        let mut out = Box::pin(coalesced(Env::real(), ReceiverStream::new(rx)));
        for r in [request(5, 0), request(6, 0), request(6, 2), request(7, 1)] {
            tx.send(r).await.unwrap();
        }
        assert_eq!(told(&out.next().await.unwrap()), (6, 2));
        assert_eq!(told(&out.next().await.unwrap()), (7, 1));
    }

    #[tokio::test]
    async fn a_commit_that_nothing_follows_is_sent_all_the_same() {
        let (tx, rx) = mpsc::channel(8);
        let mut out = Box::pin(coalesced(Env::real(), ReceiverStream::new(rx)));
        tx.send(request(5, 0)).await.unwrap();
        assert_eq!(told(&out.next().await.unwrap()), (5, 0));
        tx.send(request(6, 0)).await.unwrap();
        drop(tx);
        assert_eq!(told(&out.next().await.unwrap()), (6, 0));
        assert!(out.next().await.is_none());
    }

    #[tokio::test]
    async fn the_end_may_be_asked_for_again() {
        // Panics when it is polled behind its end, as openraft's own stream does.
        let input = Box::pin(unfold(
            Some(request(5, 0)),
            |r| async move { r.map(|r| (r, None)) },
        ));
        let mut out = Box::pin(coalesced(Env::real(), input));
        assert_eq!(told(&out.next().await.unwrap()), (5, 0));
        assert!(out.next().await.is_none());
        assert!(out.next().await.is_none());
    }
}
