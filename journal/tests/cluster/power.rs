//! Nodes over simulated disks whose power can be cut.

use redoubt_env::Env;
use redoubt_env::sim_files::SimFiles;
use redoubt_journal::raft::{MetadataStore, NodeConfig};
use redoubt_journal::segment::Options;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// A node with a runtime of its own: a crash drops the runtime, and with it every task, whatever it was at.
pub struct SimNode {
    pub name: String,
    pub address: String,
    pub files: SimFiles,
    life: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl SimNode {
    pub fn new(name: &str, files: SimFiles) -> SimNode {
        SimNode {
            name: name.to_owned(),
            address: super::free_address(),
            files,
            life: None,
        }
    }

    /// Boots the node. It may fail to start, if its disk is in no state to.
    pub fn boot(&mut self) {
        let config = NodeConfig {
            name: self.name.clone(),
            address: self.address.clone(),
            dir: PathBuf::from("/data"),
            storage: Options {
                segment_bytes: 1 << 18,
                zero_ahead_bytes: 1 << 14,
                ..Options::default()
            },
            metadata: MetadataStore::Memory,
        };
        let files = self.files.clone();
        let (crash, crashed) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let env = Env::real().with_files(Arc::new(files));
                let node = redoubt_journal::server::run(env, config, std::future::pending());
                tokio::select! {
                    biased; // nothing is ended in order here
                    _ = crashed => {}
                    ended = node => eprintln!("a node ended by itself: {ended:?}"),
                }
            });
            runtime.shutdown_background();
        });
        self.life = Some((crash, thread));
    }

    /// The machine loses its power: what was not synced is decided by `seed`, the process is gone.
    pub fn power_cut(&mut self, seed: u64) {
        self.files.power_cut(seed);
        if let Some((crash, thread)) = self.life.take() {
            drop(crash);
            thread.join().expect("a node's thread panicked");
        }
    }
}
