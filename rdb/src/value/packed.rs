//! Small values: everything in one string.

use super::{EMPTY, of_bag, score_bits, tag};
use crate::digest::{Bag, Digest, Sip};
use crate::error::Fault;
use crate::intset;
use crate::lexer::{Input, Lexer};
use crate::listpack::{Item, Listpack};
use crate::ziplist::Ziplist;

/// What the string is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    ListZiplist,
    SetIntset,
    SetListpack,
    ZsetZiplist,
    ZsetListpack,
    HashZiplist,
    HashListpack,
    /// Field, value and expiry (0: none) of each. The least expiry may stand in front of the string; it follows
    /// from the others.
    HashListpackTimes {
        least: bool,
    },
}

/// A value in one string.
pub(crate) struct Packed {
    form: Form,
    least_to_come: bool,
}

impl Packed {
    pub(super) fn new(form: Form) -> Packed {
        let least_to_come = form == Form::HashListpackTimes { least: true };
        Packed { form, least_to_come }
    }

    /// Reads on. The digest, when the value has ended.
    pub(super) fn advance(
        &mut self,
        lexer: &mut Lexer,
        input: &mut Input<'_>,
    ) -> Result<Option<Digest>, Fault> {
        if self.least_to_come {
            if lexer.millis(input).is_none() {
                return Ok(None);
            }
            self.least_to_come = false;
        }
        let Some(bytes) = lexer.whole(input)? else {
            return Ok(None);
        };
        let digest = match self.form {
            Form::ListZiplist => list(Ziplist::open(bytes)?),
            Form::SetIntset => set(intset::members(bytes)?.map(|n| Ok(Item::Number(n)))),
            Form::SetListpack => set(Listpack::open(bytes)?),
            Form::ZsetZiplist => zset(Ziplist::open(bytes)?),
            Form::ZsetListpack => zset(Listpack::open(bytes)?),
            Form::HashZiplist => hash(Ziplist::open(bytes)?, false),
            Form::HashListpack => hash(Listpack::open(bytes)?, false),
            Form::HashListpackTimes { .. } => hash(Listpack::open(bytes)?, true),
        };
        digest.map(Some)
    }
}

const ODD: Fault = Fault::Broken("a packed value has half an element");

fn list<'a>(items: impl Iterator<Item = Result<Item<'a>, Fault>>) -> Result<Digest, Fault> {
    let (mut sip, mut count) = (Sip::new(tag::LIST), 0);
    for item in items {
        item?.write_to(&mut sip);
        count += 1;
    }
    if count == 0 {
        return Err(EMPTY);
    }
    sip.number(count);
    Ok(sip.finish())
}

fn set<'a>(items: impl Iterator<Item = Result<Item<'a>, Fault>>) -> Result<Digest, Fault> {
    let mut bag = Bag::default();
    for item in items {
        let mut sip = Sip::new(tag::MEMBER);
        item?.write_to(&mut sip);
        bag.add(sip.finish());
    }
    filled(bag)
}

fn zset<'a>(mut items: impl Iterator<Item = Result<Item<'a>, Fault>>) -> Result<Digest, Fault> {
    let mut bag = Bag::default();
    while let Some(member) = items.next() {
        let mut sip = Sip::new(tag::SCORED);
        member?.write_to(&mut sip);
        let score = items.next().ok_or(ODD)??.score();
        sip.number(score_bits(score.ok_or(Fault::Broken("a score is no number"))?));
        bag.add(sip.finish());
    }
    filled(bag)
}

fn hash<'a>(mut items: impl Iterator<Item = Result<Item<'a>, Fault>>, times: bool) -> Result<Digest, Fault> {
    let mut bag = Bag::default();
    while let Some(field) = items.next() {
        let mut sip = Sip::new(tag::FIELD);
        field?.write_to(&mut sip);
        items.next().ok_or(ODD)??.write_to(&mut sip);
        let mut time_ms = None;
        if times {
            let written = items.next().ok_or(ODD)??.number();
            let written = written.ok_or(Fault::Broken("a field's expiry is no number"))?;
            time_ms = (written != 0).then_some(written);
        }
        sip.time(time_ms);
        bag.add(sip.finish());
    }
    filled(bag)
}

fn filled(bag: Bag) -> Result<Digest, Fault> {
    if bag.count == 0 {
        Err(EMPTY)
    } else {
        Ok(of_bag(&bag))
    }
}
