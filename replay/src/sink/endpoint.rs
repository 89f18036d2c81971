//! Where the target is and as whom it is spoken to, from a URL. A password is never shown.

use redoubt_env::Env;
use redoubt_env::net::tls::{ClientFiles, TlsNet};
use redoubt_env::net::{Net, UNIX};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// The port of a URL that names none.
const PORT: u16 = 6379;

/// A target: `redis://[[user]:password@]host[:port][/0]`, the same with `rediss://`, or `unix:///path/to/socket`.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `host:port` or `unix:PATH`.
    address: String,
    tls: bool,
    user: Option<String>,
    password: Option<String>,
}

/// Why a text names no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Another scheme, or none.
    #[error("it must begin with redis://, rediss:// or unix://")]
    Scheme,
    /// No host.
    #[error("it names no host")]
    NoHost,
    /// The port is no number.
    #[error("its port is no number from 1 to 65535")]
    Port,
    /// A database other than 0.
    #[error("it may name no database but 0: the stream names the databases, and the position is kept in 0")]
    Database,
    /// A % that is not followed by two hexadecimal digits, or what they give is no UTF-8.
    #[error("its user or password has a % that is not followed by two hexadecimal digits")]
    Escape,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let (scheme, rest) = text.split_once("://").ok_or(EndpointError::Scheme)?;
        let tls = match scheme {
            "redis" => false,
            "rediss" => true,
            "unix" if rest.is_empty() => return Err(EndpointError::NoHost),
            "unix" => {
                return Ok(Endpoint {
                    address: format!("{UNIX}{rest}"),
                    tls: false,
                    user: None,
                    password: None,
                });
            }
            _ => return Err(EndpointError::Scheme),
        };
        let (login, place) = match rest.rsplit_once('@') {
            Some((login, place)) => (Some(login), place),
            None => (None, rest),
        };
        let (user, password) = match login.map(|l| l.split_once(':').unwrap_or((l, ""))) {
            Some((user, password)) => (Some(unescaped(user)?), Some(unescaped(password)?)),
            None => (None, None),
        };
        let (host, db) = place.split_once('/').unwrap_or((place, ""));
        if !matches!(db, "" | "0") {
            return Err(EndpointError::Database);
        }
        // The colons of an IPv6 address stand in brackets.
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                (host, port.parse().map_err(|_| EndpointError::Port)?)
            }
            _ => (host, PORT),
        };
        if host.is_empty() {
            return Err(EndpointError::NoHost);
        }
        if port == 0 {
            return Err(EndpointError::Port);
        }
        Ok(Endpoint {
            address: format!("{host}:{port}"),
            tls,
            user: user.filter(|u| !u.is_empty()),
            password: password.filter(|p| !p.is_empty()),
        })
    }
}

fn unescaped(text: &str) -> Result<String, EndpointError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest.get(..2).filter(|d| d.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|d| std::str::from_utf8(d).ok());
        let byte = digits.and_then(|d| u8::from_str_radix(d, 16).ok());
        bytes.push(byte.ok_or(EndpointError::Escape)?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| EndpointError::Escape)
}

impl Endpoint {
    /// `host:port` or `unix:PATH`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The AUTH that a connection begins with, if any.
    pub(super) fn auth(&self) -> Option<Vec<&[u8]>> {
        let password = self.password.as_ref()?.as_bytes();
        Some(match &self.user {
            Some(user) => vec![b"AUTH", user.as_bytes(), password],
            None => vec![b"AUTH", password],
        })
    }

    /// The network that leads there. `ca` has signed the server's certificate.
    ///
    /// # Errors
    /// When TLS is wanted and `ca` is missing, or makes no sense.
    pub fn net(&self, env: &Env, ca: Option<PathBuf>) -> io::Result<Arc<dyn Net>> {
        match ca {
            None if self.tls => Err(io::Error::other(
                "rediss:// needs --into-ca, the certificates of who has signed the server's",
            )),
            Some(ca) if self.tls => {
                let files = ClientFiles { ca, identity: None };
                let net = TlsNet::new(Arc::clone(env.net()), Arc::clone(env.files()), files, None)?;
                Ok(Arc::new(net))
            }
            _ => Ok(Arc::clone(env.net())),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoint").field(&self.address).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, bool, Vec<String>) {
        let endpoint: Endpoint = text.parse().unwrap();
        let auth = endpoint.auth().unwrap_or_default();
        let words = auth
            .iter()
            .map(|w| String::from_utf8_lossy(w).into_owned())
            .collect();
        (endpoint.address.clone(), endpoint.tls, words)
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn urls_are_read() {
        assert_eq!(parsed("redis://h"), ("h:6379".to_owned(), false, vec![]));
        assert_eq!(parsed("rediss://h:1/0"), ("h:1".to_owned(), true, vec![]));
        assert_eq!(parsed("redis://[::1]:7"), ("[::1]:7".to_owned(), false, vec![]));
        assert_eq!(parsed("redis://[::1]"), ("[::1]:6379".to_owned(), false, vec![]));
        let (address, _, auth) = parsed("redis://u:p%40%3a:@h:2");
        assert_eq!((address.as_str(), auth), ("h:2", words(&["AUTH", "u", "p@::"])));
        assert_eq!(parsed("redis://:secret@h").2, words(&["AUTH", "secret"]));
        assert_eq!(parsed("unix:///run/r.sock").0, "unix:/run/r.sock");
    }

    #[test]
    fn what_is_no_url_is_told_so() {
        for (text, error) in [
            ("h:1", EndpointError::Scheme),
            ("http://h", EndpointError::Scheme),
            ("redis://", EndpointError::NoHost),
            ("redis://u:p@", EndpointError::NoHost),
            ("redis://h:x", EndpointError::Port),
            ("redis://h:0", EndpointError::Port),
            ("redis://h/1", EndpointError::Database),
            ("redis://u:%4@h", EndpointError::Escape),
            ("unix://", EndpointError::NoHost),
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let endpoint: Endpoint = "redis://u:secret@h".parse().unwrap();
        assert!(!format!("{endpoint:?}").contains("secret"));
    }
}
