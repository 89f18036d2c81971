use super::*;
use bytes::Bytes;

fn text(s: &str) -> Value {
    Value::Bulk(Bytes::copy_from_slice(s.as_bytes()))
}

fn command(name: &str, flags: &[&str], subcommands: Vec<Value>) -> Value {
    let mut fields = vec![text(name), Value::Int(-1)];
    fields.push(Value::Array(
        flags
            .iter()
            .map(|f| Value::Simple(Bytes::copy_from_slice(f.as_bytes())))
            .collect(),
    ));
    fields.extend((0..6).map(|_| Value::Array(Vec::new())));
    fields.push(Value::Array(subcommands));
    Value::Array(fields)
}

fn plain() -> Plain {
    Plain::of(&Value::Array(vec![
        command("get", &["readonly", "fast"], vec![]),
        command("set", &["write", "denyoom"], vec![]),
        command("flushall", &["write"], vec![]),
        command("blpop", &["write", "blocking"], vec![]),
        command("xread", &["readonly", "blocking", "movablekeys"], vec![]),
        command("eval", &["noscript", "stale"], vec![]),
        command("subscribe", &["pubsub", "noscript"], vec![]),
        command("migrate", &["write", "movablekeys"], vec![]),
        command("debug", &["admin", "noscript"], vec![]),
        command("json.get", &["readonly", "module"], vec![]),
        command("select", &["fast"], vec![]),
        command("quit", &["fast"], vec![]),
        command("ping", &["fast"], vec![]),
        command(
            "object",
            &[],
            vec![
                command("object|encoding", &["readonly"], vec![]),
                command("object|help", &[], vec![]),
            ],
        ),
        command(
            "client",
            &[],
            vec![
                command("client|setname", &["noscript"], vec![]),
                command("client|id", &["noscript"], vec![]),
            ],
        ),
    ]))
}

fn fit(words: &str) -> Fit {
    let args: Vec<Bytes> = words
        .split(' ')
        .map(|w| Bytes::copy_from_slice(w.as_bytes()))
        .collect();
    let arg_count = args.len();
    plain().fit(&RequestHead { args, arg_count })
}

#[test]
fn commands_that_touch_data_and_nothing_else_are_plain() {
    for words in [
        "GET k",
        "set k v",
        "OBJECT encoding k",
        "EVAL x 0",
        "PING",
        "SELECT 0",
    ] {
        assert_eq!(fit(words), Fit::Plain, "{words}");
    }
}

#[test]
fn what_blocks_or_leaves_something_or_is_not_known_needs_its_own() {
    for words in [
        "BLPOP l 0",
        "FLUSHALL ASYNC",
        "XREAD STREAMS s 0",
        "SUBSCRIBE c",
        "DEBUG SLEEP 1",
        "JSON.GET k",
        "SELECT 1",
        "SELECT",
        "SELECT 0 0",
        "OBJECT HELP",
        "OBJECT",
        "CLIENT ID",
        "CLIENT SETINFO LIB-NAME x",
        "NOSUCH",
        "QUIT now",
    ] {
        assert_eq!(fit(words), Fit::Needs, "{words}");
    }
    let long = "x".repeat(100);
    assert_eq!(fit(&long), Fit::Needs);
}

#[test]
fn a_name_is_remembered_if_any_server_takes_it() {
    assert_eq!(fit("CLIENT SETNAME me"), Fit::Names);
    assert_eq!(fit("QUIT"), Fit::Quits);
    for words in ["CLIENT SETNAME", "CLIENT SETNAME a b", "CLIENT SETNAME \u{1}"] {
        assert_eq!(fit(words), Fit::Needs, "{words}");
    }
}
