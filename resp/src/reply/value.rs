//! An answer that we read ourselves (INFO, ROLE, CONFIG GET …), as a small owned tree.

use bytes::Bytes;

/// One reply. RESP3's types are folded into the few that a reader of answers needs: booleans are `Int`, blob
/// errors `Error`, verbatim strings `Bulk`, doubles and big numbers `Simple` with their text, sets and pushes
/// `Array`. Attributes are dropped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// A simple string.
    Simple(Bytes),
    /// An error, without its `-`.
    Error(Bytes),
    /// An integer.
    Int(i64),
    /// A bulk string.
    Bulk(Bytes),
    /// A null of any kind.
    Null,
    /// An array, set or push.
    Array(Vec<Value>),
    /// A map, in the order of its keys.
    Map(Vec<(Value, Value)>),
}

impl Value {
    /// The bytes of a simple or bulk string; `None` for anything else, errors included.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Simple(text) | Value::Bulk(text) => Some(text),
            _ => None,
        }
    }

    /// The text of a simple or bulk string, if it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        self.as_bytes().and_then(|text| std::str::from_utf8(text).ok())
    }

    /// The text of an error; what of it is not UTF-8 is cut off.
    pub fn as_error(&self) -> Option<&str> {
        match self {
            Value::Error(text) => Some(match std::str::from_utf8(text) {
                Ok(text) => text,
                Err(e) => std::str::from_utf8(&text[..e.valid_up_to()]).unwrap_or_default(),
            }),
            _ => None,
        }
    }

    /// An integer, also one that came as a string.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(n) => Some(*n),
            _ => crate::number::signed(self.as_bytes()?),
        }
    }

    /// The elements of an array.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The value that follows `name` in a map, or in an array of names and values (CONFIG GET under RESP2).
    pub fn field(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Map(pairs) => pairs
                .iter()
                .find(|(k, _)| k.as_str() == Some(name))
                .map(|(_, v)| v),
            Value::Array(items) => items
                .chunks_exact(2)
                .find(|p| p[0].as_str() == Some(name))
                .map(|p| &p[1]),
            _ => None,
        }
    }
}
