//! Nodes over simulated disks whose power can be cut.

use redoubt_env::Env;
use redoubt_env::sim_files::SimFiles;
use redoubt_journal::base::{FoldAfter, Retention};
use redoubt_journal::raft::{CheckpointEvery, MetadataStore, NodeConfig, NodeError};
use redoubt_journal::segment::Options;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// A node with a runtime of its own: a crash drops the runtime, and with it every task, whatever it was at.
pub struct SimNode {
    pub name: String,
    pub address: String,
    pub files: SimFiles,
    pub storage: Options,
    life: Option<(oneshot::Sender<()>, JoinHandle<Option<NodeError>>)>,
}

impl SimNode {
    pub fn new(name: &str, files: SimFiles) -> SimNode {
        SimNode {
            name: name.to_owned(),
            address: super::free_address(),
            files,
            // Small, so that segments follow each other fast.
            storage: Options {
                segment_bytes: 1 << 18,
                zero_ahead_bytes: 1 << 14,
                ..Options::default()
            },
            life: None,
        }
    }

    /// Boots the node. It may fail to start, if its disk is in no state to.
    pub fn boot(&mut self) {
        let config = NodeConfig {
            name: self.name.clone(),
            address: self.address.clone(),
            dir: PathBuf::from("/data"),
            storage: self.storage,
            metadata: MetadataStore::Memory,
            checkpoint_every: CheckpointEvery {
                entries: 8,
                bytes: 4096,
            },
            fold_after: FoldAfter::default(),
            retention: Retention::default(),
        };
        let files = self.files.clone();
        let (crash, crashed) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let error = runtime.block_on(async {
                let env = Env::real().with_files(Arc::new(files));
                let node = redoubt_journal::server::run(env, config, std::future::pending());
                tokio::select! {
                    biased; // nothing is ended in order here
                    _ = crashed => None,
                    ended = node => ended.err(),
                }
            });
            runtime.shutdown_background();
            error
        });
        self.life = Some((crash, thread));
    }

    /// The machine loses its power: what was not synced is decided by `seed`, the process is gone.
    pub fn power_cut(&mut self, seed: u64) {
        self.files.power_cut(seed);
        if let Some((crash, thread)) = self.life.take() {
            drop(crash);
            if let Some(error) = thread.join().expect("a node's thread panicked") {
                eprintln!("{} ended by itself: {error}", self.name);
            }
        }
    }

    /// Waits until the node ends by itself, and says of what. The machine stays on.
    pub async fn ended(&mut self) -> NodeError {
        while self
            .life
            .as_ref()
            .is_some_and(|(_, thread)| !thread.is_finished())
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let (_, thread) = self.life.take().expect("it runs");
        let error = thread.join().expect("a node's thread panicked");
        error.expect("nobody told it to end")
    }
}
