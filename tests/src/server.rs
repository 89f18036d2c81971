//! A stock redis-server of a test's own, and connections.

use redis::aio::MultiplexedConnection;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// A redis-server that ends with its handle.
pub struct Server {
    /// Its port on loopback.
    pub port: u16,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Server {
    /// Starts an empty server with further arguments.
    pub async fn start(args: &[&str]) -> Server {
        Self::start_debuggable(Path::new("redis-server"), args).await
    }

    /// Starts an empty server that is `program`, of a version that has DEBUG DIGEST only when it is allowed to.
    pub async fn start_debuggable(program: &Path, args: &[&str]) -> Server {
        let args = [&["--enable-debug-command", "local"], args].concat();
        Self::start_program(program, &args).await
    }

    /// Starts an empty server that is `program`, of any version, with further arguments.
    pub async fn start_program(program: &Path, args: &[&str]) -> Server {
        Self::start_with_password(program, args, "").await
    }

    /// The same of one whose default user's password is to be `password`.
    pub async fn start_with_password(program: &Path, args: &[&str], password: &str) -> Server {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("a free port")
            .port();
        let password_args: &[&str] = &["--requirepass", password][..if password.is_empty() { 0 } else { 2 }];
        let child = Command::new(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .arg("--dir")
            .arg(dir.path())
            .args(args)
            .args(password_args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|e| panic!("{} does not start: {e}", program.display()));
        let server = Server {
            port,
            child,
            _dir: dir,
        };
        crate::eventually("the server answers", Duration::from_secs(10), || async {
            let mut conn = try_connect_as(server.port, "", password).await?;
            redis::cmd("PING").query_async::<String>(&mut conn).await
        })
        .await;
        server
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the server runs")
    }

    /// A connection to it.
    pub async fn connect(&self) -> MultiplexedConnection {
        connect(self.port).await
    }
}

/// A connection to a port on loopback.
///
/// # Panics
/// When there is none to be had.
pub async fn connect(port: u16) -> MultiplexedConnection {
    try_connect(port)
        .await
        .unwrap_or_else(|e| panic!("can't connect to port {port}: {e}"))
}

/// Sets a parameter of a server.
///
/// # Panics
/// When it is refused.
pub async fn config_set(server: &mut MultiplexedConnection, name: &str, value: &str) {
    let mut set = redis::cmd("CONFIG");
    let told = set.arg(&["SET", name, value]).exec_async(server).await;
    told.unwrap_or_else(|e| panic!("CONFIG SET {name} {value}: {e}"));
}

/// A connection to a port on loopback. Its answers may take as long as the longest deadline of a proxy.
///
/// # Errors
/// What the client library says.
pub async fn try_connect(port: u16) -> redis::RedisResult<MultiplexedConnection> {
    try_connect_as(port, "", "").await
}

/// The same as a user of the server; one without a name is the default user, and without a password nobody.
///
/// # Errors
/// What the client library says.
pub async fn try_connect_as(
    port: u16,
    user: &str,
    password: &str,
) -> redis::RedisResult<MultiplexedConnection> {
    let login = match password {
        "" => String::new(),
        password => format!("{user}:{password}@"),
    };
    let client = redis::Client::open(format!("redis://{login}127.0.0.1:{port}/"))?;
    let config = redis::AsyncConnectionConfig::new()
        .set_response_timeout(Duration::from_secs(100))
        .set_connection_timeout(Duration::from_secs(20));
    client.get_multiplexed_async_connection_with_config(&config).await
}

/// A field of an INFO section.
///
/// # Panics
/// When the server does not answer or has no such field.
pub async fn info_field(conn: &mut MultiplexedConnection, section: &str, field: &str) -> String {
    let text: String = redis::cmd("INFO")
        .arg(section)
        .query_async(conn)
        .await
        .expect("INFO");
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("INFO {section} has no {field}: {text}"))
        .to_owned()
}
