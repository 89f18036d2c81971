use super::super::layout::Layout;
use super::*;

/// A core and a clock, with processes numbered from 100.
struct World {
    core: Core,
    parts: Vec<Part>,
    now: BootTime,
    next_pid: u32,
    said: Vec<Action>,
}

const SECOND: Duration = Duration::from_secs(1);

impl World {
    fn new(restart: Restart) -> Self {
        let parts = Layout::new(7000, 3, 1).unwrap().parts();
        let core = Core::new(&parts, restart);
        World {
            core,
            parts,
            now: BootTime::default(),
            next_pid: 100,
            said: Vec::new(),
        }
    }

    fn healthy(restart: Restart) -> Self {
        let mut world = World::new(restart);
        for event in [
            Event::Begin,
            Event::Bootstrapped,
            Event::ReplayListens,
            Event::Healthy,
        ] {
            world.happens(event);
        }
        world
    }

    /// Gives an event to the core, and starts what it wants started.
    fn happens(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for action in self.core.step(self.now, event) {
                if let Action::Spawn(part) = action {
                    self.next_pid += 1;
                    events.push(Event::Spawned {
                        part,
                        pid: self.next_pid,
                    });
                }
                actions.push(action);
            }
        }
        self.said.extend(actions.clone());
        actions
    }

    fn at(&self, name: &str) -> usize {
        self.parts.iter().position(|p| p.name == name).unwrap()
    }

    fn dies(&mut self, name: &str) -> Vec<Action> {
        let part = self.at(name);
        self.happens(Event::Exited {
            part,
            how: "it was ended by signal 9".into(),
        })
    }

    fn passes(&mut self, time: Duration) -> Vec<Action> {
        self.now = self.now.plus(time);
        self.happens(Event::Tick)
    }

    fn pid(&self, name: &str) -> Option<u32> {
        self.core.pid(self.at(name))
    }

    /// Names of the components that an action of `actions` is about.
    fn names(&self, actions: &[Action], which: impl Fn(&Action) -> Option<usize>) -> Vec<&str> {
        actions
            .iter()
            .filter_map(which)
            .map(|p| self.parts[p].name.as_str())
            .collect()
    }

    fn terminated(&self, actions: &[Action]) -> Vec<&str> {
        self.names(actions, |a| {
            if let Action::Terminate(p) = a {
                Some(*p)
            } else {
                None
            }
        })
    }

    fn spawned(&self, actions: &[Action]) -> Vec<&str> {
        self.names(
            actions,
            |a| if let Action::Spawn(p) = a { Some(*p) } else { None },
        )
    }

    fn killed(&self, actions: &[Action]) -> Vec<&str> {
        self.names(actions, |a| if let Action::Kill(p) = a { Some(*p) } else { None })
    }
}

#[test]
fn servers_start_only_once_there_is_something_to_follow() {
    let mut world = World::new(Restart::After(SECOND));
    let journals = world.happens(Event::Begin);
    assert_eq!(world.spawned(&journals), ["journal-1", "journal-2", "journal-3"]);
    let replay = world.happens(Event::Bootstrapped);
    assert_eq!(world.spawned(&replay), ["replay-1"]);
    let rest = world.happens(Event::ReplayListens);
    assert_eq!(world.spawned(&rest), ["master-1", "replica-1", "proxy-1"]);
    assert!(
        !world.said.contains(&Action::Publish),
        "published before all was healthy"
    );
    assert_eq!(world.happens(Event::Healthy), [Action::Publish]);
}

#[test]
fn the_dead_are_started_again_after_the_delay_and_both_are_published() {
    let mut world = World::healthy(Restart::After(SECOND));
    let died = world.dies("master-1");
    assert!(died.contains(&Action::Publish));
    assert_eq!(world.pid("master-1"), None);
    assert_eq!(world.core.due(), Some(world.now.plus(SECOND)));
    assert_eq!(world.passes(SECOND / 2), []);
    let again = world.passes(SECOND / 2);
    assert_eq!(world.spawned(&again), ["master-1"]);
    assert_eq!(again.last(), Some(&Action::Publish));
    assert!(world.pid("master-1").is_some());
}

fn start(part: usize, ticket: Ticket, dying: bool) -> Event {
    Event::Start { part, ticket, dying }
}

#[test]
fn who_starts_what_was_just_killed_gets_the_next_process() {
    for restart in [Restart::Never, Restart::After(SECOND)] {
        let mut world = World::healthy(restart);
        let (part, old) = (world.at("journal-2"), world.pid("journal-2"));
        assert_eq!(world.happens(start(part, Ticket(1), true)), []);
        assert!(matches!(
            world.happens(start(part, Ticket(2), true))[..],
            [Action::Answer(Ticket(2), Err(_))]
        ));
        let gone = world.dies("journal-2");
        assert!(gone.contains(&Action::Spawn(part)), "at once: {gone:?}");
        let answers = |a: &Action| matches!(a, Action::Answer(Ticket(1), Ok(_)));
        assert!(gone.iter().any(answers), "{gone:?}");
        assert!(world.pid("journal-2").is_some() && world.pid("journal-2") != old);
    }
}

#[test]
fn who_starts_what_is_then_stopped_is_told() {
    let mut world = World::healthy(Restart::Never);
    let part = world.at("journal-2");
    world.happens(start(part, Ticket(1), true));
    world.happens(Event::Stop {
        part,
        ticket: Ticket(2),
    });
    let gone = world.dies("journal-2");
    assert!(
        gone.iter()
            .any(|a| matches!(a, Action::Answer(Ticket(1), Err(_))))
    );
    assert!(gone.iter().any(|a| matches!(a, Action::Answer(Ticket(2), Ok(_)))));
    assert_eq!(world.pid("journal-2"), None);
}

#[test]
fn never_means_never_until_somebody_asks() {
    let mut world = World::healthy(Restart::Never);
    world.dies("journal-2");
    assert_eq!(world.core.due(), None);
    assert_eq!(world.passes(SECOND * 100), []);
    let part = world.at("journal-2");
    let asked = world.happens(start(part, Ticket(1), false));
    assert_eq!(world.spawned(&asked), ["journal-2"]);
    assert!(
        asked
            .iter()
            .any(|a| matches!(a, Action::Answer(Ticket(1), Ok(_))))
    );
}

#[test]
fn what_was_stopped_stays_down_and_its_client_is_told_when_it_is_gone() {
    let mut world = World::healthy(Restart::After(SECOND));
    let part = world.at("proxy-1");
    let asked = world.happens(Event::Stop {
        part,
        ticket: Ticket(7),
    });
    assert_eq!(asked, [Action::Terminate(part)]);
    let gone = world.dies("proxy-1");
    let answered = gone
        .iter()
        .position(|a| matches!(a, Action::Answer(Ticket(7), Ok(_))));
    let published = gone.iter().position(|a| *a == Action::Publish);
    assert!(published.is_some() && published < answered, "{gone:?}");
    assert_eq!(world.passes(SECOND * 100), []);
    assert_eq!(world.pid("proxy-1"), None);
}

#[test]
fn stopping_what_waits_for_its_restart_cancels_that() {
    let mut world = World::healthy(Restart::After(SECOND));
    world.dies("proxy-1");
    let part = world.at("proxy-1");
    let asked = world.happens(Event::Stop {
        part,
        ticket: Ticket(7),
    });
    assert!(matches!(asked[..], [Action::Answer(Ticket(7), Ok(_))]));
    assert_eq!(world.passes(SECOND * 100), []);
}

#[test]
fn what_does_not_end_is_killed_and_that_is_said() {
    let mut world = World::healthy(Restart::After(SECOND));
    let part = world.at("replay-1");
    world.happens(Event::Stop {
        part,
        ticket: Ticket(1),
    });
    assert_eq!(world.passes(grace(Kind::Replay) - SECOND), []);
    let late = world.passes(SECOND);
    assert_eq!(world.killed(&late), ["replay-1"]);
    assert!(late.iter().any(|a| matches!(a, Action::Say(News::Killed { .. }))));
    assert_eq!(world.core.due(), None, "it is not killed twice");
}

#[test]
fn everything_ends_in_order_and_each_only_after_the_one_before_is_gone() {
    let mut world = World::healthy(Restart::After(SECOND));
    let said_before = world.said.len();
    let actions = world.happens(Event::End);
    assert_eq!(actions[0], Action::Unpublish);
    assert_eq!(world.terminated(&actions), ["master-1"]);
    // The master is gone: the replicas first get its last bytes.
    let actions = world.dies("master-1");
    assert!(actions.contains(&Action::WatchReplicas));
    assert_eq!(world.terminated(&actions), [""; 0]);
    let actions = world.happens(Event::ReplicasHaveAll);
    assert_eq!(world.terminated(&actions), ["replica-1"]);
    let actions = world.dies("replica-1");
    assert_eq!(world.terminated(&actions), ["proxy-1"]);
    let actions = world.dies("proxy-1");
    assert_eq!(world.terminated(&actions), ["replay-1"]);
    let actions = world.dies("replay-1");
    assert_eq!(
        world.terminated(&actions),
        ["journal-1", "journal-2", "journal-3"]
    );
    world.dies("journal-2");
    world.dies("journal-1");
    assert_eq!(world.dies("journal-3").last(), Some(&Action::Finished));
    assert!(
        !world.said[said_before..].contains(&Action::Publish),
        "published while ending"
    );
}

#[test]
fn replicas_are_not_waited_for_without_bound() {
    let mut world = World::healthy(Restart::After(SECOND));
    world.happens(Event::End);
    world.dies("master-1");
    let actions = world.passes(LAST_BYTES_WAIT);
    assert!(
        actions
            .iter()
            .any(|a| matches!(a, Action::Say(News::ReplicasBehind { .. })))
    );
    assert_eq!(world.terminated(&actions), ["replica-1"]);
    assert_eq!(world.happens(Event::ReplicasHaveAll), []);
}

#[test]
fn replicas_are_not_waited_for_when_nobody_can_feed_them() {
    let mut world = World::healthy(Restart::Never);
    world.dies("journal-1");
    world.dies("journal-3");
    world.happens(Event::End);
    let actions = world.dies("master-1");
    assert_eq!(world.terminated(&actions), ["replica-1"]);
}

#[test]
fn the_end_goes_on_when_something_dies_meanwhile_or_was_dead() {
    let mut world = World::healthy(Restart::After(SECOND));
    world.dies("proxy-1");
    world.happens(Event::End);
    assert_eq!(
        world.core.due(),
        Some(world.now.plus(grace(Kind::Master))),
        "the proxy waits for no restart"
    );
    world.dies("replica-1");
    let actions = world.dies("master-1");
    assert_eq!(world.terminated(&actions), ["replay-1"]);
}

#[test]
fn a_second_ctrl_c_kills_everything_at_once() {
    let mut world = World::healthy(Restart::After(SECOND));
    world.happens(Event::End);
    let actions = world.happens(Event::KillAll);
    assert_eq!(world.killed(&actions).len(), world.parts.len());
    let names: Vec<_> = world.parts.iter().map(|p| p.name.clone()).collect();
    let last = names.iter().map(|name| world.dies(name)).last().unwrap();
    assert_eq!(last.last(), Some(&Action::Finished));
}

#[test]
fn nothing_is_started_while_everything_ends() {
    let mut world = World::healthy(Restart::After(SECOND));
    world.dies("proxy-1");
    world.happens(Event::End);
    let part = world.at("proxy-1");
    let asked = world.happens(start(part, Ticket(1), false));
    assert!(matches!(asked[..], [Action::Answer(Ticket(1), Err(_))]));
    assert_eq!(world.happens(Event::Bootstrapped), []);
}

#[test]
fn starting_is_given_up_when_a_component_keeps_dying() {
    let mut world = World::new(Restart::After(SECOND));
    world.happens(Event::Begin);
    for _ in 1..DEATHS_MAX {
        let died = world.dies("journal-1");
        assert!(!died.iter().any(|a| matches!(a, Action::GiveUp { .. })));
        world.passes(SECOND);
    }
    let died = world.dies("journal-1");
    assert!(died.iter().any(|a| matches!(a, Action::GiveUp { .. })));
    let mut world = World::new(Restart::Never);
    world.happens(Event::Begin);
    assert!(
        world
            .dies("journal-1")
            .iter()
            .any(|a| matches!(a, Action::GiveUp { .. }))
    );
}

#[test]
fn an_end_before_anything_runs_is_an_end() {
    let mut world = World::new(Restart::Never);
    assert_eq!(world.happens(Event::End), [Action::Unpublish, Action::Finished]);
}
