//! What the proxy is told at start. Every default stands in `redoubt_types::limits`, with its reason.

use crate::upstream::{DEFAULT_USER, Login, Upstream};
use clap::Parser;
use redoubt_env::Env;
use redoubt_env::net::tls::{ClientFiles, Identity, ServerFiles, TlsNet, TlsServer};
use redoubt_env::net::{Net, UNIX};
use redoubt_types::limits::{
    LEASE, LEASE_MARGIN, LEASE_RENEW_EVERY, OTHER_OPEN_FILES, RELEASE_DEADLINE, UNCOMMITTED_BYTES_MAX,
};
use redoubt_types::{JournalName, ParseIdError};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A RESP endpoint in front of one redis-server: every reply waits until the journal has committed what it
/// depends on.
#[derive(Clone, Debug, Parser)]
#[command(name = "redoubt-proxy", version)]
pub struct Config {
    /// Where clients connect, `ip:port`; `none` if they may only do so over TLS.
    #[arg(long, default_value = "127.0.0.1:7000", env = "REDOUBT_LISTEN")]
    pub listen: String,

    /// Where clients connect over TLS, `ip:port`.
    #[arg(long, requires_all = ["tls_cert", "tls_key"], env = "REDOUBT_TLS_LISTEN")]
    pub tls_listen: Option<String>,

    /// The certificate that clients are shown, with what vouches for it behind it: a PEM file. It, the key and the authorities are
    /// read again at SIGHUP.
    #[arg(long, requires = "tls_listen", env = "REDOUBT_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,

    /// Its key: a PEM file.
    #[arg(long, requires = "tls_listen", env = "REDOUBT_TLS_KEY")]
    pub tls_key: Option<PathBuf>,

    /// Who must have signed a client's certificate: a PEM file. Without it, clients need none.
    #[arg(long, requires = "tls_listen", env = "REDOUBT_TLS_CLIENT_CA")]
    pub tls_client_ca: Option<PathBuf>,

    /// Whether each connection of a client begins with a header of the PROXY protocol, version 1 or 2, as a load balancer sends
    /// it. One without is closed: nobody else should be able to connect.
    #[arg(long, env = "REDOUBT_PROXY_PROTOCOL")]
    pub proxy_protocol: bool,

    /// The redis-server of this cell, `host:port`, or `unix:PATH`. It must have been started with `replicaof` naming the
    /// cell's replay, so that it can serve nothing before it holds what the journal holds.
    #[arg(long, default_value = "127.0.0.1:7201", env = "REDOUBT_UPSTREAM")]
    pub upstream: String,

    /// Speaks TLS to the server, on every connection.
    #[arg(long, requires = "upstream_ca", env = "REDOUBT_UPSTREAM_TLS")]
    pub upstream_tls: bool,

    /// Who must have signed the server's certificate: a PEM file.
    #[arg(long, requires = "upstream_tls", env = "REDOUBT_UPSTREAM_CA")]
    pub upstream_ca: Option<PathBuf>,

    /// The certificate that the server is shown, if it wants one: a PEM file.
    #[arg(long, requires_all = ["upstream_tls", "upstream_key"], env = "REDOUBT_UPSTREAM_CERT")]
    pub upstream_cert: Option<PathBuf>,

    /// Its key: a PEM file.
    #[arg(long, requires = "upstream_cert", env = "REDOUBT_UPSTREAM_KEY")]
    pub upstream_key: Option<PathBuf>,

    /// The name that the server's certificate must have; the host of --upstream if nothing is said.
    #[arg(long, requires = "upstream_tls", env = "REDOUBT_UPSTREAM_SERVER_NAME")]
    pub upstream_server_name: Option<String>,

    /// The user of the server that the proxy's own connections authenticate as. It needs the rights that
    /// docs/operations.md names. Clients authenticate by themselves.
    #[arg(long, default_value = DEFAULT_USER, env = "REDOUBT_UPSTREAM_USER")]
    pub upstream_user: String,

    /// A file whose only line is that user's password; else the variable REDOUBT_UPSTREAM_PASSWORD has it. With neither, the
    /// proxy does not authenticate.
    #[arg(long, env = "REDOUBT_UPSTREAM_PASSWORD_FILE")]
    pub upstream_password_file: Option<PathBuf>,

    /// That password, if it is not in a file. Never an argument: everybody on the machine sees those.
    #[arg(skip)]
    pub upstream_password: Option<Password>,

    /// The journal's nodes, `host:port`, separated by commas. All of them: the leader may be any.
    #[arg(long, value_delimiter = ',', required = true, env = "REDOUBT_ENDPOINTS")]
    pub endpoints: Vec<String>,

    /// The replay that feeds the upstream, `host:port` as the upstream reaches it: where a master that may
    /// not serve is sent back to with REPLICAOF.
    #[arg(long, default_value = "127.0.0.1:7301", env = "REDOUBT_REPLAY")]
    pub replay: String,

    /// The cell's name, for people: it stands in the journal's status as the writer's.
    #[arg(long, default_value = "cell-1", env = "REDOUBT_NAME")]
    pub name: String,

    /// The journal's name.
    #[arg(long, default_value_t = JournalName::default(), value_parser = parse_journal)]
    pub journal: JournalName,

    /// How long the lease lasts from a renewal, milliseconds. A shorter one makes a takeover by another cell
    /// faster; one shorter than a pause of this process or of a node (fork, full disk queue) makes replies
    /// wait for a renewal after each such pause.
    #[arg(long, default_value_t = LEASE.as_millis() as u64, value_parser = clap::value_parser!(u64).range(1000..=60_000))]
    pub lease_ms: u64,

    /// How long a reply is held before its connection is closed instead, milliseconds. Longer than an
    /// election of the journal and a lease together, so that losing one node closes no connection.
    #[arg(long, default_value_t = RELEASE_DEADLINE.as_millis() as u64, value_parser = clap::value_parser!(u64).range(1000..))]
    pub release_deadline_ms: u64,

    /// Bytes captured and not committed at which clients are not read any more. Well below the server's
    /// backlog and replica output limit (256 MB each), so that capture never has to be cut; large enough
    /// that an election under full load passes without a client noticing more than delay.
    #[arg(long, default_value_t = UNCOMMITTED_BYTES_MAX, value_parser = clap::value_parser!(u64).range(65_536..=1_073_741_824))]
    pub uncommitted_bytes_max: u64,

    /// Client connections at most; further ones are closed at once. A little less than Redis' own default:
    /// each may take one connection to the server, whose `maxclients` must leave a few more for the proxy's own. As many at
    /// most as the process may open files for (`ulimit -Hn`): two each, or one where clients share.
    #[arg(long, default_value_t = 9_900)]
    pub clients_max: usize,

    /// Whether clients share a connection to the server as long as their commands allow it. It costs the server less. What
    /// shows of it: docs/semantics.md.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub shared_upstream: bool,

    /// Whether a read of clients who share a connection leaves before everything that was executed before it is committed,
    /// if no uncommitted effect can have touched its keys. Without it every read waits as a write does.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub clean_reads: bool,

    /// Connections at most that clients who share one may have of their own; told by the limit of open files.
    #[arg(skip = usize::MAX)]
    pub own_max: usize,
}

fn parse_journal(s: &str) -> Result<JournalName, ParseIdError> {
    JournalName::parse(s)
}

/// A password that is not shown.
#[derive(Clone)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

impl Config {
    /// The arguments of this process, and what its environment has for it.
    pub fn of_process() -> Self {
        let mut config = Config::parse();
        let password = std::env::var("REDOUBT_UPSTREAM_PASSWORD");
        config.upstream_password = password.ok().filter(|p| !p.is_empty()).map(Password);
        config
    }

    /// Whether clients may connect without TLS.
    pub fn listens_plainly(&self) -> bool {
        self.listen != "none"
    }

    /// What clients are shown over TLS, `None` if they don't connect with it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn tls(&self, env: &Env) -> Result<Option<TlsServer>, String> {
        let (Some(_), Some(cert), Some(key)) = (&self.tls_listen, &self.tls_cert, &self.tls_key) else {
            let nowhere = !self.listens_plainly();
            return if nowhere {
                Err("--listen none leaves clients --tls-listen, which is not given".to_owned())
            } else {
                Ok(None)
            };
        };
        let files = ServerFiles {
            identity: identity(cert, key),
            client_ca: self.tls_client_ca.clone(),
        };
        let server = TlsServer::new(Arc::clone(env.files()), files).map_err(|e| e.to_string())?;
        Ok(Some(server))
    }

    /// The network over which the server is spoken to with TLS, `None` if it is without.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn upstream_net(&self, env: &Env) -> Result<Option<TlsNet>, String> {
        let Some(ca) = self.upstream_ca.clone().filter(|_| self.upstream_tls) else {
            return Ok(None);
        };
        if self.upstream.starts_with(UNIX) && self.upstream_server_name.is_none() {
            return Err("--upstream-tls over a unix socket needs --upstream-server-name".to_owned());
        }
        let own = self.upstream_cert.as_ref().zip(self.upstream_key.as_ref());
        let files = ClientFiles {
            ca,
            identity: own.map(|(cert, key)| identity(cert, key)),
        };
        let (below, name) = (Arc::clone(env.net()), self.upstream_server_name.clone());
        let net = TlsNet::new(below, Arc::clone(env.files()), files, name).map_err(|e| e.to_string())?;
        Ok(Some(net))
    }

    /// The way to the server, over `tls` if that is given.
    ///
    /// # Errors
    /// What is wrong with how it is told.
    pub fn upstream(&self, env: &Env, tls: Option<TlsNet>) -> Result<Upstream, String> {
        let user = self.upstream_user.clone();
        let login = match (&self.upstream_password_file, &self.upstream_password) {
            (Some(file), _) => Some(
                Login::from_file(env, user, file)
                    .map_err(|e| format!("--upstream-password-file {}: {e}", file.display()))?,
            ),
            (None, Some(Password(password))) => Some(Login::new(user, password.clone())),
            (None, None) if user != DEFAULT_USER => {
                return Err(format!(
                    "--upstream-user {user} needs a password: --upstream-password-file"
                ));
            }
            (None, None) => None,
        };
        let net = tls.map(|tls| Arc::new(tls) as Arc<dyn Net>);
        Ok(Upstream::new(self.upstream.clone(), login, net))
    }

    /// How long the lease lasts from a renewal.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// What the holder takes off its lease, for clocks that run at different rates: a tenth of it, as the
    /// default margin is of the default lease.
    pub fn lease_margin(&self) -> Duration {
        scaled(LEASE_MARGIN, self.lease())
    }

    /// How often the lease is renewed: a quarter of it, so that two renewals in a row may be lost.
    pub fn lease_renew_every(&self) -> Duration {
        scaled(LEASE_RENEW_EVERY, self.lease())
    }

    /// How many of `clients_max` clients a process can serve that may open so many files (`None`: any number). One that can't be
    /// served is told so at once; without this it would wait for a connection to the server up to the deadline.
    pub fn clients_that_fit(&self, files: Option<u64>) -> usize {
        let Some(files) = files else {
            return self.clients_max;
        };
        let files = files.saturating_sub(OTHER_OPEN_FILES);
        // Of those who share, half may need a connection of their own at a time.
        let fit = if self.shared_upstream {
            files / 3 * 2
        } else {
            files / 2
        };
        self.clients_max.min(usize::try_from(fit).unwrap_or(usize::MAX))
    }

    /// How many connections of their own clients who share may have when the process may open so many files: none may take what
    /// the journal, the capture and the fences need.
    pub fn own_that_fit(&self, files: Option<u64>) -> usize {
        let left = files.map(|files| {
            files
                .saturating_sub(OTHER_OPEN_FILES)
                .saturating_sub(self.clients_that_fit(Some(files)) as u64)
        });
        left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX))
    }

    /// How long a reply is held before its connection is closed instead.
    pub fn release_deadline(&self) -> Duration {
        Duration::from_millis(self.release_deadline_ms)
    }
}

fn identity(cert: &Path, key: &Path) -> Identity {
    Identity {
        cert: cert.to_owned(),
        key: key.to_owned(),
    }
}

/// The share of `lease` that `of_default` is of the default lease.
fn scaled(of_default: Duration, lease: Duration) -> Duration {
    lease.mul_f64(of_default.as_secs_f64() / LEASE.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_limits() {
        let c = Config::try_parse_from(["redoubt-proxy", "--endpoints", "a:1,b:2,c:3"]).unwrap();
        assert_eq!(c.endpoints, ["a:1", "b:2", "c:3"]);
        assert_eq!(
            (c.lease(), c.lease_margin(), c.lease_renew_every()),
            (LEASE, LEASE_MARGIN, LEASE_RENEW_EVERY)
        );
        assert_eq!(c.release_deadline(), RELEASE_DEADLINE);
        assert!(
            Config::try_parse_from(["redoubt-proxy"]).is_err(),
            "without a journal there is nothing to do"
        );
        let bad = ["redoubt-proxy", "--endpoints", "a:1", "--lease-ms", "3"];
        assert!(Config::try_parse_from(bad).is_err());
    }

    #[test]
    fn a_client_with_its_own_server_connection_takes_two_files() {
        let config = |line: &str| {
            let args = ["redoubt-proxy", "--endpoints", "a:1"].into_iter();
            Config::try_parse_from(args.chain(line.split_whitespace())).unwrap()
        };
        let own = config("--clients-max 1000 --shared-upstream false");
        let shared = config("--clients-max 1000");
        for (files, of_own, of_shared) in [
            (None, 1000, 1000),
            (Some(2000 + OTHER_OPEN_FILES), 1000, 1000),
            (Some(1999 + OTHER_OPEN_FILES), 999, 1000),
            (Some(1200 + OTHER_OPEN_FILES), 600, 800),
            (Some(OTHER_OPEN_FILES), 0, 0),
            (Some(1), 0, 0),
        ] {
            assert_eq!(own.clients_that_fit(files), of_own, "{files:?} files");
            assert_eq!(shared.clients_that_fit(files), of_shared, "{files:?} files");
            if let Some(files) = files {
                let taken = shared.own_that_fit(Some(files)) + of_shared;
                assert!(
                    taken <= files.saturating_sub(OTHER_OPEN_FILES) as usize,
                    "{files}"
                );
            }
        }
    }
}
