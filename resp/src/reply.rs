//! What servers answer: RESP2 and RESP3.

mod value;

pub use value::Value;
