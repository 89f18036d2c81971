//! Streams.
//!
//! What counts: entries in order, as id, fields and values, however they are cut into nodes; length, last id,
//! first id, highest deleted id, and how many were ever added; groups with their last id and entries read, their
//! pending entries with time and count of delivery, and their consumers with what is pending for each.
//!
//! What does not: deleted entries, and when a consumer was last seen or active, which a replica sets by its
//! own clock.
//!
//! A stream of Redis before 7.0 says neither first id, highest deleted id nor counts, so it never equals one of a
//! later server.

use super::tag;
use crate::digest::{Bag, Digest, Sip};
use crate::error::Fault;
use crate::lexer::{Input, Lexer};
use crate::listpack::{Item, Listpack};

/// Milliseconds and sequence number.
type Id = (u64, u64);

#[derive(Clone, Copy)]
enum Stage {
    Nodes,
    NodeId,
    Node,
    Numbers(usize),
    Groups,
    GroupName,
    GroupNumbers(usize),
    Pending,
    PendingId,
    PendingTime,
    PendingCount,
    Consumers,
    ConsumerName,
    ConsumerSeen,
    ConsumerActive,
    Owned,
    OwnedId,
}

/// A stream that is being read.
pub(crate) struct Stream {
    /// 1: before Redis 7.0; 2: before 7.2.
    version: u8,
    stage: Stage,
    sip: Sip,
    node: Id,
    /// The last entry, deleted ones too.
    before: Option<Id>,
    entries: u64,
    nodes_left: u64,
    groups_left: u64,
    pending_left: u64,
    consumers_left: u64,
    owned_left: u64,
    groups: Bag,
    group: Group,
    consumer: Sip,
    consumer_owned: Bag,
}

/// A group that is being read.
struct Group {
    sip: Sip,
    pending: Bag,
    consumers: Bag,
    /// The ids of `pending` alone.
    pending_ids: Bag,
    /// Those that a consumer has: the same, if all is well.
    owned_ids: Bag,
}

impl Group {
    fn new() -> Group {
        Group {
            sip: Sip::new(tag::GROUP),
            pending: Bag::default(),
            consumers: Bag::default(),
            pending_ids: Bag::default(),
            owned_ids: Bag::default(),
        }
    }
}

fn of_id(raw: [u8; 16]) -> Digest {
    let mut sip = Sip::new(tag::OWNED);
    sip.raw(&raw);
    sip.finish()
}

impl Stream {
    pub(super) fn new(version: u8) -> Stream {
        Stream {
            version,
            stage: Stage::Nodes,
            sip: Sip::new(tag::STREAM),
            node: (0, 0),
            before: None,
            entries: 0,
            nodes_left: 0,
            groups_left: 0,
            pending_left: 0,
            consumers_left: 0,
            owned_left: 0,
            groups: Bag::default(),
            group: Group::new(),
            consumer: Sip::new(tag::CONSUMER),
            consumer_owned: Bag::default(),
        }
    }

    /// Length, last id; since Redis 7.0 first id, highest deleted id, entries added.
    fn numbers(&self) -> usize {
        if self.version == 1 { 3 } else { 8 }
    }

    /// Last id; since Redis 7.0 entries read.
    fn group_numbers(&self) -> usize {
        if self.version == 1 { 2 } else { 3 }
    }

    /// Reads on. The digest, when the value has ended.
    pub(super) fn advance(
        &mut self,
        lexer: &mut Lexer,
        input: &mut Input<'_>,
    ) -> Result<Option<Digest>, Fault> {
        loop {
            self.stage = match self.stage {
                Stage::NodeId | Stage::Node if self.nodes_left == 0 => {
                    self.sip.byte(self.version.min(2));
                    Stage::Numbers(0)
                }
                Stage::GroupName if self.groups_left == 0 => {
                    self.groups.write_to(&mut self.sip);
                    return Ok(Some(self.sip.finish()));
                }
                Stage::PendingId if self.pending_left == 0 => Stage::Consumers,
                Stage::ConsumerName if self.consumers_left == 0 => {
                    self.end_group()?;
                    Stage::GroupName
                }
                Stage::OwnedId if self.owned_left == 0 => {
                    self.end_consumer();
                    Stage::ConsumerName
                }
                stage => match self.step(stage, lexer, input)? {
                    Some(next) => next,
                    None => return Ok(None),
                },
            };
        }
    }

    /// Reads one primitive. What comes next, or `None` if it was cut.
    fn step(
        &mut self,
        stage: Stage,
        lexer: &mut Lexer,
        input: &mut Input<'_>,
    ) -> Result<Option<Stage>, Fault> {
        let next = match stage {
            Stage::NodeId => lexer.whole(input)?.map(|bytes| match bytes.try_into() {
                Ok(raw) => {
                    self.node = id(raw);
                    Ok(Stage::Node)
                }
                Err(_) => Err(Fault::Broken("a stream's node has no id")),
            }),
            Stage::Node => match lexer.whole(input)? {
                Some(bytes) => {
                    self.take_node(bytes)?;
                    self.nodes_left -= 1;
                    Some(Ok(Stage::NodeId))
                }
                None => None,
            },
            Stage::GroupName => lexer
                .string(input, &mut self.group.sip)?
                .then_some(Ok(Stage::GroupNumbers(0))),
            Stage::ConsumerName => lexer
                .string(input, &mut self.consumer)?
                .then_some(Ok(Stage::ConsumerSeen)),
            Stage::PendingId => lexer.fixed(input).map(|raw| {
                self.consumer = Sip::new(tag::PENDING);
                self.consumer.raw(&raw);
                self.group.pending_ids.add(of_id(raw));
                Ok(Stage::PendingTime)
            }),
            Stage::OwnedId => lexer.fixed(input).map(|raw| {
                self.consumer_owned.add(of_id(raw));
                self.group.owned_ids.add(of_id(raw));
                self.owned_left -= 1;
                Ok(Stage::OwnedId)
            }),
            Stage::PendingTime => lexer.millis(input).map(|time_ms| {
                self.consumer.number(time_ms.cast_unsigned());
                Ok(Stage::PendingCount)
            }),
            Stage::ConsumerSeen if self.version >= 3 => {
                lexer.millis(input).map(|_| Ok(Stage::ConsumerActive))
            }
            Stage::ConsumerSeen | Stage::ConsumerActive => lexer.millis(input).map(|_| Ok(Stage::Owned)),
            _ => lexer.length(input)?.map(|n| self.take_number(stage, n)),
        };
        next.transpose()
    }

    fn take_number(&mut self, stage: Stage, n: u64) -> Result<Stage, Fault> {
        Ok(match stage {
            Stage::Nodes => {
                self.nodes_left = n;
                Stage::NodeId
            }
            Stage::Numbers(at) => {
                if at == 0 && n != self.entries {
                    return Err(Fault::Broken("a stream's length is not its own"));
                }
                self.sip.number(n);
                if at + 1 < self.numbers() {
                    Stage::Numbers(at + 1)
                } else {
                    Stage::Groups
                }
            }
            Stage::Groups => {
                self.groups_left = n;
                Stage::GroupName
            }
            Stage::GroupNumbers(at) => {
                self.group.sip.number(n);
                if at + 1 < self.group_numbers() {
                    Stage::GroupNumbers(at + 1)
                } else {
                    Stage::Pending
                }
            }
            Stage::Pending => {
                self.pending_left = n;
                Stage::PendingId
            }
            Stage::PendingCount => {
                self.consumer.number(n);
                self.group.pending.add(self.consumer.finish());
                self.pending_left -= 1;
                Stage::PendingId
            }
            Stage::Consumers => {
                self.consumers_left = n;
                self.consumer = Sip::new(tag::CONSUMER);
                Stage::ConsumerName
            }
            _ => {
                self.owned_left = n;
                Stage::OwnedId
            }
        })
    }

    fn end_consumer(&mut self) {
        self.consumer_owned.write_to(&mut self.consumer);
        self.group.consumers.add(self.consumer.finish());
        self.consumer = Sip::new(tag::CONSUMER);
        self.consumer_owned = Bag::default();
        self.consumers_left -= 1;
    }

    fn end_group(&mut self) -> Result<(), Fault> {
        let mut group = std::mem::replace(&mut self.group, Group::new());
        if group.pending_ids != group.owned_ids {
            return Err(Fault::Broken(
                "a group's pending entries are not those of its consumers",
            ));
        }
        group.pending.write_to(&mut group.sip);
        group.consumers.write_to(&mut group.sip);
        self.groups.add(group.sip.finish());
        self.groups_left -= 1;
        Ok(())
    }

    /// Reads a node: counts of live and deleted entries, the names of fields, 0; and the entries.
    fn take_node(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let mut items = Listpack::open(bytes)?;
        let (live, deleted) = (number(&mut items)?, number(&mut items)?);
        let fields = number(&mut items)?;
        let mut names = Vec::new();
        for _ in 0..fields {
            names.push(item(&mut items)?);
        }
        if number(&mut items)? != 0 {
            return Err(Fault::Broken("a stream's node has a broken head"));
        }
        let mut seen = (0, 0);
        while let Some(flags) = items.next() {
            let flags = flags?.number().ok_or(ENTRY)?;
            if self.take_entry(flags, &names, &mut items)? {
                seen.0 += 1;
            } else {
                seen.1 += 1;
            }
        }
        if seen != (live, deleted) {
            return Err(Fault::Broken("a stream's node has other entries than it says"));
        }
        Ok(())
    }

    /// Reads an entry behind its flags. Whether it is there or deleted.
    fn take_entry(
        &mut self,
        flags: i64,
        names: &[Item<'_>],
        items: &mut Listpack<'_>,
    ) -> Result<bool, Fault> {
        let (deleted, same_fields) = match flags {
            0..=3 => (flags & 1 != 0, flags & 2 != 0),
            _ => return Err(ENTRY),
        };
        // Differences may be negative, and wrap around in 64 bits.
        let ms = self.node.0.wrapping_add_signed(number(items)?);
        let id = (ms, self.node.1.wrapping_add_signed(number(items)?));
        if self.before.is_some_and(|before| before >= id) {
            return Err(Fault::Broken("a stream's entries are not in order"));
        }
        self.before = Some(id);
        let fields = if same_fields {
            names.len() as i64
        } else {
            number(items)?
        };
        // A deleted entry is read into a hash that nobody asks for.
        let mut unused = Sip::new(tag::STREAM);
        let sip = if deleted { &mut unused } else { &mut self.sip };
        sip.number(id.0);
        sip.number(id.1);
        sip.number(fields.cast_unsigned());
        if same_fields {
            for name in names {
                name.write_to(sip);
                item(items)?.write_to(sip);
            }
        } else {
            for _ in 0..fields {
                item(items)?.write_to(sip);
                item(items)?.write_to(sip);
            }
        }
        let span = if same_fields {
            fields.checked_add(3)
        } else {
            fields.checked_mul(2).and_then(|n| n.checked_add(4))
        };
        if Some(number(items)?) != span {
            return Err(ENTRY);
        }
        self.entries += u64::from(!deleted);
        Ok(!deleted)
    }
}

const ENTRY: Fault = Fault::Broken("a stream's entry is broken");

fn id(raw: [u8; 16]) -> Id {
    let both = u128::from_be_bytes(raw);
    ((both >> 64) as u64, both as u64)
}

fn item<'a>(items: &mut Listpack<'a>) -> Result<Item<'a>, Fault> {
    items.next().ok_or(ENTRY)?
}

fn number(items: &mut Listpack<'_>) -> Result<i64, Fault> {
    item(items)?.number().ok_or(ENTRY)
}
