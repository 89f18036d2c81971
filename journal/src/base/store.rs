//! The bases as the node's tasks see them: all that blocks is done by one thread.

use super::shelf::{Part, PutError, ReadBaseError, Shelf};
use bytes::Bytes;
use redoubt_env::Env;
use redoubt_types::{Base, BaseName};
use std::io;
use std::path::Path;
use std::sync::mpsc;
use tokio::sync::{oneshot, watch};

type Job = Box<dyn FnOnce(&mut Shelf) + Send>;

/// The bases of one node. Cheap to clone.
#[derive(Clone)]
pub struct BaseStore {
    jobs: mpsc::Sender<Job>,
    held: watch::Sender<Vec<Base>>,
}

/// A base on its way to this node.
pub struct Incoming {
    store: BaseStore,
    base: Base,
    part: Part,
}

fn ended() -> io::Error {
    io::Error::other("the thread that keeps the bases has ended")
}

impl BaseStore {
    /// Opens the bases under the data directory `dir`. Blocks.
    ///
    /// # Errors
    /// When the directory can't be read or cleaned, or no thread can be had.
    pub fn open(env: &Env, dir: &Path) -> io::Result<Self> {
        let mut shelf = Shelf::open(env.files().clone(), dir)?;
        let held = watch::Sender::new(shelf.held());
        let (jobs, inbox) = mpsc::channel::<Job>();
        env.spawn_thread("bases", move || {
            while let Ok(job) = inbox.recv() {
                job(&mut shelf);
            }
        })?;
        Ok(BaseStore { jobs, held })
    }

    async fn with<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Shelf) -> T + Send + 'static,
    ) -> io::Result<T> {
        let (answer, answered) = oneshot::channel();
        let held = self.held.clone();
        let job = Box::new(move |shelf: &mut Shelf| {
            let done = job(shelf);
            let now = shelf.held();
            held.send_if_modified(|held| std::mem::replace(held, now) != *held);
            // Whoever asked may have left.
            drop(answer.send(done));
        });
        self.jobs.send(job).map_err(|_| ended())?;
        answered.await.map_err(|_| ended())
    }

    /// What is held, oldest first, as it changes.
    pub fn held(&self) -> watch::Receiver<Vec<Base>> {
        self.held.subscribe()
    }

    /// Whether this very base is held whole.
    pub fn holds(&self, base: &Base) -> bool {
        self.held.borrow().contains(base)
    }

    /// Begins to take a base, or goes on with what there is of it; `None` when it is held already.
    ///
    /// # Errors
    /// [`PutError`].
    pub async fn begin(&self, base: Base) -> Result<Option<Incoming>, PutError> {
        let name = base.name;
        let of = base.clone();
        let begun = self.with(move |shelf| shelf.begin(&of)).await;
        let part = begun.map_err(|source| PutError::Io { name, source })??;
        let store = self.clone();
        Ok(part.map(|part| Incoming { store, base, part }))
    }

    /// The bytes of a base from `from` on, as many as are checked at once; empty behind its end.
    ///
    /// # Errors
    /// [`ReadBaseError`].
    pub async fn read(&self, name: BaseName, from: u64) -> Result<Bytes, ReadBaseError> {
        let read = self.with(move |shelf| shelf.read(name, from)).await;
        read.map_err(|source| ReadBaseError::Io { name, source })?
    }

    /// Removes a base.
    ///
    /// # Errors
    /// When its files can't be removed.
    pub async fn remove(&self, name: BaseName) -> io::Result<()> {
        self.with(move |shelf| shelf.remove(name)).await?
    }

    /// Removes all of which `keep` says no, whole or on its way; returns what went.
    ///
    /// # Errors
    /// When their files can't be removed.
    pub async fn retain(
        &self,
        keep: impl Fn(BaseName) -> bool + Send + 'static,
    ) -> io::Result<Vec<BaseName>> {
        self.with(move |shelf| shelf.retain(keep)).await?
    }

    /// Bytes of what is held.
    ///
    /// # Errors
    /// When the thread that knows has ended.
    pub async fn bytes(&self) -> io::Result<u64> {
        self.with(|shelf| shelf.bytes()).await
    }
}

impl Incoming {
    /// Bytes of it that came, and need not come again.
    pub fn came(&self) -> u64 {
        self.part.came()
    }

    /// Takes the bytes that follow; returns what is durable now, if that is more than before.
    ///
    /// # Errors
    /// [`PutError`]; it is to be begun again then.
    pub async fn write(self, bytes: Bytes) -> Result<(Self, Option<u64>), PutError> {
        let Incoming {
            store,
            base,
            mut part,
        } = self;
        let name = base.name;
        let job = move |_: &mut Shelf| part.write(&bytes).map(|synced| (part, synced));
        let written = store.with(job).await;
        let (part, synced) = written.map_err(|source| PutError::Io { name, source })??;
        let durable = synced.then(|| part.stored());
        Ok((Incoming { store, base, part }, durable))
    }

    /// Whether all of it came.
    pub fn is_whole(&self) -> bool {
        self.part.is_whole()
    }

    /// Ends the transfer: the base is held from now on.
    ///
    /// # Errors
    /// [`PutError`], when what came is not as the manifest says, or can't be kept.
    pub async fn finish(self) -> Result<(), PutError> {
        let Incoming { store, base, part } = self;
        let name = base.name;
        let finished = store.with(move |shelf| shelf.finish(part)).await;
        finished.map_err(|source| PutError::Io { name, source })?
    }
}
