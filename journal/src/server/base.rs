//! Bases at the edge of a node: read, taken, made the journal's; and whose turn it is to make one.

use super::answer::{invalid, not_proposed, refusal, refused};
use super::journal::check;
use crate::append::{NewBase, Verdict};
use crate::base::{Folding, Incoming, Offer, PutError, ReadBaseError};
use crate::raft::Node;
use futures_util::stream::{self, BoxStream, StreamExt};
use redoubt_proto::{InvalidField, holder, v1};
use redoubt_types::{Base, BaseName, payload_crc};
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use v1::Reason;
use v1::get_base_response::Event;
use v1::put_base_response::Outcome;

/// Bytes of what is told to people, at most; of a replay's name.
const TEXT_BYTES_MAX: usize = 1024;
/// Live replicas that a replay names as differing, at most.
const DIFFERING_MAX: usize = 64;
/// Answers that wait for a sender of a base to read them.
const ANSWERS_AHEAD: usize = 16;

pub(super) type Got = BoxStream<'static, Result<v1::GetBaseResponse, Status>>;
pub(super) type Put = BoxStream<'static, Result<v1::PutBaseResponse, Status>>;

fn not_read(e: &ReadBaseError) -> v1::Refusal {
    let reason = match e {
        ReadBaseError::NotHeld(_) => Reason::NoBase,
        ReadBaseError::Damaged { .. } | ReadBaseError::Io { .. } => Reason::Damaged,
    };
    refusal(reason, e.to_string())
}

fn not_put(e: &PutError) -> v1::Refusal {
    let reason = match e {
        PutError::Bad { .. } => Reason::BadBase,
        PutError::Busy(_) | PutError::Again(_) => Reason::NotReady,
        PutError::NoRoom(_) => Reason::NoRoom,
        PutError::Io { .. } => Reason::Damaged,
    };
    refusal(reason, e.to_string())
}

/// The RDB of a base from a byte on.
pub(super) fn get(node: Arc<Node>, r: v1::GetBaseRequest) -> Got {
    let asked = check(&node, &r.cluster_id, &r.journal).and_then(|()| {
        let name = r
            .name
            .as_ref()
            .ok_or_else(|| InvalidField::new("name", "is missing"));
        name.map(redoubt_proto::base_name_from).map_err(invalid)
    });
    let event = |event| Ok(v1::GetBaseResponse { event: Some(event) });
    let name = match asked {
        Ok(name) => name,
        Err(refused) => return stream::iter([event(Event::Refused(refused))]).boxed(),
    };
    let next = move |at: Option<(Arc<Node>, BaseName, u64)>| async move {
        let (node, name, from) = at?;
        match node.read_base(name, from).await {
            Ok(bytes) if bytes.is_empty() => None,
            Ok(bytes) => {
                let behind = from + bytes.len() as u64;
                let chunk = v1::BaseChunk {
                    from,
                    crc: payload_crc(&bytes),
                    bytes,
                };
                Some((event(Event::Chunk(chunk)), Some((node, name, behind))))
            }
            Err(e) => Some((event(Event::Refused(not_read(&e))), None)),
        }
    };
    stream::unfold(Some((node, name, r.from)), next).boxed()
}

/// Takes a base.
pub(super) fn put(node: &Arc<Node>, parts: Streaming<v1::PutBaseRequest>) -> Put {
    let (answers, told) = mpsc::channel(ANSWERS_AHEAD);
    let task = node.env().spawn(take(node.clone(), parts, answers));
    let told = stream::unfold((told, task), |(mut told, task)| async move {
        let outcome = told.recv().await?;
        Some((
            Ok(v1::PutBaseResponse {
                outcome: Some(outcome),
            }),
            (told, task),
        ))
    });
    told.boxed()
}

async fn take(node: Arc<Node>, mut parts: Streaming<v1::PutBaseRequest>, answers: mpsc::Sender<Outcome>) {
    let taken = async {
        let started = begin(&node, next_part(&mut parts).await?).await?;
        let Some(mut incoming) = started else {
            return Ok(());
        };
        if answers.send(Outcome::Stored(incoming.came())).await.is_err() {
            return Ok(());
        }
        while !incoming.is_whole() {
            let Some(v1::put_base_request::Part::Chunk(chunk)) = next_part(&mut parts).await? else {
                return Err(refusal(Reason::Invalid, "the transfer of a base was cut"));
            };
            let next = incoming.came();
            if chunk.from != next {
                let why = format!("begins at {}, where {next} is next", chunk.from);
                return Err(invalid(InvalidField::new("chunk.from", why)));
            }
            if payload_crc(&chunk.bytes) != chunk.crc {
                return Err(refusal(
                    Reason::Checksum,
                    format!("a chunk at {next} was damaged on its way"),
                ));
            }
            let written = incoming.write(chunk.bytes).await;
            let (rest, durable) = written.map_err(|e| not_put(&e))?;
            incoming = rest;
            // Nobody waits for it: a sender that does not read is no reason to stop.
            if let Some(durable) = durable {
                drop(answers.try_send(Outcome::Stored(durable)));
            }
        }
        incoming.finish().await.map_err(|e| not_put(&e))
    };
    let outcome = match taken.await {
        Ok(()) => Outcome::Held(true),
        Err(refused) => Outcome::Refused(refused),
    };
    // Whoever gave it may have left.
    drop(answers.send(outcome).await);
}

async fn next_part(
    parts: &mut Streaming<v1::PutBaseRequest>,
) -> Result<Option<v1::put_base_request::Part>, v1::Refusal> {
    match parts.message().await {
        Ok(message) => Ok(message.and_then(|m| m.part)),
        Err(status) => Err(refusal(Reason::Invalid, status.message())),
    }
}

async fn begin(
    node: &Node,
    part: Option<v1::put_base_request::Part>,
) -> Result<Option<Incoming>, v1::Refusal> {
    let Some(v1::put_base_request::Part::Start(start)) = part else {
        return Err(invalid(InvalidField::new("start", "must come first")));
    };
    check(node, &start.cluster_id, &start.journal)?;
    let base = base_of(start.base.as_ref())?;
    // What is older than the journal's base can never be in its place: not worth the transfer.
    if let Some(current) = node.state().admission.base()
        && base.at() <= current.at()
        && base.name != current.name
    {
        let why = format!(
            "base {} is not newer than the journal's {}",
            base.name, current.name
        );
        return Err(refusal(Reason::BadBase, why));
    }
    node.bases().begin(base).await.map_err(|e| not_put(&e))
}

fn base_of(base: Option<&v1::Base>) -> Result<Base, v1::Refusal> {
    let base = base.ok_or_else(|| InvalidField::new("base", "is missing"));
    let base = base.and_then(redoubt_proto::base_from).map_err(invalid)?;
    if base.server.len() > TEXT_BYTES_MAX {
        return Err(invalid(InvalidField::new("base.server", "is too long")));
    }
    Ok(base)
}

/// Makes a base the journal's.
pub(super) async fn commit(node: &Node, r: v1::CommitBaseRequest) -> Result<(), v1::Refusal> {
    check(node, &r.cluster_id, &r.journal)?;
    let new = NewBase {
        base: base_of(r.base.as_ref())?,
        previous: r.previous.as_ref().map(redoubt_proto::base_name_from),
    };
    let name = new.base.name;
    match node.commit_base(new).await.map_err(not_proposed)? {
        Ok(Verdict::Done) => {
            tracing::info!(base = %name, "the journal has a new base");
            Ok(())
        }
        Ok(Verdict::Refused(r)) => Err(refused(&r)),
        Ok(other) => Err(refusal(Reason::NotReady, format!("the log answered {other:?}"))),
        Err(why) => Err(refusal(Reason::BadBase, why)),
    }
}

/// Hears of a replay that could fold, or does.
pub(super) async fn offer(node: &Node, r: v1::OfferFoldRequest) -> Result<bool, v1::Refusal> {
    check(node, &r.cluster_id, &r.journal)?;
    let short = |text: &str| text.len() <= TEXT_BYTES_MAX;
    if !short(&r.replay) || r.differing.len() > DIFFERING_MAX || !r.differing.iter().all(|d| short(d)) {
        return Err(invalid(InvalidField::new(
            "replay",
            "or what it says is too long",
        )));
    }
    let message: String = r.message.chars().take(TEXT_BYTES_MAX).collect();
    let folding = match r.state() {
        v1::FoldState::Folding => Folding::Folding(message),
        v1::FoldState::Failed => Folding::Failed(message),
        v1::FoldState::Done => Folding::Done,
        v1::FoldState::Idle | v1::FoldState::Unspecified => Folding::Idle,
    };
    let offer = Offer {
        replay: r.replay,
        holder: holder("holder", r.holder).map_err(invalid)?,
        load: r.load,
        folding,
        differing: r.differing,
    };
    node.hear_offer(offer).map_err(not_proposed)
}

/// Asks for a fold.
pub(super) fn compact(node: &Node, r: &v1::CompactRequest) -> Result<(), v1::Refusal> {
    check(node, &r.cluster_id, &r.journal)?;
    match node.want_fold().map_err(not_proposed)? {
        true => Ok(()),
        false => Err(refusal(
            Reason::BadBase,
            "the base stands at the journal's tail: there is nothing to fold",
        )),
    }
}
