//! Where the server is, and as whom the proxy speaks to it.
//!
//! Decides how every connection of the proxy's own begins: at which address, and authenticated or not. Promises that a
//! password is never shown, in an error or a log. Must not know what is asked on a connection.

use redoubt_env::Env;
use redoubt_env::files::read_small;
use redoubt_env::net::{Conn, Net};
use redoubt_types::BootTime;
use redoubt_types::limits::{PASSWORD_BYTES_MAX, REFUSED_LOGIN_TOLD_EVERY};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The user that every connection has which does not authenticate.
pub const DEFAULT_USER: &str = "default";

/// The way to the server; cheap to clone.
#[derive(Clone)]
pub struct Upstream {
    address: String,
    login: Option<Login>,
    /// The network that leads there, if it is another than everything else takes.
    net: Option<Arc<dyn Net>>,
}

/// Whom the proxy's own connections authenticate as; cheap to clone.
#[derive(Clone)]
pub struct Login {
    shared: Arc<Shared>,
}

struct Shared {
    user: String,
    /// Where the password is read again once the server has refused it.
    file: Option<PathBuf>,
    state: Mutex<State>,
}

struct State {
    password: String,
    /// When a refusal was last told.
    told_at: Option<BootTime>,
}

impl Upstream {
    /// The server at `address` (`host:port` or `unix:PATH`), spoken to as `login`, over `net` if that is another than the
    /// environment's.
    pub fn new(address: String, login: Option<Login>, net: Option<Arc<dyn Net>>) -> Self {
        Upstream { address, login, net }
    }

    /// A new connection. The caller sets the deadline.
    ///
    /// # Errors
    /// What the network says.
    pub(super) async fn connect(&self, env: &Env) -> io::Result<Box<dyn Conn>> {
        let net = self.net.as_ref().unwrap_or_else(|| env.net());
        net.connect(&self.address).await
    }

    /// `host:port` or `unix:PATH`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whom the proxy's connections authenticate as, `None` if they don't.
    pub fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }

    /// The user that the proxy's own connections have.
    pub fn own_user(&self) -> &str {
        self.login.as_ref().map_or(DEFAULT_USER, Login::user)
    }
}

impl From<String> for Upstream {
    fn from(address: String) -> Self {
        Upstream::new(address, None, None)
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("address", &self.address)
            .field("login", &self.login)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl Login {
    /// A user whose password is known.
    pub fn new(user: String, password: String) -> Self {
        Self::with(user, password, None)
    }

    /// A user whose password stands in a file, alone but for the end of its line. It is read again whenever the server
    /// has refused it, so that a password can be changed while the proxy runs: in the file, then at the server.
    ///
    /// # Errors
    /// When there is none in it.
    pub fn from_file(env: &Env, user: String, file: &Path) -> io::Result<Self> {
        let password = read_password(env, file)?;
        Ok(Self::with(user, password, Some(file.to_owned())))
    }

    fn with(user: String, password: String, file: Option<PathBuf>) -> Self {
        let state = State {
            password,
            told_at: None,
        };
        Login {
            shared: Arc::new(Shared {
                user,
                file,
                state: Mutex::new(state),
            }),
        }
    }

    /// Its name.
    pub fn user(&self) -> &str {
        &self.shared.user
    }

    /// Its password.
    pub(super) fn password(&self) -> String {
        self.lock().password.clone()
    }

    /// The server has answered AUTH with `error`. Tells people, at most every so often, and reads the password again.
    pub(super) fn refused(&self, env: &Env, error: &str) -> io::Error {
        let user = &self.shared.user;
        let mut state = self.lock();
        if let Some(file) = &self.shared.file {
            match read_password(env, file) {
                Ok(password) => state.password = password,
                Err(error) => {
                    tracing::error!(%error, file = %file.display(), "the server's password can't be read")
                }
            }
        }
        let (now, told_at) = (env.now(), state.told_at);
        if told_at.is_none_or(|at| now.since(at) >= REFUSED_LOGIN_TOLD_EVERY) {
            state.told_at = Some(now);
            tracing::error!(
                user,
                "the server does not let the proxy in: {error}. Give the name and the password of a user that it has \
                 (--upstream-user, --upstream-password-file), or change the user there: ACL SETUSER {user} on >PASSWORD …"
            );
        }
        io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("the server does not let the user {user} in: {error}"),
        )
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Login").field(&self.shared.user).finish()
    }
}

fn read_password(env: &Env, file: &Path) -> io::Result<String> {
    let bytes = read_small(&**env.files(), file, PASSWORD_BYTES_MAX)?;
    let text = String::from_utf8(bytes).map_err(io::Error::other)?;
    let password = text.trim_end_matches(['\r', '\n']);
    let why = match () {
        () if password.is_empty() => "is empty",
        () if password.contains('\n') => "has more than one line",
        () => return Ok(password.to_owned()),
    };
    Err(io::Error::other(format!("the file {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login_of(text: &str) -> io::Result<(Login, tempfile::NamedTempFile)> {
        let file = tempfile::NamedTempFile::new()?;
        write(file.path(), text);
        let login = Login::from_file(&Env::real(), "u".to_owned(), file.path())?;
        Ok((login, file))
    }

    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    fn write(path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
    }

    #[tokio::test]
    async fn a_password_is_a_files_only_line() {
        for text in ["secret", "secret\n", "secret\r\n"] {
            assert_eq!(login_of(text).unwrap().0.password(), "secret");
        }
        assert_eq!(login_of(" with spaces \n").unwrap().0.password(), " with spaces ");
        for text in ["", "\n", "two\nlines", &"x".repeat(PASSWORD_BYTES_MAX + 1)] {
            assert!(login_of(text).is_err(), "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_refused_password_is_read_again_and_never_shown() {
        let (login, file) = login_of("old-secret").unwrap();
        write(file.path(), "new-secret\n");
        assert_eq!(login.password(), "old-secret");
        let error = login.refused(&Env::real(), "WRONGPASS …");
        assert_eq!(login.password(), "new-secret");
        let upstream = Upstream::new("h:1".to_owned(), Some(login), None);
        let shown = format!("{error} {error:?} {upstream:?} {upstream}");
        assert!(!shown.contains("secret"), "{shown}");
    }
}
