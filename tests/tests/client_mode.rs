//! Client mode: a plain server that can't be told REPLICAOF holds what the journal says, whatever is killed (docs/client-mode.md).
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

mod feed;

use feed::{Feed, KEY, field_times, let_short_times_end, write};
use redis::aio::MultiplexedConnection;
use redoubt_tests::{
    DevCluster, Dice, Options, Server, assert_catches, connect, eventually, run, stock, write_all_types,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
/// How often replay is killed, unless CLIENT_MODE_KILLS says so.
const KILLS: u64 = 20;

async fn cluster() -> DevCluster {
    let options = Options {
        replicas: 0,
        ..Options::default()
    };
    DevCluster::start(options).await
}

async fn get(conn: &mut MultiplexedConnection, key: &str) -> Option<String> {
    redis::cmd("GET").arg(key).query_async(conn).await.unwrap()
}

/// Waits until the target has `value` under `key`.
async fn has(feed: &Feed, key: &str, value: &str) {
    let target = feed.server.connect().await;
    eventually("an effect on the target", SOON, || {
        let mut target = target.clone();
        async move {
            let found = get(&mut target, key).await;
            if found.as_deref() == Some(value) {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        }
    })
    .await;
}

/// Random commands from several clients.
struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<u64>>,
}

impl Writers {
    fn start(cluster: &DevCluster, seed: u64, fields: bool) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let task = |n: u64| {
            let (port, stop) = (cluster.port("proxy-1"), Arc::clone(&stop));
            tokio::spawn(async move { write(connect(port).await, seed ^ (n << 32), fields, stop).await })
        };
        let tasks = (0..3).map(task).collect();
        Writers { stop, tasks }
    }

    /// Returns how many commands they sent.
    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut sent = 0;
        for task in self.tasks {
            sent += task.await.unwrap();
        }
        sent
    }
}

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Given by CLIENT_MODE_SEED, or another one each time.
fn seed() -> u64 {
    let seed = number_of("CLIENT_MODE_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("CLIENT_MODE_SEED={seed}");
    seed
}

/// The different offsets at which replays with this log began.
fn beginnings(log: &str) -> usize {
    let begun = log.lines().filter(|line| line.contains("following into it"));
    let offsets = begun.filter_map(|line| line.split_once("offset=").map(|(_, n)| n.to_owned()));
    offsets.collect::<std::collections::BTreeSet<_>>().len()
}

#[tokio::test]
async fn a_target_equals_the_master_however_often_replay_is_killed() {
    let kills = number_of("CLIENT_MODE_KILLS").unwrap_or(KILLS);
    let seed = seed();
    let mut cluster = cluster().await;
    let feed = Feed::new(&cluster, Server::start(&[]).await);
    let mut client = connect(cluster.port("proxy-1")).await;
    write_all_types(&mut client).await;
    let writers = Writers::start(&cluster, seed, false);
    let mut dice = Dice::new(seed, 0);
    let mut log = String::new();
    for _ in 0..kills {
        let replay = feed.start(&[]);
        tokio::time::sleep(Duration::from_millis(60 + dice.roll(400))).await;
        log = replay.log();
        replay.kill().await;
    }
    let sent = writers.stop().await;
    let_short_times_end(&mut client).await;
    let begun = beginnings(&log);
    println!("{sent} commands, {kills} kills, {begun} different offsets to go on from");
    feed.assert_equal_at_the_end(&cluster).await;
    assert!(
        begun as u64 > kills / 3,
        "most kills were before anything was applied: {begun}"
    );
    cluster.down().await;
}

#[tokio::test]
async fn a_target_equals_the_master_however_often_the_connection_breaks() {
    let seed = seed();
    let mut cluster = cluster().await;
    let feed = Feed::new(&cluster, Server::start(&[]).await);
    let mut client = connect(cluster.port("proxy-1")).await;
    let writers = Writers::start(&cluster, seed, false);
    let replay = feed.start(&[]);
    let (mut target, mut dice) = (feed.server.connect().await, Dice::new(seed, 0));
    for _ in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(600 + dice.roll(200))).await;
        let kill = redis::cmd("CLIENT")
            .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
            .to_owned();
        let _: i64 = kill.query_async(&mut target).await.unwrap();
    }
    let sent = writers.stop().await;
    let_short_times_end(&mut client).await;
    let (code, status, _) = cluster
        .redoubt(&["status", "--endpoints", &cluster.endpoints().join(",")])
        .await;
    let shown = format!("into-{}", feed.server.address());
    assert!(code == 0 && status.contains(&shown), "{status}");
    let begun = beginnings(&replay.log());
    println!("{sent} commands, {begun} different offsets to go on from");
    assert_eq!(replay.stop().await.code(), Some(0));
    feed.assert_equal_at_the_end(&cluster).await;
    assert!(begun as u64 > KILLS / 2, "{begun}");
    cluster.down().await;
}

#[test]
fn catches_a_position_apart_from_the_data() {
    assert_catches(
        "a_target_equals_the_master_however_often_replay_is_killed",
        "position_apart_from_the_data",
    );
}

#[tokio::test]
async fn h20_effects_applied_after_their_time_give_what_they_gave_in_time() {
    let mut cluster = cluster().await;
    let mut client = connect(cluster.port("proxy-1")).await;
    run(
        &mut client,
        "SET cnt 5 PX 300|INCR cnt|PERSIST cnt|SET session s PX 300|PEXPIRE session 5000000|SET gone g PX 300|\
         SET moved m PX 300|RENAME moved kept|PERSIST kept",
    )
    .await;
    let_short_times_end(&mut client).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let_short_times_end(&mut client).await;
    let feed = Feed::new(&cluster, Server::start(&[]).await);
    let (content, log) = feed.run(&["--until-tail"]).await;
    assert!(content, "{log}");
    let mut target = feed.server.connect().await;
    assert_eq!(get(&mut target, "cnt").await.as_deref(), Some("6"));
    assert_eq!(get(&mut target, "kept").await.as_deref(), Some("m"));
    assert_eq!(get(&mut target, "session").await.as_deref(), Some("s"));
    assert_eq!(
        get(&mut target, "gone").await,
        None,
        "the master said that it ended"
    );
    feed.assert_equal_at_the_end(&cluster).await;
    cluster.down().await;
}

#[test]
fn catches_h20_expiries_that_are_not_deferred() {
    assert_catches(
        "h20_effects_applied_after_their_time_give_what_they_gave_in_time",
        "h20_expiries_are_not_deferred",
    );
}

async fn field_a(feed: &Feed) -> Option<u64> {
    let mut get = redis::cmd("HGET");
    let get = get.arg(&["h", "a"]);
    get.query_async(&mut feed.server.connect().await).await.unwrap()
}

#[tokio::test]
async fn h20_fields_of_hashes_are_deferred_as_keys_are() {
    for name in ["redis-8.2.3", "valkey-9.1.2"] {
        let program = stock(name);
        let options = Options {
            replicas: 0,
            server: Some(program.clone()),
            ..Options::default()
        };
        let mut cluster = DevCluster::start(options).await;
        let mut client = connect(cluster.port("proxy-1")).await;
        run(
            &mut client,
            "HSET h a 1 b 2 c 3 d 4|HPEXPIRE h 300 FIELDS 2 a b|HINCRBY h a 5|HPEXPIRE h 5000000 FIELDS 1 a|\
             HEXPIRE h 4000 FIELDS 1 c|HSETEX h EX 6000 FIELDS 1 e 5|HGETEX h EX 7000 FIELDS 1 d",
        )
        .await;
        tokio::time::sleep(Duration::from_millis(800)).await;
        let feed = Feed::new(&cluster, Server::start_debuggable(&program, &[]).await);
        let (content, log) = feed.run(&["--until-tail"]).await;
        assert!(content, "{name}: {log}");
        assert_eq!(field_a(&feed).await, Some(6), "{name}");
        // The same with random commands, applied while they are written and later.
        let writers = Writers::start(&cluster, seed(), true);
        for _ in 0..5 {
            let replay = feed.start(&[]);
            tokio::time::sleep(Duration::from_millis(300)).await;
            replay.kill().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        println!("{name}: {} commands", writers.stop().await);
        run(
            &mut client,
            "DEL h|HSET h a 1 b 2 c 3 d 4|HPEXPIRE h 300 FIELDS 2 a b|HPEXPIRE h 5000000 FIELDS 1 a|\
            HEXPIRE h 4000 FIELDS 1 c|HSETEX h EX 6000 FIELDS 1 e 5|HGETEX h EX 7000 FIELDS 1 d",
        )
        .await;
        let_short_times_end(&mut client).await;
        feed.assert_equal_at_the_end(&cluster).await;
        let of_master = field_times(&mut connect(cluster.port("master-1")).await).await;
        let of_target = field_times(&mut feed.server.connect().await).await;
        assert_eq!(of_master, of_target, "{name}");
        let h = of_target
            .iter()
            .find(|(db, key, _)| *db == 0 && key == "h")
            .unwrap();
        assert_eq!(
            h.2.iter().filter(|(_, time)| *time > 0).count(),
            4,
            "{name}: {h:?}"
        );
        println!("{name}: {} hashes", of_target.len());
        cluster.down().await;
    }
}

#[tokio::test]
async fn only_one_program_moves_a_targets_position() {
    let mut cluster = cluster().await;
    let mut client = connect(cluster.port("proxy-1")).await;
    let feed = Feed::new(&cluster, Server::start(&[]).await);
    run(&mut client, "SET k 1").await;
    let first = feed.start(&[]);
    has(&feed, "k", "1").await;
    let second = feed.start(&[]);
    eventually("the second one begins", SOON, || {
        let log = second.log();
        std::future::ready(if log.matches("following into it").count() == 2 {
            Ok(())
        } else {
            Err(log)
        })
    })
    .await;
    for n in 0..50 {
        run(&mut client, &format!("INCR n|SET k {n}")).await;
    }
    has(&feed, "k", "49").await;
    has(&feed, "n", "50").await;
    // One of them was told that it is not alone: which is a matter of luck.
    eventually("an end", SOON, || {
        let log = second.log();
        std::future::ready(if log.contains("another program moves its position") {
            Ok(())
        } else {
            Err(log)
        })
    })
    .await;
    drop((first, second));
    feed.assert_equal_at_the_end(&cluster).await;
    cluster.down().await;
}

#[tokio::test]
async fn a_target_on_which_an_effect_fails_is_never_followed_into_again() {
    let mut cluster = cluster().await;
    let mut client = connect(cluster.port("proxy-1")).await;
    let feed = Feed::new(&cluster, Server::start(&[]).await);
    run(&mut client, "LPUSH l a").await;
    let (content, log) = feed.run(&["--until-tail"]).await;
    assert!(content, "{log}");
    // Somebody else writes to the target.
    let mut target = feed.server.connect().await;
    run(&mut target, "DEL l|SET l mine").await;
    run(&mut client, "LPUSH l secret-value").await;
    let (content, log) = feed.run(&[]).await;
    assert!(!content);
    assert!(
        log.contains("LPUSH before ") && log.contains("WRONGTYPE"),
        "{log}"
    );
    assert!(!log.contains("secret-value"), "{log}");
    let (content, log) = feed.run(&["--until-tail"]).await;
    assert!(!content);
    assert!(log.contains("is not equal to the journal"), "{log}");
    cluster.down().await;
}

#[tokio::test]
async fn a_database_that_the_target_lacks_is_noticed_before_anything_is_written() {
    let mut cluster = cluster().await;
    let mut client = connect(cluster.port("proxy-1")).await;
    let feed = Feed::new(&cluster, Server::start(&["--databases", "4"]).await);
    run(&mut client, "SELECT 3|SET k v").await;
    let (content, log) = feed.run(&["--until-tail"]).await;
    assert!(content, "{log}");
    run(&mut client, "SELECT 5|SET wrong 1").await;
    let (content, log) = feed.run(&["--until-tail"]).await;
    assert!(
        !content && log.contains("SELECT 5") && log.contains("out of range"),
        "{log}"
    );
    let mut target = feed.server.connect().await;
    for db in 0..4 {
        run(&mut target, &format!("SELECT {db}")).await;
        assert_eq!(get(&mut target, "wrong").await, None);
    }
    run(&mut target, "SELECT 0").await;
    let position = get(&mut target, KEY).await.unwrap();
    assert!(position.contains(" stage=following "), "{position}");
    cluster.down().await;
}

#[tokio::test]
async fn a_target_that_holds_something_else_is_left_as_it_is() {
    let mut cluster = cluster().await;
    let mut client = connect(cluster.port("proxy-1")).await;
    run(&mut client, "SET k v").await;
    for (setup, refusal) in [
        ("SELECT 7|SET mine 1", "it holds 1 keys and no position"),
        ("SET redoubt:position 1", "is no position"),
        ("REPLICAOF 127.0.0.1 1", "it is a replica"),
    ] {
        let feed = Feed::new(&cluster, Server::start(&[]).await);
        let mut target = feed.server.connect().await;
        run(&mut target, setup).await;
        let (content, log) = feed.run(&[]).await;
        assert!(!content && log.contains(refusal), "{setup}: {log}");
        run(&mut target, "SELECT 0").await;
        assert_eq!(get(&mut target, "k").await, None);
    }
    let feed = Feed::new(&cluster, Server::start(&[]).await);
    let mut target = feed.server.connect().await;
    let library = "#!lua name=lib\nredis.register_function('f', function() return 1 end)";
    redis::cmd("FUNCTION")
        .arg("LOAD")
        .arg(library)
        .exec_async(&mut target)
        .await
        .unwrap();
    let (content, log) = feed.run(&[]).await;
    assert!(!content && log.contains("function libraries"), "{log}");

    // A user's key of the position's name stops it before that, and says how to go on.
    let feed = Feed::new(&cluster, Server::start(&[]).await);
    run(&mut client, "SET before 1|SET redoubt:position users|SET after 1").await;
    let (content, log) = feed.run(&[]).await;
    assert!(
        !content && log.contains("SET before") && log.contains("--position-key"),
        "{log}"
    );
    let mut target = feed.server.connect().await;
    assert_eq!(get(&mut target, "before").await.as_deref(), Some("1"));
    assert_eq!(get(&mut target, "after").await, None);
    run(&mut target, "RENAME redoubt:position redoubt:other").await;
    let (content, log) = feed
        .run(&["--until-tail", "--position-key", "redoubt:other"])
        .await;
    assert!(content, "{log}");
    assert_eq!(
        get(&mut target, "redoubt:position").await.as_deref(),
        Some("users")
    );
    assert_eq!(get(&mut target, "after").await.as_deref(), Some("1"));
    cluster.down().await;
}

#[tokio::test]
async fn what_is_filtered_stays_out_and_is_remembered() {
    let mut cluster = cluster().await;
    let mut client = connect(cluster.port("proxy-1")).await;
    run(
        &mut client,
        "SET zero 1|SELECT 1|SET one 1|SELECT 2|SET two 1|FLUSHDB|SET two 2|SELECT 0|SET last 1",
    )
    .await;
    let feed = Feed::new(&cluster, Server::start(&[]).await);
    let mut target = feed.server.connect().await;
    let mut subscriber = redoubt_tests::Raw::connect(feed.server.port).await;
    subscriber.send(&[b"SUBSCRIBE", b"news"]).await;
    subscriber.begins("*3\r\n$9\r\nsubscribe", SOON).await;
    run(&mut client, "PUBLISH news one").await;
    let args = [
        "--until-tail",
        "--only-db",
        "1",
        "--only-db",
        "2",
        "--skip-command",
        "FLUSHDB",
    ];
    let limited = [&args[..], &["--publish", "--max-commands-per-second", "40"]].concat();
    let began = std::time::Instant::now();
    let (content, log) = feed.run(&limited).await;
    assert!(content, "{log}");
    println!("took {:?}", began.elapsed());
    let mut keys = Vec::new();
    for db in 0..3 {
        redis::cmd("SELECT")
            .arg(db)
            .exec_async(&mut target)
            .await
            .unwrap();
        let found: Vec<String> = redis::cmd("KEYS")
            .arg("*")
            .query_async(&mut target)
            .await
            .unwrap();
        keys.push(found);
    }
    assert_eq!(
        keys,
        [
            vec![KEY.to_owned()],
            vec!["one".to_owned()],
            vec!["two".to_owned()]
        ]
    );
    let (content, log) = feed.run(&["--until-tail"]).await;
    assert!(
        !content && log.contains("it was fed with the filter only-db:1,only-db:2,skip-command:flushdb"),
        "{log}"
    );
    cluster.down().await;
}
