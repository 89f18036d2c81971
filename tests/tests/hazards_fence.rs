//! H9 and H25 over real processes: whose offset is it, and is it a master's? Nothing that was held when the server changed is
//! released.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

use redis::aio::MultiplexedConnection;
use redoubt_tests::{
    DevCluster, Forward, Marker, Options, Program, Raw, Server, assert_catches, connect, eventually,
    info_field, try_connect, wait_equal,
};
use rustix::process::Signal;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);
/// Longer than a restart, a takeover and a full sync together.
const AGAIN: Duration = Duration::from_secs(60);

/// A cluster whose proxy can be held right before a fence, and before a cut capture link is made again.
async fn cluster_with(pauses: &[&Marker], args: Vec<(&'static str, String)>) -> DevCluster {
    let planted: Vec<_> = pauses.iter().map(|p| p.planted()).collect();
    let options = Options {
        bugs: planted.join(",").leak(),
        args,
        ..Options::default()
    };
    DevCluster::start(options).await
}

/// A client in service, which has written `k`.
async fn client_of(cluster: &DevCluster) -> Raw {
    let mut client = Raw::connect(cluster.port("proxy-1")).await;
    client.send(&[b"SET", b"k", b"v"]).await;
    client.expect("+OK\r\n", SOON).await;
    client
}

async fn set(server: &mut MultiplexedConnection, key: &str, bytes: usize) {
    let value = vec![b'x'; bytes];
    let told = redis::cmd("SET").arg(key).arg(value).exec_async(server).await;
    told.expect("SET");
}

async fn until_there(server: &MultiplexedConnection, key: &str) {
    eventually(key, SOON, || {
        let mut server = server.clone();
        async move {
            let there: redis::RedisResult<bool> =
                redis::cmd("EXISTS").arg(key).query_async(&mut server).await;
            match there {
                Ok(true) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        }
    })
    .await;
}

/// Waits until `key` is on the replica: it is in the journal then.
async fn journalled(cluster: &DevCluster, key: &str) {
    until_there(&connect(cluster.port("replica-1")).await, key).await;
}

/// Waits until the proxy serves again by itself, `key` holds `value`, and master and replica are equal.
async fn serves_again(cluster: &DevCluster, key: &str, value: &str) {
    let port = cluster.port("proxy-1");
    eventually("service", AGAIN, || async {
        let mut conn = try_connect(port).await?;
        redis::cmd("SET")
            .arg("again")
            .arg("1")
            .exec_async(&mut conn)
            .await?;
        let read: Option<String> = redis::cmd("GET").arg(key).query_async(&mut conn).await?;
        assert_eq!(read.as_deref(), Some(value), "{key}");
        redis::RedisResult::Ok(())
    })
    .await;
    let mut replica = connect(cluster.port("replica-1")).await;
    wait_equal(&mut connect(cluster.port("master-1")).await, &mut replica).await;
}

async fn replicaof(server: &mut MultiplexedConnection, host: &str, port: &str) {
    let told = redis::cmd("REPLICAOF")
        .arg(host)
        .arg(port)
        .exec_async(server)
        .await;
    told.expect("REPLICAOF");
}

#[tokio::test]
async fn h09_a_server_restarted_between_a_reply_and_its_fence_releases_nothing() {
    let fence = Marker::new("pause_before_fence");
    let mut cluster = cluster_with(&[&fence], Vec::new()).await;
    let mut client = client_of(&cluster).await;
    fence.hold();
    client.send(&[b"SET", b"held", b"1"]).await;
    journalled(&cluster, "held").await;
    client
        .stays_silent(Duration::from_millis(300), "a reply without a fence")
        .await;
    let killed = cluster.kill("master-1");
    cluster.restarted("master-1", killed).await;
    fence.let_go();
    client
        .closes_without_a_byte(SOON, "a reply of a process that is gone")
        .await;
    serves_again(&cluster, "held", "1").await;
    cluster.down().await;
}

#[test]
fn catches_replies_that_are_not_held() {
    assert_catches(
        "h09_a_server_restarted_between_a_reply_and_its_fence_releases_nothing",
        "hold_no_hold",
    );
}

#[tokio::test]
async fn h09_a_server_told_replicaof_and_no_one_from_outside_releases_nothing() {
    let (fence, attach) = (
        Marker::new("pause_before_fence"),
        Marker::new("pause_before_attach"),
    );
    let mut cluster = cluster_with(&[&fence, &attach], Vec::new()).await;
    let mut client = client_of(&cluster).await;
    let mut master = connect(cluster.port("master-1")).await;
    let replid = info_field(&mut master, "replication", "master_replid").await;
    // The fence must find out by itself: capture, whose link is cut by the change of role, does not come first.
    fence.hold();
    attach.hold();
    client.send(&[b"SET", b"held", b"1"]).await;
    journalled(&cluster, "held").await;
    let nobody = redoubt_tests::free_base().to_string();
    replicaof(&mut master, "127.0.0.1", &nobody).await;
    replicaof(&mut master, "NO", "ONE").await;
    assert_eq!(info_field(&mut master, "replication", "role").await, "master");
    assert_ne!(
        info_field(&mut master, "replication", "master_replid").await,
        replid
    );
    fence.let_go();
    client
        .closes_without_a_byte(SOON, "a reply whose fence is of another history")
        .await;
    attach.let_go();
    serves_again(&cluster, "held", "1").await;
    cluster.down().await;
}

#[test]
fn catches_a_fence_that_ignores_the_replid() {
    assert_catches(
        "h09_a_server_told_replicaof_and_no_one_from_outside_releases_nothing",
        "h09_fence_ignores_replid",
    );
}

#[tokio::test]
async fn h09_a_write_that_only_another_history_covers_is_not_acknowledged() {
    let (fence, attach) = (
        Marker::new("pause_before_fence"),
        Marker::new("pause_before_attach"),
    );
    // A lease that lasts while this test does: the replid alone keeps the reply back.
    let lease = vec![("proxy", "--lease-ms=20000".to_owned())];
    let mut cluster = cluster_with(&[&fence, &attach], lease).await;
    let mut client = client_of(&cluster).await;
    let mut master = connect(cluster.port("master-1")).await;
    let other = Server::start(&["--repl-diskless-sync-delay", "0"]).await;
    let mut elsewhere = other.connect().await;
    set(&mut elsewhere, "seed", 1).await;
    let leader = cluster.leader().await;
    let journals = cluster.of_kind("journal");
    let followers: Vec<_> = journals.iter().filter(|j| j.name != leader).collect();
    // The journal goes on past the last fence, so that an offset of another history can lie between the two.
    set(&mut master, "filler", 64 << 10).await;
    journalled(&cluster, "filler").await;
    fence.hold();
    attach.hold();
    // Nothing can be committed, so the write is in no journal.
    for node in &followers {
        cluster.signal(&node.name, Signal::STOP);
    }
    client.send(&[b"SET", b"held", b"1"]).await;
    until_there(&master, "held").await;
    // Another server's history, at an offset that the journal has committed long ago.
    replicaof(&mut master, "127.0.0.1", &other.port.to_string()).await;
    until_there(&master, "seed").await;
    set(&mut elsewhere, "elsewhere", 8 << 10).await;
    until_there(&master, "elsewhere").await;
    replicaof(&mut master, "NO", "ONE").await;
    fence.let_go();
    client
        .closes_without_a_byte(SOON, "a write that is in no journal")
        .await;
    for node in &followers {
        cluster.signal(&node.name, Signal::CONT);
    }
    attach.let_go();

    // What the server holds now is not the journal's: it is refused and left as it is. Restarted, it is fed.
    eventually("the refusal", AGAIN, || async {
        let log = cluster.log("proxy-1");
        let told = log.contains("the journal knows neither replid") && log.contains("--replicaof");
        if told { Ok(()) } else { Err(log) }
    })
    .await;
    assert_eq!(info_field(&mut master, "replication", "role").await, "master");
    let killed = cluster.kill("master-1");
    cluster.restarted("master-1", killed).await;
    serves_again(&cluster, "k", "v").await;
    cluster.down().await;
}

#[test]
fn catches_a_write_acknowledged_by_another_history() {
    assert_catches(
        "h09_a_write_that_only_another_history_covers_is_not_acknowledged",
        "h09_fence_ignores_replid",
    );
}

#[tokio::test]
async fn h09_an_address_that_leads_elsewhere_shows_nobody_another_servers_data() {
    let mut cluster = DevCluster::start(Options::default()).await;
    drop(client_of(&cluster).await);
    cluster.dev("stop", "proxy-1").await;
    // A proxy whose upstream is an address that can lead to another server.
    let forward = Forward::start(cluster.port("master-1")).await;
    let (port, logs) = (redoubt_tests::free_base(), tempfile::tempdir().unwrap());
    let (listen, upstream) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{}", forward.port));
    let (endpoints, replay) = (
        cluster.endpoints().join(","),
        cluster.component("replay-1").address,
    );
    let args = ["--name", "cell-2", "--listen", &listen, "--upstream", &upstream];
    // Each client comes to the server by a connection of its own, which leads where the address leads then.
    let own = "--shared-upstream=false";
    let args = [&args[..], &["--endpoints", &endpoints, "--replay", &replay, own]].concat();
    let proxy = Program::start("redoubt-proxy", &args, &logs.path().join("proxy.log"));
    eventually("the proxy listens", SOON, || try_connect(port)).await;
    let mut served = Raw::connect(port).await;
    served.send(&[b"GET", b"k"]).await;
    served.expect("$1\r\nv\r\n", AGAIN).await;

    let other = Server::start(&[]).await;
    let mut wrong = other.connect().await;
    redis::cmd("SET")
        .arg("k")
        .arg("wrong")
        .exec_async(&mut wrong)
        .await
        .unwrap();
    forward.lead_to(other.port);
    let mut comes = Raw::connect(port).await;
    comes.send(&[b"GET", b"k"]).await;
    comes
        .stays_silent(Duration::from_secs(2), "another server's data")
        .await;
    served.closes_without_a_byte(SOON, "the session is over").await;
    assert!(proxy.log().contains("not the session's"), "{}", proxy.log());

    forward.lead_to(cluster.port("master-1"));
    eventually("service", AGAIN, || async {
        let mut conn = try_connect(port).await?;
        let read: String = redis::cmd("GET").arg("k").query_async(&mut conn).await?;
        assert_eq!(read, "v");
        redis::RedisResult::Ok(())
    })
    .await;
    proxy.kill().await;
    cluster.dev("start", "proxy-1").await;
    serves_again(&cluster, "k", "v").await;
    cluster.down().await;
}

#[test]
fn catches_connections_that_are_not_proven() {
    assert_catches(
        "h09_an_address_that_leads_elsewhere_shows_nobody_another_servers_data",
        "h09_no_run_id",
    );
}

#[tokio::test]
async fn h25_a_master_amid_a_failover_gives_no_fence() {
    let (fence, attach) = (
        Marker::new("pause_before_fence"),
        Marker::new("pause_before_attach"),
    );
    let mut cluster = cluster_with(&[&fence, &attach], Vec::new()).await;
    let mut client = client_of(&cluster).await;
    let mut master = connect(cluster.port("master-1")).await;
    fence.hold();
    attach.hold();
    client.send(&[b"SET", b"held", b"1"]).await;
    journalled(&cluster, "held").await;
    client
        .stays_silent(Duration::from_millis(300), "a reply without a fence")
        .await;
    // Past the proxy, which refuses it. The master looks for the replica that has everything: the capture. It takes itself for
    // one of that, keeps its replid, and asks again and again where nobody answers.
    redis::cmd("FAILOVER").exec_async(&mut master).await.unwrap();
    eventually("the shape of a replica", SOON, || {
        let mut master = master.clone();
        async move {
            let role = info_field(&mut master, "replication", "role").await;
            let state = info_field(&mut master, "replication", "master_failover_state").await;
            if role == "slave" && state == "failover-in-progress" {
                Ok(())
            } else {
                Err(format!("{role}, {state}"))
            }
        }
    })
    .await;
    fence.let_go();
    client
        .closes_without_a_byte(SOON, "a reply without a master's fence")
        .await;
    attach.let_go();
    // Whoever began it ends it, unless it has ended by itself.
    let ended = redis::cmd("FAILOVER").arg("ABORT").exec_async(&mut master).await;
    println!("FAILOVER ABORT: {ended:?}");
    serves_again(&cluster, "held", "1").await;
    cluster.down().await;
}

#[test]
fn catches_a_fence_of_whatever_role() {
    assert_catches(
        "h25_a_master_amid_a_failover_gives_no_fence",
        "h25_any_role_is_a_fence",
    );
}
