//! The words in which the supervisor's core and its shell talk.

use std::time::Duration;

/// What happens when a component dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    /// It stays dead until `dev start`.
    Never,
    /// It is started again after this long.
    After(Duration),
}

/// Who waits for an answer on the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(crate) u64);

/// What happened. `part` is an index into the list of components.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Start everything.
    Begin,
    /// The journal is a cluster.
    Bootstrapped,
    /// The replay can be connected to, so servers that are started find it at once.
    ReplayListens,
    /// Everything was seen healthy at the same time.
    Healthy,
    /// A process was started.
    Spawned { part: usize, pid: u32 },
    /// None could be.
    NotSpawned { part: usize, why: String },
    /// A process ended; `how` is for people.
    Exited { part: usize, how: String },
    /// `dev start`. `dying`: its process was killed and has not ended yet.
    Start {
        part: usize,
        ticket: Ticket,
        dying: bool,
    },
    /// `dev stop`.
    Stop { part: usize, ticket: Ticket },
    /// End everything, in order.
    End,
    /// End everything at once.
    KillAll,
    /// The replicas have all that the journal has.
    ReplicasHaveAll,
    /// Time passed.
    Tick,
}

/// What to do about it, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start a process.
    Spawn(usize),
    /// Ask it to end.
    Terminate(usize),
    /// Kill it and what it forked.
    Kill(usize),
    /// Write cluster.json.
    Publish,
    /// Remove cluster.json.
    Unpublish,
    /// Say [`Event::ReplicasHaveAll`] once it is so.
    WatchReplicas,
    /// Tell the user.
    Say(News),
    /// Tell whoever holds the ticket.
    Answer(Ticket, Result<String, String>),
    /// Starting up can't succeed.
    GiveUp { part: usize, why: String },
    /// Nothing runs any more.
    Finished,
}

/// What the user is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// A component was started after it was dead.
    Started { part: usize, pid: u32 },
    /// It died without having been asked to.
    Died {
        part: usize,
        pid: u32,
        how: String,
        again_in: Option<Duration>,
    },
    /// It ended as it was asked to.
    Ended { part: usize, pid: u32 },
    /// It did not end within its time.
    Killed { part: usize, pid: u32, after: Duration },
    /// It could not be started.
    NotStarted {
        part: usize,
        why: String,
        again_in: Option<Duration>,
    },
    /// The replicas were not waited for any longer.
    ReplicasBehind { after: Duration },
}
