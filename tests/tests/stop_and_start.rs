//! Stopped in order and started again, nothing is synced anew; a directory whose supervisor was killed can be used
//! again; and what other people's tools rely on: cluster.json, and what is refused with which words.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

use redoubt_tests::{
    DevCluster, Options, Server, Tokens, assert_catches, connect, eventually, info_field, redoubt, run,
    wait_equal, write_all_types,
};
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

/// Master and replica hold what `before` holds, and clients are served it.
async fn assert_all_there(cluster: &DevCluster, before: &Server) {
    let mut before = before.connect().await;
    let mut master = connect(cluster.port("master-1")).await;
    wait_equal(&mut master, &mut before).await;
    wait_equal(&mut connect(cluster.port("replica-1")).await, &mut before).await;
    let mut proxy = connect(cluster.port("proxy-1")).await;
    let mut ttl = redis::cmd("TTL");
    let ttl: i64 = ttl.arg("ttl").query_async(&mut proxy).await.unwrap();
    assert!((1..=5000).contains(&ttl), "{ttl}");
    let mut call = redis::cmd("FCALL");
    let called: i64 = call.arg("f").arg(0).query_async(&mut proxy).await.unwrap();
    assert_eq!(called, 1);
}

/// What replay said since it was started last.
fn replay_log(cluster: &DevCluster) -> String {
    let log = cluster.log("replay-1");
    let (_, last) = log
        .rsplit_once("redoubt dev up starts")
        .expect("a start in the log");
    last.to_owned()
}

/// In the run that is on, replay let these continue, and synced nobody anew.
fn assert_continued(cluster: &DevCluster, names: &[&str]) {
    let log = replay_log(cluster);
    assert!(!log.contains("full sync"), "somebody was synced anew:\n{log}");
    for name in names {
        let address = cluster.component(name).address;
        let asked = format!("continue address={address:?}");
        assert!(log.contains(&asked), "{name} did not ask to continue:\n{log}");
    }
}

#[tokio::test]
async fn stopped_in_order_under_load_and_started_again_nothing_is_synced_anew() {
    let mut cluster = DevCluster::start(Options::default()).await;
    write_all_types(&mut connect(cluster.port("proxy-1")).await).await;
    for round in 0..2 {
        let mut proxy = connect(cluster.port("proxy-1")).await;
        run(&mut proxy, "SET short v PX 1500|INCR counter").await;
        // Clients are still at it when the end comes.
        let tokens = Tokens::start(cluster.port("proxy-1"), 4, &format!("stop{round}"));
        tokens.progress(200, SOON).await;
        let before_down = tokens.acked();
        cluster.down().await;
        assert!(tokens.acked() >= before_down);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        cluster.up().await;
        // They find the next run under the same address and go on.
        tokens.progress(50, SOON).await;
        let outcome = tokens.stop().await;
        assert_continued(&cluster, &["master-1", "replica-1"]);
        let mut proxy = connect(cluster.port("proxy-1")).await;
        outcome.assert_kept_by(&mut proxy).await;
        let mut exists = redis::cmd("EXISTS");
        let there: bool = exists.arg("short").query_async(&mut proxy).await.unwrap();
        assert!(!there, "a key outlived its time because nobody ran");
        assert_all_there(&cluster, &cluster.rebuilt().await).await;
    }
    let mut get = redis::cmd("GET");
    let mut proxy = connect(cluster.port("proxy-1")).await;
    let counter: i64 = get.arg("counter").query_async(&mut proxy).await.unwrap();
    assert_eq!(counter, 8);
    cluster.down().await;
}

#[test]
fn catches_servers_that_are_stopped_without_a_save() {
    assert_catches(
        "stopped_in_order_under_load_and_started_again_nothing_is_synced_anew",
        "stop_kills",
    );
}

#[tokio::test]
async fn stopped_and_started_without_a_write_nothing_changes() {
    let mut cluster = DevCluster::start(Options::default()).await;
    write_all_types(&mut connect(cluster.port("proxy-1")).await).await;
    let before = cluster.rebuilt().await;
    for _ in 0..2 {
        cluster.down().await;
        cluster.up().await;
        assert_all_there(&cluster, &before).await;
        assert_continued(&cluster, &["master-1", "replica-1"]);
    }
    cluster.down().await;
}

#[tokio::test]
async fn a_directory_whose_supervisor_was_killed_can_be_used_again() {
    let mut cluster = DevCluster::start(Options::default()).await;
    write_all_types(&mut connect(cluster.port("proxy-1")).await).await;
    for _ in 0..2 {
        let before = cluster.components().unwrap();
        let tokens = Tokens::start(cluster.port("proxy-1"), 4, "orphans");
        tokens.progress(100, SOON).await;
        cluster.kill_supervisor().await;
        assert!(
            before.iter().all(|c| runs(c.pid.unwrap())),
            "the components ended with their supervisor"
        );
        // Nobody supervises them, and they serve.
        tokens.progress(100, SOON).await;
        cluster.up().await;
        for c in &before {
            assert!(
                !runs(c.pid.unwrap()),
                "{} of the dead supervisor still runs",
                c.name
            );
            let told = format!("{} (pid {})", c.name, c.pid.unwrap());
            assert!(
                cluster.supervisor_log().contains(&told),
                "nobody said that {told} was ended"
            );
        }
        tokens.progress(50, SOON).await;
        let outcome = tokens.stop().await;
        // They were ended in order too.
        assert_continued(&cluster, &["master-1", "replica-1"]);
        outcome
            .assert_kept_by(&mut connect(cluster.port("proxy-1")).await)
            .await;
        let mut proxy = connect(cluster.port("proxy-1")).await;
        redis::cmd("DEL")
            .arg("tokens:orphans:0")
            .exec_async(&mut proxy)
            .await
            .unwrap();
        for w in 1..4 {
            let list = format!("tokens:orphans:{w}");
            redis::cmd("DEL").arg(list).exec_async(&mut proxy).await.unwrap();
        }
        assert_all_there(&cluster, &cluster.rebuilt().await).await;
    }

    // `dev down` ends them as well, when nobody is to go on.
    let before = cluster.components().unwrap();
    cluster.kill_supervisor().await;
    let dir = cluster.dir.to_string_lossy().into_owned();
    let (code, out, err) = redoubt(&["dev", "down", "--dir", &dir]).await;
    assert_eq!(code, 0, "{out}{err}");
    assert!(before.iter().all(|c| !runs(c.pid.unwrap())), "{out}{err}");
    assert!(
        cluster.components().is_none(),
        "cluster.json speaks of what has ended"
    );
}

/// Whether the process exists and is no zombie.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    let is_zombie = |stat: &str| {
        let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
        state.is_some_and(|state| state.starts_with('Z'))
    };
    stat.is_ok_and(|stat| !is_zombie(&stat))
}

#[tokio::test]
async fn cluster_json_tells_what_runs() {
    let mut cluster = DevCluster::start(Options::default()).await;
    let components = cluster.components().unwrap();
    let shown: Vec<_> = components
        .iter()
        .map(|c| (c.name.as_str(), c.kind.as_str()))
        .collect();
    let wanted = [
        ("journal-1", "journal"),
        ("journal-2", "journal"),
        ("journal-3", "journal"),
        ("master-1", "master"),
        ("replica-1", "replica"),
        ("proxy-1", "proxy"),
        ("replay-1", "replay"),
    ];
    assert_eq!(shown, wanted);
    for c in &components {
        assert!(runs(c.pid.unwrap()), "{c:?}");
        assert!(
            std::path::Path::new(&c.log).starts_with(cluster.dir.join(&c.name).canonicalize().unwrap()),
            "{c:?} does not lie under DIR/NAME"
        );
        let reached = tokio::net::TcpStream::connect(&c.address).await;
        assert!(reached.is_ok(), "{c:?}");
    }
    let pids: BTreeSet<u32> = components.iter().filter_map(|c| c.pid).collect();
    assert_eq!(pids.len(), components.len());

    // What it says when somebody is dead, and when the next one runs.
    let others = |except: &str| {
        let all = cluster.components().unwrap();
        all.into_iter()
            .filter(|c| c.name != except)
            .map(|c| (c.name, c.pid))
            .collect::<Vec<_>>()
    };
    for name in ["replica-1", "journal-2", "proxy-1"] {
        let before = others(name);
        let pid = cluster.component(name).pid.unwrap();
        cluster.dev("stop", name).await;
        assert_eq!(cluster.component(name).pid, None);
        assert!(!runs(pid));
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(cluster.component(name).pid, None, "what was stopped stays down");
        cluster.dev("start", name).await;
        let new = cluster
            .component(name)
            .pid
            .expect("a process, as soon as start has been answered");
        assert!(new != pid && runs(new));
        assert_eq!(others(name), before, "the others were not touched");
    }
    let killed = cluster.kill("replay-1");
    eventually("a dead component's pid is null", Duration::from_secs(1), || {
        let pid = cluster.component("replay-1").pid;
        std::future::ready(if pid.is_none() {
            Ok(())
        } else {
            Err(format!("{pid:?}"))
        })
    })
    .await;
    cluster.restarted("replay-1", killed).await;

    let mut proxy = connect(cluster.port("proxy-1")).await;
    run(&mut proxy, "SET k v").await;
    let mut master = connect(cluster.port("master-1")).await;
    wait_equal(&mut master, &mut connect(cluster.port("replica-1")).await).await;
    cluster.down().await;
}

#[tokio::test]
async fn a_component_that_may_not_be_restarted_stays_dead_and_is_shown_as_that() {
    let options = Options {
        restart: "never",
        ..Options::default()
    };
    let mut cluster = DevCluster::start(options).await;
    cluster.kill("replica-1");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(cluster.component("replica-1").pid, None);
    run(&mut connect(cluster.port("proxy-1")).await, "SET k v").await;
    cluster.dev("start", "replica-1").await;
    eventually("the replica's link", SOON, || async {
        let mut replica = redoubt_tests::try_connect(cluster.port("replica-1"))
            .await
            .map_err(|e| e.to_string())?;
        let link = info_field(&mut replica, "replication", "master_link_status").await;
        if link == "up" { Ok(()) } else { Err(link) }
    })
    .await;
    cluster.down().await;
}

#[tokio::test]
async fn what_the_supervisor_is_asked_wrongly_is_refused_in_words() {
    let mut cluster = DevCluster::start(Options::default()).await;
    let dir = cluster.dir.to_string_lossy().into_owned();
    let before = cluster.components().unwrap();

    let (code, _, err) = redoubt(&["dev", "up", "--dir", &dir]).await;
    assert_eq!(code, 1, "{err}");
    assert!(
        err.contains(&dir) && err.contains("is in use by process"),
        "{err}"
    );
    assert!(err.contains("redoubt dev down"), "it says what to do: {err}");

    let (code, _, err) = redoubt(&["dev", "stop", "journal-9", "--dir", &dir]).await;
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("journal-9") && err.contains("journal-3"), "{err}");

    let after = cluster.components().unwrap();
    assert_eq!(format!("{before:?}"), format!("{after:?}"), "nobody was touched");
    run(&mut connect(cluster.port("proxy-1")).await, "SET k v").await;
    cluster.down().await;

    // Nobody is there to be asked.
    let (code, _, err) = redoubt(&["dev", "start", "journal-1", "--dir", &dir]).await;
    assert_eq!(code, 1, "{err}");
    assert!(
        err.contains("no cluster runs in") && err.contains("redoubt dev up"),
        "{err}"
    );
    // What it was made with can't be changed.
    let (code, _, err) = redoubt(&["dev", "up", "--dir", &dir, "--journals", "5"]).await;
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("--journals 3"), "{err}");
}

#[tokio::test]
async fn a_taken_port_is_named_before_anything_is_started() {
    for (offset, name) in [
        (0, "proxy-1"),
        (102, "journal-2"),
        (201, "master-1"),
        (301, "replay-1"),
    ] {
        let base = redoubt_tests::free_base();
        let _taken = TcpListener::bind(("127.0.0.1", base + offset)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("cluster");
        let shown = dir.to_string_lossy().into_owned();
        let (code, _, err) = redoubt(&["dev", "up", "--dir", &shown, "--port-base", &base.to_string()]).await;
        assert_eq!(code, 1, "{err}");
        let told = format!(
            "port {} of {name} is taken by process {}",
            base + offset,
            std::process::id()
        );
        assert!(err.contains(&told), "{err}");
        assert!(!dir.join("journal-1").exists(), "something was started");
        assert!(!dir.join("cluster.json").exists());
    }
}
