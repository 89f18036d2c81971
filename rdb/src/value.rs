//! One key's value, in any encoding: its digest is that of what it means.
//!
//! What counts:
//! - string: its bytes.
//! - list: its elements in order. Set: its members. Hash: fields, values, and when fields expire.
//! - sorted set: members and scores. -0 counts as 0, since packed encodings do not keep it.
//! - stream: see `stream`.
//! - module: what the module wrote, with strings unpacked.
//!
//! What does not: encodings, the order of what has none, compression, how a list or a stream is cut into nodes.

mod flat;
mod module;
mod nodes;
mod packed;
mod stream;

pub(crate) use module::ModuleData;

use crate::digest::{Bag, Digest, Sip};
use crate::error::Fault;
use crate::lexer::{Input, Lexer};
use crate::{Kind, Magic};
use flat::{Flat, Shape};
use nodes::Nodes;
use packed::{Form, Packed};
use stream::Stream;

/// What a digest is of: the first byte of each. They never change.
mod tag {
    pub(super) const STRING: u8 = b's';
    pub(super) const LIST: u8 = b'l';
    pub(super) const MEMBER: u8 = b'm';
    pub(super) const FIELD: u8 = b'f';
    pub(super) const SCORED: u8 = b'z';
    pub(super) const BAG: u8 = b'b';
    pub(super) const STREAM: u8 = b'x';
    pub(super) const GROUP: u8 = b'g';
    pub(super) const PENDING: u8 = b'p';
    pub(super) const OWNED: u8 = b'o';
    pub(super) const CONSUMER: u8 = b'c';
    pub(super) const MODULE: u8 = b'M';
}

/// The digest of parts without an order.
fn of_bag(bag: &Bag) -> Digest {
    let mut sip = Sip::new(tag::BAG);
    bag.write_to(&mut sip);
    sip.finish()
}

/// A score as it counts.
fn score_bits(score: f64) -> u64 {
    (score + 0.0).to_bits()
}

const EMPTY: Fault = Fault::Broken("a key holds nothing");

/// A value that is being read.
pub(crate) enum Value {
    Text(Sip),
    Flat(Flat),
    Packed(Packed),
    Nodes(Nodes),
    Stream(Box<Stream>),
    Module(ModuleData),
}

impl Value {
    /// A value of the type that `type_byte` names in a file of `magic`.
    pub(crate) fn new(type_byte: u8, magic: Magic, version: u32) -> Result<(Kind, Value), Fault> {
        let flat = |shape| Value::Flat(Flat::new(shape));
        let packed = |form| Value::Packed(Packed::new(form));
        // Field expiries came with version 12 in Redis and version 80 in Valkey, which use the same numbers.
        let fields_expire = magic == Magic::Redis && version >= 12;
        Ok(match type_byte {
            0 => (Kind::String, Value::Text(Sip::new(tag::STRING))),
            1 => (Kind::List, flat(Shape::List)),
            2 => (Kind::Set, flat(Shape::Set)),
            3 => (Kind::Zset, flat(Shape::ZsetText)),
            4 => (Kind::Hash, flat(Shape::Hash)),
            5 => (Kind::Zset, flat(Shape::ZsetBinary)),
            7 => (Kind::Module, Value::Module(ModuleData::new())),
            10 => (Kind::List, packed(Form::ListZiplist)),
            11 => (Kind::Set, packed(Form::SetIntset)),
            12 => (Kind::Zset, packed(Form::ZsetZiplist)),
            13 => (Kind::Hash, packed(Form::HashZiplist)),
            14 => (Kind::List, Value::Nodes(Nodes::ziplists())),
            15 => (Kind::Stream, Value::Stream(Box::new(Stream::new(1)))),
            16 => (Kind::Hash, packed(Form::HashListpack)),
            17 => (Kind::Zset, packed(Form::ZsetListpack)),
            18 => (Kind::List, Value::Nodes(Nodes::listpacks())),
            19 => (Kind::Stream, Value::Stream(Box::new(Stream::new(2)))),
            20 => (Kind::Set, packed(Form::SetListpack)),
            21 => (Kind::Stream, Value::Stream(Box::new(Stream::new(3)))),
            22 if magic == Magic::Valkey => (Kind::Hash, flat(Shape::HashTimesBehind)),
            // As release candidates of Redis 7.4 wrote them.
            22 if fields_expire => (Kind::Hash, flat(Shape::HashTimes { relative: false })),
            23 if fields_expire => (Kind::Hash, packed(Form::HashListpackTimes { least: false })),
            24 if fields_expire => (Kind::Hash, flat(Shape::HashTimes { relative: true })),
            25 if fields_expire => (Kind::Hash, packed(Form::HashListpackTimes { least: true })),
            other => return Err(Fault::UnknownType(other)),
        })
    }

    /// Reads on. The digest, when the value has ended.
    pub(crate) fn advance(
        &mut self,
        lexer: &mut Lexer,
        input: &mut Input<'_>,
    ) -> Result<Option<Digest>, Fault> {
        match self {
            Value::Text(sip) => Ok(lexer.string(input, sip)?.then(|| sip.finish())),
            Value::Flat(value) => value.advance(lexer, input),
            Value::Packed(value) => value.advance(lexer, input),
            Value::Nodes(value) => value.advance(lexer, input),
            Value::Stream(value) => value.advance(lexer, input),
            Value::Module(value) => value.advance(lexer, input),
        }
    }
}
