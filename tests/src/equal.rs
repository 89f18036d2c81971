//! Whether two servers hold the same: the digest, and what it does not cover.
//!
//! `DEBUG DIGEST` is equal although times to live, consumer groups with their pending lists, and functions
//! differ. So equal is: the digest, and per key its own digest, PEXPIRETIME and `XINFO STREAM … FULL`, and FUNCTION
//! DUMP, asked after writes stopped, at one offset.

use redis::Value;
use redis::aio::MultiplexedConnection;
use std::collections::BTreeMap;
use std::time::Duration;

/// Everything that is compared.
#[derive(Debug, PartialEq)]
struct Picture {
    digest: String,
    functions: Value,
    keys: BTreeMap<(i64, Vec<u8>), Key>,
}

/// What is compared of one key, which [`Picture`] has by database and name.
#[derive(Debug, PartialEq)]
struct Key {
    /// The digest of its value.
    value: Value,
    /// `PEXPIRETIME`.
    expires: i64,
    /// A stream's groups.
    stream: Value,
}

async fn picture(conn: &mut MultiplexedConnection) -> redis::RedisResult<Picture> {
    let digest = redis::cmd("DEBUG").arg("DIGEST").query_async(conn).await?;
    let functions = redis::cmd("FUNCTION").arg("DUMP").query_async(conn).await?;
    let mut keys = BTreeMap::new();
    let keyspace: String = redis::cmd("INFO").arg("keyspace").query_async(conn).await?;
    let dbs: Vec<i64> = keyspace
        .lines()
        .filter_map(|l| l.strip_prefix("db")?.split_once(':')?.0.parse().ok())
        .collect();
    for db in dbs {
        redis::cmd("SELECT").arg(db).query_async::<()>(conn).await?;
        let names: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query_async(conn).await?;
        for chunk in names.chunks(500) {
            let mut ask = redis::pipe();
            for name in chunk {
                ask.cmd("PEXPIRETIME").arg(name).cmd("TYPE").arg(name);
                ask.cmd("DEBUG").arg("DIGEST-VALUE").arg(name);
            }
            let answers: Vec<Value> = ask.query_async(conn).await?;
            for (name, answer) in chunk.iter().zip(answers.chunks(3)) {
                let expires: i64 = redis::from_redis_value(&answer[0])?;
                let kind: String = redis::from_redis_value(&answer[1])?;
                let stream = if kind == "stream" {
                    let mut ask = redis::cmd("XINFO");
                    ask.arg("STREAM")
                        .arg(name)
                        .arg("FULL")
                        .arg("COUNT")
                        .arg(0)
                        .query_async(conn)
                        .await?
                } else {
                    Value::Nil
                };
                let key = Key {
                    value: answer[2].clone(),
                    expires,
                    stream: without_clocks(stream),
                };
                keys.insert((db, name.clone()), key);
            }
        }
    }
    redis::cmd("SELECT").arg(0).query_async::<()>(conn).await?;
    Ok(Picture {
        digest,
        functions,
        keys,
    })
}

/// XINFO tells when a consumer was last seen, which is the server's own clock and not replicated, how the
/// stream is laid out in memory, which depends on when it was trimmed, and how many entries a group has read,
/// which a stock master does not replicate for XREADGROUP (its effect is an XCLAIM; tried on 7.0.15 without
/// Redoubt), with the lag that it computes from that.
fn without_clocks(value: Value) -> Value {
    const OWN: [&str; 7] = [
        "entries-read",
        "lag",
        "seen-time",
        "active-time",
        "radix-tree-keys",
        "radix-tree-nodes",
        "idle",
    ];
    let own = |key: &Value| redis::from_redis_value::<String>(key).is_ok_and(|k| OWN.contains(&k.as_str()));
    match value {
        Value::Array(items) => {
            let pairs =
                items.len() % 2 == 0 && items.iter().step_by(2).all(|k| matches!(k, Value::BulkString(_)));
            if !pairs {
                return Value::Array(items.into_iter().map(without_clocks).collect());
            }
            let kept = items.chunks(2).filter(|pair| !own(&pair[0]));
            Value::Array(
                kept.flat_map(|pair| [pair[0].clone(), without_clocks(pair[1].clone())])
                    .collect(),
            )
        }
        other => other,
    }
}

/// What differs between two servers, at most ten lines of it.
///
/// # Errors
/// What the client library says.
pub async fn differences(
    a: &mut MultiplexedConnection,
    b: &mut MultiplexedConnection,
) -> redis::RedisResult<Vec<String>> {
    Ok(apart(&picture(a).await?, &picture(b).await?))
}

/// What differs between two servers that were given the same commands at not quite the same time, at most ten
/// lines of it: times may be apart by as much as a request takes.
///
/// # Errors
/// What the client library says.
pub async fn differences_but_in_time(
    a: &mut MultiplexedConnection,
    b: &mut MultiplexedConnection,
) -> redis::RedisResult<Vec<String>> {
    const APART_MS_MAX: u64 = 120_000;
    let libraries = (libraries(a).await?, libraries(b).await?);
    let (mut a, mut b) = (picture(a).await?, picture(b).await?);
    // It covers keys whose time is over until they are deleted, which each server does when it comes to it. Those that are there
    // have their own.
    b.digest.clone_from(&a.digest);
    // Several libraries are dumped in the order of a hash table.
    if libraries.0 == libraries.1 {
        b.functions = a.functions.clone();
    }
    for (name, key) in &mut a.keys {
        if let Some(other) = b.keys.get_mut(name) {
            let both = key.expires > 0 && other.expires > 0;
            if both && key.expires.abs_diff(other.expires) < APART_MS_MAX {
                other.expires = key.expires;
            }
            without_times(&mut key.stream);
            without_times(&mut other.stream);
        }
    }
    Ok(apart(&a, &b))
}

/// Names and code of all libraries.
async fn libraries(conn: &mut MultiplexedConnection) -> redis::RedisResult<Vec<String>> {
    let mut list = redis::cmd("FUNCTION");
    let list: Vec<BTreeMap<String, Value>> = list.arg("LIST").arg("WITHCODE").query_async(conn).await?;
    let mut libraries: Vec<String> = list
        .iter()
        .map(|library| {
            format!(
                "{:?} {:?}",
                library.get("library_name"),
                library.get("library_code")
            )
        })
        .collect();
    libraries.sort_unstable();
    Ok(libraries)
}

/// Whatever is a time in milliseconds of these years.
fn without_times(value: &mut Value) {
    match value {
        Value::Int(n) if (1_600_000_000_000..3_000_000_000_000).contains(n) => *value = Value::Nil,
        Value::Array(items) => items.iter_mut().for_each(without_times),
        _ => {}
    }
}

fn apart(a: &Picture, b: &Picture) -> Vec<String> {
    let mut found = Vec::new();
    if a.digest != b.digest {
        found.push(format!("DEBUG DIGEST: {} and {}", a.digest, b.digest));
    }
    if a.functions != b.functions {
        found.push("FUNCTION DUMP".into());
    }
    let names: std::collections::BTreeSet<_> = a.keys.keys().chain(b.keys.keys()).collect();
    for (db, name) in names {
        let key = (*db, name.clone());
        let (x, y) = (a.keys.get(&key), b.keys.get(&key));
        if x != y && found.len() < 10 {
            found.push(format!(
                "db {db} key {:?}: {x:?} and {y:?}",
                String::from_utf8_lossy(name)
            ));
        }
    }
    found
}

/// Waits until the two servers are equal: the stream between them may still be moving.
///
/// # Panics
/// With what still differs after 30 s.
pub async fn wait_equal(a: &mut MultiplexedConnection, b: &mut MultiplexedConnection) {
    let end = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let found = differences(a, b).await.expect("both servers answer");
        if found.is_empty() {
            return;
        }
        assert!(std::time::Instant::now() < end, "the servers differ: {found:#?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The two servers are equal now.
///
/// # Panics
/// With what differs.
pub async fn assert_equal(a: &mut MultiplexedConnection, b: &mut MultiplexedConnection) {
    let found = differences(a, b).await.expect("both servers answer");
    assert!(found.is_empty(), "the servers differ: {found:#?}");
}
