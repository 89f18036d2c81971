//! The supervisor's shell: does what [`super::core`] decides, and tells it what came of it.
//!
//! One task owns everything: children, control requests, signals and timers come together in its loop, so no two
//! decisions can overlap. What takes long (bootstrap, health) runs beside it and only sends notes.

use super::children::Children;
use super::cluster::{Cluster, Component};
use super::control::{Answer, Client, Control, Request};
use super::core::{Action, Core, Event, Restart, Ticket};
use super::health::{Doctor, Health};
use super::layout::{Part, find};
use super::paths::Paths;
use super::programs::Programs;
use super::signals::Signals;
use super::starting::{self, Note};
use super::up::remove_cluster_file;
use super::voice::Voice;
use crate::failure::Failure;
use crate::output::Output;
use crate::plain_files;
use redoubt_env::{Env, Task, planted};
use redoubt_types::BootTime;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::sync::mpsc;

/// Notes that wait for the supervisor at most.
const NOTES_MAX: usize = 16;

/// What is supervised, and how.
pub(crate) struct Setup {
    /// The components.
    pub(crate) parts: Vec<Part>,
    /// Where everything lies.
    pub(crate) paths: Paths,
    /// The programs.
    pub(crate) programs: Programs,
    /// What happens when one dies.
    pub(crate) restart: Restart,
    /// How long everything may take to be healthy.
    pub(crate) timeout: Duration,
}

/// Runs a cluster.
pub(crate) struct Supervisor {
    env: Env,
    setup: Setup,
    core: Core,
    children: Children,
    control: Control,
    voice: Voice,
    doctor: Doctor,
    clients: BTreeMap<Ticket, Client>,
    /// Those who asked for the end.
    ending: Vec<Client>,
    next_ticket: u64,
    notes: mpsc::Receiver<Note>,
    notes_sender: mpsc::Sender<Note>,
    /// What runs beside the loop; dropped when it is not wanted any more.
    beside: Option<Task<()>>,
    started_at: BootTime,
    failure: Option<Failure>,
}

/// What the loop woke up for.
enum Wake {
    Exited(usize, String),
    Note(Note),
    Request(Request, Client),
    Signal,
    Due,
}

impl Supervisor {
    /// A cluster of which nothing runs yet. DIR is locked, and `control` listens in it.
    pub(crate) fn new(env: Env, setup: Setup, output: Output, control: Control) -> Self {
        let (notes_sender, notes) = mpsc::channel(NOTES_MAX);
        Supervisor {
            core: Core::new(&setup.parts, setup.restart),
            children: Children::default(),
            control,
            voice: Voice::new(output, &setup.parts),
            doctor: Doctor::new(&env, &setup.parts),
            clients: BTreeMap::new(),
            ending: Vec::new(),
            next_ticket: 0,
            notes,
            notes_sender,
            beside: None,
            started_at: env.now(),
            failure: None,
            env,
            setup,
        }
    }

    /// Runs it until everything has ended.
    ///
    /// # Errors
    /// When it could not be started, was not healthy in time, or was killed.
    pub(crate) async fn run(mut self, mut signals: Signals) -> Result<(), Failure> {
        self.voice.note(&format!(
            "starting a cluster in {}",
            self.setup.paths.dir().display()
        ));
        let starting = starting::start(
            self.env.clone(),
            self.doctor.clone(),
            self.setup.timeout,
            self.notes_sender.clone(),
        );
        self.beside = Some(self.env.spawn(starting));
        let mut finished = self.handle(Event::Begin).await;
        while !finished {
            let wake = self.wake(&mut signals).await;
            finished = self.woken(wake).await;
        }
        self.voice.stopping("stopped", "everything has ended");
        let answer = match &self.failure {
            None => Answer {
                ok: true,
                message: "everything has ended, in order".to_owned(),
            },
            Some(failure) => Answer {
                ok: false,
                message: failure.to_string(),
            },
        };
        for client in std::mem::take(&mut self.ending) {
            client.answer(&self.env, &answer).await;
        }
        self.failure.map_or(Ok(()), Err)
    }

    async fn wake(&mut self, signals: &mut Signals) -> Wake {
        let env = self.env.clone();
        let due = self.core.due();
        let tick = async {
            match due {
                Some(at) => env.sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = signals.next() => Wake::Signal,
            (part, how) = self.children.next_exit() => Wake::Exited(part, how),
            Some(note) = self.notes.recv() => Wake::Note(note),
            Some((request, client)) = self.control.next() => Wake::Request(request, client),
            () = tick => Wake::Due,
        }
    }

    async fn woken(&mut self, wake: Wake) -> bool {
        match wake {
            Wake::Exited(part, how) => {
                let record = self.setup.paths.pid(&self.setup.parts[part].name);
                // One that stays is found to be outdated later.
                drop(plain_files::remove(self.env.files().as_ref(), &record));
                self.handle(Event::Exited { part, how }).await
            }
            Wake::Due => self.handle(Event::Tick).await,
            Wake::Note(note) => self.noted(note).await,
            Wake::Request(request, client) => self.requested(request, client).await,
            Wake::Signal if self.core.is_ending() => {
                self.voice.note("killing everything at once");
                self.failure = Some(Failure::killed("killed before everything had ended in order"));
                self.handle(Event::KillAll).await
            }
            Wake::Signal => {
                self.end("stopping everything in order (again Ctrl-C: at once)")
                    .await
            }
        }
    }

    async fn noted(&mut self, note: Note) -> bool {
        match note {
            Note::Bootstrapped => self.handle(Event::Bootstrapped).await,
            Note::ReplayListens => self.handle(Event::ReplayListens).await,
            Note::Healthy(health) => {
                let finished = self.handle(Event::Healthy).await;
                self.say_healthy(&health);
                finished
            }
            Note::ReplicasHaveAll => self.handle(Event::ReplicasHaveAll).await,
            Note::Failed(failure) => self.fail(failure).await,
            Note::Late(health) => {
                let late = self.why_late(&health);
                self.fail(late).await
            }
        }
    }

    async fn requested(&mut self, request: Request, client: Client) -> bool {
        let (name, start) = match request {
            Request::Down => {
                self.ending.push(client);
                return self.end("stopping everything in order, as `dev down` asks").await;
            }
            Request::Start { name } => (name, true),
            Request::Stop { name } => (name, false),
        };
        match find(&self.setup.parts, &name) {
            Err(message) => {
                client.answer(&self.env, &Answer { ok: false, message }).await;
                false
            }
            Ok(part) => {
                let ticket = Ticket(self.next_ticket);
                self.next_ticket += 1;
                self.clients.insert(ticket, client);
                self.handle(if start {
                    Event::Start {
                        part,
                        ticket,
                        dying: self.children.is_dying(&self.env, part),
                    }
                } else {
                    Event::Stop { part, ticket }
                })
                .await
            }
        }
    }

    async fn fail(&mut self, failure: Failure) -> bool {
        self.failed(&failure);
        self.end("stopping what was started").await
    }

    /// Says a failure now, since ending everything takes a while, and remembers that there was one.
    fn failed(&mut self, failure: &Failure) {
        self.voice.note(&format!("redoubt: {failure}"));
        self.failure = Some(failure.with_message("the cluster was stopped for the reason given above"));
    }

    async fn end(&mut self, message: &str) -> bool {
        if !self.core.is_ending() {
            self.beside = None;
            self.voice.stopping("stopping", message);
        }
        self.handle(Event::End).await
    }

    /// Gives an event to the core and does what it says; returns whether everything has ended.
    async fn handle(&mut self, event: Event) -> bool {
        let mut events = VecDeque::from([event]);
        let mut finished = false;
        while let Some(event) = events.pop_front() {
            for action in self.core.step(self.env.now(), event) {
                match action {
                    Action::Spawn(part) => events.push_back(self.spawn(part)),
                    Action::Terminate(part) if planted::on("stop_kills") => self.children.kill(part),
                    Action::Terminate(part) => self.children.terminate(part),
                    Action::Kill(part) => self.children.kill(part),
                    Action::Publish => self.publish(),
                    Action::Unpublish => self.unpublish(),
                    Action::WatchReplicas => self.watch_replicas(),
                    Action::Say(news) => self.voice.news(&news),
                    Action::Answer(ticket, result) => {
                        if let Some(client) = self.clients.remove(&ticket) {
                            client.answer(&self.env, &result.into()).await;
                        }
                    }
                    Action::GiveUp { part, why } => {
                        let why = self.why_given_up(part, &why);
                        self.failed(&why);
                        self.beside = None;
                        events.push_back(Event::End);
                    }
                    Action::Finished => finished = true,
                }
            }
        }
        finished
    }

    fn spawn(&mut self, part: usize) -> Event {
        let Setup {
            parts,
            paths,
            programs,
            ..
        } = &self.setup;
        let call = programs.call(&parts[part], parts, paths);
        match self.children.spawn(&self.env, paths, part, &parts[part], &call) {
            Ok(pid) => Event::Spawned { part, pid },
            Err(e) => Event::NotSpawned {
                part,
                why: e.to_string(),
            },
        }
    }

    fn watch_replicas(&mut self) {
        let (doctor, notes) = (self.doctor.clone(), self.notes_sender.clone());
        self.beside = Some(self.env.spawn(async move {
            doctor.replicas_have_all().await;
            // Nobody to tell means that everything has ended.
            drop(notes.send(Note::ReplicasHaveAll).await);
        }));
    }

    fn cluster(&self) -> Cluster {
        let component = |(part, p): (usize, &Part)| Component {
            name: p.name.clone(),
            kind: p.kind,
            pid: self.core.pid(part),
            address: p.address(),
            log: self.setup.paths.log(p).to_string_lossy().into_owned(),
        };
        Cluster {
            components: self.setup.parts.iter().enumerate().map(component).collect(),
        }
    }

    fn publish(&self) {
        let path = self.setup.paths.cluster();
        let content = self.cluster().to_json() + "\n";
        if let Err(e) = plain_files::replace(self.env.files().as_ref(), &path, content.as_bytes()) {
            self.voice.note(&format!("can't write {}: {e}", path.display()));
        }
    }

    fn unpublish(&self) {
        if let Err(e) = remove_cluster_file(self.env.files().as_ref(), &self.setup.paths) {
            self.voice.note(&e.to_string());
        }
    }

    fn say_healthy(&self, health: &[Health]) {
        let took = self.env.now().since(self.started_at);
        self.voice
            .healthy(&self.cluster(), health, &self.setup.paths, took);
    }

    /// The end of a component's log, indented.
    fn end_of_log(&self, part: usize) -> String {
        let path = self.setup.paths.log(&self.setup.parts[part]);
        let lines = starting::last_lines(self.env.files().as_ref(), &path);
        format!("  the last lines of {}:\n{lines}", path.display())
    }

    fn why_given_up(&self, part: usize, why: &str) -> Failure {
        let name = &self.setup.parts[part].name;
        Failure::failed(format!("{name} can't run: {why}\n{}", self.end_of_log(part)))
    }

    fn why_late(&self, health: &[Health]) -> Failure {
        let after = crate::duration::shown(self.setup.timeout);
        let mut text = format!("not everything was healthy within {after} (see --timeout):");
        for (part, health) in health.iter().enumerate() {
            if let Err(why) = health {
                let name = &self.setup.parts[part].name;
                text.push_str(&format!("\n{name}: {why}\n{}", self.end_of_log(part)));
            }
        }
        Failure::unavailable(text)
    }
}
