//! A dataset of every type in small and large, by commands whose effects no clock decides.

use super::Client;

/// Whether the server `name` has functions, and streams that say what was ever added.
pub fn has_functions(name: &str) -> bool {
    name != "redis-6.2.5"
}

/// Whether fields of the server `name`'s hashes may expire.
pub fn has_field_expiry(name: &str) -> bool {
    ["redis-7.4.1", "redis-8.2.3", "valkey-9.1.2"].contains(&name)
}

/// Bytes that no compression makes shorter.
pub fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

/// What all servers since 7.0 hold alike after it.
pub fn common(c: &mut Client) {
    strings(c);
    collections(c, "small", 7);
    collections(c, "large", 1500);
    for (score, member) in ["inf", "-inf", "-0", "0.1", "1e300", "9007199254740993", "-17"]
        .into_iter()
        .zip(b'a'..)
    {
        c.run(&format!("ZADD zset:odd {score} {}", member as char));
        c.run(&format!("ZADD zset:large {score} {}", member as char));
    }
    streams(c);
    for (db, expiry) in [(3, 4_000_000_000_000_u64), (15, 4_100_000_000_123)] {
        c.run(&format!("SELECT {db}"));
        c.run("SET here too");
        c.run("RPUSH list 1 2 3");
        c.run(&format!("PEXPIREAT list {expiry}"));
    }
    c.run("SELECT 0");
    for key in ["text", "list:large", "stream:large", "hash:small"] {
        c.run(&format!("PEXPIREAT {key} 4000000000000"));
    }
}

fn strings(c: &mut Client) {
    c.run("SET text hello");
    c.run("SET empty x");
    c.call(&["SET", "empty", ""]);
    for n in [
        "0",
        "-1",
        "127",
        "128",
        "-32769",
        "2147483647",
        "2147483648",
        "9223372036854775807",
        "007",
        "-0",
    ] {
        c.run(&format!("SET number:{n} {n}"));
    }
    c.call(&[&b"SET"[..], b"\0binary\xff\r\n", b"\x80\0\r\n"]);
    c.call(&[&b"SET"[..], &noise(20_000), b"long name"]);
    c.call(&[&b"SET"[..], b"noise", &noise(3_000_000)]);
    c.call(&[
        &b"SET"[..],
        b"compressible",
        &b"what repeats itself ".repeat(200_000),
    ]);
    c.call(&[&b"SET"[..], b"twice", &noise(5_000).repeat(3)]);
}

fn collections(c: &mut Client, name: &str, count: u64) {
    let element = |i: u64| match i % 7 {
        0 => i.to_string().into_bytes(),
        1 => format!("-{}", i * 1_000_003).into_bytes(),
        2 => (i << 33).to_string().into_bytes(),
        3 => noise(40 + i as usize % 70),
        4 => b"ab".repeat(60),
        _ => format!("element {i}").into_bytes(),
    };
    for i in 0..count {
        let (n, e) = (
            i.to_string(),
            [element(i), i.to_be_bytes()[7 - usize::from(i > 255)..].to_vec()].concat(),
        );
        c.call(&[b"RPUSH", format!("list:{name}").as_bytes(), &element(i)]);
        c.call(&[b"SADD", format!("set:{name}").as_bytes(), &e]);
        c.call(&[
            b"SADD",
            format!("numbers:{name}").as_bytes(),
            (i * i * i * 77).to_string().as_bytes(),
        ]);
        c.call(&[
            b"HSET",
            format!("hash:{name}").as_bytes(),
            n.as_bytes(),
            &element(i + 3),
        ]);
        c.call(&[
            &b"ZADD"[..],
            format!("zset:{name}").as_bytes(),
            format!("{}", i as f64 / 8.0 - 50.0).as_bytes(),
            &e,
        ]);
    }
    // A set of numbers that fits in 16 bits each, and one element that needs a node of its own.
    c.run(&format!("SADD tiny:{name} 1 -2 300"));
    c.call(&[b"RPUSH", format!("list:{name}").as_bytes(), &noise(100_000)]);
}

fn streams(c: &mut Client) {
    for i in 1..=700_u64 {
        let fields = if i % 9 == 0 {
            "other 1 more 2"
        } else {
            "field 1 value x"
        };
        c.run(&format!(
            "XADD stream:large {}-{} {fields} number n{i}",
            1_000_000 + i * 3 % 5 + i * 10,
            9 - i % 4
        ));
    }
    for i in [1, 4, 5, 6, 100, 350, 699] {
        let id = format!("{}-{}", 1_000_000 + i * 3 % 5 + i * 10, 9 - i % 4);
        c.run(&format!("XDEL stream:large {id}"));
    }
    c.run("XTRIM stream:large MAXLEN = 600");
    c.run("XGROUP CREATE stream:large g 1000500-0");
    c.run("XGROUP CREATE stream:large idle $");
    for (consumer, id, time, count) in [
        ("a", 2000, 1_700_000_000_123_u64, 1),
        ("b", 2013, 1_700_000_001_000, 7),
        ("a", 2024, 1_700_000_002_000, 2),
    ] {
        // An id that is there: each has one of five remainders, found by a range of ten.
        let begin = 1_000_000 + id;
        let super::Answer::Many(found) = c.run(&format!("XRANGE stream:large {begin} + COUNT 1")) else {
            panic!("no range");
        };
        let super::Answer::Many(entry) = &found[0] else {
            panic!("no entry");
        };
        let id = entry[0].clone().text();
        c.run(&format!(
            "XCLAIM stream:large g {consumer} 0 {id} TIME {time} RETRYCOUNT {count} FORCE JUSTID"
        ));
    }
    c.run("XGROUP CREATECONSUMER stream:large g idle");
    c.run("XGROUP CREATE stream:empty g $ MKSTREAM");
    c.run("XADD stream:gone 5-5 a b");
    c.run("XADD stream:gone 18446744073709551615-3 c d");
    c.run("XDEL stream:gone 5-5 18446744073709551615-3");
    c.run("XADD stream:one 1-0 a b");
    c.run("XADD stream:one 1-18446744073709551615 a c");
}

/// What servers hold alike that have it.
pub fn functions(c: &mut Client) {
    for name in ["one", "two"] {
        let code = format!(
            "#!lua name={name}\nredis.register_function('{name}', function() return 1 end)\n{}",
            "-- comment\n".repeat(20)
        );
        c.call(&["FUNCTION", "LOAD", &code]);
    }
}

/// What servers hold alike that have it.
pub fn field_expiry(c: &mut Client) {
    for (name, count) in [("small", 7), ("large", 1500)] {
        for i in 0..count {
            c.run(&format!("HSET times:{name} f{i} {i}"));
            if i % 3 == 0 {
                c.run(&format!(
                    "HPEXPIREAT times:{name} {} FIELDS 1 f{i}",
                    4_000_000_000_000_u64 + i * 7919 % 1000
                ));
            }
        }
    }
    // All that expired is persistent again: nothing is left of it.
    c.run("HSET times:none a 1 b 2");
    c.run("HPEXPIREAT times:none 4000000000000 FIELDS 1 a");
    c.run("HPERSIST times:none FIELDS 1 a");
}
