//! A server that wants a password: the proxy's own connections have a user of their own, clients authenticate as with the
//! plain server.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

#[allow(dead_code, reason = "not all helpers are needed here")]
mod standby;

use redis::aio::MultiplexedConnection;
use redoubt_tests::{
    DevCluster, Options, Raw, Server, assert_catches, eventually, stock, try_connect_as, wait_equal,
};
use standby::{Standby, unserved};
use std::path::{Path, PathBuf};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);
/// A promotion after a proxy was killed, whose lease has to end.
const AGAIN: Duration = Duration::from_secs(60);
const PASSWORD: &str = "of-the-default-user";
const OWN_PASSWORD: &str = "of-the-proxys-user";
/// As docs/operations.md says.
const RIGHTS: &str = "+info +client|info +config|get +config|set +command +replicaof +replconf +psync +ping";

/// A cell whose server has a password, beside those of `redoubt dev up`.
struct Cell {
    server: Server,
    proxy: Standby,
    password_file: PathBuf,
    _dir: tempfile::TempDir,
}

impl Cell {
    async fn start(cluster: &DevCluster, program: &Path, own_password: &str, further: &[&str]) -> Cell {
        let replay = cluster.port("replay-1").to_string();
        let own = format!(">{OWN_PASSWORD}");
        let mut args = vec!["--replicaof", "127.0.0.1", &replay, "--masterauth", "whatever"];
        args.extend(["--enable-debug-command", "local", "--user", "redoubt", "on", &own]);
        args.extend(RIGHTS.split(' '));
        let server = Server::start_with_password(program, &args, PASSWORD).await;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let password_file = dir.path().join("password");
        std::fs::write(&password_file, format!("{own_password}\n")).expect("a file");
        let file = password_file.to_string_lossy().into_owned();
        let args = [
            "--upstream-user",
            "redoubt",
            "--upstream-password-file",
            &file,
            "--lease-ms",
            "1000",
        ];
        let proxy = Standby::start_with(cluster, server.port, None, &[&args[..], further].concat()).await;
        Cell {
            server,
            proxy,
            password_file,
            _dir: dir,
        }
    }

    /// A client that has authenticated, once the cell serves.
    async fn client(&self) -> MultiplexedConnection {
        eventually("a client is served", AGAIN, || async {
            let mut client = try_connect_as(self.proxy.port, "", PASSWORD).await?;
            redis::cmd("PING").query_async::<String>(&mut client).await?;
            redis::RedisResult::Ok(client)
        })
        .await
    }

    /// The server itself.
    async fn direct(&self) -> MultiplexedConnection {
        let direct = try_connect_as(self.server.port, "", PASSWORD).await;
        direct.expect("the server takes its password")
    }
}

async fn write(client: &mut MultiplexedConnection, key: &str, count: usize) {
    for _ in 0..count {
        redis::cmd("INCR")
            .arg(key)
            .exec_async(client)
            .await
            .expect("it is acknowledged");
    }
}

async fn value(client: &mut MultiplexedConnection, key: &str) -> usize {
    redis::cmd("GET").arg(key).query_async(client).await.expect("GET")
}

#[tokio::test]
async fn cells_whose_servers_have_passwords_serve_and_fail_over() {
    let cluster = unserved(Options::default()).await;
    let plain = Path::new("redis-server");
    let first = Cell::start(&cluster, plain, OWN_PASSWORD, &[]).await;
    let mut client = first.client().await;
    write(&mut client, "n", 200).await;
    assert_eq!(
        redis::cmd("ACL")
            .arg("WHOAMI")
            .query_async::<String>(&mut client)
            .await,
        Ok("default".to_owned())
    );
    // Users are the servers' own, and go through; not the proxy's.
    let setuser = |name: &'static str| {
        redis::cmd("ACL")
            .arg(&["SETUSER", name, "on", ">pw", "~a*", "+get", "+set", "+ping"])
            .to_owned()
    };
    setuser("app")
        .exec_async(&mut client)
        .await
        .expect("users of the clients' own may be set");
    let refused = setuser("redoubt")
        .exec_async(&mut client)
        .await
        .expect_err("not that one");
    assert!(refused.to_string().contains("refused by Redoubt"), "{refused}");
    let mut app = try_connect_as(first.proxy.port, "app", "pw")
        .await
        .expect("it may authenticate");
    redis::cmd("SET")
        .arg(&["a", "1"])
        .exec_async(&mut app)
        .await
        .expect("it may write this");
    let forbidden = redis::cmd("SET")
        .arg(&["n", "1"])
        .exec_async(&mut app)
        .await
        .expect_err("and not that");
    assert!(
        forbidden.to_string().to_uppercase().contains("NOPERM"),
        "{forbidden}"
    );
    // The password of the proxy's user changes while it serves: what it has goes on, what is new reads the file again.
    let mut direct = first.direct().await;
    std::fs::write(&first.password_file, "another").expect("a file");
    redis::cmd("ACL")
        .arg(&["SETUSER", "redoubt", "resetpass", ">another"])
        .exec_async(&mut direct)
        .await
        .expect("the server's admin may");
    write(&mut first.client().await, "n", 10).await;
    // Cut links authenticate again.
    for filter in [["TYPE", "replica"], ["USER", "redoubt"]] {
        redis::cmd("CLIENT")
            .arg("KILL")
            .arg(&filter)
            .exec_async(&mut direct)
            .await
            .expect("CLIENT KILL");
        write(&mut first.client().await, "n", 10).await;
    }

    let second = Cell::start(&cluster, plain, OWN_PASSWORD, &["--shared-upstream", "true"]).await;
    let in_step = || async {
        let (mut a, mut b) = (first.direct().await, second.direct().await);
        let (a, b) = (value(&mut a, "n").await, value(&mut b, "n").await);
        if (a, b) == (230, 230) {
            Ok(())
        } else {
            Err(format!("{a} and {b}"))
        }
    };
    eventually("the second server is fed", SOON, in_step).await;
    drop(first.server);
    first.proxy.kill().await;
    let mut client = second.client().await;
    assert_eq!(value(&mut client, "n").await, 230);
    write(&mut client, "n", 100).await;
    let rebuilt = cluster.rebuilt().await;
    wait_equal(&mut second.direct().await, &mut rebuilt.connect().await).await;
}

/// All that `bytes` is answered with on a new connection, until it ends or goes quiet.
async fn answer(port: u16, words: &[&str]) -> String {
    let mut raw = Raw::connect(port).await;
    let args: Vec<&[u8]> = words.iter().map(|w| w.as_bytes()).collect();
    assert!(raw.send(&args).await);
    let bytes = raw.read(SOON).await.unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whoever has not authenticated is told so, whatever the command, as by the plain server.
async fn nobody_gets_in(cell: &Cell) {
    let mut client = cell.client().await;
    let names: Vec<String> = redis::cmd("COMMAND")
        .arg("LIST")
        .query_async(&mut client)
        .await
        .expect("COMMAND LIST");
    assert!(names.len() > 200, "{names:?}");
    let (mut told, mut refused) = (0, Vec::new());
    for name in &names {
        let mut words = vec![name.as_str()];
        let info: Vec<(String, i64)> = redis::cmd("COMMAND")
            .arg(&["INFO", name.as_str()])
            .query_async::<Vec<Vec<redis::Value>>>(&mut client)
            .await
            .expect("COMMAND INFO")
            .iter()
            .filter_map(|c| {
                Some((
                    redis::from_redis_value(c.first()?).ok()?,
                    redis::from_redis_value(c.get(1)?).ok()?,
                ))
            })
            .collect();
        let arity = info.first().map_or(1, |(_, arity)| arity.unsigned_abs() as usize);
        words.resize(arity.max(1), "x");
        let (plain, proxied) = (
            answer(cell.server.port, &words).await,
            answer(cell.proxy.port, &words).await,
        );
        if proxied.contains("refused by Redoubt") {
            refused.push(name.as_str());
            continue;
        }
        // HELLO and QUIT are for everybody; the ids and times of connections differ.
        assert_eq!(plain, proxied, "{words:?}");
        told += usize::from(proxied.starts_with("-NOAUTH"));
    }
    println!(
        "{told} of {} commands are answered with NOAUTH; refused in any case: {refused:?}",
        names.len()
    );
    assert!(told > 150, "{told} of {}", names.len());
}

async fn on_servers(programs: &[PathBuf]) {
    let cluster = unserved(Options::default()).await;
    let mut written = 0;
    for (nth, program) in programs.iter().enumerate() {
        // Both ways in turn.
        let shared = if nth % 2 == 0 { "true" } else { "false" };
        let cell = Cell::start(&cluster, program, OWN_PASSWORD, &["--shared-upstream", shared]).await;
        let mut client = cell.client().await;
        if nth > 0 {
            assert_eq!(value(&mut client, "n").await, written);
        }
        write(&mut client, "n", 10).await;
        written += 10;
        nobody_gets_in(&cell).await;
        write(&mut client, "n", 10).await;
        written += 10;
        cell.proxy.kill().await;
    }
}

#[tokio::test]
async fn who_has_not_authenticated_is_told_so_as_by_the_plain_server() {
    on_servers(&[
        "redis-server".into(),
        stock("redis-7.2.4"),
        stock("valkey-8.1.8"),
        stock("valkey-9.1.2"),
    ])
    .await;
}

#[tokio::test]
async fn who_has_not_authenticated_is_told_so_by_newer_servers_too() {
    on_servers(&[stock("redis-7.4.1"), stock("redis-8.2.3")]).await;
}

#[test]
fn catches_a_client_that_is_left_with_the_proxys_login() {
    assert_catches(
        "who_has_not_authenticated_is_told_so_as_by_the_plain_server",
        "client_has_the_proxys_login",
    );
}

#[tokio::test]
async fn a_wrong_password_is_told_with_what_to_do() {
    let cluster = unserved(Options::default()).await;
    let cell = Cell::start(&cluster, Path::new("redis-server"), "wrong", &[]).await;
    cell.proxy
        .says("does not let the proxy in: WRONGPASS", "panicked")
        .await;
    let log = cell.proxy.log();
    assert!(
        log.contains("--upstream-password-file") && !log.contains("wrong\n"),
        "{log}"
    );
    // It is mended without a restart.
    std::fs::write(&cell.password_file, OWN_PASSWORD).expect("a file");
    write(&mut cell.client().await, "n", 1).await;
    cell.proxy.kill().await;

    let server = Server::start_with_password(Path::new("redis-server"), &[], PASSWORD).await;
    let nobody = Standby::start(&cluster, server.port, None).await;
    nobody
        .says("NOAUTH Authentication required. It wants a password", "panicked")
        .await;
    let log = nobody.log();
    assert!(log.contains("--upstream-user"), "{log}");
}
