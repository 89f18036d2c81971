//! Which programs a cluster consists of, and how each is called.

use super::layout::{Kind, Part, endpoints};
use super::paths::Paths;
use crate::failure::Failure;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The oldest redis-server that is supported.
const REDIS_MAJOR_MIN: u32 = 7;

/// Where the programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    journal: PathBuf,
    proxy: PathBuf,
    replay: PathBuf,
    server: PathBuf,
    /// Further arguments, for all components of a kind.
    more: Vec<(Kind, OsString)>,
}

/// One program with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// Path of the program.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) args: Vec<OsString>,
}

impl Programs {
    /// Finds Redoubt's own programs beside the running one, and a supported redis-server.
    ///
    /// # Errors
    /// When one is missing or too old; the sentence says what to do.
    pub(crate) async fn find(
        server: Option<&Path>,
        more: Vec<(Kind, OsString)>,
    ) -> Result<Programs, Failure> {
        let me = std::env::current_exe().map_err(|e| Failure::io("find my own program", &e))?;
        let beside = me.parent().unwrap_or(Path::new("/"));
        let own = |name: &str| {
            let path = beside.join(name);
            if path.is_file() {
                return Ok(path);
            }
            Err(Failure::failed(format!(
                "{name} is not in {}: build all programs with `cargo build --release --workspace`",
                beside.display()
            )))
        };
        let server = match server {
            Some(path) => path.to_owned(),
            None => on_path("redis-server").ok_or_else(|| {
                Failure::failed(
                    "redis-server is not on the PATH: install it (Debian, Ubuntu: `apt-get install redis-server`), \
                     or name one with --redis-server",
                )
            })?,
        };
        check_server(&server).await?;
        Ok(Programs {
            journal: own("redoubt-journal")?,
            proxy: own("redoubt-proxy")?,
            replay: own("redoubt-replay")?,
            server,
            more,
        })
    }

    /// The call that starts `part`.
    pub(crate) fn call(&self, part: &Part, all: &[Part], paths: &Paths) -> Call {
        let one = |kind: Kind| {
            all.iter()
                .find(|p| p.kind == kind)
                .map(Part::address)
                .unwrap_or_default()
        };
        let journal = endpoints(all).join(",");
        let own = |flags: &[(&str, &str)]| {
            let fixed = [
                "--name".into(),
                part.name.clone().into(),
                "--listen".into(),
                part.address().into(),
            ];
            let flags = flags
                .iter()
                .flat_map(|(flag, value)| [OsString::from(flag), OsString::from(value)]);
            fixed.into_iter().chain(flags).collect::<Vec<OsString>>()
        };
        let (program, mut args) = match part.kind {
            Kind::Journal => {
                let mut args = own(&[]);
                args.extend(["--dir".into(), paths.data(&part.name).into()]);
                (&self.journal, args)
            }
            Kind::Replay => (&self.replay, own(&[("--endpoints", &journal)])),
            Kind::Proxy => {
                let upstream = one(Kind::Master);
                let replay = one(Kind::Replay);
                let flags = [
                    ("--upstream", &*upstream),
                    ("--endpoints", &*journal),
                    ("--replay", &*replay),
                ];
                (&self.proxy, own(&flags))
            }
            Kind::Master | Kind::Replica => (&self.server, server_args(part, &one(Kind::Replay), paths)),
        };
        args.extend(
            self.more
                .iter()
                .filter(|(kind, _)| *kind == part.kind)
                .map(|(_, arg)| arg.clone()),
        );
        Call {
            program: program.clone(),
            args,
        }
    }
}

/// Everything stands on the command line, so that CONFIG REWRITE has no file to change: a server that boots is always
/// a replica of its replay. RDB saves stay as Redis has them by default; the journal is the append-only file. A replica that
/// passed over a command of the journal would differ from then on without a word: it ends instead, and its log tells (H17).
fn server_args(part: &Part, replay: &str, paths: &Paths) -> Vec<OsString> {
    let (replay_host, replay_port) = replay.split_once(':').unwrap_or(("127.0.0.1", ""));
    let mut args: Vec<OsString> = [
        "--port",
        &part.port.to_string(),
        "--bind",
        "127.0.0.1",
        "--replicaof",
        replay_host,
        replay_port,
        "--enable-debug-command",
        "local",
        "--appendonly",
        "no",
        "--daemonize",
        "no",
        "--propagation-error-behavior",
        "panic-on-replicas",
    ]
    .iter()
    .map(OsString::from)
    .collect();
    args.extend(["--dir".into(), paths.component(&part.name).into()]);
    args.extend(["--logfile".into(), paths.log(part).into()]);
    args
}

/// The first `name` on the PATH.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Asks a server for its version.
async fn check_server(server: &Path) -> Result<(), Failure> {
    let output = tokio::process::Command::new(server)
        .arg("--version")
        .kill_on_drop(true)
        .output()
        .await;
    let output = output.map_err(|e| Failure::io(format_args!("run {} --version", server.display()), &e))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match redis_version(&text) {
        Some((major, _)) if major < REDIS_MAJOR_MIN => Err(Failure::failed(format!(
            "{} is too old ({}): Redoubt needs Redis {REDIS_MAJOR_MIN}.0 or later, since older ones replicate relative times \
             to live, which last longer at every replay; name one with --redis-server",
            server.display(),
            text.trim()
        ))),
        Some(_) => Ok(()),
        None => Err(Failure::failed(format!(
            "{} does not tell its version as a redis-server does (it said {:?})",
            server.display(),
            text.trim().chars().take(200).collect::<String>()
        ))),
    }
}

/// Major and minor version from `Redis server v=7.0.15 sha=…` (Valkey says `Valkey server v=…`).
fn redis_version(text: &str) -> Option<(u32, u32)> {
    let version = text
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("v="))?;
    let mut numbers = version.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::layout::Layout;
    use super::*;

    fn line(call: &Call) -> String {
        call.args
            .iter()
            .map(|a| a.to_string_lossy().into_owned())
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn calls() -> Vec<String> {
        let programs = Programs {
            journal: "/b/redoubt-journal".into(),
            proxy: "/b/redoubt-proxy".into(),
            replay: "/b/redoubt-replay".into(),
            server: "/usr/bin/redis-server".into(),
            more: vec![(Kind::Proxy, "--verbose".into())],
        };
        let parts = Layout::new(7000, 3, 1).unwrap().parts();
        let paths = Paths::new("/d".into());
        parts
            .iter()
            .map(|p| line(&programs.call(p, &parts, &paths)))
            .collect()
    }

    #[test]
    fn programs_are_called_with_the_agreed_flags() {
        let calls = calls();
        let nodes = "127.0.0.1:7101,127.0.0.1:7102,127.0.0.1:7103";
        assert_eq!(
            calls[0],
            "--name journal-1 --listen 127.0.0.1:7101 --dir /d/journal-1/data"
        );
        assert_eq!(
            calls[5],
            format!(
                "--name proxy-1 --listen 127.0.0.1:7000 --upstream 127.0.0.1:7201 --endpoints {nodes} \
                 --replay 127.0.0.1:7301 --verbose"
            )
        );
        assert_eq!(
            calls[6],
            format!("--name replay-1 --listen 127.0.0.1:7301 --endpoints {nodes}")
        );
    }

    #[test]
    fn servers_boot_as_replicas_with_default_saves_and_no_aof() {
        let calls = calls();
        for (at, name, port) in [(3, "master-1", 7201), (4, "replica-1", 7211)] {
            assert_eq!(
                calls[at],
                format!(
                    "--port {port} --bind 127.0.0.1 --replicaof 127.0.0.1 7301 --enable-debug-command local \
                     --appendonly no --daemonize no \
                     --propagation-error-behavior panic-on-replicas --dir /d/{name} --logfile /d/{name}/redis.log"
                )
            );
        }
    }

    #[test]
    fn versions_of_redis_and_valkey_are_understood() {
        assert_eq!(
            redis_version("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc"),
            Some((7, 0))
        );
        assert_eq!(redis_version("Valkey server v=8.1.0 sha=0"), Some((8, 1)));
        assert_eq!(redis_version("bash 5.2"), None);
    }
}
