//! The flags of client mode, and what they ask for.

use clap::Args;
use redoubt_env::Env;
use redoubt_replay::Config;
use redoubt_replay::sink::{Endpoint, Filter, SinkConfig, follow, let_go};
use redoubt_types::Db;
use std::path::PathBuf;

/// Client mode.
#[derive(Debug, Args)]
#[command(next_help_heading = "Client mode (docs/client-mode.md)")]
pub(crate) struct Into {
    /// Instead of serving replicas, applies the journal to this server as an ordinary client, for servers that can't be told
    /// REPLICAOF: redis://[[user]:password@]host[:port], the same with rediss:// for TLS, or unix:///path. It must be empty, or
    /// have been followed into before; nobody else may write to it. Times to live on it are a thousand years late until --let-go.
    #[arg(
        long,
        value_name = "URL",
        env = "REDOUBT_INTO",
        hide_env_values = true,
        conflicts_with = "listen"
    )]
    into: Option<Endpoint>,
    /// PEM file with the certificates of who has signed the server's, for rediss://.
    #[arg(long, value_name = "FILE", requires = "into")]
    into_ca: Option<PathBuf>,
    /// The key in the server's database 0 that holds how far it is.
    #[arg(long, value_name = "KEY", requires = "into", default_value = "redoubt:position", value_parser = position_key)]
    position_key: String,
    /// Applies only what happens in this database (can be repeated).
    #[arg(long, value_name = "N", requires = "into")]
    only_db: Vec<u32>,
    /// Leaves out commands of this name, as they stand in the journal: FLUSHALL, for instance (can be repeated).
    #[arg(long, value_name = "NAME", requires = "into", value_parser = command_name)]
    skip_command: Vec<String>,
    /// Publishes what was published, too (PUBLISH and SPUBLISH).
    #[arg(long, requires = "into")]
    publish: bool,
    /// Commands per second at most; as many as the server takes by default.
    #[arg(long, value_name = "N", requires = "into", value_parser = clap::value_parser!(u32).range(1..))]
    max_commands_per_second: Option<u32>,
    /// Ends once everything is applied that a quorum of the journal has committed at the start.
    #[arg(long, requires = "into")]
    until_tail: bool,
    /// Applies nothing: makes times to live on the server true, where it stands, so that it can be used on its own. It can't be
    /// followed into after that. Needs no journal.
    #[arg(long, requires = "into", conflicts_with = "until_tail")]
    let_go: bool,
}

/// A key that can't be taken for a database's number or an option in a command that names one.
fn position_key(text: &str) -> Result<String, String> {
    let plain =
        !text.is_empty() && text.len() <= 200 && text.contains(':') && !text.contains(char::is_whitespace);
    if plain {
        Ok(text.to_owned())
    } else {
        Err("up to 200 characters with a colon among them, and no space".to_owned())
    }
}

fn command_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if !text.is_empty() && text.chars().all(plain) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("a command's name is made of letters, digits, '.', '-' and '_'".to_owned())
    }
}

impl Into {
    /// The target, in client mode.
    pub(crate) fn target(&self) -> Option<Endpoint> {
        self.into.clone()
    }

    /// Does what is asked for with `target`; of `config`, the journal is meant.
    pub(crate) async fn run(
        self,
        target: Endpoint,
        config: Config,
        env: Env,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let net = target.net(&env, self.into_ca)?;
        if self.let_go {
            let done = let_go(&env, net, &target, &self.position_key).await?;
            tracing::info!(
                offset = done.at.get(),
                keys = done.keys,
                fields = done.fields,
                "let go: times to live are true, and nothing follows into it any more"
            );
            return Ok(());
        }
        let config = SinkConfig {
            into: target,
            position_key: self.position_key,
            filter: Filter {
                dbs: self.only_db.into_iter().map(Db::new).collect(),
                commands: self.skip_command.into_iter().map(String::into_bytes).collect(),
                publish: self.publish,
            },
            commands_per_second_max: self.max_commands_per_second,
            until_tail: self.until_tail,
            endpoints: config.endpoints,
            journal: config.journal,
            cluster: config.cluster,
            name: config.name,
        };
        let at = follow(config, net, env).await?;
        tracing::info!(offset = at.get(), "the tail is reached");
        Ok(())
    }
}
