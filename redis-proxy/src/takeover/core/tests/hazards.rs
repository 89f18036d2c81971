//! The hazards that the way to become master is about, and the bugs that each table catches.

use super::*;

/// The lines up to the first look after the grant of epoch 2 at tail 500.
fn about_to_be_fed() -> Vec<(Event, &'static str)> {
    vec![
        (Event::Started, "look"),
        (looked(replica(50, 2, 500)), "acquire"),
        (granted(2, past(record(1, 40, 0), &[(1, 0), (2, 0)], 500)), "look"),
        (looked(replica(50, 2, 400)), "prepare"),
        (Event::Done, "wait"),
        (Event::Done, "look"),
    ]
}

#[test]
fn h16_what_is_not_there_is_not_promoted() {
    let mut loading_failed = replica(50, 2, 500);
    loading_failed.replication.link_up = false;
    let mut syncing = replica(50, 2, 500);
    syncing.replication.sync_in_progress = true;
    let mut loading = replica(50, 2, 500);
    loading.server.loading = true;
    let mut unapplied = replica(50, 2, 500);
    unapplied.replication.slave_repl_offset = Some(Offset::new(450));
    for look in [
        loading_failed,
        syncing,
        loading,
        unapplied,
        replica(50, 1, 500),
        replica(50, 2, 499),
    ] {
        let mut core = core();
        play(&mut core, about_to_be_fed());
        play(&mut core, vec![(looked(look), "wait"), (Event::Done, "look")]);
        play(
            &mut core,
            vec![(looked(replica(50, 2, 500)), "record session 2 at 500")],
        );
    }
    // And these are not the server that the path began with.
    for look in [
        replica(51, 2, 500),
        replica(50, 2, 501),
        master(50, 3, Some((2, 500)), 500),
    ] {
        let mut core = core();
        play(&mut core, about_to_be_fed());
        play(&mut core, vec![(looked(look), "begin again")]);
        assert!(!core.holds_epoch());
    }
}

#[test]
fn h16_the_check_is_made_again_right_before_the_promotion() {
    let mut core = core();
    play(&mut core, about_to_be_fed());
    play(
        &mut core,
        vec![
            (looked(replica(50, 2, 500)), "record session 2 at 500"),
            (Event::Done, "promote 2 at 500"),
            (Event::NotPromoted("its link went down".into()), "begin again"),
            (Event::Done, "look"),
        ],
    );
}

#[test]
fn h16_an_overlap_that_differs_is_refused_and_the_epoch_given_back() {
    let mut core = core();
    play(&mut core, first_start()[..7].to_vec());
    play(
        &mut core,
        vec![
            (Event::CaptureDiffers("byte 3".into()), "release 1"),
            (Event::Done, "refused"),
            (Event::Done, "look"),
            // What it is fed since, by another cell's takeover, makes nothing right.
            (looked(replica(50, 2, 500)), "refused"),
            (Event::Done, "look"),
            (looked(replica(51, 2, 500)), "acquire"),
        ],
    );
}

#[test]
fn h17_a_replica_that_skipped_commands_is_not_promoted() {
    let mut core = core();
    play(&mut core, about_to_be_fed());
    let mut skipped = replica(50, 2, 500);
    skipped.server.unexpected_error_replies = Some(3);
    play(
        &mut core,
        vec![
            (looked(skipped), "release 2"),
            (Event::Done, "refused"),
            (Event::Done, "look"),
            // No further epoch is taken for the same process, whatever it says now.
            (looked(replica(50, 2, 500)), "refused"),
            (Event::Done, "look"),
            (looked(replica(51, 2, 500)), "acquire"),
        ],
    );
}

#[test]
fn h17_a_replica_that_is_not_what_the_last_master_was_is_not_promoted() {
    let kinds: [fn(&mut Look); 4] = [
        |look| look.server.version = (7, 0, 14),
        |look| look.settings.databases = 4,
        |look| look.settings.read_only = false,
        |look| look.settings.ignores_maxmemory = false,
    ];
    for differs in kinds {
        let mut core = core();
        let other = |offset| {
            let mut look = replica(50, 2, offset);
            differs(&mut look);
            looked(look)
        };
        let mut last = record(1, 40, 0);
        last.as_mut().unwrap().server = "redis 7.0.15, 16 databases".into();
        let events = vec![
            (Event::Started, "look"),
            (other(500), "acquire"),
            (granted(2, past(last, &[(1, 0), (2, 0)], 500)), "look"),
            (other(500), "prepare"),
            (Event::Done, "release 2"),
            (Event::Done, "refused"),
            (Event::Done, "look"),
            (other(500), "refused"),
        ];
        play(&mut core, events);
    }
}

#[test]
fn h17_an_older_master_of_the_journals_history_is_not_even_fed() {
    let mut core = core();
    let mut stale = master(50, 1, None, 400);
    stale.server.version = (7, 0, 14);
    let events = vec![
        (Event::Started, "look"),
        (looked(stale), "describe"),
        (
            described(past(record(1, 40, 0), &[(1, 0), (2, 300)], 500)),
            "refused",
        ),
    ];
    play(&mut core, events);
}

/// What it skipped before this takeover began counts as well: it was a replica since it was started.
#[test]
fn h17_commands_that_were_skipped_long_ago_count_too() {
    let mut core = core();
    let skipped = |offset| {
        let mut look = replica(50, 2, offset);
        look.server.unexpected_error_replies = Some(40);
        look
    };
    let events = vec![
        (Event::Started, "look"),
        (looked(skipped(500)), "acquire"),
        (granted(2, past(record(1, 40, 0), &[(1, 0), (2, 0)], 500)), "look"),
        (looked(skipped(500)), "prepare"),
        (Event::Done, "release 2"),
        (Event::Done, "refused"),
    ];
    play(&mut core, events);
}

#[test]
fn h18_an_epoch_that_leads_nowhere_is_given_back() {
    let mut core = core();
    play(&mut core, about_to_be_fed());
    let later = |s| Moment {
        now: BootTime::new(Duration::from_secs(s)),
        wall: WallTime::default(),
    };
    assert_eq!(
        brief(&core.step(looked(replica(50, 2, 450)), later(10))),
        "wait",
        "it moves"
    );
    core.step(Event::Done, later(29));
    assert_eq!(brief(&core.step(looked(replica(50, 2, 450)), later(29))), "wait");
    core.step(Event::Done, later(31));
    assert_eq!(
        brief(&core.step(looked(replica(50, 2, 450)), later(31))),
        "release 2"
    );
    assert!(!core.holds_epoch());
}

#[test]
fn h10_a_new_cell_waits_for_the_last_ones_clock() {
    let mut core = core();
    play(&mut core, about_to_be_fed());
    let grant = |e, wall_ms| {
        let Event::Granted(mut g) = granted(e, past(record(1, 40, 0), &[(1, 0), (2, 0)], 500)) else {
            panic!()
        };
        (g.previous_wall, g.previous_lease) = (WallTime::from_ms(wall_ms), Duration::from_secs(3));
        Event::Granted(g)
    };
    // The table's clock stands at 1,000,000 ms; the last writer's stood 500 ms ahead, and its lease is 3 s.
    let mut core = Takeover::new(REPLAY.to_owned());
    let fed = || looked(replica(50, 2, 500));
    play(
        &mut core,
        vec![
            (Event::Started, "look"),
            (fed(), "acquire"),
            (grant(2, 1_000_500), "look"),
            (fed(), "prepare"),
            (Event::Done, "record session 2 at 500"),
            (Event::Done, "promote 2 at 500"),
            (
                Event::Promoted(Box::new(master(50, 3, Some((2, 500)), 500))),
                "capture 2 at 500 overlap 40",
            ),
            (Event::Captured(id(3)), "record lineage 3 from 500"),
            (Event::Done, "wait"),
            (Event::Done, "serve 2 under 3"),
            // Its own next epoch waits for nobody.
            (ended(EndReason::ServerChanged("killed".into())), "begin again"),
            (Event::Done, "look"),
            (fed(), "acquire"),
            (grant(3, 1_000_500), "look"),
            (fed(), "record session 3 at 500"),
            (Event::Done, "promote 2 at 500"),
            (
                Event::Promoted(Box::new(master(50, 4, Some((2, 500)), 500))),
                "capture 2 at 500 overlap 40",
            ),
            (Event::Captured(id(4)), "record lineage 4 from 500"),
            (Event::Done, "serve 3 under 4"),
        ],
    );
}

#[test]
fn h10_an_own_epoch_that_came_to_nothing_does_not_hide_whose_clock_was_last() {
    let grant = |e| {
        let Event::Granted(mut g) = granted(e, past(record(1, 40, 500), &[(1, 0), (2, 0)], 500)) else {
            panic!()
        };
        (g.previous_wall, g.previous_lease) = (WallTime::from_ms(1_000_500), Duration::from_secs(3));
        Event::Granted(g)
    };
    let fed = || looked(replica(50, 2, 500));
    play(
        &mut Takeover::new(REPLAY.to_owned()),
        vec![
            (Event::Started, "look"),
            (fed(), "acquire"),
            (grant(2), "look"),
            (fed(), "prepare"),
            (Event::Done, "record session 2 at 500"),
            (Event::Done, "promote 2 at 500"),
            (Event::NotPromoted("its replay went".into()), "begin again"),
            (Event::Done, "look"),
            (fed(), "acquire"),
            (grant(3), "look"),
            (fed(), "record session 3 at 500"),
            (Event::Done, "promote 2 at 500"),
            (
                Event::Promoted(Box::new(master(50, 3, Some((2, 500)), 500))),
                "capture 2 at 500 overlap 40",
            ),
            (Event::Captured(id(3)), "record lineage 3 from 500"),
            (Event::Done, "wait"),
            (Event::Done, "serve 3 under 3"),
        ],
    );
    // What a process left promoted before it had served anybody is no proof that the clock was its own either.
    play(
        &mut Takeover::new(REPLAY.to_owned()),
        vec![
            (Event::Started, "look"),
            (looked(master(40, 3, Some((2, 500)), 514)), "describe"),
            (
                described(past(record(1, 40, 500), &[(1, 0), (2, 0)], 500)),
                "acquire",
            ),
            (grant(2), "look"),
            (
                looked(master(40, 3, Some((2, 500)), 514)),
                "record session 2 at 500",
            ),
            (Event::Done, "capture 2 at 500 overlap 26"),
            (Event::Captured(id(3)), "record lineage 3 from 500"),
            (Event::Done, "wait"),
            (Event::Done, "serve 2 under 3"),
        ],
    );
}

/// Each rule is seen to be tested: with it taken away, a table says so.
#[cfg(feature = "planted-bugs")]
#[test]
fn catches_the_planted_bugs_of_the_takeover() {
    for (test, bug) in [
        (
            "hazards::h16_what_is_not_there_is_not_promoted",
            "h16_promote_without_link",
        ),
        (
            "hazards::h16_an_overlap_that_differs_is_refused_and_the_epoch_given_back",
            "poison_is_forgotten",
        ),
        (
            "resuming_is_decided_by_the_grants_own_record",
            "resume_stale_record",
        ),
        (
            "the_first_start_of_an_empty_cluster_is_the_one_way",
            "serve_before_lineage",
        ),
        (
            "the_first_start_of_an_empty_cluster_is_the_one_way",
            "record_after_noone",
        ),
        (
            "the_first_start_of_an_empty_cluster_is_the_one_way",
            "h13_no_backlog",
        ),
    ] {
        redoubt_env::planted::assert_catches(&format!("takeover::core::tests::{test}"), bug);
    }
}
