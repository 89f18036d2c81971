//! Values whose elements are written one by one: what a server keeps in a hash table.

use super::{EMPTY, of_bag, score_bits, tag};
use crate::digest::{Bag, Digest, Sip};
use crate::error::Fault;
use crate::lexer::{Input, Lexer};
use crate::number::score;

/// What an element consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    List,
    Set,
    Hash,
    /// Member, score as text behind its length.
    ZsetText,
    /// Member, score as eight bytes.
    ZsetBinary,
    /// Expiry (0: none), field, value. If it is relative, then to the least, which stands in front of all, and
    /// 1 is that one.
    HashTimes {
        relative: bool,
    },
    /// Field, value, expiry as eight bytes (-1: none).
    HashTimesBehind,
}

#[derive(Clone, Copy)]
enum Stage {
    Least,
    Count,
    Time,
    Name,
    Content,
    TimeBehind,
    ScoreBytes,
    ScoreLength,
    ScoreText(usize),
}

/// A value whose elements are written one by one.
pub(crate) struct Flat {
    shape: Shape,
    stage: Stage,
    left: u64,
    least_ms: i64,
    time_ms: Option<i64>,
    score: Vec<u8>,
    /// The element, or all of a list.
    part: Sip,
    bag: Bag,
}

impl Flat {
    pub(super) fn new(shape: Shape) -> Flat {
        let stage = match shape {
            Shape::HashTimes { relative: true } => Stage::Least,
            _ => Stage::Count,
        };
        let tag = match shape {
            Shape::List => tag::LIST,
            Shape::Set => tag::MEMBER,
            Shape::ZsetText | Shape::ZsetBinary => tag::SCORED,
            Shape::Hash | Shape::HashTimes { .. } | Shape::HashTimesBehind => tag::FIELD,
        };
        Flat {
            shape,
            stage,
            left: 0,
            least_ms: 0,
            time_ms: None,
            score: Vec::new(),
            part: Sip::new(tag),
            bag: Bag::default(),
        }
    }

    /// Where an element begins.
    fn first(&self) -> Stage {
        match self.shape {
            Shape::HashTimes { .. } => Stage::Time,
            _ => Stage::Name,
        }
    }

    /// Ends an element. The digest, if it was the last.
    fn end_element(&mut self) -> Option<Digest> {
        self.left -= 1;
        if self.shape == Shape::List {
            self.bag.count += 1;
            if self.left == 0 {
                self.part.number(self.bag.count);
                return Some(self.part.finish());
            }
        } else {
            self.bag.add(self.part.finish());
            if self.left == 0 {
                return Some(of_bag(&self.bag));
            }
            self.part = match self.shape {
                Shape::Set => Sip::new(tag::MEMBER),
                Shape::ZsetText | Shape::ZsetBinary => Sip::new(tag::SCORED),
                _ => Sip::new(tag::FIELD),
            };
        }
        self.stage = self.first();
        None
    }

    fn end_scored(&mut self, score: f64) -> Result<Option<Digest>, Fault> {
        if score.is_nan() {
            return Err(Fault::Broken("a score is no number"));
        }
        self.part.number(score_bits(score));
        Ok(self.end_element())
    }

    fn end_field(&mut self, time_ms: Option<i64>) -> Option<Digest> {
        self.part.time(time_ms);
        self.end_element()
    }

    /// When the field expires, from what is written for it.
    fn time(&self, written: u64) -> Result<Option<i64>, Fault> {
        let relative = self.shape == Shape::HashTimes { relative: true };
        let beyond = match (written, relative) {
            (0, _) => return Ok(None),
            (n, true) => n - 1,
            (n, false) => n,
        };
        let time_ms = i64::try_from(beyond)
            .ok()
            .and_then(|n| self.least_ms.checked_add(n));
        time_ms
            .map(Some)
            .ok_or(Fault::Broken("a field expires after the end of time"))
    }

    /// Reads on. The digest, when the value has ended.
    pub(super) fn advance(
        &mut self,
        lexer: &mut Lexer,
        input: &mut Input<'_>,
    ) -> Result<Option<Digest>, Fault> {
        loop {
            let ended = match self.stage {
                Stage::Least => {
                    let Some(least_ms) = lexer.millis(input) else {
                        return Ok(None);
                    };
                    self.least_ms = least_ms;
                    self.stage = Stage::Count;
                    None
                }
                Stage::Count => {
                    let Some(count) = lexer.length(input)? else {
                        return Ok(None);
                    };
                    if count == 0 {
                        return Err(EMPTY);
                    }
                    self.left = count;
                    self.stage = self.first();
                    None
                }
                Stage::Time => {
                    let Some(written) = lexer.length(input)? else {
                        return Ok(None);
                    };
                    self.time_ms = self.time(written)?;
                    self.stage = Stage::Name;
                    None
                }
                Stage::Name => {
                    if !lexer.string(input, &mut self.part)? {
                        return Ok(None);
                    }
                    self.stage = match self.shape {
                        Shape::List | Shape::Set => match self.end_element() {
                            Some(digest) => return Ok(Some(digest)),
                            None => Stage::Name,
                        },
                        Shape::ZsetText => Stage::ScoreLength,
                        Shape::ZsetBinary => Stage::ScoreBytes,
                        _ => Stage::Content,
                    };
                    None
                }
                Stage::Content => {
                    if !lexer.string(input, &mut self.part)? {
                        return Ok(None);
                    }
                    if self.shape == Shape::HashTimesBehind {
                        self.stage = Stage::TimeBehind;
                        None
                    } else {
                        self.end_field(self.time_ms)
                    }
                }
                Stage::TimeBehind => {
                    let Some(time_ms) = lexer.millis(input) else {
                        return Ok(None);
                    };
                    self.end_field((time_ms != -1).then_some(time_ms))
                }
                Stage::ScoreBytes => {
                    let Some(bytes) = lexer.fixed(input) else {
                        return Ok(None);
                    };
                    self.end_scored(f64::from_le_bytes(bytes))?
                }
                Stage::ScoreLength => match lexer.byte(input) {
                    None => return Ok(None),
                    Some(253) => self.end_scored(f64::NAN)?,
                    Some(254) => self.end_scored(f64::INFINITY)?,
                    Some(255) => self.end_scored(f64::NEG_INFINITY)?,
                    Some(bytes) => {
                        self.score.clear();
                        self.stage = Stage::ScoreText(usize::from(bytes));
                        None
                    }
                },
                Stage::ScoreText(bytes) => {
                    self.score
                        .extend_from_slice(input.up_to((bytes - self.score.len()) as u64));
                    if self.score.len() < bytes {
                        return Ok(None);
                    }
                    self.end_scored(score(&self.score).unwrap_or(f64::NAN))?
                }
            };
            if ended.is_some() {
                return Ok(ended);
            }
        }
    }
}
