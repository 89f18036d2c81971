//! What the supervisor decides: what is started, started again, ended and killed, and when.
//!
//! Pure: events in, actions out. It knows no process, signal, socket, file or clock; the shell in [`super::supervisor`]
//! does what it says and tells it what came of it.
//!
//! Promises: a component that dies is started again after the delay, unless somebody asked for its end; components
//! end in the order of [`Kind::ENDING`], each kind only after the one before it is gone, and none is waited for
//! without bound; cluster.json is published only from the first health to the beginning of the end.

mod words;

pub(crate) use words::{Action, Event, News, Restart, Ticket};

use super::layout::{Kind, Part};
use redoubt_types::BootTime;
use std::time::Duration;

/// Deaths of one component before the first health after which starting up is given up.
const DEATHS_MAX: u32 = 5;
/// How long the end waits for the replicas to have what the master wrote last.
pub(crate) const LAST_BYTES_WAIT: Duration = Duration::from_secs(5);

/// How long a component that was asked to end is waited for before it is killed. A server waits up to 10 s for
/// its replicas (`shutdown-timeout`) and then writes its RDB.
pub(crate) fn grace(kind: Kind) -> Duration {
    Duration::from_secs(match kind {
        Kind::Master | Kind::Replica => 30,
        // Its clients' answers, the last captured bytes, the lease.
        Kind::Proxy => 15,
        Kind::Journal => 10,
        Kind::Replay => 5,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No process, and none will be started by itself.
    Down,
    /// [`Action::Spawn`] was asked for.
    Spawning,
    Up {
        pid: u32,
    },
    /// Asked to end; killed at `kill_at`, unless it was already.
    Ending {
        pid: u32,
        kill_at: Option<BootTime>,
    },
    /// Dead, started again at `at`.
    Waiting {
        at: BootTime,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Starting,
    Healthy,
    /// Kinds before `stage` in [`Kind::ENDING`] are gone. `replicas_until`: until when the replicas are waited for,
    /// once that began.
    Ending {
        stage: usize,
        replicas_until: Option<BootTime>,
    },
    Finished,
}

#[derive(Clone, Debug)]
struct Member {
    kind: Kind,
    name: String,
    state: State,
    deaths: u32,
    started_before: bool,
    stop_ticket: Option<Ticket>,
    start_ticket: Option<Ticket>,
}

/// The supervisor's state.
#[derive(Clone, Debug)]
pub(crate) struct Core {
    members: Vec<Member>,
    restart: Restart,
    life: Life,
}

impl Core {
    /// Nothing runs.
    pub(crate) fn new(parts: &[Part], restart: Restart) -> Self {
        let member = |p: &Part| Member {
            kind: p.kind,
            name: p.name.clone(),
            state: State::Down,
            deaths: 0,
            started_before: false,
            stop_ticket: None,
            start_ticket: None,
        };
        Core {
            members: parts.iter().map(member).collect(),
            restart,
            life: Life::Starting,
        }
    }

    /// The process of a component.
    pub(crate) fn pid(&self, part: usize) -> Option<u32> {
        match self.members[part].state {
            State::Up { pid } | State::Ending { pid, .. } => Some(pid),
            _ => None,
        }
    }

    /// Whether the cluster was healthy and is not being ended.
    pub(crate) fn is_up(&self) -> bool {
        self.life == Life::Healthy
    }

    /// Whether the end was asked for.
    pub(crate) fn is_ending(&self) -> bool {
        matches!(self.life, Life::Ending { .. } | Life::Finished)
    }

    /// When [`Event::Tick`] is wanted next.
    pub(crate) fn due(&self) -> Option<BootTime> {
        let of_state = |m: &Member| match m.state {
            State::Waiting { at } => Some(at),
            State::Ending { kill_at, .. } => kill_at,
            _ => None,
        };
        let replicas = match self.life {
            Life::Ending { replicas_until, .. } => replicas_until,
            _ => None,
        };
        self.members.iter().filter_map(of_state).chain(replicas).min()
    }

    /// Takes note of an event, and says what to do.
    pub(crate) fn step(&mut self, now: BootTime, event: Event) -> Vec<Action> {
        let mut todo = Vec::new();
        match event {
            Event::Begin => self.spawn_kinds(&[Kind::Journal], &mut todo),
            Event::Bootstrapped => self.spawn_kinds(&[Kind::Replay], &mut todo),
            Event::ReplayListens => self.spawn_kinds(&[Kind::Master, Kind::Replica, Kind::Proxy], &mut todo),
            Event::Healthy => {
                if self.life == Life::Starting {
                    self.life = Life::Healthy;
                    todo.push(Action::Publish);
                }
            }
            Event::Spawned { part, pid } => self.spawned(now, part, pid, &mut todo),
            Event::NotSpawned { part, why } => self.not_spawned(now, part, &why, &mut todo),
            Event::Exited { part, how } => self.exited(now, part, how, &mut todo),
            Event::Start { part, ticket, dying } => self.start(part, ticket, dying, &mut todo),
            Event::Stop { part, ticket } => self.stop(now, part, ticket, &mut todo),
            Event::End => self.end(now, &mut todo),
            Event::KillAll => self.kill_all(&mut todo),
            Event::ReplicasHaveAll => self.replicas_done(now, None, &mut todo),
            Event::Tick => self.tick(now, &mut todo),
        }
        todo
    }

    fn spawn_kinds(&mut self, kinds: &[Kind], todo: &mut Vec<Action>) {
        if self.is_ending() {
            return;
        }
        for (part, member) in self.members.iter_mut().enumerate() {
            if kinds.contains(&member.kind) && member.state == State::Down {
                member.state = State::Spawning;
                todo.push(Action::Spawn(part));
            }
        }
    }

    fn publish(&self, todo: &mut Vec<Action>) {
        if self.is_up() {
            todo.push(Action::Publish);
        }
    }

    fn spawned(&mut self, now: BootTime, part: usize, pid: u32, todo: &mut Vec<Action>) {
        let ending = self.is_ending();
        let member = &mut self.members[part];
        member.state = State::Up { pid };
        if member.started_before {
            todo.push(Action::Say(News::Started { part, pid }));
        }
        member.started_before = true;
        let runs = Ok(format!("{} runs as pid {pid}", member.name));
        let answer = member
            .start_ticket
            .take()
            .map(|ticket| Action::Answer(ticket, runs));
        // Before the answer: whoever was told may read the file at once.
        self.publish(todo);
        todo.extend(answer);
        if ending {
            self.ask_to_end(now, part, todo);
        }
    }

    fn not_spawned(&mut self, now: BootTime, part: usize, why: &str, todo: &mut Vec<Action>) {
        let again_in = self.after_death(now, part, why, todo);
        let member = &mut self.members[part];
        if let Some(ticket) = member.start_ticket.take() {
            todo.push(Action::Answer(
                ticket,
                Err(format!("{} can't be started: {why}", member.name)),
            ));
        }
        todo.push(Action::Say(News::NotStarted {
            part,
            why: why.to_owned(),
            again_in,
        }));
        self.advance(now, todo);
    }

    fn exited(&mut self, now: BootTime, part: usize, how: String, todo: &mut Vec<Action>) {
        let mut answer = None;
        match self.members[part].state {
            State::Ending { pid, .. } => {
                let member = &mut self.members[part];
                member.state = State::Down;
                todo.push(Action::Say(News::Ended { part, pid }));
                let ended = Ok(format!("{} (pid {pid}) has ended", member.name));
                answer = member
                    .stop_ticket
                    .take()
                    .map(|ticket| Action::Answer(ticket, ended));
            }
            State::Up { pid } => {
                let mut again_in = self.after_death(now, part, &how, todo);
                let asked = self.members[part].start_ticket.is_some() && !self.is_ending();
                if asked {
                    self.members[part].state = State::Spawning;
                    again_in = Some(Duration::ZERO);
                }
                todo.push(Action::Say(News::Died {
                    part,
                    pid,
                    how,
                    again_in,
                }));
                todo.extend(asked.then_some(Action::Spawn(part)));
            }
            State::Down | State::Spawning | State::Waiting { .. } => {}
        }
        // Before the answers: whoever was told may read the file at once.
        self.publish(todo);
        todo.extend(answer);
        let member = &mut self.members[part];
        if member.state != State::Spawning
            && let Some(ticket) = member.start_ticket.take()
        {
            let why = format!("{} was stopped meanwhile", member.name);
            todo.push(Action::Answer(ticket, Err(why)));
        }
        self.advance(now, todo);
    }

    /// Decides whether a component without a process gets another one, and when.
    fn after_death(
        &mut self,
        now: BootTime,
        part: usize,
        why: &str,
        todo: &mut Vec<Action>,
    ) -> Option<Duration> {
        let starting = self.life == Life::Starting;
        let ending = self.is_ending();
        let restart = self.restart;
        let member = &mut self.members[part];
        member.state = State::Down;
        member.deaths += 1;
        if ending {
            return None;
        }
        if starting && (restart == Restart::Never || member.deaths >= DEATHS_MAX) {
            todo.push(Action::GiveUp {
                part,
                why: why.to_owned(),
            });
            return None;
        }
        let Restart::After(delay) = restart else {
            return None;
        };
        member.state = State::Waiting { at: now.plus(delay) };
        Some(delay)
    }

    fn start(&mut self, part: usize, ticket: Ticket, dying: bool, todo: &mut Vec<Action>) {
        let ending = self.is_ending();
        let member = &mut self.members[part];
        let name = &member.name;
        let refusal = match member.state {
            _ if ending => "everything is being stopped".to_owned(),
            // Whoever kills a component and then starts it means the next process, not the one that is going.
            State::Up { .. } if dying && member.start_ticket.is_none() => {
                member.start_ticket = Some(ticket);
                return;
            }
            State::Up { .. } if dying => format!("{name} is being started"),
            State::Up { pid } => {
                todo.push(Action::Answer(
                    ticket,
                    Ok(format!("{name} runs already, as pid {pid}")),
                ));
                return;
            }
            State::Ending { pid, .. } => {
                format!("{name} (pid {pid}) is still ending; ask again once it is gone")
            }
            State::Spawning => format!("{name} is being started"),
            State::Down | State::Waiting { .. } => {
                member.state = State::Spawning;
                member.start_ticket = Some(ticket);
                todo.push(Action::Spawn(part));
                return;
            }
        };
        todo.push(Action::Answer(ticket, Err(refusal)));
    }

    fn stop(&mut self, now: BootTime, part: usize, ticket: Ticket, todo: &mut Vec<Action>) {
        let member = &mut self.members[part];
        let name = &member.name;
        let answer = match member.state {
            State::Up { .. } => {
                member.stop_ticket = Some(ticket);
                self.ask_to_end(now, part, todo);
                return;
            }
            State::Waiting { .. } => {
                member.state = State::Down;
                Ok(format!("{name} had died, and won't be started again"))
            }
            State::Down => Ok(format!("{name} does not run")),
            State::Ending { pid, .. } => Err(format!("{name} (pid {pid}) is being stopped already")),
            State::Spawning => Err(format!("{name} is being started")),
        };
        todo.push(Action::Answer(ticket, answer));
    }

    fn ask_to_end(&mut self, now: BootTime, part: usize, todo: &mut Vec<Action>) {
        let member = &mut self.members[part];
        if let State::Up { pid } = member.state {
            member.state = State::Ending {
                pid,
                kill_at: Some(now.plus(grace(member.kind))),
            };
            todo.push(Action::Terminate(part));
        }
    }

    fn end(&mut self, now: BootTime, todo: &mut Vec<Action>) {
        if self.is_ending() {
            return;
        }
        self.life = Life::Ending {
            stage: 0,
            replicas_until: None,
        };
        todo.push(Action::Unpublish);
        for member in &mut self.members {
            if matches!(member.state, State::Waiting { .. }) {
                member.state = State::Down;
            }
        }
        self.advance(now, todo);
    }

    fn kill_all(&mut self, todo: &mut Vec<Action>) {
        if !self.is_ending() {
            todo.push(Action::Unpublish);
        }
        // Everything at once: no stage is left to wait for.
        self.life = Life::Ending {
            stage: Kind::ENDING.len(),
            replicas_until: None,
        };
        for (part, member) in self.members.iter_mut().enumerate() {
            match member.state {
                State::Up { pid } | State::Ending { pid, .. } => {
                    member.state = State::Ending { pid, kill_at: None };
                    todo.push(Action::Kill(part));
                }
                State::Waiting { .. } => member.state = State::Down,
                State::Down | State::Spawning => {}
            }
        }
        self.finish_if_empty(todo);
    }

    /// Goes on with the end as far as it goes without waiting.
    fn advance(&mut self, now: BootTime, todo: &mut Vec<Action>) {
        while let Life::Ending {
            stage,
            replicas_until,
        } = self.life
        {
            let Some(kind) = Kind::ENDING.get(stage).copied() else {
                self.finish_if_empty(todo);
                return;
            };
            let parts: Vec<_> = (0..self.members.len())
                .filter(|p| self.members[*p].kind == kind)
                .collect();
            let up = parts
                .iter()
                .any(|p| matches!(self.members[*p].state, State::Up { .. }));
            if kind == Kind::Replica && up && replicas_until.is_none() && self.can_feed() {
                self.life = Life::Ending {
                    stage,
                    replicas_until: Some(now.plus(LAST_BYTES_WAIT)),
                };
                todo.push(Action::WatchReplicas);
                return;
            }
            if kind == Kind::Replica && up && replicas_until.is_some() {
                return;
            }
            for part in &parts {
                self.ask_to_end(now, *part, todo);
            }
            if parts.iter().any(|p| self.members[*p].state != State::Down) {
                return;
            }
            self.life = Life::Ending {
                stage: stage + 1,
                replicas_until: None,
            };
        }
    }

    /// Whether replicas can still get anything: a replay runs, and a quorum of the journal.
    fn can_feed(&self) -> bool {
        let of = |kind| self.members.iter().filter(move |m| m.kind == kind);
        let up = |m: &&Member| matches!(m.state, State::Up { .. });
        of(Kind::Replay).any(|m| up(&m))
            && 2 * of(Kind::Journal).filter(up).count() > of(Kind::Journal).count()
    }

    /// The replicas need not be waited for any more: they have all, or the time is up.
    fn replicas_done(&mut self, now: BootTime, late: Option<Duration>, todo: &mut Vec<Action>) {
        let Life::Ending {
            stage,
            replicas_until: Some(_),
        } = self.life
        else {
            return;
        };
        if let Some(after) = late {
            todo.push(Action::Say(News::ReplicasBehind { after }));
        }
        self.life = Life::Ending {
            stage,
            replicas_until: None,
        };
        for part in 0..self.members.len() {
            if self.members[part].kind == Kind::Replica {
                self.ask_to_end(now, part, todo);
            }
        }
        self.advance(now, todo);
    }

    fn finish_if_empty(&mut self, todo: &mut Vec<Action>) {
        if self.members.iter().all(|m| m.state == State::Down) {
            self.life = Life::Finished;
            todo.push(Action::Finished);
        }
    }

    fn tick(&mut self, now: BootTime, todo: &mut Vec<Action>) {
        for (part, member) in self.members.iter_mut().enumerate() {
            match member.state {
                State::Waiting { at } if at <= now => {
                    member.state = State::Spawning;
                    todo.push(Action::Spawn(part));
                }
                State::Ending {
                    pid,
                    kill_at: Some(at),
                } if at <= now => {
                    member.state = State::Ending { pid, kill_at: None };
                    todo.push(Action::Say(News::Killed {
                        part,
                        pid,
                        after: grace(member.kind),
                    }));
                    todo.push(Action::Kill(part));
                }
                _ => {}
            }
        }
        if let Life::Ending {
            replicas_until: Some(until),
            ..
        } = self.life
            && until <= now
        {
            self.replicas_done(now, Some(LAST_BYTES_WAIT), todo);
        }
    }
}

#[cfg(test)]
mod tests;
