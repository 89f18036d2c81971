//! Files of real servers: what they mean is the same whatever the server keeps it in, and nothing else is.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test outside of any cluster: it talks to real processes"
)]

mod common;

use common::{Server, VERSIONS, fill, read};

/// Everything that the server `name` can hold.
fn filled(name: &str, small: Option<u32>) -> Server {
    let server = Server::start(name, None, small, &[]);
    let mut c = server.client();
    fill::common(&mut c);
    if fill::has_functions(name) {
        fill::functions(&mut c);
    }
    if fill::has_field_expiry(name) {
        fill::field_expiry(&mut c);
    }
    server
}

/// For each version: as filled, filled with other thresholds, and each loaded with other thresholds.
fn same_in_any_encoding(name: &str) {
    let rdb = filled(name, None).save();
    let summary = read(&rdb, 64 * 1024);
    let other = filled(name, Some(0)).save();
    let kind = name.split('-').next().unwrap();
    assert!(summary.server.as_ref().unwrap().starts_with(kind), "{summary:?}");
    assert!(summary.checksummed && summary.created_s.unwrap() > 1_700_000_000);
    assert_eq!(summary.bytes, rdb.len() as u64);
    assert_eq!(summary.functions, if fill::has_functions(name) { 2 } else { 0 });
    assert_eq!(summary.expires, 6);
    assert_eq!(
        summary.keys_by_db.values().copied().collect::<Vec<_>>(),
        [summary.keys - 4, 2, 2]
    );
    for cut in [1, 7, 4096] {
        assert_eq!(read(&rdb, cut), summary, "cut at {cut}");
    }
    if name != "redis-6.2.5" {
        // Nothing is alike in the two files, but what they mean.
        assert!(
            other.len() > rdb.len() * 11 / 10,
            "{} and {}",
            rdb.len(),
            other.len()
        );
    }
    assert_same(name, &rdb, &other);
    for (from, small) in [(&rdb, Some(0)), (&rdb, Some(20)), (&other, None)] {
        let again = Server::start(name, Some(from), small, &[]).save();
        assert_same(name, &rdb, &again);
    }
}

/// Panics with the keys that differ.
fn assert_same(name: &str, one: &[u8], other: &[u8]) {
    let (a, b) = (read(one, 1 << 20), read(other, 1 << 20));
    if a.digest == b.digest {
        assert_eq!((a.keys, a.expires, a.functions), (b.keys, b.expires, b.functions));
        return;
    }
    let differ = differing(one, other);
    panic!("{name}: {:?} and {:?} differ in {differ:?}", a.server, b.server);
}

/// The keys that differ.
fn differing(one: &[u8], other: &[u8]) -> Vec<String> {
    let keys = |rdb: &[u8]| {
        let mut keys = std::collections::BTreeMap::new();
        let mut reader = redoubt_rdb::RdbReader::new();
        reader
            .feed_with(rdb, |k| {
                let name = format!("{}/{:.60}", k.db.get(), k.key.escape_ascii());
                assert_eq!(keys.insert(name, k.digest), None);
            })
            .unwrap();
        keys
    };
    let (one, other) = (keys(one), keys(other));
    let all: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
    all.into_iter()
        .filter(|k| one.get(*k) != other.get(*k))
        .cloned()
        .collect()
}

#[test]
fn redis_6_2_is_the_same_in_any_encoding() {
    same_in_any_encoding("redis-6.2.5");
}

#[test]
fn redis_7_0_is_the_same_in_any_encoding() {
    same_in_any_encoding("redis-7.0");
}

#[test]
fn redis_7_2_is_the_same_in_any_encoding() {
    same_in_any_encoding("redis-7.2.4");
}

#[test]
fn redis_7_4_is_the_same_in_any_encoding() {
    same_in_any_encoding("redis-7.4.1");
}

#[test]
fn redis_8_2_is_the_same_in_any_encoding() {
    same_in_any_encoding("redis-8.2.3");
}

#[test]
fn valkey_8_1_is_the_same_in_any_encoding() {
    same_in_any_encoding("valkey-8.1.8");
}

#[test]
fn valkey_9_1_is_the_same_in_any_encoding() {
    same_in_any_encoding("valkey-9.1.2");
}

#[test]
fn servers_since_7_0_say_the_same_of_the_same() {
    let mut first: Option<Vec<u8>> = None;
    for name in VERSIONS.into_iter().filter(|name| fill::has_functions(name)) {
        let server = Server::start(name, None, None, &[]);
        fill::common(&mut server.client());
        fill::functions(&mut server.client());
        let rdb = server.save();
        assert_same(name, first.as_ref().unwrap_or(&rdb), &rdb);
        first.get_or_insert(rdb);
    }
}

/// Each changes one thing that a client could see, and each gives another digest than all others.
const CHANGES: [&str; 24] = [
    "SET change:new 1",
    "SET change:string w",
    "APPEND change:string v",
    "PEXPIREAT change:string 4000000000001",
    "PERSIST change:expires",
    "PEXPIREAT change:expires 4000000000001",
    "RPUSH change:list c",
    "LSET change:list 0 b",
    "SADD change:set 3",
    "HSET change:hash f w",
    "HDEL change:hash g",
    "ZADD change:zset 1.5 a",
    "ZREM change:zset b",
    "XADD change:stream 9-9 a b",
    "XDEL change:stream 2-1",
    "XSETID change:stream 9-9",
    "XGROUP CREATE change:stream h 0",
    "XGROUP SETID change:stream g 1-1",
    "XGROUP CREATECONSUMER change:stream g d",
    "XCLAIM change:stream g c 0 1-1 TIME 1700000000001 RETRYCOUNT 1 JUSTID",
    "XCLAIM change:stream g c 0 1-1 TIME 1700000000000 RETRYCOUNT 5 JUSTID",
    "XACK change:stream g 1-1",
    "RENAME change:string change:string2",
    "MOVE change:string 9",
];

#[test]
fn whatever_a_client_could_see_changed_gives_another_digest() {
    let name = "redis-7.4.1";
    let filled = || {
        let server = Server::start(name, None, None, &[]);
        let mut c = server.client();
        for command in [
            "SET change:string v",
            "SET change:expires v PXAT 4000000000000",
            "RPUSH change:list a b",
            "SADD change:set 1 2",
            "HSET change:hash f v g v",
            "ZADD change:zset 1 a 2 b",
            "XADD change:stream 1-1 a b",
            "XADD change:stream 2-1 a b",
            "XGROUP CREATE change:stream g 0",
            "XCLAIM change:stream g c 0 1-1 TIME 1700000000000 RETRYCOUNT 1 FORCE JUSTID",
        ] {
            c.run(command);
        }
        server
    };
    let server = filled();
    let rdb = server.save();
    let unchanged = read(&rdb, 1 << 20).digest;
    drop(server);
    let mut seen = std::collections::BTreeMap::from([(unchanged.to_bytes(), "nothing")]);
    for change in CHANGES {
        let server = filled();
        server.client().run(change);
        let digest = read(&server.save(), 1 << 20).digest;
        if let Some(other) = seen.insert(digest.to_bytes(), change) {
            panic!("{change:?} gives the same digest as {other:?}");
        }
    }
}

#[test]
fn what_is_cut_or_damaged_is_refused() {
    let rdb = filled("redis-7.4.1", None).save();
    let refused = |bytes: &[u8]| {
        let mut reader = redoubt_rdb::RdbReader::new();
        reader.feed(bytes).is_err() || reader.finish().is_err()
    };
    assert!(!refused(&rdb));
    for at in (0..rdb.len()).step_by(rdb.len() / 200 + 1) {
        assert!(refused(&rdb[..at]), "cut at {at} of {}", rdb.len());
        let mut damaged = rdb.clone();
        damaged[at] ^= 0x10;
        assert!(refused(&damaged), "byte {at} of {}", rdb.len());
    }
    assert!(refused(&[&rdb[..], b"x"].concat()), "something behind its end");
}
