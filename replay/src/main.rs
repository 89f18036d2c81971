//! The program `redoubt-replay`: flags, log and signals around [`redoubt_replay::run`].

mod into;

use clap::Parser;
use into::Into;
use redoubt_env::Env;
use redoubt_replay::{Config, run};
use redoubt_types::{ClusterId, JournalName};
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Replays the journal into stock redis-servers, as their master, or (--into) as an ordinary client.
#[derive(Debug, Parser)]
#[command(name = "redoubt-replay", version)]
struct Flags {
    /// Where replicas connect, ip:port. `replicaof` of every server is this address.
    #[arg(long, default_value = "127.0.0.1:7301")]
    listen: String,
    /// The journal's nodes, host:port each, separated by commas.
    #[arg(
        long,
        env = "REDOUBT_ENDPOINTS",
        value_delimiter = ',',
        required_unless_present = "let_go"
    )]
    endpoints: Vec<String>,
    /// The name that `redoubt status` shows, one for each replay of a journal. [default: replay-1, and in client mode
    /// into-HOST:PORT]
    #[arg(long)]
    name: Option<String>,
    /// The journal to replay.
    #[arg(long, default_value = "default", value_parser = JournalName::parse)]
    journal: JournalName,
    /// The cluster that the nodes must belong to, 32 hexadecimal digits; whichever it is by default.
    #[arg(long)]
    cluster: Option<ClusterId>,
    #[command(flatten)]
    into: Into,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            tracing::error!("can't start: {e}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(until_signal(flags)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e}");
            ExitCode::FAILURE
        }
    }
}

/// Runs until SIGTERM or SIGINT; links end by being dropped, and their replicas go on where they were.
async fn until_signal(flags: Flags) -> Result<(), Box<dyn std::error::Error>> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        biased;
        _ = term.recv() => tracing::info!("stopping at SIGTERM"),
        _ = interrupt.recv() => tracing::info!("stopping at SIGINT"),
        ended = work(flags, Env::real()) => ended?,
    }
    Ok(())
}

/// What the flags ask for.
async fn work(flags: Flags, env: Env) -> Result<(), Box<dyn std::error::Error>> {
    let target = flags.into.target();
    let own_name = target
        .as_ref()
        .map_or("replay-1".to_owned(), |t| format!("into-{}", t.address()));
    let config = Config {
        listen: flags.listen,
        endpoints: flags.endpoints,
        journal: flags.journal,
        cluster: flags.cluster,
        name: flags.name.unwrap_or(own_name),
    };
    match target {
        Some(target) => flags.into.run(target, config, env).await,
        None => Ok(run(config, env).await?),
    }
}
