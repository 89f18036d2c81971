//! One question to a RESP server: for health checks only.

use bytes::BytesMut;
use redoubt_env::Env;
use redoubt_resp::reply::{Value, parse_frame};
use redoubt_resp::stream::encode_command;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes of an answer at most: INFO has a few KB.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Connects to `address`, sends one command and returns the answer.
///
/// # Errors
/// A short text that says what is wrong with the server: nobody listens, it answers an error, or not within `deadline`.
pub(crate) async fn ask(
    env: &Env,
    address: &str,
    command: &[&str],
    deadline: Duration,
) -> Result<Value, String> {
    let asked = env.timeout(deadline, ask_unbounded(env, address, command)).await;
    match asked {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer to {} on {address}", command.join(" "))),
    }
}

async fn ask_unbounded(env: &Env, address: &str, command: &[&str]) -> Result<Value, String> {
    let mut conn = env
        .net()
        .connect(address)
        .await
        .map_err(|e| format!("can't connect to {address}: {e}"))?;
    let mut question = BytesMut::new();
    let args: Vec<_> = command.iter().map(|a| a.as_bytes()).collect();
    encode_command(&args, &mut question);
    let gone = |e: std::io::Error| format!("the connection to {address} broke: {e}");
    conn.write_all(&question).await.map_err(gone)?;
    let mut answer = BytesMut::new();
    loop {
        match parse_frame(&answer) {
            Ok(Some((value, _))) => {
                return match value.as_error() {
                    Some(error) => Err(format!("{address} answers {error}")),
                    None => Ok(value),
                };
            }
            Ok(None) if answer.len() > ANSWER_BYTES_MAX => {
                return Err(format!("{address} answers more than it was asked for"));
            }
            Ok(None) => {}
            Err(e) => return Err(format!("{address} speaks no RESP: {e}")),
        }
        if conn.read_buf(&mut answer).await.map_err(gone)? == 0 {
            return Err(format!("{address} closed the connection"));
        }
    }
}
