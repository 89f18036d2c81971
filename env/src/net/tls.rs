//! TLS, outermost: what is above it sees a [`Conn`] like any other.
//!
//! Decides which certificates are shown and taken. Promises that a write is told as done only once all of it is with the
//! operating system, as without TLS, and that files are used as they were when they were last read as a whole: a
//! half-written certificate changes nothing. Must not know what is spoken.

use super::{BoxFuture, Conn, Listener, Net};
use crate::files::{Files, read_small};
use redoubt_types::limits::PEM_BYTES_MAX;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A certificate with what vouches for it behind it, and its key: PEM files.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// What a server shows, and whom it takes.
#[derive(Clone, Debug)]
pub struct ServerFiles {
    /// What it shows.
    pub identity: Identity,
    /// Who must have signed a client's certificate, `None` if clients need none.
    pub client_ca: Option<PathBuf>,
}

/// Whom a client takes, and what it shows.
#[derive(Clone, Debug)]
pub struct ClientFiles {
    /// Who must have signed a server's certificate.
    pub ca: PathBuf,
    /// What it shows to a server that asks.
    pub identity: Option<Identity>,
}

/// The side that accepts. Cheap to clone.
#[derive(Clone)]
pub struct TlsServer {
    files: Arc<dyn Files>,
    from: ServerFiles,
    config: Arc<Mutex<Arc<ServerConfig>>>,
}

impl TlsServer {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with which of them.
    pub fn new(files: Arc<dyn Files>, from: ServerFiles) -> io::Result<Self> {
        let config = Arc::new(Mutex::new(server_config(&*files, &from)?));
        Ok(TlsServer { files, from, config })
    }

    /// Reads the files again, for connections from here on.
    ///
    /// # Errors
    /// What is wrong with which of them: what was read before is used on.
    pub fn read_again(&self) -> io::Result<()> {
        let config = server_config(&*self.files, &self.from)?;
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// The handshake on an accepted connection. The caller sets the deadline.
    pub fn accept(&self, conn: Box<dyn Conn>) -> BoxFuture<'static, io::Result<Box<dyn Conn>>> {
        let config = Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner));
        Box::pin(async move {
            let stream = TlsAcceptor::from(config).accept(conn).await?;
            Ok(Box::new(Whole { stream, taken: 0 }) as Box<dyn Conn>)
        })
    }
}

/// A network whose connections are TLS. It listens as the one below does. Cheap to clone.
#[derive(Clone)]
pub struct TlsNet {
    below: Arc<dyn Net>,
    files: Arc<dyn Files>,
    from: ClientFiles,
    /// What the server's certificate must name; the host that is connected to if nothing is said.
    name: Option<String>,
    config: Arc<Mutex<Arc<ClientConfig>>>,
}

impl TlsNet {
    /// Over `below`; reads the files.
    ///
    /// # Errors
    /// What is wrong with which of them.
    pub fn new(
        below: Arc<dyn Net>,
        files: Arc<dyn Files>,
        from: ClientFiles,
        name: Option<String>,
    ) -> io::Result<Self> {
        let config = Arc::new(Mutex::new(client_config(&*files, &from)?));
        Ok(TlsNet {
            below,
            files,
            from,
            name,
            config,
        })
    }

    /// Reads the files again, for connections from here on.
    ///
    /// # Errors
    /// What is wrong with which of them: what was read before is used on.
    pub fn read_again(&self) -> io::Result<()> {
        let config = client_config(&*self.files, &self.from)?;
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }
}

impl Net for TlsNet {
    fn connect<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Conn>>> {
        let config = Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner));
        Box::pin(async move {
            let host = self.name.as_deref().unwrap_or_else(|| host_of(addr));
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            let conn = self.below.connect(addr).await?;
            let stream = TlsConnector::from(config).connect(name, conn).await?;
            Ok(Box::new(Whole { stream, taken: 0 }) as Box<dyn Conn>)
        })
    }

    fn listen<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        self.below.listen(addr)
    }
}

/// The host of `host:port`, an IPv6 address without its brackets.
fn host_of(addr: &str) -> &str {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// A TLS stream that tells a write as done once nothing of it is left in the session. The bytes of a write that was not
/// done must be given again, with others behind them at most.
struct Whole<S> {
    stream: S,
    /// How many of the bytes that are given next the session has already.
    taken: usize,
}

impl<S: AsyncRead + Unpin> AsyncRead for Whole<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Whole<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.taken == 0 {
            self.taken = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        Poll::Ready(Ok(std::mem::take(&mut self.taken).min(buf.len())))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn server_config(files: &dyn Files, from: &ServerFiles) -> io::Result<Arc<ServerConfig>> {
    let provider = Arc::new(default_provider());
    let (certs, key) = identity(files, &from.identity)?;
    let begun = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let begun = match &from.client_ca {
        None => begun.with_no_client_auth(),
        Some(ca) => {
            let roots = Arc::new(roots(files, ca)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            begun.with_client_cert_verifier(verifier.map_err(|e| of(ca, e))?)
        }
    };
    let config = begun.with_single_cert(certs, key);
    Ok(Arc::new(config.map_err(|e| of(&from.identity.cert, e))?))
}

fn client_config(files: &dyn Files, from: &ClientFiles) -> io::Result<Arc<ClientConfig>> {
    let begun = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots(files, &from.ca)?);
    let config = match &from.identity {
        None => begun.with_no_client_auth(),
        Some(own) => {
            let (certs, key) = identity(files, own)?;
            begun
                .with_client_auth_cert(certs, key)
                .map_err(|e| of(&own.cert, e))?
        }
    };
    Ok(Arc::new(config))
}

type CertsAndKey = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(files: &dyn Files, from: &Identity) -> io::Result<CertsAndKey> {
    let key = read(files, &from.key)?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|e| of(&from.key, e))?;
    Ok((certificates(files, &from.cert)?, key))
}

fn certificates(files: &dyn Files, path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let text = read(files, path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match all.map_err(|e| of(path, e))? {
        none if none.is_empty() => Err(of(path, "there is no certificate in it")),
        all => Ok(all),
    }
}

fn roots(files: &dyn Files, path: &Path) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for cert in certificates(files, path)? {
        roots.add(cert).map_err(|e| of(path, e))?;
    }
    Ok(roots)
}

fn read(files: &dyn Files, path: &Path) -> io::Result<Vec<u8>> {
    read_small(files, path, PEM_BYTES_MAX).map_err(|e| of(path, e))
}

fn of(path: &Path, error: impl ToString) -> io::Error {
    io::Error::other(format!("{}: {}", path.display(), error.to_string()))
}
