//! A client can't tell the proxy from the server behind it: the same program of random commands, sent to a plain
//! redis-server and through the proxy, is answered with the same bytes.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

mod compare;

use compare::drive::Both;
use compare::generate::{Generator, Step};
use compare::table::Covered;
use compare::values::{LIBRARIES, SCRIPTS};
use compare::{grammar, rules};
use redis::aio::MultiplexedConnection;
use redoubt_tests::{DevCluster, Options, Server, assert_catches, connect, differences_but_in_time};
use std::time::{Instant, SystemTime};

/// Commands in a run of the whole suite. `make compare` runs as many as it is told.
const COMMANDS: u64 = 40_000;

/// After how many commands the servers' data are compared.
const EQUAL_EVERY: usize = 1000;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{variable}={text}: {e}")))
}

/// Has both servers load what later commands refer to.
fn teach(generator: &mut Generator, both: &mut Both) {
    let words = |words: &[&str]| words.iter().map(|w| w.as_bytes().to_vec()).collect::<Vec<_>>();
    for script in SCRIPTS.iter().filter(|s| !s.contains("set_repl")) {
        let digest = both.ask(&words(&["SCRIPT", "LOAD", script]));
        if !digest.is_error() {
            generator.learned.digests.push(digest.bytes().to_vec());
        }
    }
    for library in LIBRARIES.iter().filter(|l| !l.contains("set_repl")) {
        both.ask(&words(&["FUNCTION", "LOAD", library]));
        let dump = both.ask(&words(&["FUNCTION", "DUMP"]));
        generator.learned.libraries.push(dump.bytes().to_vec());
        // One in each: of several, the order is a hash table's.
        both.ask(&words(&["FUNCTION", "FLUSH"]));
    }
    for (key, make) in [
        ("s", vec!["SET", "s", "v"]),
        ("l", vec!["RPUSH", "l", "a", "1"]),
        ("e", vec!["SADD", "e", "1", "2"]),
        ("h", vec!["HSET", "h", "f0", "1"]),
        ("z", vec!["ZADD", "z", "1", "a", "2.5", "b"]),
        ("x", vec!["XADD", "x", "1-1", "f0", "a"]),
    ] {
        both.ask(&words(&make));
        let payload = both.ask(&words(&["DUMP", key])).bytes().to_vec();
        let mut damaged = payload.clone();
        damaged[2] ^= 1;
        generator.learned.payloads.extend([payload, damaged]);
    }
}

#[tokio::test]
async fn a_random_program_is_answered_as_by_a_plain_server() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = number("COMPARE_SEED").unwrap_or(now.as_nanos() as u64);
    let wanted = number("COMPARE_COMMANDS").unwrap_or(COMMANDS);
    println!("COMPARE_SEED={seed} COMPARE_COMMANDS={wanted}");
    let plain = Server::start(&[]).await;
    let mut cluster = DevCluster::start(Options {
        replicas: 0,
        ..Options::default()
    })
    .await;
    let mut asked = plain.connect().await;
    let docs: redis::Value = redis::cmd("COMMAND")
        .arg("DOCS")
        .query_async(&mut asked)
        .await
        .unwrap();
    let info: redis::Value = redis::cmd("COMMAND")
        .arg("INFO")
        .query_async(&mut asked)
        .await
        .unwrap();
    let commands = grammar::read(&docs, &info);
    let all: Vec<String> = commands.iter().map(|c| c.name.clone()).collect();
    let mut generator = Generator::new(seed, commands);
    let mut both = Both::open(plain.port, cluster.port("proxy-1"), cluster.port("master-1"));
    teach(&mut generator, &mut both);

    let mut master = connect(cluster.port("master-1")).await;
    let (mut covered, begun) = (Covered::default(), Instant::now());
    let (mut told, mut since) = (0, Vec::new());
    while covered.total() < wanted {
        let blocked = both.blocked();
        let step = match blocked.first() {
            // Whoever waits for long is let go.
            Some(c) if blocked.len() > 2 || generator.dice.percent(3) => Step::unblock(*c, both.states()[0]),
            _ if !both.states()[0].in_multi && generator.dice.roll(200) == 0 => generator.kill(),
            _ => generator.step(&both.states(), |c| both.may_send(c)),
        };
        let connection = step.connection;
        // Which of several keys a blocked client is served from, when a swap has them all come at once, is a hash table's order.
        let swaps = step.commands.iter().any(|sent| sent.name == "swapdb");
        if swaps && (!blocked.is_empty() || both.states()[connection].in_multi) {
            continue;
        }
        since.extend(
            step.commands
                .iter()
                .map(|sent| format!("{connection}: {}", sent.show())),
        );
        if let Err(difference) = both.run(step, &mut covered) {
            let steps = since.join("\n");
            panic!(
                "COMPARE_SEED={seed}: after {} replies, connection {connection}: {difference}\nCommands before:\n{steps}",
                covered.total()
            );
        }
        // What they hold is the same, too: a difference may be seen by no reply for long.
        if since.len() > EQUAL_EVERY || covered.total() >= wanted {
            let apart = differences_but_in_time(&mut asked, &mut master).await.unwrap();
            let steps = since.join("\n");
            assert!(
                apart.is_empty(),
                "COMPARE_SEED={seed}: after {} replies the servers hold different data: {apart:#?}\nCommands before:\n{steps}",
                covered.total()
            );
            since.clear();
        }
        if covered.total() / 100_000 > told {
            told = covered.total() / 100_000;
            eprintln!("{} replies compared in {:.0?}", covered.total(), begun.elapsed());
        }
    }
    let took = begun.elapsed();
    let left_out: Vec<String> = all
        .iter()
        .filter(|n| rules::left_out(n).is_some())
        .cloned()
        .collect();
    covered.print(&left_out);
    let names = generator.names();
    let missing = covered.missing(names.keys());
    println!("not drawn this time: {missing:?}");
    assert!(
        missing.is_empty() || wanted < 500_000,
        "a long program draws them all"
    );
    // A program that has got stuck says the same again and again.
    let (name, most) = covered.most();
    assert!(
        most < covered.total() / 10,
        "{most} of {} are {name}",
        covered.total()
    );
    println!(
        "{} replies compared in {took:.1?}, 0 differences (COMPARE_SEED={seed})",
        covered.total()
    );
    drop(both);
    cluster.down().await;
}

/// What the comparison of data rests on: a key whose time is over is no difference however long its server keeps it, and a value is.
#[tokio::test]
async fn a_key_that_is_over_is_no_difference_and_a_value_is() {
    let (one, other) = (Server::start(&[]).await, Server::start(&[]).await);
    let (mut one, mut other) = (one.connect().await, other.connect().await);
    let set = async |conn: &mut MultiplexedConnection, words: &[&str]| {
        redis::cmd(words[0])
            .arg(&words[1..])
            .query_async::<()>(conn)
            .await
            .unwrap();
    };
    set(&mut one, &["DEBUG", "SET-ACTIVE-EXPIRE", "0"]).await;
    set(&mut one, &["SET", "over", "v", "EXAT", "1"]).await;
    let apart = differences_but_in_time(&mut one, &mut other).await.unwrap();
    assert!(apart.is_empty(), "{apart:?}");
    set(&mut one, &["RPUSH", "list", "a", "b"]).await;
    set(&mut other, &["RPUSH", "list", "b", "a"]).await;
    let apart = differences_but_in_time(&mut one, &mut other).await.unwrap();
    assert_eq!(apart.len(), 1, "{apart:?}");
}

#[test]
fn catches_refusals_that_are_no_replies() {
    assert_catches(
        "a_random_program_is_answered_as_by_a_plain_server",
        "refused_without_a_reply",
    );
}
