//! H17, H23, H24 over real servers of several versions: one that could pass over what the journal holds is not promoted, however
//! well it is fed; a newer one is; one that is too old is refused with the reason; each reads what a full sync begins with.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

#[allow(dead_code, reason = "not all helpers are needed here")]
mod standby;

use redoubt_client::Session;
use redoubt_tests::{
    DevCluster, Options, Server, assert_catches, bloom, connect, eventually, info_field, redoubt, run, stock,
    try_connect, wait_equal,
};
use standby::Standby;
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_secs(40);
const PROMOTES: &str = "next: promote the server";
const ACQUIRES: &str = "next: acquire the next epoch";

/// A cluster whose servers have these arguments.
async fn cluster_of(args: &[&str]) -> DevCluster {
    let of = |kind| args.iter().map(move |arg| (kind, (*arg).to_owned()));
    let options = Options {
        args: ["master", "replica"].into_iter().flat_map(of).collect(),
        ..Options::default()
    };
    DevCluster::start(options).await
}

/// A cluster whose journal holds `k`, written in a database that not every server has, and that nobody writes to any more.
async fn journal_without_a_writer() -> DevCluster {
    let cluster = cluster_of(&["--databases", "32"]).await;
    run(
        &mut connect(cluster.port("proxy-1")).await,
        "SELECT 30|SET k v|SELECT 0|SET k v",
    )
    .await;
    cluster.dev("stop", "proxy-1").await;
    cluster
}

/// A replica of the cluster's replay.
async fn fed(cluster: &DevCluster, program: &Path, args: &[&str]) -> Server {
    let replay = cluster.component("replay-1").address;
    let (host, port) = replay.split_once(':').unwrap();
    let server = Server::start_program(program, &[&["--replicaof", host, port], args].concat()).await;
    let mut conn = server.connect().await;
    eventually("a server that is fed", SOON, || {
        let mut conn = conn.clone();
        async move {
            let link = info_field(&mut conn, "replication", "master_link_status").await;
            if link == "up" { Ok(()) } else { Err(link) }
        }
    })
    .await;
    assert_eq!(info_field(&mut conn, "replication", "role").await, "slave");
    server
}

async fn session(cluster: &DevCluster) -> Session {
    let described = cluster.journal().describe(SOON).await;
    described
        .expect("the journal answers")
        .writer
        .session
        .expect("a session")
}

/// A proxy in front of `server` says `words`, and the server stays a replica.
async fn refused(cluster: &DevCluster, server: &Server, words: &str) {
    let before = session(cluster).await;
    let standby = Standby::start(cluster, server.port, None).await;
    standby.says(words, PROMOTES).await;
    assert!(standby.log().contains("refused: "), "{}", standby.log());
    let mut conn = server.connect().await;
    assert_eq!(info_field(&mut conn, "replication", "role").await, "slave");
    assert_eq!(session(cluster).await, before);
    standby.kill().await;
}

#[tokio::test]
async fn h17_a_server_that_could_pass_over_the_journals_commands_is_not_promoted() {
    let mut cluster = journal_without_a_writer().await;
    let stock_server = Path::new("redis-server");
    // It counts no error: SELECT 30 fails, and what follows lands in database 0.
    let fewer = fed(&cluster, stock_server, &["--databases", "16"]).await;
    refused(&cluster, &fewer, "start it with `--databases 32`").await;
    drop(fewer);
    let all = ["--databases", "32"];
    let writable = fed(
        &cluster,
        stock_server,
        &[&all[..], &["--replica-read-only", "no"]].concat(),
    )
    .await;
    refused(&cluster, &writable, "the server's replica-read-only is off").await;
    drop(writable);
    let evicts = [&all[..], &["--replica-ignore-maxmemory", "no"]].concat();
    let evicts = fed(&cluster, stock_server, &evicts).await;
    refused(&cluster, &evicts, "the server's replica-ignore-maxmemory is off").await;
    drop(evicts);
    cluster.down().await;
}

#[tokio::test]
async fn h17_a_newer_server_is_promoted_and_then_an_older_one_is_not() {
    let mut cluster = journal_without_a_writer().await;
    let newer = fed(
        &cluster,
        &stock("valkey-9.1.2"),
        &["--databases", "32", "--enable-debug-command", "local"],
    )
    .await;
    let standby = Standby::start(&cluster, newer.port, None).await;
    let mut served = eventually("service by the newer server", AGAIN, || async {
        let mut conn = try_connect(standby.port).await?;
        redis::cmd("SET")
            .arg("newer")
            .arg("v")
            .exec_async(&mut conn)
            .await?;
        redis::RedisResult::Ok(conn)
    })
    .await;
    let kept: String = redis::cmd("GET").arg("k").query_async(&mut served).await.unwrap();
    assert_eq!(kept, "v");
    let recorded = session(&cluster).await.server;
    assert!(recorded.starts_with("valkey 9.1.2, 32 databases"), "{recorded}");
    let endpoints = cluster.endpoints().join(",");
    let (_, status, _) = redoubt(&["status", "--endpoints", &endpoints]).await;
    assert!(status.contains("valkey 9.1.2, 32 databases"), "{status}");
    // Of the same version, since FUNCTION DUMP tells the version.
    let rebuilt = Server::start_debuggable(&stock("valkey-9.1.2"), &["--databases", "32"]).await;
    cluster.rebuild_into(&rebuilt).await;
    wait_equal(&mut newer.connect().await, &mut rebuilt.connect().await).await;
    standby.kill().await;

    let older = fed(&cluster, Path::new("redis-server"), &["--databases", "32"]).await;
    refused(&cluster, &older, "the journal was last written by valkey 9.1.2").await;
    cluster.down().await;
}

#[test]
fn catches_a_server_that_is_promoted_whatever_it_understands() {
    assert_catches(
        "h17_a_newer_server_is_promoted_and_then_an_older_one_is_not",
        "h17_any_server",
    );
}

#[tokio::test]
async fn h17_a_server_without_the_journals_module_is_not_promoted() {
    let module = bloom().to_string_lossy().into_owned();
    let with = ["--loadmodule", &*module];
    let mut cluster = cluster_of(&with).await;
    let add = "BF.RESERVE f 0.01 1000|BF.MADD f a b c|BF.ADD g a|SET k v";
    run(&mut connect(cluster.port("proxy-1")).await, add).await;
    let recorded = session(&cluster).await.server;
    assert!(recorded.ends_with(", module bf 20802"), "{recorded}");
    // Its commands mean the same on a replica, after a restart of the master, and in a server of the journal alone.
    let killed = cluster.kill("master-1");
    cluster.restarted("master-1", killed).await;
    eventually("service again", AGAIN, || async {
        let mut conn = try_connect(cluster.port("proxy-1")).await?;
        redis::cmd("BF.ADD").arg("f").arg("d").exec_async(&mut conn).await
    })
    .await;
    let mut master = connect(cluster.port("master-1")).await;
    wait_equal(&mut master, &mut connect(cluster.port("replica-1")).await).await;
    let rebuilt = Server::start(&with).await;
    cluster.rebuild_into(&rebuilt).await;
    wait_equal(&mut master, &mut rebuilt.connect().await).await;
    cluster.dev("stop", "proxy-1").await;

    let stock_server = Path::new("redis-server");
    let without = fed(&cluster, stock_server, &[]).await;
    refused(
        &cluster,
        &without,
        "the server does not have the module bf 20802 (or newer)",
    )
    .await;
    drop(without);
    let fit = fed(&cluster, stock_server, &with).await;
    let standby = Standby::start(&cluster, fit.port, None).await;
    let held = eventually("service by the server that has it", AGAIN, || async {
        let mut conn = try_connect(standby.port).await?;
        let mut ask = redis::cmd("BF.MEXISTS");
        ask.arg("f")
            .arg(&["a", "d", "e"])
            .query_async::<Vec<bool>>(&mut conn)
            .await
    })
    .await;
    assert_eq!(held, [true, true, false]);
    standby.kill().await;
    cluster.down().await;
}

#[test]
fn catches_a_server_that_is_promoted_without_the_module() {
    assert_catches(
        "h17_a_server_without_the_journals_module_is_not_promoted",
        "h17_any_server",
    );
}

/// As long as the journal is never trimmed, the only base is the empty one that a full sync begins with.
#[tokio::test]
async fn h24_every_server_reads_the_base_that_a_full_sync_begins_with() {
    let mut cluster = journal_without_a_writer().await;
    let stocks = [
        "redis-6.2.5",
        "redis-7.2.4",
        "redis-7.4.1",
        "redis-8.2.3",
        "valkey-8.1.8",
        "valkey-9.1.2",
    ];
    let programs = stocks.into_iter().map(stock).chain(["redis-server".into()]);
    for program in programs {
        let server = fed(&cluster, &program, &["--databases", "32"]).await;
        let (conn, program) = (server.connect().await, program.display().to_string());
        eventually("what the journal holds", SOON, || {
            let (mut conn, program) = (conn.clone(), program.clone());
            async move {
                let mut holds = Vec::new();
                for db in ["0", "30"] {
                    redis::cmd("SELECT").arg(db).exec_async(&mut conn).await?;
                    let k: Option<String> = redis::cmd("GET").arg("k").query_async(&mut conn).await?;
                    holds.extend(k);
                }
                if holds == ["v", "v"] {
                    return Ok(());
                }
                let told = format!("{program}: {holds:?}");
                Err(redis::RedisError::from((
                    redis::ErrorKind::ClientError,
                    "not yet",
                    told,
                )))
            }
        })
        .await;
    }
    cluster.down().await;
}

#[tokio::test]
async fn h23_redis_6_2_is_refused_with_the_reason() {
    let mut cluster = journal_without_a_writer().await;
    let program = stock("redis-6.2.5");
    let old = fed(&cluster, &program, &["--databases", "32"]).await;
    let standby = Standby::start(&cluster, old.port, None).await;
    standby.says("refused: the server is redis 6.2.5", ACQUIRES).await;
    let log = standby.log();
    assert!(log.contains("replicates relative TTLs"), "{log}");
    assert_eq!(
        info_field(&mut old.connect().await, "replication", "role").await,
        "slave"
    );
    standby.kill().await;
    cluster.down().await;

    let dir = tempfile::tempdir().unwrap();
    let (at, program) = (
        dir.path().to_string_lossy().into_owned(),
        program.to_string_lossy().into_owned(),
    );
    let (code, _, err) = redoubt(&["dev", "up", "--dir", &at, "--redis-server", &program]).await;
    assert_eq!(code, 1, "{err}");
    for words in ["v=6.2.5", "needs Redis 7.0 or later", "relative times to live"] {
        assert!(err.contains(words), "{err}");
    }
}
