//! An answer that we read ourselves (INFO, ROLE, CONFIG GET …), as a small owned tree.

use super::{FrameEnd, ReplyError, ReplyScanner};
use bytes::Bytes;
use redis_protocol::{resp2, resp3};

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

/// Decodes the first frame of `bytes`: the value and the frame's length; `None` when it is incomplete. To be
/// used on answers that are known to be small; for large ones find the end with a
/// [`ReplyScanner`](super::ReplyScanner) first, since every call begins at the frame's start.
///
/// # Errors
/// When the bytes are no frame, or its content can't be decoded.
pub fn parse_frame(bytes: &[u8]) -> Result<Option<(Value, usize)>, ReplyError> {
    // The scanner first: it caps depth and lengths, which redis-protocol does not.
    let Some(FrameEnd { end, .. }) = ReplyScanner::shallow().next_frame(bytes)? else {
        return Ok(None);
    };
    let frame = &bytes[..end];
    // Only RESP2's decoder knows RESP2's nulls, only RESP3's the other types; no server mixes them.
    let value = match resp2::decode::decode(frame) {
        Ok(Some((frame, used))) if used == end => of_resp2(frame),
        _ => match resp3::decode::complete::decode(frame) {
            Ok(Some((frame, used))) if used == end => of_resp3(frame),
            _ => return Err(ReplyError::BadContent),
        },
    };
    Ok(Some((value, end)))
}

fn of_resp2(frame: resp2::types::OwnedFrame) -> Value {
    use resp2::types::OwnedFrame as F;
    match frame {
        F::SimpleString(text) => Value::Simple(text.into()),
        F::Error(text) => Value::Error(text.into()),
        F::Integer(n) => Value::Int(n),
        F::BulkString(bytes) => Value::Bulk(bytes.into()),
        F::Array(items) => Value::Array(items.into_iter().map(of_resp2).collect()),
        F::Null => Value::Null,
    }
}

fn of_resp3(frame: resp3::types::OwnedFrame) -> Value {
    use resp3::types::OwnedFrame as F;
    match frame {
        F::SimpleString { data, .. } | F::BigNumber { data, .. } => Value::Simple(data.into()),
        F::SimpleError { data, .. } => Value::Error(data.into()),
        F::BlobError { data, .. } => Value::Error(data.into()),
        F::Number { data, .. } => Value::Int(data),
        F::Boolean { data, .. } => Value::Int(i64::from(data)),
        F::Double { data, .. } => Value::Simple(data.to_string().into()),
        F::BlobString { data, .. } | F::VerbatimString { data, .. } | F::ChunkedString(data) => {
            Value::Bulk(data.into())
        }
        F::Array { data, .. } | F::Push { data, .. } => {
            Value::Array(data.into_iter().map(of_resp3).collect())
        }
        F::Set { data, .. } => {
            let mut items: Vec<Value> = data.into_iter().map(of_resp3).collect();
            // The decoder keeps sets and maps unordered; what is read here must be a function of the bytes.
            items.sort_unstable();
            Value::Array(items)
        }
        F::Map { data, .. } => {
            let mut pairs: Vec<(Value, Value)> = data
                .into_iter()
                .map(|(key, value)| (of_resp3(key), of_resp3(value)))
                .collect();
            pairs.sort_unstable();
            Value::Map(pairs)
        }
        F::Null | F::Hello { .. } => Value::Null,
    }
}
