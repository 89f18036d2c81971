//! A server that is not the journal's is refused and left as it is; one that is too old is refused; one that is the
//! journal's and stale is fed before anybody is served; one whose load failed is not promoted.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

#[allow(dead_code, reason = "not all helpers are needed here")]
mod standby;

use redis::aio::MultiplexedConnection;
use redoubt_tests::{
    DevCluster, Options, Raw, Server, Tokens, assert_catches, assert_equal, connect, eventually, info_field,
    redoubt, try_connect, wait_equal,
};
use redoubt_types::Epoch;
use rustix::process::Signal;
use standby::{Interposed, Mode, Standby};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);
/// What the proxy logs when it does so.
const DEMOTES: &str = " a replica of the replay";
const ACQUIRES: &str = "next: acquire the next epoch";
const PROMOTES: &str = "next: promote the server";
const REFUSES: &str = "refused: ";
const AGAIN: Duration = Duration::from_secs(40);

/// A cluster whose journal holds `k` = `newest`, and that nobody writes to any more.
async fn journal_without_a_writer() -> DevCluster {
    let cluster = DevCluster::start(Options::default()).await;
    set(&mut connect(cluster.port("proxy-1")).await, "k", "newest").await;
    cluster.dev("stop", "proxy-1").await;
    cluster
}

async fn set(conn: &mut MultiplexedConnection, key: &str, value: &str) {
    redis::cmd("SET")
        .arg(key)
        .arg(value)
        .exec_async(conn)
        .await
        .expect("SET");
}

async fn epoch(cluster: &DevCluster) -> Option<Epoch> {
    let described = cluster.journal().describe(SOON).await;
    described.expect("the journal answers").writer.epoch
}

/// Waits until the proxy serves, and reads `k` as the first thing that is read through it.
async fn first_read(port: u16) -> Option<String> {
    eventually("service", AGAIN, || async {
        let mut conn = try_connect(port).await?;
        redis::cmd("GET").arg("k").query_async(&mut conn).await
    })
    .await
}

/// A server with data that no journal knows.
async fn with_data(args: &[&str]) -> Server {
    let server = Server::start(args).await;
    let mut conn = server.connect().await;
    for i in 0..20 {
        set(&mut conn, &format!("precious:{i}"), "data").await;
    }
    set(&mut conn, "k", "another's").await;
    let load = "#!lua name=lib\nredis.register_function('f', function() return 1 end)";
    redis::cmd("FUNCTION")
        .arg("LOAD")
        .arg(load)
        .exec_async(&mut conn)
        .await
        .unwrap();
    redis::cmd("XADD")
        .arg(&["x", "1-1", "f", "v"])
        .exec_async(&mut conn)
        .await
        .unwrap();
    server
}

/// A server that holds the same, to compare with later.
async fn copy_of(server: &Server) -> Server {
    let (host, port) = ("127.0.0.1", server.port.to_string());
    let copy = Server::start(&["--replicaof", host, &port]).await;
    let mut conn = copy.connect().await;
    wait_equal(&mut server.connect().await, &mut conn).await;
    redis::cmd("REPLICAOF")
        .arg("NO")
        .arg("ONE")
        .exec_async(&mut conn)
        .await
        .unwrap();
    copy
}

/// The proxy refuses `server` in words that say why and what to do, serves nobody, and changes nothing.
async fn assert_left_alone(cluster: &DevCluster, server: &Server, copy: &Server) {
    let identity = async || {
        let mut conn = server.connect().await;
        let mut told = Vec::new();
        for field in ["role", "master_replid", "master_host", "master_port"] {
            let text: String = redis::cmd("INFO")
                .arg("replication")
                .query_async(&mut conn)
                .await
                .unwrap();
            told.extend(
                text.lines()
                    .find(|l| l.starts_with(&format!("{field}:")))
                    .map(str::to_owned),
            );
        }
        told
    };
    let (identity_before, epoch_before) = (identity().await, epoch(cluster).await);
    let standby = Standby::start(cluster, server.port, None).await;
    standby.says("refused: the server is", DEMOTES).await;
    let mut client = Raw::connect(standby.port).await;
    client.send(&[b"GET", b"k"]).await;
    // It is looked at again meanwhile.
    client
        .stays_silent(Duration::from_secs(4), "what a foreign server holds")
        .await;

    let log = standby.log();
    let replay = cluster.component("replay-1").address.replace(':', " ");
    for words in [
        "the journal knows neither replid",
        "its data is not the journal's and would be lost if it were fed",
        "It was left as it is",
        &format!("start it empty with `--replicaof {replay}`"),
        "to keep its data, point this proxy at another server",
    ] {
        assert!(log.contains(words), "the proxy does not say {words:?}:\n{log}");
    }
    assert_equal(&mut server.connect().await, &mut copy.connect().await).await;
    assert_eq!(identity().await, identity_before, "the server was told something");
    assert_eq!(
        epoch(cluster).await,
        epoch_before,
        "an epoch was taken for a server that can't be served"
    );
    standby.kill().await;
}

#[tokio::test]
async fn a_server_with_data_that_is_not_the_journals_is_refused_and_left_as_it_is() {
    let mut cluster = journal_without_a_writer().await;
    let server = with_data(&["--repl-diskless-sync-delay", "0"]).await;
    let copy = copy_of(&server).await;
    assert_left_alone(&cluster, &server, &copy).await;

    // The same as somebody else's replica.
    let port = server.port.to_string();
    let replica = Server::start(&["--replicaof", "127.0.0.1", &port]).await;
    wait_equal(&mut replica.connect().await, &mut copy.connect().await).await;
    assert_left_alone(&cluster, &replica, &copy).await;
    assert_equal(&mut server.connect().await, &mut copy.connect().await).await;

    // Nor is it rebuilt into.
    let endpoints = cluster.endpoints().join(",");
    let (code, _, err) = redoubt(&["rebuild", "--endpoints", &endpoints, "--into", &server.address()]).await;
    assert_eq!(code, 1, "{err}");
    assert!(err.contains(&server.address()) && err.contains("keys"), "{err}");
    assert_equal(&mut server.connect().await, &mut copy.connect().await).await;

    // What the proxy says is to be done is done: an empty server, started as it says, is served.
    let replay = cluster.component("replay-1").address;
    let (host, port) = replay.split_once(':').unwrap();
    let empty = Server::start(&["--replicaof", host, port]).await;
    let standby = Standby::start(&cluster, empty.port, None).await;
    assert_eq!(first_read(standby.port).await.as_deref(), Some("newest"));
    wait_equal(
        &mut empty.connect().await,
        &mut connect(cluster.port("replica-1")).await,
    )
    .await;
    standby.kill().await;
    cluster.down().await;
}

#[test]
fn catches_a_foreign_server_that_is_fed() {
    assert_catches(
        "a_server_with_data_that_is_not_the_journals_is_refused_and_left_as_it_is",
        "foreign_is_fed",
    );
}

#[tokio::test]
async fn h23_a_server_older_than_7_is_refused_and_left_as_it_is() {
    let mut cluster = journal_without_a_writer().await;
    let replay = cluster.component("replay-1").address;
    let (host, port) = replay.split_once(':').unwrap();
    // Everything else is as it should be: it would be served but for its version.
    let server = Server::start(&["--replicaof", host, port]).await;
    let mut conn = server.connect().await;
    let version = info_field(&mut conn, "server", "redis_version").await;
    let old = format!("{:0<1$}", "6.2.14", version.len());
    let lies = [(format!("redis_version:{version}"), format!("redis_version:{old}"))];
    let upstream = Interposed::start(Mode::Through(server.port), lies.to_vec()).await;
    let epoch_before = epoch(&cluster).await;
    let standby = Standby::start(&cluster, upstream.port, None).await;
    standby
        .says("refused: the server is redis 6.2.14", ACQUIRES)
        .await;
    let mut client = Raw::connect(standby.port).await;
    client.send(&[b"GET", b"k"]).await;
    client
        .stays_silent(Duration::from_secs(4), "what an old server holds")
        .await;
    let log = standby.log();
    assert!(
        log.contains("nothing older than 7.0 is served; upgrade it"),
        "{log}"
    );
    assert_eq!(info_field(&mut conn, "replication", "role").await, "slave");
    assert_eq!(epoch(&cluster).await, epoch_before);
    standby.kill().await;
    cluster.down().await;

    // `dev up` does not even start one.
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("redis-server");
    std::fs::write(
        &program,
        "#!/bin/sh\necho Redis server v=6.2.14 sha=00000000:0 malloc=libc bits=64\n",
    )
    .unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).unwrap();
    let (at, program) = (dir.path().join("cluster"), program.to_string_lossy().into_owned());
    let at = at.to_string_lossy().into_owned();
    let (code, _, err) = redoubt(&["dev", "up", "--dir", &at, "--redis-server", &program]).await;
    assert_eq!(code, 1, "{err}");
    assert!(
        err.contains("6.2.14") && err.contains("needs Redis 7.0 or later"),
        "{err}"
    );
}

#[test]
fn catches_a_server_of_any_version() {
    assert_catches(
        "h23_a_server_older_than_7_is_refused_and_left_as_it_is",
        "h23_any_version",
    );
}

#[tokio::test]
async fn a_stale_master_is_fed_before_anybody_is_served() {
    let mut cluster = DevCluster::start(Options::default()).await;
    let mut proxy = connect(cluster.port("proxy-1")).await;
    set(&mut proxy, "k", "stale").await;
    let mut master = connect(cluster.port("master-1")).await;
    redis::cmd("SAVE").exec_async(&mut master).await.unwrap();
    let old = tempfile::tempdir().unwrap();
    std::fs::copy(cluster.dir.join("master-1/dump.rdb"), old.path().join("dump.rdb")).unwrap();
    let tokens = Tokens::start(cluster.port("proxy-1"), 4, "stale");
    tokens.progress(300, SOON).await;
    let outcome = tokens.stop().await;
    set(&mut proxy, "k", "newest").await;
    cluster.dev("stop", "proxy-1").await;

    // Somebody starts it from its old file, as a master, and it takes a write that nobody's journal knows.
    let server = Server::start(&["--dir", &old.path().to_string_lossy()]).await;
    let mut conn = server.connect().await;
    let held: String = redis::cmd("GET").arg("k").query_async(&mut conn).await.unwrap();
    assert_eq!(held, "stale", "the file is older than the journal");
    set(&mut conn, "own", "unacknowledged").await;
    assert_eq!(info_field(&mut conn, "replication", "role").await, "master");

    let standby = Standby::start(&cluster, server.port, None).await;
    standby.says(DEMOTES, REFUSES).await;
    assert_eq!(first_read(standby.port).await.as_deref(), Some("newest"));
    let mut served = connect(standby.port).await;
    outcome.assert_kept_by(&mut served).await;
    let own: bool = redis::cmd("EXISTS")
        .arg("own")
        .query_async(&mut served)
        .await
        .unwrap();
    assert!(!own, "a write that is in no journal is shown");
    set(&mut served, "goes", "on").await;
    wait_equal(&mut conn, &mut connect(cluster.port("replica-1")).await).await;
    standby.kill().await;
    cluster.down().await;
}

#[test]
fn catches_a_stale_master_that_is_not_known_again() {
    assert_catches(
        "a_stale_master_is_fed_before_anybody_is_served",
        "stale_is_foreign",
    );
}

#[tokio::test]
async fn h16_a_server_whose_load_failed_is_not_promoted() {
    let mut cluster = journal_without_a_writer().await;
    let replay = Interposed::start(Mode::Through(cluster.port("replay-1")), Vec::new()).await;
    let replay_port = replay.port.to_string();
    let server = Server::start(&["--replicaof", "127.0.0.1", &replay_port]).await;
    let mut conn = server.connect().await;
    let described = cluster.journal().describe(SOON).await.unwrap();
    let (tail, replid) = (
        described.position.tail.to_string(),
        described.lineage.last().replid.to_string(),
    );
    let fed = async |link: &str, size: u64| {
        let mut conn = server.connect().await;
        let now: u64 = redis::cmd("DBSIZE")
            .query_async(&mut conn)
            .await
            .map_err(|e| e.to_string())?;
        let mut told = Vec::new();
        for field in [
            "role",
            "master_link_status",
            "master_repl_offset",
            "master_replid",
        ] {
            told.push(info_field(&mut conn, "replication", field).await);
        }
        let wanted = ["slave", link, &tail, &replid];
        if now == size && told == wanted {
            Ok(())
        } else {
            Err(format!("{now} keys, {told:?}, not {wanted:?}"))
        }
    };
    eventually("a server that is fed to the tail", SOON, || fed("up", 1)).await;

    // The proxy has looked and wants an epoch, which it gets only once the load has failed: a full sync emptied the
    // server, it still says that it stands at the tail, and REPLICAOF NO ONE would succeed.
    let journals = cluster.of_kind("journal");
    for node in &journals {
        cluster.signal(&node.name, Signal::STOP);
    }
    let standby = Standby::start(&cluster, server.port, Some(replay.port)).await;
    standby.says(ACQUIRES, REFUSES).await;
    replay.lead_to(Mode::BadSync {
        replid: replid.clone(),
        offset: tail.clone(),
    });
    eventually("a server whose load has failed", SOON, || fed("down", 0)).await;
    for node in &journals {
        cluster.signal(&node.name, Signal::CONT);
    }
    standby.says("its link to the replay is not up", PROMOTES).await;
    let mut client = Raw::connect(standby.port).await;
    client.send(&[b"GET", b"k"]).await;
    client
        .stays_silent(Duration::from_secs(2), "what a server shows whose load failed")
        .await;
    let log = standby.log();
    assert!(
        !log.contains(PROMOTES) && !log.contains("record the session"),
        "{log}"
    );
    assert!(
        fed("down", 0).await.is_ok(),
        "it is no longer what this test is about"
    );

    // Fed well, it is served.
    replay.lead_to(Mode::Through(cluster.port("replay-1")));
    assert_eq!(first_read(standby.port).await.as_deref(), Some("newest"));
    wait_equal(&mut conn, &mut connect(cluster.port("replica-1")).await).await;
    standby.kill().await;
    cluster.down().await;
}

#[test]
fn catches_a_promotion_without_a_link() {
    assert_catches(
        "h16_a_server_whose_load_failed_is_not_promoted",
        "h16_promote_without_link",
    );
}
