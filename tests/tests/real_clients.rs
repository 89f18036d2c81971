//! Client libraries as people use them work through the proxy as they do with Redis, and lose nothing when the proxy or
//! the journal's leader is killed: the programs in `tests/clients/` check their answers themselves, and what they left
//! behind is looked at here, in a server that was rebuilt from the journal alone.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

use redoubt_tests::{ClientProgram, DevCluster, Options, assert_catches, connect, wait_equal};
use std::time::Duration;

/// How long a client program may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// How long 1,000 jobs may take after the last kill, on a machine that has other things to do.
const WORK: Duration = Duration::from_secs(150);

/// All that was written through the proxy is in the journal, and nothing else.
async fn assert_journal_holds_what_the_master_does(cluster: &DevCluster) {
    let rebuilt = cluster.rebuilt().await;
    let mut master = connect(cluster.port("master-1")).await;
    wait_equal(&mut master, &mut rebuilt.connect().await).await;
}

/// Runs a program that tours a library. At `writing` the proxy is killed and started again.
async fn tour(cluster: &DevCluster, program: &str, args: &[&str], parts: &[&str]) {
    let port = cluster.port("proxy-1").to_string();
    let mut tour = ClientProgram::start(program, &[&[port.as_str()], args].concat());
    let (last, before) = parts.split_last().expect("parts");
    assert_eq!(tour.until("writing", SILENCE).await, before);
    let old = cluster.kill("proxy-1");
    cluster.restarted("proxy-1", old).await;
    tour.tell("killed").await;
    assert_eq!(tour.end(SILENCE).await, [*last]);
    assert_journal_holds_what_the_master_does(cluster).await;
}

#[tokio::test]
async fn redis_py_is_served_as_by_redis() {
    const PARTS: [&str; 14] = [
        "values",
        "pipelines",
        "transactions",
        "pub_sub",
        "sharded_pub_sub",
        "blocking_pops",
        "scripts",
        "functions",
        "streams",
        "scans",
        "invalidations",
        "threads",
        "tasks",
        "through_a_kill",
    ];
    let mut cluster = DevCluster::start(Options::default()).await;
    for protocol in ["2", "3"] {
        tour(&cluster, "redis_py.py", &[protocol], &PARTS).await;
        let mut master = connect(cluster.port("proxy-1")).await;
        redis::cmd("FLUSHALL")
            .exec_async(&mut master)
            .await
            .expect("FLUSHALL");
    }
    cluster.down().await;
}

#[tokio::test]
async fn ioredis_is_served_as_by_redis() {
    const PARTS: [&str; 10] = [
        "values",
        "pipelines",
        "auto_pipelining",
        "transactions",
        "pub_sub",
        "blocking_pops",
        "scripts",
        "streams",
        "scans",
        "through_a_kill",
    ];
    let mut cluster = DevCluster::start(Options::default()).await;
    tour(&cluster, "ioredis.cjs", &[], &PARTS).await;
    cluster.down().await;
}

#[tokio::test]
async fn node_redis_is_served_as_by_redis() {
    const PARTS: [&str; 6] = [
        "values",
        "auto_pipelining",
        "transactions",
        "pub_sub",
        "client_side_cache",
        "through_a_kill",
    ];
    let mut cluster = DevCluster::start(Options::default()).await;
    tour(&cluster, "node_redis.cjs", &[], &PARTS).await;
    cluster.down().await;
}

/// What a program that ran 1,000 jobs through a queue says at its end: how many were completed, how many were run again
/// although they had been run, and how many errors it met.
async fn all_done(program: ClientProgram) -> (u64, u64) {
    let said = program.end(WORK).await;
    let [done, again, errors] = said.as_slice() else {
        panic!("it says {said:?}");
    };
    assert_eq!(done, "1000 completed");
    let number = |line: &str, of: &str| line.strip_suffix(of).and_then(|n| n.parse().ok());
    let again = number(again, " processed again").unwrap_or_else(|| panic!("{again}"));
    (
        again,
        number(errors, " errors").unwrap_or_else(|| panic!("{errors}")),
    )
}

/// Kills the journal's leader twice while a program works.
async fn kill_leaders(cluster: &DevCluster, work: &mut ClientProgram) {
    for when in ["a third", "two thirds"] {
        let leader = cluster.leader().await;
        work.until(when, SILENCE).await;
        let old = cluster.kill(&leader);
        work.tell("done").await;
        cluster.restarted(&leader, old).await;
    }
}

/// The members of a sorted set in a server that was rebuilt from the journal alone.
async fn members_in_the_journal(cluster: &DevCluster, key: &str) -> Vec<String> {
    let rebuilt = cluster.rebuilt().await;
    let mut ask = redis::cmd("ZRANGE");
    ask.arg(key).arg(0).arg(-1);
    let members = ask.query_async(&mut rebuilt.connect().await).await;
    let mut members: Vec<String> = members.expect("ZRANGE");
    members.sort();
    members
}

fn job_ids() -> Vec<String> {
    let mut ids: Vec<String> = (0..1000).map(|n| format!("job-{n}")).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn bullmq_loses_no_job_when_the_journals_leader_is_killed() {
    let mut cluster = DevCluster::start(Options::default()).await;
    let mut work = ClientProgram::start("bullmq.cjs", &[&cluster.port("proxy-1").to_string(), "30000"]);
    kill_leaders(&cluster, &mut work).await;
    // The outage is a pause: no connection is lost, so nothing is done twice.
    assert_eq!(all_done(work).await, (0, 0));
    assert_eq!(
        members_in_the_journal(&cluster, "bull:work:completed").await,
        job_ids()
    );
    cluster.down().await;
}

#[tokio::test]
async fn rq_loses_no_job_when_the_journals_leader_is_killed() {
    let mut cluster = DevCluster::start(Options::default()).await;
    let mut work = ClientProgram::start("rq_jobs.py", &[&cluster.port("proxy-1").to_string()]);
    kill_leaders(&cluster, &mut work).await;
    assert_eq!(all_done(work).await, (0, 0));
    assert_eq!(
        members_in_the_journal(&cluster, "rq:finished:work").await,
        job_ids()
    );
    cluster.down().await;
}

#[tokio::test]
async fn bullmq_loses_no_job_when_almost_everything_is_killed() {
    let mut cluster = DevCluster::start(Options::default()).await;
    let mut work = ClientProgram::start("bullmq.cjs", &[&cluster.port("proxy-1").to_string(), "5000"]);
    for when in ["a third", "two thirds"] {
        let leader = cluster.leader().await;
        let follower = cluster.of_kind("journal").into_iter().find(|c| c.name != leader);
        work.until(when, SILENCE).await;
        let mut killed = Vec::new();
        let mut kill = |name: &str| killed.push((name.to_owned(), cluster.kill(name)));
        kill(&leader);
        kill(&follower.expect("another node").name);
        // The master goes on, and its journal takes nothing: what it does now is in its memory and its proxy's alone.
        tokio::time::sleep(Duration::from_millis(500)).await;
        kill("master-1");
        kill("proxy-1");
        work.tell("done").await;
        for (name, pid) in killed {
            cluster.restarted(&name, pid).await;
        }
    }
    let (again, errors) = all_done(work).await;
    println!("{again} jobs were run again, {errors} errors were met");
    assert_eq!(
        members_in_the_journal(&cluster, "bull:work:completed").await,
        job_ids()
    );
    cluster.down().await;
}

#[test]
fn catches_replies_that_are_not_held() {
    assert_catches(
        "bullmq_loses_no_job_when_almost_everything_is_killed",
        "hold_no_hold",
    );
}
