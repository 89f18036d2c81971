use super::*;
use bytes::Bytes;

/// An entry of `COMMAND`: name, flags, the first key's place, subcommands.
pub(crate) fn entry(name: &str, flags: &[&'static str], first: i64, subcommands: Vec<Value>) -> Value {
    let flags = flags.iter().map(|f| Value::Simple((*f).into())).collect();
    Value::Array(vec![
        Value::Bulk(Bytes::copy_from_slice(name.as_bytes())),
        Value::Int(-1),
        Value::Array(flags),
        Value::Int(first),
        Value::Int(first),
        Value::Int(1),
        Value::Array(vec![]),
        Value::Array(vec![]),
        Value::Array(vec![]),
        Value::Array(subcommands),
    ])
}

/// A read whose only key specification has these flags.
fn with_spec(name: &str, flag: &'static str) -> Value {
    let Value::Array(mut fields) = entry(name, &["readonly"], 1, vec![]) else {
        unreachable!("it is an array");
    };
    let flags = Value::Array(vec![Value::Simple("RO".into()), Value::Simple(flag.into())]);
    let spec = vec![
        Value::Bulk("flags".into()),
        flags,
        Value::Bulk("begin_search".into()),
    ];
    fields[8] = Value::Array(vec![Value::Array(spec)]);
    Value::Array(fields)
}

/// As Redis 7 describes some of its commands.
pub(crate) fn some() -> Keyed {
    Keyed::of(&Value::Array(vec![
        entry("get", &["readonly", "fast"], 1, vec![]),
        entry("set", &["write", "denyoom"], 1, vec![]),
        entry("mset", &["write", "denyoom"], 1, vec![]),
        entry("sort", &["write", "denyoom", "movablekeys"], 1, vec![]),
        entry("sort_ro", &["readonly", "movablekeys"], 1, vec![]),
        entry("flushall", &["write"], 0, vec![]),
        entry("dbsize", &["readonly", "fast"], 0, vec![]),
        entry("pfcount", &["readonly", "may_replicate"], 1, vec![]),
        entry("xread", &["readonly", "blocking", "movablekeys"], 0, vec![]),
        with_spec("clusterscan", "not_key"),
        with_spec("odd", "incomplete"),
        with_spec("getrange", "access"),
        entry("json.set", &["write", "module"], 1, vec![]),
        entry("json.get", &["readonly", "module"], 1, vec![]),
        entry("eval", &["noscript", "movablekeys"], 0, vec![]),
        entry(
            "object",
            &[],
            0,
            vec![
                entry("object|encoding", &["readonly"], 2, vec![]),
                entry("object|help", &["loading", "stale"], 0, vec![]),
            ],
        ),
        entry(
            "xgroup",
            &[],
            0,
            vec![entry("xgroup|create", &["write", "denyoom"], 2, vec![])],
        ),
    ]))
}

fn effect(words: &str) -> Effect {
    let args: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
    some().effect(&args)
}

fn is_read(words: &str) -> bool {
    let args: Vec<Bytes> = words
        .split(' ')
        .map(|w| Bytes::copy_from_slice(w.as_bytes()))
        .collect();
    let arg_count = args.len();
    some().reads_only_named(&RequestHead { args, arg_count })
}

#[test]
fn h21_an_effect_that_may_touch_more_than_it_names_is_unclear() {
    for words in [
        "SET k v",
        "mset a 1 b 2",
        "SORT k BY w_* STORE d",
        "XGROUP CREATE s g 0",
    ] {
        assert_eq!(effect(words), Effect::Named, "{words}");
    }
    for words in [
        "MULTI",
        "exec",
        "SELECT 3",
        "PING",
        "REPLCONF GETACK *",
        "PUBLISH c m",
        "SPUBLISH c m",
    ] {
        assert_eq!(effect(words), Effect::Nothing, "{words}");
    }
    for words in [
        "FLUSHALL",
        "SWAPDB 0 1",
        "JSON.SET k $ 1",
        "EVAL x 0",
        "FUNCTION LOAD x",
        "XGROUP NEW s",
        "XGROUP",
        // A master sends no reads.
        "GET k",
        "",
    ] {
        assert_eq!(effect(words), Effect::Unclear, "{words:?}");
    }
    assert_eq!(some().effect(&[]), Effect::Unclear);
    assert_eq!(some().effect(&[&[b'x'; 100]]), Effect::Unclear);
    assert_eq!(Keyed::default().effect(&[b"SET", b"k", b"v"]), Effect::Unclear);
}

#[test]
fn h21_a_read_that_may_show_more_than_it_names_is_none() {
    for words in ["GET k", "get k", "OBJECT encoding k", "GETRANGE k 0 1"] {
        assert!(is_read(words), "{words}");
    }
    for words in [
        "SET k v",
        "SORT_RO k BY w_*",
        "CLUSTERSCAN 0",
        "ODD k",
        "DBSIZE",
        "PFCOUNT k",
        "XREAD STREAMS s 0",
        "JSON.GET k",
        "EVAL x 0",
        "OBJECT HELP",
        "OBJECT",
        "KEYS *",
    ] {
        assert!(!is_read(words), "{words}");
    }
}

#[test]
fn what_is_no_table_of_commands_says_nothing() {
    for odd in [
        Value::Null,
        Value::Array(vec![Value::Int(1)]),
        Value::Error("NOPERM".into()),
    ] {
        assert_eq!(Keyed::of(&odd).effect(&[b"SET", b"k", b"v"]), Effect::Unclear);
    }
}
