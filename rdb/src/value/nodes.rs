//! Lists of nodes (`quicklist.c`): each node a packed list, or since Redis 7.0 one large element as it is.

use super::{EMPTY, tag};
use crate::digest::{Digest, Sip};
use crate::error::Fault;
use crate::lexer::{Input, Lexer};
use crate::listpack::{Item, Listpack};
use crate::ziplist::Ziplist;

#[derive(Clone, Copy)]
enum Stage {
    Count,
    Between,
    Packed,
    Plain,
}

/// A list of nodes.
pub(crate) struct Nodes {
    /// Nodes are ziplists, and nothing says so in front of each.
    ziplists: bool,
    stage: Stage,
    left: u64,
    sip: Sip,
    count: u64,
}

impl Nodes {
    /// As Redis before 7.0 writes them.
    pub(super) fn ziplists() -> Nodes {
        Nodes {
            ziplists: true,
            stage: Stage::Count,
            left: 0,
            sip: Sip::new(tag::LIST),
            count: 0,
        }
    }

    /// As Redis 7.0 and later write them.
    pub(super) fn listpacks() -> Nodes {
        Nodes {
            ziplists: false,
            ..Self::ziplists()
        }
    }

    /// Reads on. The digest, when the value has ended.
    pub(super) fn advance(
        &mut self,
        lexer: &mut Lexer,
        input: &mut Input<'_>,
    ) -> Result<Option<Digest>, Fault> {
        loop {
            match self.stage {
                Stage::Count => {
                    let Some(left) = lexer.length(input)? else {
                        return Ok(None);
                    };
                    self.left = left;
                    self.stage = Stage::Between;
                }
                Stage::Between if self.left == 0 && self.count == 0 => return Err(EMPTY),
                Stage::Between if self.left == 0 => {
                    self.sip.number(self.count);
                    return Ok(Some(self.sip.finish()));
                }
                Stage::Between if self.ziplists => self.stage = Stage::Packed,
                Stage::Between => {
                    self.stage = match lexer.length(input)? {
                        None => return Ok(None),
                        Some(1) => Stage::Plain,
                        Some(2) => Stage::Packed,
                        Some(_) => return Err(Fault::Broken("a list's node is of an unknown kind")),
                    }
                }
                Stage::Plain => {
                    if !lexer.string(input, &mut self.sip)? {
                        return Ok(None);
                    }
                    self.count += 1;
                    self.end_node();
                }
                Stage::Packed => {
                    let Some(bytes) = lexer.whole(input)? else {
                        return Ok(None);
                    };
                    if self.ziplists {
                        self.take(Ziplist::open(bytes)?)?;
                    } else {
                        self.take(Listpack::open(bytes)?)?;
                    }
                    self.end_node();
                }
            }
        }
    }

    fn end_node(&mut self) {
        self.left -= 1;
        self.stage = Stage::Between;
    }

    fn take<'a>(&mut self, items: impl Iterator<Item = Result<Item<'a>, Fault>>) -> Result<(), Fault> {
        for item in items {
            item?.write_to(&mut self.sip);
            self.count += 1;
        }
        Ok(())
    }
}
