//! Clients that share one connection to the server.
//!
//! Most clients never use what a connection of their own is for. One task, the *worker*, reads all that have something to
//! say, sends their commands in one write with one fence behind them (a *flight*), and hands out the answers when the
//! journal has committed the flight's fence point. So the system calls of many clients become few at the server, and the
//! fence costs no round trip of its own. A client whose command needs a connection of its own gets one once it has had
//! all its answers, and comes back when it needs it no more. There is one worker for each version of RESP.
//!
//! `flights` says whose each answer is and when it may leave, `guest` what of a client's bytes may go to the shared
//! connection, [`plain`] which commands may, `allowance` how many at once, `outbox` keeps the answers, `worker` moves the
//! bytes.

mod allowance;
mod flights;
mod guest;
mod link;
mod names;
mod outbox;
pub mod plain;
mod ready;
mod worker;

pub(super) use names::Names;
pub(super) use worker::Worker;
