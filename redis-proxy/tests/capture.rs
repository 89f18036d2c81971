//! Capture against a real redis-server, into a real journal node: the same bytes whatever is cut, and never
//! from another server or past a gap.

#[allow(dead_code, reason = "the helpers for clients are not needed here")]
mod lab;
mod station;

const SHARED: bool = false;

use bytes::BytesMut;
use lab::{SOON, Server};
use redoubt_env::Env;
use redoubt_proxy::capture::link::{AttachError, Link, Target};
use redoubt_proxy::capture::overlap::{self, OverlapError};
use redoubt_proxy::session::EndReason;
use redoubt_types::limits::BACKLOG_BYTES;
use redoubt_types::{Offset, ReplId, RunId};
use station::{Station, effects_of, target};
use std::time::Duration;

#[tokio::test]
async fn a_link_resumes_after_a_cut_with_identical_bytes() {
    let env = Env::real();
    let server = Server::start(&env).await;
    let at_start = target(&env, &server).await;
    let (mut whole, _) = Link::attach(&env, &at_start).await.unwrap();
    let mut writer = server.control(&env).await;
    let (mut cut, mut resumes) = (BytesMut::new(), 0usize);
    for round in 0..20 {
        effects_of(&mut writer, round).await;
        let from = at_start.from.advance(cut.len() as u64);
        let (mut link, _) = Link::attach(
            &env,
            &Target {
                from,
                ..at_start.clone()
            },
        )
        .await
        .unwrap();
        // Some of what is there, at an arbitrary place: the link is dropped in the middle of commands.
        let some = cut.len() + 1 + (round * 977) % 4000;
        while cut.len() < some {
            let mut piece = BytesMut::with_capacity((some - cut.len()).min(700));
            match env
                .timeout(Duration::from_millis(50), link.read(&mut piece))
                .await
            {
                Ok(read) => assert_ne!(read.unwrap(), 0),
                Err(_) => break,
            }
            cut.extend_from_slice(&piece);
        }
        resumes += 1;
    }
    let mut seen = BytesMut::new();
    while seen.len() < cut.len() {
        seen.reserve(64 * 1024);
        assert_ne!(
            env.timeout(SOON, whole.read(&mut seen)).await.unwrap().unwrap(),
            0
        );
    }
    assert!(cut.len() > 20_000 && resumes == 20, "{} bytes", cut.len());
    assert_eq!(
        cut,
        seen[..cut.len()],
        "what was read in pieces is not what was read whole"
    );
}

#[tokio::test]
async fn h09_a_link_is_proved_by_run_id_and_role_before_it_is_used() {
    let env = Env::real();
    let server = Server::start(&env).await;
    let right = target(&env, &server).await;
    let other = Target {
        run_id: RunId::from_random([9; 20]),
        ..right.clone()
    };
    assert!(matches!(
        Link::attach(&env, &other).await,
        Err(AttachError::Other(_))
    ));
    let mut control = server.control(&env).await;
    control
        .call(&[b"REPLICAOF", b"127.0.0.1", b"1"], SOON)
        .await
        .unwrap();
    assert!(matches!(
        Link::attach(&env, &right).await,
        Err(AttachError::Other(_))
    ));
    let gone = Target {
        upstream: "127.0.0.1:1".to_owned().into(),
        ..right
    };
    assert!(matches!(
        Link::attach(&env, &gone).await,
        Err(AttachError::Unreachable(_))
    ));
}

#[tokio::test]
async fn a_full_sync_is_never_taken() {
    let env = Env::real();
    let server = Server::start(&env).await;
    let right = target(&env, &server).await;
    for (what, wrong) in [
        (
            "another history",
            Target {
                under: ReplId::from_random([9; 20]),
                ..right.clone()
            },
        ),
        (
            "past the end",
            Target {
                from: right.from.advance(1_000_000),
                ..right.clone()
            },
        ),
    ] {
        let refused = Link::attach(&env, &wrong).await;
        assert!(matches!(refused, Err(AttachError::NotContinued(_))), "{what}");
    }
    assert!(Link::attach(&env, &right).await.is_ok());
}

#[tokio::test]
async fn a_full_sync_that_the_master_puts_off_is_not_waited_for() {
    let env = Env::real();
    let server = Server::start(&env).await;
    let mut control = server.control(&env).await;
    control
        .call(&[b"CONFIG", b"SET", b"repl-diskless-sync-delay", b"600"], SOON)
        .await
        .unwrap();
    let right = target(&env, &server).await;
    let from = right.from.advance(1_000_000);
    let refused = Link::attach(&env, &Target { from, ..right }).await;
    assert!(matches!(refused, Err(AttachError::NotContinued(_))));
}

#[tokio::test]
async fn h11_a_busy_script_is_waited_for() {
    let env = Env::real();
    let server = Server::start(&env).await;
    let right = target(&env, &server).await;
    let mut busy = server.control(&env).await;
    let script = env.spawn(async move {
        let _ = busy.call(&[b"EVAL", b"while true do end", b"0"], SOON).await;
    });
    let mut control = server.control(&env).await;
    let mut asked = 0;
    let refused = loop {
        match Link::attach(&env, &right).await {
            Err(refused) => break refused,
            Ok(_) => asked += 1,
        }
        assert!(asked < 1000, "the script never kept the server busy");
    };
    assert!(matches!(refused, AttachError::NotNow(_)), "{refused}");
    control.call(&[b"SCRIPT", b"KILL"], SOON).await.unwrap();
    env.timeout(SOON, script).await.unwrap();
    assert!(Link::attach(&env, &right).await.is_ok());
}

#[tokio::test]
async fn a_session_survives_cut_links_and_the_journal_has_the_masters_bytes() {
    let station = Station::new().await;
    let mut writer = station.server.control(&station.env).await;
    let size = BACKLOG_BYTES.to_string();
    writer
        .call(&[b"CONFIG", b"SET", b"repl-backlog-size", size.as_bytes()], SOON)
        .await
        .unwrap();
    for round in 0..30 {
        effects_of(&mut writer, round).await;
        if round % 3 == 0 {
            writer
                .call(&[b"CLIENT", b"KILL", b"TYPE", b"replica"], SOON)
                .await
                .unwrap();
        }
    }
    let end = station.offset().await;
    station.committed(end).await;
    assert_eq!(station.session.ended(), None);
    let wanted = end.since(station.target.from).unwrap() as usize;
    let (mut whole, _) = Link::attach(&station.env, &station.target).await.unwrap();
    let mut seen = BytesMut::new();
    while seen.len() < wanted {
        seen.reserve(64 * 1024);
        assert_ne!(
            station
                .env
                .timeout(SOON, whole.read(&mut seen))
                .await
                .unwrap()
                .unwrap(),
            0
        );
    }
    let journal = station.journal_bytes(end).await;
    assert_eq!(journal.len(), wanted);
    assert_eq!(journal[..], seen[..wanted]);
}

#[tokio::test]
async fn h03_a_value_larger_than_an_entry_arrives_whole() {
    let station = Station::new().await;
    let mut writer = station.server.control(&station.env).await;
    let big = vec![b'v'; 5 * 1024 * 1024];
    writer.call(&[b"SET", b"before", b"1"], SOON).await.unwrap();
    writer.call(&[b"SET", b"big", &big], SOON).await.unwrap();
    writer.call(&[b"SET", b"after", b"1"], SOON).await.unwrap();
    let end = station.offset().await;
    station.committed(end).await;
    let tail = station.client.describe(SOON).await.unwrap().position;
    assert_eq!((tail.tail, tail.pending_end), (end, end));
}

#[tokio::test]
async fn h12_the_master_is_never_told_that_more_is_held_than_is_committed() {
    let mut station = Station::new().await;
    let mut writer = station.server.control(&station.env).await;
    effects_of(&mut writer, 1).await;
    let before = station.offset().await;
    station.committed(before).await;
    station.acked(before).await;
    station.stop_journal().await;
    // Nothing can be committed any more.
    let committed = station.session.hold.committed();
    effects_of(&mut writer, 2).await;
    let after = station.offset().await;
    assert!(committed < after);
    // Long enough for the repeated ACKs: they keep coming, and say the same.
    for _ in 0..25 {
        let acked = station.acked_offset().await;
        assert!(
            acked <= Some(committed),
            "{acked:?} were acknowledged, {committed} are committed"
        );
        station.env.sleep(Duration::from_millis(100)).await;
    }
    station.start_journal().await;
    station.committed(after).await;
    station.acked(after).await;
}

#[tokio::test]
async fn h12_clients_are_held_back_while_capture_is_down() {
    let mut station = Station::new().await;
    assert!(!*station.session.pressure.watch().borrow());
    station.server.kill().await;
    let mut pressure = station.session.pressure.watch();
    station
        .env
        .timeout(SOON, pressure.wait_for(|on| *on))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        station.session.ended(),
        None,
        "a cut link is not a change of server"
    );
}

#[tokio::test]
async fn h13_a_backlog_that_was_overrun_while_capture_was_cut_ends_the_session() {
    let mut station = Station::new().await;
    let mut writer = station.server.control(&station.env).await;
    writer
        .call(&[b"CONFIG", b"SET", b"repl-backlog-size", b"16384"], SOON)
        .await
        .unwrap();
    effects_of(&mut writer, 1).await;
    station.committed(station.offset().await).await;
    // In one transaction, so that capture can't be back before the backlog has gone on.
    let big = vec![b'v'; 1024 * 1024];
    writer.call(&[b"MULTI"], SOON).await.unwrap();
    writer
        .call(&[b"CLIENT", b"KILL", b"TYPE", b"replica"], SOON)
        .await
        .unwrap();
    writer.call(&[b"SET", b"big", &big], SOON).await.unwrap();
    writer.call(&[b"EXEC"], SOON).await.unwrap();
    let reason = station.ended().await;
    assert!(matches!(reason, EndReason::CaptureLost(_)), "{reason}");
}

#[tokio::test]
async fn h09_a_master_that_was_promoted_anew_ends_the_session() {
    let mut station = Station::new().await;
    let mut control = station.server.control(&station.env).await;
    control
        .call(&[b"REPLICAOF", b"127.0.0.1", b"1"], SOON)
        .await
        .unwrap();
    control.call(&[b"REPLICAOF", b"NO", b"ONE"], SOON).await.unwrap();
    let reason = station.ended().await;
    assert!(matches!(reason, EndReason::ServerChanged(_)), "{reason}");
}

#[tokio::test]
async fn what_the_master_sent_before_it_ended_is_committed_when_the_proxy_stops() {
    let mut station = Station::new().await;
    let mut writer = station.server.control(&station.env).await;
    effects_of(&mut writer, 3).await;
    let end = station.offset().await;
    station.server.kill().await;
    station.stop();
    assert_eq!(station.ended().await, EndReason::Shutdown);
    assert_eq!(station.client.describe(SOON).await.unwrap().position.tail, end);
}

#[tokio::test]
async fn h16_the_overlap_is_compared_with_the_journals_own_bytes() {
    let station = Station::new().await;
    let mut writer = station.server.control(&station.env).await;
    effects_of(&mut writer, 4).await;
    let end = station.offset().await;
    station.committed(end).await;
    let Station { env, client, .. } = &station;
    let from = Offset::new(end.get() - 1000);
    let (mut link, _) = Link::attach(
        env,
        &Target {
            from,
            ..station.target.clone()
        },
    )
    .await
    .unwrap();
    assert_eq!(overlap::compare(env, client, &mut link, from, end).await, Ok(()));
    // Another server's bytes at the same offsets.
    let stranger = Server::start(env).await;
    let there = target(env, &stranger).await;
    let mut control = stranger.control(env).await;
    control
        .call(&[b"SET", b"k", &vec![b'z'; 200_000]], SOON)
        .await
        .unwrap();
    let from = there.from.advance(10_000);
    let to = from.advance(1000);
    let (mut link, _) = Link::attach(env, &Target { from, ..there }).await.unwrap();
    effects_of(&mut writer, 5).await;
    station.committed(station.offset().await).await;
    let differs = overlap::compare(env, client, &mut link, from, to).await;
    assert!(
        matches!(differs, Err(OverlapError::Differs { .. })),
        "{differs:?}"
    );
}

#[cfg(feature = "planted-bugs")]
#[test]
fn catches_the_planted_bugs_of_capture() {
    for (test, bug) in [
        (
            "h12_the_master_is_never_told_that_more_is_held_than_is_committed",
            "h12_ack_captured",
        ),
        (
            "h12_clients_are_held_back_while_capture_is_down",
            "h12_forward_while_down",
        ),
    ] {
        redoubt_env::planted::assert_catches(test, bug);
    }
}
