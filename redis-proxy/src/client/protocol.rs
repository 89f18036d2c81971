//! Which of RESP's two versions a client speaks.
//!
//! Decides which `HELLO` a client may bring along to a shared connection: one that asks for a version and says a name at most.
//! The server answers it on a connection of the client's own, and is asked there which version that left before the client
//! shares one again: what it speaks is never guessed. Must not know a connection.

use redoubt_resp::reply::Value;
use redoubt_resp::request::RequestHead;

/// A version of RESP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Protocol {
    /// What every connection begins with.
    #[default]
    Resp2,
    /// What `HELLO 3` asks for.
    Resp3,
}

/// What a `HELLO` leaves on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hello<'a> {
    /// A version, if it is granted, and this name, if any.
    Version(Option<&'a [u8]>),
    /// It may be anything.
    More,
}

/// What this command leaves, if it is a `HELLO`.
pub(super) fn hello(head: &RequestHead) -> Option<Hello<'_>> {
    if !head.is(0, "hello") {
        return None;
    }
    Some(match head.arg_count {
        1 | 2 => Hello::Version(None),
        4 if head.is(2, "setname") && !head.is_partial() && is_plain_name(head.arg(3)) => {
            Hello::Version(Some(head.arg(3)))
        }
        _ => Hello::More,
    })
}

/// Whether every server takes this for a name or a version of a library, and the head shows all of it.
pub(super) fn is_plain_name(name: &[u8]) -> bool {
    name.len() < 256 && name.iter().all(|b| (b'!'..=b'~').contains(b))
}

/// The version in the answer to a `HELLO` without arguments.
pub(super) fn version_of(answer: &Value) -> Option<Protocol> {
    match answer.field("proto").and_then(Value::as_int) {
        Some(2) => Some(Protocol::Resp2),
        Some(3) => Some(Protocol::Resp3),
        Some(_) => None,
        // A server that does not know the command speaks what there was before it.
        None => {
            let unknown = answer
                .as_error()
                .is_some_and(|e| e.starts_with("ERR unknown command"));
            unknown.then_some(Protocol::Resp2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn left(words: &str) -> Option<Option<String>> {
        let args: Vec<Bytes> = words
            .split(' ')
            .map(|w| Bytes::copy_from_slice(w.as_bytes()))
            .collect();
        let arg_count = args.len();
        match hello(&RequestHead { args, arg_count })? {
            Hello::Version(name) => Some(name.map(|n| String::from_utf8_lossy(n).into_owned())),
            Hello::More => None,
        }
    }

    #[test]
    fn a_version_and_a_name_may_be_brought_along() {
        assert_eq!(left("HELLO"), Some(None));
        assert_eq!(left("hello 3"), Some(None));
        assert_eq!(left("HELLO 2 setname me"), Some(Some("me".to_owned())));
        for more in [
            "HELLO 3 AUTH u p",
            "HELLO 3 SETNAME m\u{e9}",
            "HELLO 3 SETNAME a SETNAME b",
            "HELLO 3 SETNAME",
            "GET k",
        ] {
            assert_eq!(left(more), None, "{more}");
        }
    }

    #[test]
    fn what_a_server_does_not_say_is_not_known() {
        let map = |n| Value::Map(vec![(Value::Bulk("proto".into()), Value::Int(n))]);
        assert_eq!(version_of(&map(2)), Some(Protocol::Resp2));
        assert_eq!(version_of(&map(3)), Some(Protocol::Resp3));
        assert_eq!(version_of(&map(4)), None);
        let error = |text: &'static str| Value::Error(text.into());
        assert_eq!(
            version_of(&error("ERR unknown command 'HELLO'")),
            Some(Protocol::Resp2)
        );
        assert_eq!(version_of(&error("BUSY")), None);
    }
}
