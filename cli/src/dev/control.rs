//! The supervisor's socket, `DIR/control.sock`: one request per connection, a line of JSON each way.
//!
//! A unix socket's path has 107 bytes at most, and DIR may be longer: both sides open DIR and name the socket through
//! `/proc/self/fd/N`, whatever DIR is called.

use super::paths::Paths;
use crate::failure::Failure;
use crate::plain_files;
use redoubt_env::{Env, Task};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

const FILE: &str = "control.sock";
/// A request or an answer, bytes at most.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// How long a client may take to send its request, or to take its answer.
const CLIENT_DEADLINE: Duration = Duration::from_secs(2);
/// Requests that wait for the supervisor at most; further clients wait in the socket's queue.
const REQUESTS_MAX: usize = 16;

/// What a supervisor is asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub(crate) enum Request {
    /// Start a component.
    Start {
        /// Its name.
        name: String,
    },
    /// End a component.
    Stop {
        /// Its name.
        name: String,
    },
    /// End everything, in order.
    Down,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// It was done.
    pub(crate) ok: bool,
    /// A sentence for the user.
    pub(crate) message: String,
}

impl From<Result<String, String>> for Answer {
    fn from(result: Result<String, String>) -> Self {
        let ok = result.is_ok();
        let (Ok(message) | Err(message)) = result;
        Answer { ok, message }
    }
}

/// Who asked, and waits for the answer.
#[derive(Debug)]
pub(crate) struct Client {
    stream: UnixStream,
}

impl Client {
    /// Answers. A client that does not listen any more is none of our business.
    pub(crate) async fn answer(mut self, env: &Env, answer: &Answer) {
        let mut line = serde_json::to_vec(answer).unwrap_or_default();
        line.push(b'\n');
        drop(env.timeout(CLIENT_DEADLINE, self.stream.write_all(&line)).await);
    }
}

/// Accepts requests until it is dropped.
pub(crate) struct Control {
    requests: mpsc::Receiver<(Request, Client)>,
    _accepting: Task<()>,
}

impl Control {
    /// Listens in DIR, which this process must have locked.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn listen(env: &Env, paths: &Paths) -> io::Result<Control> {
        plain_files::remove(env.files().as_ref(), &paths.dir().join(FILE))?;
        let dir = open_dir(paths)?;
        let listener = UnixListener::bind(socket_in(&dir))?;
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        let accepting = env.spawn(accept(env.clone(), listener, sender));
        Ok(Control {
            requests,
            _accepting: accepting,
        })
    }

    /// The next request. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<(Request, Client)> {
        self.requests.recv().await
    }
}

/// Removes the socket's file, if there is one: nobody listens any more.
pub(crate) fn remove(env: &Env, paths: &Paths) {
    drop(plain_files::remove(env.files().as_ref(), &paths.dir().join(FILE)));
}

/// One client after the other: there are few, and each is read for a bounded time.
async fn accept(env: Env, listener: UnixListener, sender: mpsc::Sender<(Request, Client)>) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            env.sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(Ok(line)) = env.timeout(CLIENT_DEADLINE, read_line(&mut stream)).await else {
            continue;
        };
        let client = Client { stream };
        match serde_json::from_slice(&line) {
            Ok(request) => {
                if sender.send((request, client)).await.is_err() {
                    return;
                }
            }
            Err(e) => {
                let message = format!("the request can't be understood: {e}");
                client.answer(&env, &Answer { ok: false, message }).await;
            }
        }
    }
}

async fn read_line(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    BufReader::new(stream.take(LINE_BYTES_MAX))
        .read_until(b'\n', &mut line)
        .await?;
    Ok(line)
}

fn open_dir(paths: &Paths) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        paths.dir(),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

fn socket_in(dir: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{FILE}", dir.as_raw_fd()))
}

/// Asks the supervisor of DIR; `None` if none runs there.
///
/// # Errors
/// When it goes away without an answer.
pub(crate) async fn ask(paths: &Paths, request: &Request) -> Result<Option<Answer>, Failure> {
    let Ok(dir) = open_dir(paths) else { return Ok(None) };
    let mut stream = match UnixStream::connect(socket_in(&dir)).await {
        Ok(stream) => stream,
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(e) => {
            return Err(Failure::io(
                format_args!("connect to the supervisor of {}", paths.dir().display()),
                &e,
            ));
        }
    };
    let gone = |e: io::Error| {
        Failure::failed(format!(
            "the supervisor of {} went away: {e}",
            paths.dir().display()
        ))
    };
    let mut line = serde_json::to_vec(request).unwrap_or_default();
    line.push(b'\n');
    stream.write_all(&line).await.map_err(gone)?;
    let answer = read_line(&mut stream).await.map_err(gone)?;
    match serde_json::from_slice(&answer) {
        Ok(answer) => Ok(Some(answer)),
        Err(_) => Err(Failure::failed(format!(
            "the supervisor of {} went away without an answer",
            paths.dir().display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_of_any_length_has_a_socket() {
        let env = Env::real();
        let top = std::env::temp_dir().join(format!("redoubt-control-{}", std::process::id()));
        let dir = top.join("d".repeat(100)).join("e".repeat(100));
        env.files().create_dir(&dir).unwrap();
        let paths = Paths::new(dir);
        assert_eq!(ask(&paths, &Request::Down).await.unwrap(), None);
        let mut control = Control::listen(&env, &paths).unwrap();
        let asked = env.spawn({
            let paths = paths.clone();
            async move {
                ask(
                    &paths,
                    &Request::Stop {
                        name: "master-1".into(),
                    },
                )
                .await
            }
        });
        let (request, client) = control.next().await.unwrap();
        assert_eq!(
            request,
            Request::Stop {
                name: "master-1".into()
            }
        );
        client
            .answer(
                &env,
                &Answer {
                    ok: true,
                    message: "done".into(),
                },
            )
            .await;
        let answer = asked.await.unwrap().unwrap().unwrap();
        assert_eq!(
            answer,
            Answer {
                ok: true,
                message: "done".into()
            }
        );
        remove(&env, &paths);
        drop(control);
        assert_eq!(ask(&paths, &Request::Down).await.unwrap(), None);
        std::fs::remove_dir_all(top).unwrap();
    }
}
