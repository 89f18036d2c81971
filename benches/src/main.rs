//! What Redoubt costs. Each benchmark compares within its own run, on one machine whose cores all processes share, and
//! tells the CPU time of each process beside the figures.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "a benchmark measures the real machine, and has nothing to go on with when it can't"
)]

mod append;
mod connections;
mod cpu;
mod generator;
mod load;
mod nodes;
mod open;
mod stock;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Compares Redoubt with what does less.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// A whole cluster beside stock servers, and beside a proxy that keeps nothing.
    Stock(stock::Wanted),
    /// The load generator of `stock` beside redis-benchmark.
    Generator,
    /// The journal's appends beside a bare quorum append.
    Append {
        /// Rounds; the median is told.
        rounds: Option<usize>,
        /// Only entries of this many bytes.
        #[arg(long)]
        payload: Option<usize>,
        /// Only this many entries on their way.
        #[arg(long)]
        depth: Option<usize>,
    },
    /// Many clients at once, half of them idle.
    Connections {
        /// How many.
        #[arg(default_value_t = connections::CLIENTS)]
        clients: usize,
    },
    /// How long a journal node takes to open what it holds, and how much memory.
    Open {
        /// Size of the largest journal, GiB.
        gib: Option<u64>,
    },
    /// One node of the bare quorum append: used by `append`.
    #[command(hide = true)]
    BareNode {
        port: u16,
        file: PathBuf,
        /// Ports of its followers: it leads then.
        followers: Vec<u16>,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Args::parse().what {
        What::Stock(wanted) => stock::run(wanted).await,
        What::Connections { clients } => connections::run(clients).await,
        What::Generator => {
            generator::run().await;
            Ok(())
        }
        What::Append {
            rounds,
            payload,
            depth,
        } => {
            let payloads = payload.map_or(append::PAYLOADS.to_vec(), |one| vec![one]);
            let depths = depth.map_or(append::DEPTHS.to_vec(), |one| vec![one]);
            append::run(rounds, &payloads, &depths).await;
            Ok(())
        }
        What::Open { gib } => {
            open::run(gib).await;
            Ok(())
        }
        What::BareNode {
            port,
            file,
            followers,
        } => {
            append::bare::node(port, &file, &followers).expect("the bare node ended");
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("{what}");
            ExitCode::FAILURE
        }
    }
}
