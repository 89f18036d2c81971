//! A target of client mode, what is written meanwhile, and how the two are compared.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "part of a test, and what fails in it is a failed test"
)]

use redis::aio::MultiplexedConnection;
use redoubt_tests::{DevCluster, Dice, Program, Server, connect, differences, eventually};
use std::path::PathBuf;
use std::time::Duration;

/// One run over what a test has left at most.
const RUN: Duration = Duration::from_secs(60);
/// The position's key by default.
pub(crate) const KEY: &str = "redoubt:position";

/// A plain server that a cluster's journal is applied to.
pub(crate) struct Feed {
    pub(crate) server: Server,
    endpoints: String,
    log: PathBuf,
}

impl Feed {
    /// Of `cluster`, into an empty `server`.
    pub(crate) fn new(cluster: &DevCluster, server: Server) -> Feed {
        let log = cluster.dir.with_extension(format!("feed-{}.log", server.port));
        Feed {
            endpoints: cluster.endpoints().join(","),
            server,
            log,
        }
    }

    /// Starts to follow, with further arguments.
    pub(crate) fn start(&self, args: &[&str]) -> Program {
        let url = format!("redis://{}", self.server.address());
        let own = ["--into", &url, "--endpoints", &self.endpoints];
        Program::start("redoubt-replay", &[&own, args].concat(), &self.log)
    }

    /// Runs it to its end; returns whether it was content, and what it and those before it said.
    pub(crate) async fn run(&self, args: &[&str]) -> (bool, String) {
        let status = self.start(args).ends(RUN).await;
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        (status.success(), log)
    }

    /// Applies all that is committed, lets the server go, and compares it with the master, times to live included.
    pub(crate) async fn assert_equal_at_the_end(&self, cluster: &DevCluster) {
        for args in [["--until-tail"], ["--let-go"]] {
            let (content, log) = self.run(&args).await;
            assert!(content, "{args:?}: {log}");
        }
        let mut target = self.server.connect().await;
        let position: Option<String> = redis::cmd("GET").arg(KEY).query_async(&mut target).await.unwrap();
        let position = position.expect("a position");
        assert!(position.contains(" stage=let-go "), "{position}");
        let deleted: u64 = redis::cmd("DEL").arg(KEY).query_async(&mut target).await.unwrap();
        assert_eq!(deleted, 1);
        let mut master = connect(cluster.port("master-1")).await;
        let found = differences(&mut master, &mut target).await.unwrap();
        assert!(found.is_empty(), "master and target differ: {found:#?}");
    }
}

/// Commands of every kind on few keys: what one leaves, others find. `#` is a key, `%` one of four databases, `~` a number.
/// What is written to `log` and `total` is never taken back, but with whole databases: a group that is applied twice or not at
/// all shows there to the end.
const COMMANDS: [&str; 55] = [
    "RPUSH log ~",
    "RPUSH log ~",
    "INCR total",
    "INCRBY total ~",
    "INCR n#",
    "INCRBY n# ~",
    "INCRBYFLOAT f# 1.25",
    "APPEND s# x~",
    "SETRANGE s# 3 ~",
    "SET s# ~",
    "SET s# ~ PX 40",
    "SET n# ~ PX 60",
    "SET s# ~ EX 5000",
    "SET s# ~ KEEPTTL",
    "SET s# ~ XX GET EX 9000",
    "GETEX s# EX 7000",
    "GETEX s# PERSIST",
    "PEXPIRE s# 70",
    "PEXPIRE s# 8000000 GT",
    "PEXPIRE s# 6000000 LT",
    "EXPIRE n# 9999 NX",
    "PERSIST n#",
    "PERSIST s#",
    "GETDEL s#",
    "RENAME s# s#",
    "COPY s# s# REPLACE",
    "COPY s# s# DB % REPLACE",
    "MOVE s# %",
    "SELECT %",
    "LPUSH l# a~ b",
    "RPUSH l# c~",
    "LMOVE l# l# LEFT RIGHT",
    "LTRIM l# 0 20",
    "SADD t# ~ x y z",
    "SPOP t#",
    "SMOVE t# t# x",
    "SUNIONSTORE u# t# t#",
    "ZADD z# ~ a ~ b",
    "ZINCRBY z# 1.5 a",
    "ZPOPMIN z#",
    "HSET h# f~ v g ~",
    "HINCRBY h# n 3",
    "HDEL h# g",
    "XADD x# MAXLEN ~ 50 * f ~",
    "XGROUP CREATE x# g 0 MKSTREAM",
    "PFADD p# ~",
    "PFMERGE p# p#",
    "SETBIT b# ~ 1",
    "BITOP NOT b# b#",
    "GEOADD geo 13.~ 52.5 m~",
    "PUBLISH c m",
    "DEL n#",
    "SORT l# ALPHA STORE l#",
    "UNLINK h#",
    "PEXPIRE h# 90",
];

/// Likewise, of servers whose hash fields expire.
const FIELD_COMMANDS: [&str; 9] = [
    "HPEXPIRE h# 30 FIELDS 1 g",
    "HPEXPIRE h# 50 FIELDS 2 n f~",
    "HPEXPIRE h# 6000000 GT FIELDS 2 n g",
    "HPEXPIRE h# 8000000 NX FIELDS 2 n g",
    "HPERSIST h# FIELDS 1 g",
    "HSETEX h# PX 40 FIELDS 2 n 5 f~ v",
    "HSETEX h# KEEPTTL FIELDS 1 n 7",
    "HGETEX h# PX 20 FIELDS 1 n",
    "HINCRBY h# n 3",
];

const SCRIPT: &str = "local t = redis.call('TIME') redis.call('INCR', KEYS[1]) redis.call('SET', KEYS[2], t[2], 'PX', 50) \
    redis.call('PUBLISH', 'c', 'm') redis.call('LPUSH', KEYS[3], redis.call('SPOP', KEYS[4]) or 'none') return 1";

/// Never without an entry to read: then a master makes a consumer that it tells no replica of (tried on 7.0.15 and 8.2.3).
const READ_GROUP: &str = "redis.call('XADD', KEYS[1], '*', 'f', '1') \
    return redis.call('XREADGROUP', 'GROUP', 'g', 'c', 'COUNT', 2, 'STREAMS', KEYS[1], '>')";

/// One random command; some are refused by the server, as those of clients are.
fn command(dice: &mut Dice, fields: bool) -> redis::Cmd {
    let key = |kind: &str, dice: &mut Dice| format!("{kind}{}", dice.roll(4));
    match dice.roll(1000) {
        0 if dice.roll(20) == 0 => redis::cmd("FLUSHALL"),
        1 if dice.roll(5) == 0 => redis::cmd("FLUSHDB"),
        0..=9 => {
            let mut swap = redis::cmd("SWAPDB");
            swap.arg(dice.roll(4)).arg(dice.roll(4));
            swap
        }
        10..=60 => {
            let mut eval = redis::cmd("EVAL");
            eval.arg(SCRIPT).arg(4);
            for kind in ["n", "s", "l", "t"] {
                eval.arg(key(kind, dice));
            }
            eval
        }
        65..=85 => {
            let mut eval = redis::cmd("EVAL");
            eval.arg(READ_GROUP).arg(1).arg(key("x", dice));
            eval
        }
        61..=64 => {
            let mut set = redis::cmd("SET");
            set.arg(key("s", dice)).arg(vec![b'v'; 300_000]);
            set
        }
        _ => {
            let shapes = if fields && dice.roll(3) == 0 {
                &FIELD_COMMANDS[..]
            } else {
                &COMMANDS[..]
            };
            let shape = shapes[dice.roll(shapes.len() as u64) as usize];
            let mut words = shape.split(' ').map(|word| {
                let filled = word.replace('#', &dice.roll(4).to_string());
                let filled = filled.replace('%', &dice.roll(4).to_string());
                // MAXLEN's own ~ stands alone.
                if filled == "~" && shape.starts_with("XADD") {
                    filled
                } else {
                    filled.replace('~', &dice.roll(500).to_string())
                }
            });
            let mut command = redis::cmd(&words.next().unwrap());
            words.for_each(|w| {
                command.arg(w);
            });
            command
        }
    }
}

/// Sends random commands until `stop` is set, some of them in transactions, and with `fields` such as have fields expire; returns how
/// many.
pub(crate) async fn write(
    mut conn: MultiplexedConnection,
    seed: u64,
    fields: bool,
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
) -> u64 {
    let mut dice = Dice::new(seed, 0);
    let mut sent = 0;
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        let mut pipe = redis::pipe();
        if dice.roll(4) == 0 {
            pipe.atomic();
        }
        for _ in 0..=dice.roll(30) {
            pipe.add_command(command(&mut dice, fields));
            sent += 1;
        }
        // Many commands find a key of another type; in a transaction too.
        let _ = pipe.query_async::<redis::Value>(&mut conn).await;
    }
    sent
}

/// Has the master notice what is over, and say so in its stream.
pub(crate) async fn let_short_times_end(conn: &mut MultiplexedConnection) {
    tokio::time::sleep(Duration::from_millis(300)).await;
    for db in 0..4 {
        redis::cmd("SELECT").arg(db).exec_async(conn).await.unwrap();
        let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query_async(conn).await.unwrap();
        for key in keys {
            redis::cmd("TTL").arg(&key).exec_async(conn).await.unwrap();
            fields_end(conn, &key).await;
        }
    }
    redis::cmd("SELECT").arg(0).exec_async(conn).await.unwrap();
}

/// Waits until the server has dropped what is over of a hash: it counts such fields, and does not show them.
async fn fields_end(conn: &mut MultiplexedConnection, key: &[u8]) {
    let kind: String = redis::cmd("TYPE").arg(key).query_async(conn).await.unwrap();
    if kind != "hash" {
        return;
    }
    eventually(
        "fields that are over are dropped",
        Duration::from_secs(20),
        || {
            let mut conn = conn.clone();
            async move {
                let counted: usize = redis::cmd("HLEN").arg(key).query_async(&mut conn).await.unwrap();
                let shown: Vec<Vec<u8>> = redis::cmd("HKEYS").arg(key).query_async(&mut conn).await.unwrap();
                if counted == shown.len() {
                    Ok(())
                } else {
                    Err(format!("{counted} counted, {} shown", shown.len()))
                }
            }
        },
    )
    .await;
}

/// By database and hash: its fields, and when they end.
pub(crate) async fn field_times(conn: &mut MultiplexedConnection) -> Vec<(i64, String, Vec<(String, i64)>)> {
    let mut found = Vec::new();
    for db in 0..4 {
        redis::cmd("SELECT").arg(db).exec_async(conn).await.unwrap();
        let mut keys: Vec<String> = redis::cmd("KEYS").arg("h*").query_async(conn).await.unwrap();
        keys.sort_unstable();
        for key in keys {
            let mut fields: Vec<String> = redis::cmd("HKEYS").arg(&key).query_async(conn).await.unwrap();
            fields.sort_unstable();
            let mut ask = redis::cmd("HPEXPIRETIME");
            ask.arg(&key).arg("FIELDS").arg(fields.len()).arg(&fields);
            let times: Vec<i64> = ask.query_async(conn).await.unwrap();
            found.push((db, key, fields.into_iter().zip(times).collect()));
        }
    }
    redis::cmd("SELECT").arg(0).exec_async(conn).await.unwrap();
    found
}
