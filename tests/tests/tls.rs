//! TLS towards clients and towards the server, against the server's own TLS and `redis-cli`.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

#[allow(dead_code, reason = "not all helpers are needed here")]
mod standby;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use redoubt_env::Env;
use redoubt_env::net::Net;
use redoubt_env::net::tls::{ClientFiles, Identity, TlsNet};
use redoubt_tests::{DevCluster, Options, Server, eventually, free_base, wait_equal};
use rustix::process::Signal;
use standby::{Standby, unserved};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(30);

/// An authority, and what it has signed: files.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
    name: &'static str,
}

impl Authority {
    fn new(dir: &Path, name: &'static str) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        std::fs::write(dir.join(format!("{name}.ca")), issuer.pem()).expect("a file");
        Authority {
            issuer,
            dir: dir.to_owned(),
            name,
        }
    }

    fn ca(&self) -> String {
        path(&self.dir.join(format!("{}.ca", self.name)))
    }

    /// A certificate for loopback and its key, in the files that `whose` names.
    fn sign(&self, whose: &str) -> (String, String) {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, whose);
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        let (cert_file, key_file) = (
            self.dir.join(format!("{whose}.crt")),
            self.dir.join(format!("{whose}.key")),
        );
        std::fs::write(&cert_file, cert.pem()).expect("a file");
        std::fs::write(&key_file, key.serialize_pem()).expect("a file");
        (path(&cert_file), path(&key_file))
    }
}

fn path(of: &Path) -> String {
    of.to_string_lossy().into_owned()
}

/// What `redis-cli` answers over TLS, or says about the connection.
async fn cli(port: u16, tls: &[&str], command: &[&str]) -> String {
    let mut cli = tokio::process::Command::new("redis-cli");
    cli.args(["-p", &port.to_string(), "--tls"])
        .args(tls)
        .args(command);
    let output = tokio::time::timeout(SOON, cli.kill_on_drop(true).output()).await;
    let output = output.expect("redis-cli ends").expect("redis-cli is there");
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).trim().to_owned()
}

/// Everything there is to a cell that speaks TLS on both sides, beside the files of its authority.
struct Cell {
    cluster: DevCluster,
    server: Server,
    proxy: Standby,
    authority: Authority,
    /// Where clients connect over TLS.
    port: u16,
    /// How the proxy's clients prove themselves.
    client: (String, String),
    dir: tempfile::TempDir,
}

impl Cell {
    async fn start(further: &[&str]) -> Cell {
        let cluster = unserved(Options::default()).await;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let authority = Authority::new(dir.path(), "first");
        let (server_cert, server_key) = authority.sign("server");
        let (proxy_cert, proxy_key) = authority.sign("proxy");
        let (link_cert, link_key) = authority.sign("link");
        let client = authority.sign("client");
        let (ca, replay) = (authority.ca(), cluster.port("replay-1").to_string());
        // The server's is one that keeps the base from being given out again.
        let base = free_base();
        let (port, tls_port) = (base + 1, base + 301);
        let tls_port_arg = tls_port.to_string();
        let mut args = vec![
            "--replicaof",
            "127.0.0.1",
            &replay,
            "--enable-debug-command",
            "local",
        ];
        args.extend([
            "--tls-port",
            &tls_port_arg,
            "--tls-ca-cert-file",
            &ca,
            "--tls-auth-clients",
            "yes",
        ]);
        args.extend(["--tls-cert-file", &server_cert, "--tls-key-file", &server_key]);
        let server = Server::start_program(Path::new("redis-server"), &args).await;
        let listen = format!("127.0.0.1:{port}");
        let mut args = vec![
            "--tls-listen",
            &listen,
            "--tls-cert",
            &proxy_cert,
            "--tls-key",
            &proxy_key,
            "--tls-client-ca",
            &ca,
        ];
        args.extend([
            "--upstream-tls",
            "--upstream-ca",
            &ca,
            "--upstream-cert",
            &link_cert,
            "--upstream-key",
            &link_key,
        ]);
        args.extend(further);
        let upstream = format!("127.0.0.1:{tls_port}");
        let proxy = Standby::start_before(&cluster, &upstream, None, &args).await;
        let cell = Cell {
            cluster,
            server,
            proxy,
            authority,
            port,
            client,
            dir,
        };
        eventually("it serves", SOON, || async {
            match cell.cli(&["PING"]).await {
                pong if pong == "PONG" => Ok(()),
                other => Err(format!("{other}\n{}", cell.proxy.log())),
            }
        })
        .await;
        cell
    }

    async fn cli(&self, command: &[&str]) -> String {
        let ca = self.authority.ca();
        cli(
            self.port,
            &["--cacert", &ca, "--cert", &self.client.0, "--key", &self.client.1],
            command,
        )
        .await
    }

    fn net(&self) -> TlsNet {
        let env = Env::real();
        let files = ClientFiles {
            ca: self.authority.ca().into(),
            identity: Some(Identity {
                cert: self.client.0.clone().into(),
                key: self.client.1.clone().into(),
            }),
        };
        TlsNet::new(Arc::clone(env.net()), Arc::clone(env.files()), files, None).expect("the files are well")
    }
}

#[tokio::test]
async fn a_cell_speaks_tls_to_its_clients_and_to_its_server() {
    let cell = Cell::start(&[]).await;
    assert_eq!(cell.cli(&["SET", "k", "v"]).await, "OK");
    assert_eq!(cell.cli(&["GET", "k"]).await, "v");
    // The server's TLS port has the proxy's connections, capture's among them: it was told no other.
    let mut direct = cell.server.connect().await;
    let list: String = redis::cmd("CLIENT")
        .arg(&["LIST", "TYPE", "replica"])
        .query_async(&mut direct)
        .await
        .expect("CLIENT LIST");
    assert_eq!(list.lines().count(), 1, "{list}");
    // Cut, it is made again.
    redis::cmd("CLIENT")
        .arg(&["KILL", "TYPE", "replica"])
        .exec_async(&mut direct)
        .await
        .expect("CLIENT KILL");
    assert_eq!(cell.cli(&["SET", "k2", "v"]).await, "OK");

    // Whom the authority does not know gets nowhere, on either side.
    let stranger = Authority::new(cell.dir.path(), "stranger");
    let (cert, key) = stranger.sign("stranger");
    let ca = cell.authority.ca();
    for tls in [
        &["--cacert", &ca][..],
        &["--cacert", &ca, "--cert", &cert, "--key", &key],
        &["--cacert", &stranger.ca()],
    ] {
        let said = cli(cell.port, tls, &["PING"]).await;
        assert!(!said.contains("PONG"), "{tls:?}: {said}");
    }

    // Large commands and answers, in a pipeline whose answers are taken late.
    let mut conn = cell
        .net()
        .connect(&format!("localhost:{}", cell.port))
        .await
        .expect("it is taken");
    let value = "v".repeat(1_000_000);
    let set = format!("*3\r\n$3\r\nSET\r\n$5\r\nlarge\r\n$1000000\r\n{value}\r\n");
    conn.write_all(set.as_bytes()).await.expect("it is sent");
    conn.write_all("GET large\r\n".repeat(20).as_bytes())
        .await
        .expect("it is sent");
    conn.flush().await.expect("it is sent");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut expected = b"+OK\r\n".to_vec();
    for _ in 0..20 {
        expected.extend(format!("$1000000\r\n{value}\r\n").as_bytes());
    }
    let mut got = vec![0; expected.len()];
    tokio::time::timeout(SOON, conn.read_exact(&mut got))
        .await
        .expect("in time")
        .expect("all of it");
    assert!(got == expected, "the answers are not what was written");
    drop(conn);

    let rebuilt = cell.cluster.rebuilt().await;
    wait_equal(&mut direct, &mut rebuilt.connect().await).await;
    let (status, log) = cell.proxy.stop().await;
    assert!(status.success(), "{log}");
}

#[tokio::test]
async fn who_is_slow_at_a_handshake_keeps_nobody_waiting() {
    let cell = Cell::start(&[]).await;
    let mut slow = Vec::new();
    for n in 0..100 {
        let mut conn = TcpStream::connect(("127.0.0.1", cell.port))
            .await
            .expect("it is accepted");
        if n % 2 == 0 {
            conn.write_all(b"\x16\x03\x01").await.expect("it is sent");
        }
        slow.push(conn);
    }
    let began = Instant::now();
    assert_eq!(cell.cli(&["SET", "k", "v"]).await, "OK");
    assert!(
        began.elapsed() < redoubt_types::limits::HANDSHAKE_DEADLINE,
        "{:?}",
        began.elapsed()
    );
    for mut conn in slow {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(SOON, conn.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "a handshake has no end");
    }
    // What is no handshake ends at once, and the plain port is there beside.
    let mut odd = TcpStream::connect(("127.0.0.1", cell.port))
        .await
        .expect("it is accepted");
    odd.write_all(b"PING\r\n").await.expect("it is sent");
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(SOON, odd.read_to_end(&mut rest))
        .await
        .expect("it ends");
    assert!(!rest.starts_with(b"+PONG"));
    let plain = redoubt_tests::try_connect(cell.proxy.port).await;
    plain.expect("the plain port is open");
}

#[tokio::test]
async fn certificates_are_read_again_at_sighup() {
    let cell = Cell::start(&[]).await;
    let mut stays = cell
        .net()
        .connect(&format!("127.0.0.1:{}", cell.port))
        .await
        .expect("it is taken");
    let next = Authority::new(cell.dir.path(), "next");
    let next_ca = next.ca();
    let with_next = |command: &'static str| {
        let (cert, key, next_ca) = (cell.client.0.clone(), cell.client.1.clone(), next_ca.clone());
        let port = cell.port;
        async move {
            cli(
                port,
                &["--cacert", &next_ca, "--cert", &cert, "--key", &key],
                &[command],
            )
            .await
        }
    };
    assert!(!with_next("PING").await.contains("PONG"));
    // A half-written one changes nothing.
    std::fs::write(
        cell.dir.path().join("proxy.crt"),
        "-----BEGIN CERTIFICATE-----\nMII",
    )
    .expect("a file");
    cell.proxy.signal(Signal::HUP);
    cell.proxy
        .says("what was read before is used on", "panicked")
        .await;
    assert_eq!(cell.cli(&["PING"]).await, "PONG");
    next.sign("proxy");
    cell.proxy.signal(Signal::HUP);
    eventually("the new certificate is shown", SOON, || async {
        match with_next("PING").await {
            pong if pong == "PONG" => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert!(
        !cell.cli(&["PING"]).await.contains("PONG"),
        "the old one is shown no more"
    );
    // Connections that are there stay.
    stays.write_all(b"PING\r\n").await.expect("it is sent");
    let mut pong = [0; 7];
    tokio::time::timeout(SOON, stays.read_exact(&mut pong))
        .await
        .expect("in time")
        .expect("it is answered");
    assert_eq!(&pong, b"+PONG\r\n");
}
