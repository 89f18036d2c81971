//! The fake journal's bases: all nodes' are the same, in memory.

use super::journal::{Events, FakeJournal};
use redoubt_proto::v1;
use redoubt_types::limits::BASE_CHUNK_BYTES;
use redoubt_types::{Base, BaseChecksum, BaseName, Chain, Db, Offset, WallTime, payload_crc};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

/// What goes wrong with what a node gives of a base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A byte of the last chunk is another, and the chunk's CRC is of that.
    Corrupt,
    /// It is not there any more, from the second chunk on.
    Gone,
    /// Nothing comes behind the first chunk.
    Stuck,
}

#[derive(Default)]
struct State {
    current: Option<Base>,
    rdbs: BTreeMap<BaseName, Vec<u8>>,
    /// Which nodes were given which.
    put: BTreeMap<BaseName, BTreeSet<String>>,
    commits: Vec<(Base, Option<BaseName>)>,
    offers: Vec<v1::OfferFoldRequest>,
    yours: bool,
    fault: Option<Fault>,
    given: u64,
}

/// See the module's head.
#[derive(Clone, Default)]
pub struct Bases(Arc<Mutex<State>>);

type Result<T> = std::result::Result<T, Status>;

fn refused(reason: v1::Reason, message: &str) -> v1::Refusal {
    v1::Refusal {
        reason: reason.into(),
        message: message.to_owned(),
        ..Default::default()
    }
}

impl Bases {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The journal's base.
    pub fn current(&self) -> Option<Base> {
        self.state().current.clone()
    }

    /// Makes `base` the journal's.
    pub fn set(&self, base: Base, rdb: Vec<u8>) {
        let mut s = self.state();
        s.rdbs.insert(base.name, rdb);
        s.current = Some(base);
    }

    /// All commits, and what each base was made from.
    pub fn commits(&self) -> Vec<(Base, Option<BaseName>)> {
        self.state().commits.clone()
    }

    /// How many nodes were given it.
    pub fn nodes_with(&self, name: BaseName) -> usize {
        self.state().put.get(&name).map_or(0, BTreeSet::len)
    }

    /// The RDB of a base.
    pub fn rdb(&self, name: BaseName) -> Vec<u8> {
        self.state().rdbs[&name].clone()
    }

    /// From now on.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.state().fault = fault;
    }

    /// How often a base was begun to be read.
    pub fn given(&self) -> u64 {
        self.state().given
    }

    /// Whether it is the replay's turn, whoever asks.
    pub fn set_turn(&self, yours: bool) {
        self.state().yours = yours;
    }

    /// What replays said.
    pub fn offers(&self) -> Vec<v1::OfferFoldRequest> {
        self.state().offers.clone()
    }

    pub fn offer(&self, request: v1::OfferFoldRequest) -> Result<Response<v1::OfferFoldResponse>> {
        let mut s = self.state();
        // One turn, one fold.
        if matches!(request.state(), v1::FoldState::Done | v1::FoldState::Failed) {
            s.yours = false;
        }
        s.offers.push(request);
        let outcome = Some(v1::offer_fold_response::Outcome::Yours(s.yours));
        Ok(Response::new(v1::OfferFoldResponse { outcome }))
    }

    pub fn commit(&self, request: v1::CommitBaseRequest) -> Result<Response<v1::CommitBaseResponse>> {
        let mut s = self.state();
        let base = redoubt_proto::base_from(request.base.as_ref().unwrap()).unwrap();
        let previous = request.previous.as_ref().map(redoubt_proto::base_name_from);
        let refusal = if s.current.as_ref().map(|b| b.name) != previous {
            Some("it was made from another")
        } else if s.put.get(&base.name).is_none_or(BTreeSet::is_empty) {
            Some("no majority holds it")
        } else {
            None
        };
        if refusal.is_none() {
            s.current = Some(base.clone());
            s.commits.push((base, previous));
        }
        Ok(Response::new(v1::CommitBaseResponse {
            refused: refusal.map(|why| refused(v1::Reason::BadBase, why)),
        }))
    }

    pub fn get(&self, request: v1::GetBaseRequest) -> Response<Events<v1::GetBaseResponse>> {
        use v1::get_base_response::Event;
        let (out, events) = mpsc::channel(1);
        let mut s = self.state();
        s.given += 1;
        let name = redoubt_proto::base_name_from(request.name.as_ref().unwrap());
        let (rdb, bases) = (s.rdbs.get(&name).cloned(), self.clone());
        tokio::spawn(async move {
            let event = |event| Ok(v1::GetBaseResponse { event: Some(event) });
            let gone = || Event::Refused(refused(v1::Reason::NoBase, "it is not here"));
            let Some(rdb) = rdb else {
                return out.send(event(gone())).await.ok();
            };
            let mut from = request.from as usize;
            while from < rdb.len() {
                let end = (from + BASE_CHUNK_BYTES).min(rdb.len());
                let mut bytes = rdb[from..end].to_vec();
                let fault = bases.state().fault;
                match fault {
                    Some(Fault::Gone) if from > 0 => return out.send(event(gone())).await.ok(),
                    Some(Fault::Stuck) if from > 0 => std::future::pending().await,
                    Some(Fault::Corrupt) if end == rdb.len() => bytes[0] ^= 1,
                    _ => {}
                }
                let crc = payload_crc(&bytes);
                let chunk = v1::BaseChunk {
                    from: from as u64,
                    bytes: bytes.into(),
                    crc,
                };
                out.send(event(Event::Chunk(chunk))).await.ok()?;
                from = end;
            }
            Some(())
        });
        Response::new(Box::pin(ReceiverStream::new(events)))
    }

    pub fn put(
        &self,
        node: &str,
        mut parts: Streaming<v1::PutBaseRequest>,
    ) -> Response<Events<v1::PutBaseResponse>> {
        use v1::put_base_request::Part;
        use v1::put_base_response::Outcome;
        let (out, events) = mpsc::channel(4);
        let (bases, node) = (self.clone(), node.to_owned());
        tokio::spawn(async move {
            let answer = |outcome| {
                Ok(v1::PutBaseResponse {
                    outcome: Some(outcome),
                })
            };
            let mut bytes = Vec::new();
            let mut base: Option<Base> = None;
            loop {
                match parts.message().await.ok()??.part? {
                    Part::Start(start) => {
                        base = Some(redoubt_proto::base_from(start.base.as_ref()?).unwrap());
                        out.send(answer(Outcome::Stored(0))).await.ok()?;
                    }
                    Part::Chunk(chunk) => {
                        assert_eq!(
                            (chunk.from, chunk.crc),
                            (bytes.len() as u64, payload_crc(&chunk.bytes))
                        );
                        bytes.extend_from_slice(&chunk.bytes);
                    }
                }
                let base = base.as_ref()?;
                if bytes.len() as u64 == base.bytes {
                    let found = BaseChecksum::default().extend(&bytes).get();
                    let outcome = if found == base.name.checksum {
                        let mut s = bases.state();
                        s.rdbs.insert(base.name, bytes);
                        s.put.entry(base.name).or_default().insert(node);
                        Outcome::Held(true)
                    } else {
                        Outcome::Refused(refused(v1::Reason::BadBase, "its checksum is another"))
                    };
                    return out.send(answer(outcome)).await.ok();
                }
            }
        });
        Response::new(Box::pin(ReceiverStream::new(events)))
    }
}

/// The base that a server's RDB is at the journal's tail: as a fold would make it, if `rdb` is what the journal says.
pub fn base_at_tail(journal: &FakeJournal, rdb: &[u8]) -> Base {
    let (replid, at, chain, groups, db) = journal.place();
    Base {
        name: BaseName {
            at: Offset::new(at),
            checksum: BaseChecksum::default().extend(rdb).get(),
        },
        replid,
        chain,
        groups,
        db: Db::new(db),
        captured: WallTime::from_ms(1_700_000_000_000),
        bytes: rdb.len() as u64,
        rdb_version: 10,
        server: "redis 7.0.15".to_owned(),
        keys: 0,
        digest: 0,
    }
}

/// The chain of an empty stream, for tests that count it again.
pub fn chain_of(bytes: &[u8]) -> Chain {
    Chain::EMPTY.extend(bytes)
}
