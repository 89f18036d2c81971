//! Follows the journal into a target, over one connection after the other.

use super::batch::{BATCH_COMMANDS_MAX, Batch, Outcome};
use super::groups::Groups;
use super::let_go::write;
use super::pace::Pace;
use super::position::{Place, Position, Stage, Unfollowable, resume};
use super::progress::{Progress, tell};
use super::target::{Target, TargetError};
use super::translate::{POSITION_DB, Translator};
use super::{SinkConfig, SinkError, refused};
use crate::source::confirmed;
use futures_util::FutureExt;
use redoubt_client::{Client, ClientConfig, TailError, TailEvent, Tailer};
use redoubt_env::net::Net;
use redoubt_env::{Env, planted};
use redoubt_types::{Db, Offset};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Between two attempts to reach the target.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How often the connection may break at one and the same transaction: some servers do that to what they don't take
/// (`client-query-buffer-limit`), and would for ever.
const BROKEN_MAX: u32 = 20;

/// Why a connection to the target is over.
enum Over {
    /// Something that passes; the text is for people.
    Again(String),
    /// Something that does not.
    Final(SinkError),
    /// The tail is reached, and that was all.
    Done(Offset),
}

impl From<SinkError> for Over {
    fn from(error: SinkError) -> Self {
        Over::Final(error)
    }
}

/// The journal's side: where it is read, and what of it is not applied yet.
struct Source {
    tail: Tailer,
    groups: Groups,
    /// The confirmed tail was reached, and no more is wanted.
    ended: bool,
}

struct Follower {
    env: Env,
    net: Arc<dyn Net>,
    client: Client,
    config: SinkConfig,
    /// What is written, but for the place.
    own: Position,
    translator: Translator,
    pace: Pace,
    progress: Progress,
    /// This process may have written the position.
    wrote: bool,
    /// As it was found last.
    found: Option<Position>,
    /// Databases that the target is known to have.
    selectable: BTreeSet<Db>,
    /// Where a transaction was begun whose outcome is not known, and how often in a row.
    unknown: Option<(Offset, u32)>,
}

/// Applies the journal to the target for ever, or up to the tail if that is all that is wanted: returns where. Ends when it is
/// dropped, at any moment.
///
/// # Errors
/// [`SinkError`]: it does not get any better by trying again.
pub async fn follow(config: SinkConfig, net: Arc<dyn Net>, env: Env) -> Result<Offset, SinkError> {
    if config.endpoints.is_empty() {
        return Err(SinkError::NoEndpoints);
    }
    let client = ClientConfig {
        endpoints: config.endpoints.clone(),
        journal: config.journal.clone(),
        cluster: config.cluster,
    };
    let client = Client::new(env.clone(), client);
    let journal = confirmed(&env, &client, &config.endpoints).await;
    let own = Position {
        cluster: journal.cluster,
        journal: config.journal.clone(),
        place: Place::beginning(),
        stage: Stage::Following,
        filter: config.filter.to_string(),
        writer: env.random_nonzero(),
    };
    let progress = Progress::default();
    let (name, target) = (config.name.clone(), config.into.address().to_owned());
    let _telling = env.spawn(tell(env.clone(), client.clone(), progress.clone(), name, target));
    let translator = Translator {
        position_key: config.position_key.clone(),
        filter: config.filter.clone(),
    };
    let follower = Follower {
        pace: Pace::new(config.commands_per_second_max, env.now()),
        env,
        net,
        client,
        config,
        own,
        translator,
        progress,
        wrote: false,
        found: None,
        selectable: BTreeSet::from([POSITION_DB]),
        unknown: None,
    };
    follower.run().await
}

impl Follower {
    async fn run(mut self) -> Result<Offset, SinkError> {
        let mut told = String::new();
        loop {
            let Err(over) = self.connection(&mut told).await;
            match over {
                Over::Done(at) => return Ok(at),
                Over::Final(error) => return Err(error),
                Over::Again(why) => {
                    if let Some((at, times)) = self.unknown.filter(|(_, times)| *times > BROKEN_MAX) {
                        return Err(SinkError::Stuck {
                            target: self.config.into.address().to_owned(),
                            times,
                            at,
                            why,
                        });
                    }
                    // Once per reason, not once per attempt.
                    if why != told {
                        tracing::warn!(target = self.config.into.address(), "trying again: {why}");
                        told = why;
                    }
                    self.env.sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    fn over(&self, error: TargetError) -> Over {
        match error {
            TargetError::Lost(why) | TargetError::Later(why) => Over::Again(why),
            refusal @ TargetError::Refused { .. } => Over::Final(refused(&self.config.into, &refusal)),
        }
    }

    fn unfit(&self, why: Unfollowable) -> Over {
        Over::Final(SinkError::Unfit {
            target: self.config.into.address().to_owned(),
            why,
        })
    }

    /// Applies over one connection until something ends it.
    async fn connection(&mut self, told: &mut String) -> Result<std::convert::Infallible, Over> {
        let opened = Target::open(&self.env, &self.net, &self.config.into).await;
        let mut target = opened.map_err(|e| self.over(e))?;
        let mut place = self.place(&mut target).await?;
        if self.unknown.is_some_and(|(at, _)| at != place.offset) {
            self.unknown = None;
        }
        target.multi().await.map_err(|e| self.over(e))?;
        tracing::info!(
            target = self.config.into.address(),
            offset = place.offset.get(),
            "following into it"
        );
        told.clear();
        self.progress.begins(&place);
        let mut source = Source {
            tail: self.client.tail(place.offset, !self.config.until_tail),
            groups: Groups::new(place.clone()),
            ended: false,
        };
        loop {
            let mut batch = self.collect(&mut source, &place).await?;
            if batch.is_empty() {
                return Err(Over::Done(place.offset));
            }
            self.check_databases(&batch).await?;
            self.own.place = batch.end().clone();
            let value = self.own.to_string();
            if planted::on("position_apart_from_the_data") {
                batch.finish_without_position();
            } else {
                batch.finish(&self.config.position_key, &value);
            }
            let times = self.unknown.map_or(0, |(_, times)| times) + 1;
            self.unknown = Some((place.offset, times));
            self.wrote = true;
            let applied = target.apply(&batch, &self.config.position_key, &value).await;
            match applied.map_err(|e| self.over(e))? {
                Outcome::Applied => {}
                // Whose it is now is seen on the next connection.
                Outcome::Moved => return Err(Over::Again("the position was written meanwhile".to_owned())),
                Outcome::Later(why) => {
                    self.unknown = None;
                    return Err(Over::Again(why));
                }
                Outcome::Failed(failure) => {
                    if failure.applied {
                        self.mark_broken().await;
                    }
                    return Err(SinkError::Failed(failure).into());
                }
            }
            self.unknown = None;
            place = batch.end().clone();
            self.progress.applied(&place, batch.captured(), batch.commands());
            let pause = self.pace.sent(batch.commands(), self.env.now());
            if !pause.is_zero() {
                self.env.sleep(pause).await;
            }
        }
    }

    /// Makes sure that the target has the databases that `batch` selects, over another connection: this one is in a transaction.
    async fn check_databases(&mut self, batch: &Batch) -> Result<(), Over> {
        let unknown: Vec<Db> = batch.selected().difference(&self.selectable).copied().collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let opened = Target::open(&self.env, &self.net, &self.config.into).await;
        let mut target = opened.map_err(|e| self.over(e))?;
        for db in unknown {
            let selected = target.call(&[b"SELECT", db.to_string().as_bytes()]).await;
            selected.map_err(|e| self.over(e.about(&format!("SELECT {db}"))))?;
            self.selectable.insert(db);
        }
        Ok(())
    }

    /// Where the target is, whose position is watched from here on.
    async fn place(&mut self, target: &mut Target) -> Result<Place, Over> {
        let state = target.state().await.map_err(|e| self.over(e))?;
        if state.evicts && self.found.is_none() {
            tracing::warn!(
                target = self.config.into.address(),
                "it evicts keys when its memory is full, and would not be equal to the master then: maxmemory-policy \
                 noeviction has it refuse instead"
            );
        }
        if state.is_cluster {
            return Err(self.unfit(Unfollowable::IsCluster));
        }
        if state.is_replica {
            // A server that was a master before may be one again, or another at its address.
            return Err(if self.wrote {
                Over::Again("it is a replica now".to_owned())
            } else {
                self.unfit(Unfollowable::IsReplica)
            });
        }
        let stored = target
            .watch(&self.config.position_key)
            .await
            .map_err(|e| self.over(e))?;
        let Some(stored) = stored else {
            // Counted again behind the WATCH: who writes the position from here on is noticed.
            let state = target.state().await.map_err(|e| self.over(e))?;
            let keys: u64 = state.keys.iter().map(|(_, keys)| keys).sum();
            if keys > 0 {
                return Err(self.unfit(Unfollowable::HasKeys(keys)));
            }
            let functions = target.functions().await.map_err(|e| self.over(e))?;
            if functions > 0 {
                return Err(self.unfit(Unfollowable::HasFunctions(functions)));
            }
            return Ok(Place::beginning());
        };
        let position = Position::parse(&stored)
            .ok_or_else(|| self.unfit(Unfollowable::NotAPosition(self.config.position_key.clone())))?;
        let place = resume(&position, &self.own).map_err(|why| self.unfit(why))?;
        // What this process wrote may never have come to be: then it is as it was found.
        let own = position.writer == self.own.writer || self.found.as_ref() == Some(&position);
        if self.wrote && !own {
            return Err(self.unfit(Unfollowable::Taken(place.offset)));
        }
        self.found = Some(position);
        Ok(place)
    }

    /// The next batch: as many groups as are there and fit, at least one; none only when the tail has ended.
    async fn collect(&self, source: &mut Source, place: &Place) -> Result<Batch, Over> {
        let commands_max = self.pace.batch_max(BATCH_COMMANDS_MAX);
        let mut batch = Batch::new(place.clone());
        loop {
            while let Some(group) = source.groups.next() {
                let effects = match self.translator.group(group) {
                    Ok(effects) => effects,
                    // What is before it is applied first; then this comes again.
                    Err(_) if !batch.is_empty() => return Ok(batch),
                    Err(error) => return Err(SinkError::from(error).into()),
                };
                if !batch.has_room_for(&effects, commands_max) {
                    return Ok(batch);
                }
                batch.push(&effects, &group.end, group.captured);
                source.groups.pop();
            }
            if source.ended {
                return Ok(batch);
            }
            let event = if batch.is_empty() {
                source.tail.next().await
            } else {
                match source.tail.next().now_or_never() {
                    Some(event) => event,
                    None => return Ok(batch),
                }
            };
            match event {
                Ok(TailEvent::Entry(e)) => {
                    let pushed = source.groups.push(e.start, &e.bytes, e.chain_end, e.captured);
                    pushed.map_err(SinkError::from)?;
                }
                Ok(TailEvent::Mark { tail, chain }) => {
                    source.groups.mark(tail, chain).map_err(SinkError::from)?
                }
                Ok(TailEvent::Lineage(_)) => {}
                Ok(TailEvent::End) => source.ended = true,
                Err(_) if !batch.is_empty() => return Ok(batch),
                Err(TailError::BeforeBeginning { beginning }) => {
                    let (target, at) = (self.config.into.address().to_owned(), place.offset);
                    return Err(SinkError::NeedsBase {
                        target,
                        at,
                        beginning,
                    }
                    .into());
                }
                Err(error) => {
                    let at = place.offset;
                    return Err(SinkError::Tail { at, error }.into());
                }
            }
        }
    }

    /// Writes down that the target is not equal to the journal, so that no later run goes on with it. If that fails, the log has
    /// it alone.
    async fn mark_broken(&self) {
        let mut broken = self.own.clone();
        broken.stage = Stage::Broken;
        let key = &self.config.position_key;
        let marked = async {
            let failed = |e: TargetError| refused(&self.config.into, &e);
            let opened = Target::open(&self.env, &self.net, &self.config.into).await;
            let mut target = opened.map_err(failed)?;
            target.watch(key).await.map_err(failed)?;
            target.multi().await.map_err(failed)?;
            write(&mut target, &self.config.into, key, &broken).await
        };
        if let Err(error) = marked.await {
            tracing::error!("that the target is broken could not be written to it: {error}");
        }
    }
}
