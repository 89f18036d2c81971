//! `redoubt`: status, tail, rebuild and bootstrap of a journal's cluster, and whole clusters on one machine.
//!
//! Exit codes: 0 done; 1 refused or failed; 2 the command line can't be understood, or verify could not check; 3 nobody
//! could answer in time (no quorum, nothing listens, not healthy in time); 130 `dev up` was killed by a second Ctrl-C.

mod args;
mod bootstrap;
mod dev;
mod duration;
mod failure;
mod output;
mod plain_files;
mod quote;
mod rebuild;
mod redis;
mod status;
mod tail;
mod verify;
mod wall;

use args::{Args, Command, DevCommand, Journal};
use clap::Parser;
use failure::Failure;
use redoubt_client::{Client, ClientConfig};
use redoubt_env::Env;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    // What goes wrong is said by the command itself; the libraries' own words are for those who ask for them.
    let filter = EnvFilter::try_from_env("REDOUBT_LOG").unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match run(&Env::real(), args.command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::note(&format!("redoubt: {failure}"));
            failure.exit_code()
        }
    }
}

fn client(env: &Env, journal: Journal) -> Client {
    Client::new(
        env.clone(),
        ClientConfig {
            endpoints: journal.endpoints,
            journal: journal.journal,
            cluster: journal.cluster,
        },
    )
}

async fn run(env: &Env, command: Command) -> Result<(), Failure> {
    match command {
        Command::Status { journal, output } => status::run(env, &client(env, journal), output).await,
        Command::Tail {
            journal,
            from,
            follow,
        } => tail::run(&client(env, journal), from, follow).await,
        Command::Rebuild { journal, into } => rebuild::run(env, journal, into).await,
        Command::Verify {
            path: Some(path),
            output,
            ..
        } => verify::directory::run(env, &path, output),
        Command::Verify {
            path: None,
            endpoints,
            journal,
            output,
        } => {
            let journal = Journal {
                endpoints: endpoints.clone(),
                journal,
                cluster: None,
            };
            verify::cluster::run(&client(env, journal), &endpoints, output).await
        }
        Command::Bootstrap { journal, timeout } => bootstrap::run(&client(env, journal), timeout).await,
        Command::Dev { command } => match command {
            DevCommand::Up(up) => dev::up::up(env, up.into_options()).await,
            DevCommand::Start { name, dir } => dev::start(&dir.dir, &name).await,
            DevCommand::Stop { name, dir } => dev::stop(&dir.dir, &name).await,
            DevCommand::Down { dir } => dev::down(env, &dir.dir).await,
        },
    }
}
