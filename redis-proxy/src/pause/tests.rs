use super::*;
use bytes::Bytes;
use redoubt_resp::reply::Value;

fn head(line: &str) -> RequestHead {
    let args: Vec<Bytes> = line
        .split(' ')
        .map(|w| Bytes::copy_from_slice(w.as_bytes()))
        .collect();
    RequestHead {
        arg_count: args.len(),
        args,
    }
}

fn at(ms: u64) -> BootTime {
    BootTime::new(Duration::from_millis(ms))
}

#[test]
fn what_is_asked_is_read_as_the_server_reads_it() {
    use Judged::{Asks, Odd, Wrong};
    for (line, want) in [
        ("CLIENT PAUSE 100", Some(Asks(Asked::Pause(Kind::All, 100)))),
        ("client pause 0 all", Some(Asks(Asked::Pause(Kind::All, 0)))),
        ("CLIENT Pause 7 Write", Some(Asks(Asked::Pause(Kind::Write, 7)))),
        (
            "CLIENT PAUSE 9223372036854775807",
            Some(Asks(Asked::Pause(Kind::All, i64::MAX as u64))),
        ),
        ("CLIENT UNPAUSE", Some(Asks(Asked::Unpause))),
        ("CLIENT UNPAUSE x", Some(Wrong)),
        ("CLIENT PAUSE", Some(Wrong)),
        ("CLIENT PAUSE 01", Some(Wrong)),
        ("CLIENT PAUSE +1", Some(Wrong)),
        ("CLIENT PAUSE -1", Some(Wrong)),
        ("CLIENT PAUSE x y z", Some(Wrong)),
        ("CLIENT PAUSE 9223372036854775808", Some(Wrong)),
        ("CLIENT PAUSE 1 x", Some(Wrong)),
        // Valkey 9.1 takes this one.
        ("CLIENT PAUSE 1 2 3", Some(Odd)),
        ("CLIENT LIST", None),
        ("CLIENT", None),
        ("PAUSE 1", None),
    ] {
        assert_eq!(judge(&head(line)), want, "{line}");
    }
    let hidden = RequestHead {
        arg_count: 3,
        args: vec!["CLIENT".into(), "PAUSE".into()],
    };
    assert_eq!(judge(&hidden), Some(Odd));
}

#[test]
fn a_code_means_what_was_asked() {
    for asked in [
        Asked::Unpause,
        Asked::Pause(Kind::All, 0),
        Asked::Pause(Kind::Write, i64::MAX as u64),
    ] {
        assert_eq!(Asked::of_code(&asked.code()), Some(asked));
        assert!(asked.code().len() <= 64, "a marker's code has 64 letters at most");
    }
    assert_eq!(Asked::of_code("07"), None);
}

#[test]
fn the_latest_end_and_the_stronger_kind_win() {
    let pause = Pause::default();
    let now = |pause: &Pause| pause.paused.borrow().map(|p| (p.kind, p.until));
    pause.ask(Asked::Pause(Kind::Write, 100), at(0));
    pause.ask(Asked::Pause(Kind::All, 50), at(10));
    assert_eq!(now(&pause), Some((Kind::All, at(100))));
    pause.ask(Asked::Pause(Kind::Write, 500), at(20));
    assert_eq!(now(&pause), Some((Kind::All, at(520))));
    // One that is over does not count.
    pause.ask(Asked::Pause(Kind::Write, 1), at(520));
    assert_eq!(now(&pause), Some((Kind::Write, at(521))));
    pause.ask(Asked::Unpause, at(520));
    assert_eq!(now(&pause), None);
}

#[test]
fn what_may_write_is_the_servers_to_say() {
    let word = |w: &str| Value::Bulk(Bytes::copy_from_slice(w.as_bytes()));
    let command = |name: &str, flags: &[&str], subcommands: Vec<Value>| {
        let mut fields = vec![Value::Int(0); 9];
        fields[0] = word(name);
        fields[2] = Value::Array(flags.iter().map(|f| word(f)).collect());
        fields.push(Value::Array(subcommands));
        Value::Array(fields)
    };
    let writes = Writes::of(&Value::Array(vec![
        command("set", &["write", "denyoom"], vec![]),
        command("get", &["readonly", "fast"], vec![]),
        command(
            "function",
            &[],
            vec![
                command("function|load", &["write"], vec![]),
                command("function|list", &[], vec![]),
            ],
        ),
    ]));
    for line in ["SET k v", "Function Load x", "EVAL x 0", "pfcount x"] {
        assert!(writes.may_write(&head(line)), "{line}");
    }
    for line in ["GET k", "FUNCTION LIST", "FUNCTION", "EVAL_RO x 0", "NONE"] {
        assert!(!writes.may_write(&head(line)), "{line}");
    }
}
