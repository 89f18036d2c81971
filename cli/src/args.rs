//! The command line.

use crate::dev::core::Restart;
use crate::dev::layout::Kind;
use crate::dev::up::Options;
use crate::duration;
use crate::output::Output;
use clap::{Parser, Subcommand};
use redoubt_types::{ClusterId, JournalName, Offset};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Redoubt makes a stock Redis durable and highly available.
#[derive(Debug, Parser)]
#[command(
    name = "redoubt",
    version,
    after_help = "Exit codes: 0 done; 1 refused or failed; 2 the command line can't be understood, or verify could not \
                  check; 3 nobody could answer in time; 130 killed by a second Ctrl-C."
)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show nodes, leader, tail, writer and replicas.
    Status {
        #[command(flatten)]
        journal: Journal,
        /// How to print it.
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Print the journal, one command a line: txid, offset, time, name and arguments.
    Tail {
        #[command(flatten)]
        journal: Journal,
        /// Print from this offset on [default: the journal's beginning; with --follow its tail].
        #[arg(long, value_name = "OFFSET", value_parser = offset)]
        from: Option<Offset>,
        /// Go on with what is written later.
        #[arg(long)]
        follow: bool,
    },
    /// Make a redis-server without keys and functions equal to the journal's tail.
    Rebuild {
        #[command(flatten)]
        journal: Journal,
        /// The server.
        #[arg(long, value_name = "HOST:PORT")]
        into: String,
    },
    /// Check what journal nodes hold: a directory of one that does not run, or all nodes of a running cluster.
    ///
    /// Of a directory nothing is changed. A running node reads all that it holds, repairs what it finds damaged, and
    /// counts the journal's chain anew; all of them must come to the same.
    ///
    /// Exit codes: 0 whole; 1 damaged; 2 not all could be checked.
    Verify {
        /// The directory, as the node's --dir.
        #[arg(required_unless_present = "endpoints", conflicts_with = "endpoints")]
        path: Option<PathBuf>,
        /// The nodes of the running cluster.
        #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',', value_parser = endpoint)]
        endpoints: Vec<String>,
        /// The journal.
        #[arg(long, default_value = "default", value_parser = JournalName::parse)]
        journal: JournalName,
        /// How to print it.
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Make one cluster of new journal nodes; safe to run again.
    Bootstrap {
        #[command(flatten)]
        journal: Journal,
        /// How long to wait for all nodes to answer.
        #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse)]
        timeout: Duration,
    },
    /// Run a whole cluster on this machine.
    Dev {
        #[command(subcommand)]
        command: DevCommand,
    },
}

/// Which journal is meant.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Journal {
    /// The journal's nodes: HOST:PORT,HOST:PORT,…
    #[arg(
        long,
        env = "REDOUBT_ENDPOINTS",
        value_name = "HOST:PORT,…",
        value_delimiter = ',',
        required = true,
        value_parser = endpoint
    )]
    pub(crate) endpoints: Vec<String>,
    /// The journal.
    #[arg(long, default_value = "default", value_parser = JournalName::parse)]
    pub(crate) journal: JournalName,
    /// Refuse any other cluster than this one.
    #[arg(long, value_name = "CLUSTER-ID")]
    pub(crate) cluster: Option<ClusterId>,
}

/// Whole clusters on one machine.
#[derive(Debug, Subcommand)]
pub(crate) enum DevCommand {
    /// Start a cluster, supervise it, and stop it in order at Ctrl-C.
    ///
    /// For --port-base B the proxy listens on B, the journal nodes on B+101 …, the master on B+201, the replicas
    /// on B+211 …, the replay on B+301; all of them on 127.0.0.1 only.
    Up(Up),
    /// Start a component that was stopped or died.
    Start {
        /// Its name, such as journal-1, master-1, replica-1, proxy-1, replay-1.
        name: String,
        #[command(flatten)]
        dir: Dir,
    },
    /// Stop a component; it stays down until `dev start`.
    Stop {
        /// Its name, such as journal-1, master-1, replica-1, proxy-1, replay-1.
        name: String,
        #[command(flatten)]
        dir: Dir,
    },
    /// Stop everything in order, also what a killed `dev up` left running.
    Down {
        #[command(flatten)]
        dir: Dir,
    },
}

/// Where a cluster lies.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Dir {
    /// The cluster's directory.
    #[arg(long, default_value = "./.redoubt")]
    pub(crate) dir: PathBuf,
}

/// What `dev up` takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Up {
    #[command(flatten)]
    dir: Dir,
    /// The first port [default: what DIR was made with, else 7000].
    #[arg(long, value_name = "N")]
    port_base: Option<u16>,
    /// Journal nodes, an odd number [default: what DIR was made with, else 3].
    #[arg(long, value_name = "N")]
    journals: Option<u16>,
    /// Replicas, besides the master.
    #[arg(long, value_name = "N", default_value_t = 1)]
    replicas: u16,
    /// When a component that died is started again: a duration, or never.
    #[arg(long, value_name = "DURATION|never", default_value = "1s", value_parser = restart)]
    restart: Restart,
    /// How long everything may take to be healthy.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration::parse)]
    timeout: Duration,
    /// The redis-server to use [default: the one on the PATH].
    #[arg(long, value_name = "PATH")]
    redis_server: Option<PathBuf>,
    /// A further argument for all components of a kind, such as `--arg master=--maxmemory --arg master=100mb`.
    #[arg(long, value_name = "KIND=ARG", value_parser = further)]
    arg: Vec<(Kind, OsString)>,
    /// How to print what happens.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

impl Up {
    /// What was asked for.
    pub(crate) fn into_options(self) -> Options {
        Options {
            dir: self.dir.dir,
            port_base: self.port_base,
            journals: self.journals,
            replicas: self.replicas,
            restart: self.restart,
            timeout: self.timeout,
            redis_server: self.redis_server,
            more: self.arg,
            output: self.output,
        }
    }
}

fn offset(text: &str) -> Result<Offset, String> {
    text.parse()
        .map(Offset::new)
        .map_err(|_| format!("{text:?} is no offset; it is a number of bytes"))
}

fn endpoint(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0) => {
            Ok(text.to_owned())
        }
        _ => Err(format!("{text:?} is no address; write HOST:PORT")),
    }
}

fn restart(text: &str) -> Result<Restart, String> {
    if text == "never" {
        Ok(Restart::Never)
    } else {
        duration::parse(text).map(Restart::After)
    }
}

fn further(text: &str) -> Result<(Kind, OsString), String> {
    let (kind, arg) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is no KIND=ARG"))?;
    Ok((kind.parse()?, arg.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::layout::{JOURNALS, PORT_BASE};
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn dev_up_takes_what_is_agreed() {
        let line =
            "redoubt dev up --dir D --port-base 8000 --journals 3 --replicas 1 --restart never --output json";
        let Command::Dev {
            command: DevCommand::Up(up),
        } = Args::try_parse_from(line.split(' ')).unwrap().command
        else {
            panic!("not dev up");
        };
        let options = up.into_options();
        assert_eq!(
            (options.port_base, options.journals, options.replicas),
            (Some(8000), Some(3), 1)
        );
        assert_eq!((options.restart, options.output), (Restart::Never, Output::Json));
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        assert_eq!((PORT_BASE, JOURNALS), (7000, 3));
        assert_eq!(restart("1s"), Ok(Restart::After(Duration::from_secs(1))));
        assert!(restart("soon").is_err());
        assert!(endpoint("127.0.0.1").is_err());
        assert!(endpoint(":7101").is_err());
    }

    #[test]
    fn arguments_are_passed_on_by_kind() {
        assert_eq!(
            further("proxy=--lease=1s"),
            Ok((Kind::Proxy, "--lease=1s".into()))
        );
        assert!(further("sentinel=x").is_err());
        assert!(further("proxy").is_err());
    }
}
