//! `redoubt-proxy`: arguments, logs and signals around [`redoubt_proxy::run`].

use redoubt_env::{Env, raise_open_files};
use redoubt_proxy::config::Config;
use std::io::IsTerminal;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let mut config = Config::of_process();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match raise_open_files() {
        Ok(files) => fit(&mut config, files),
        Err(error) => tracing::warn!(%error, "the limit of open files can't be raised"),
    }
    // One thread: on the machines that a cell shares with its server, a second one costs more than it brings.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime");
            return ExitCode::FAILURE;
        }
    };
    let env = Env::real();
    let run = async {
        let (tell, hangups) = mpsc::channel(1);
        let _telling = env.spawn(hang_ups(tell));
        redoubt_proxy::run(config, env.clone(), asked_to_stop(), hangups).await
    };
    match runtime.block_on(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Tells of each SIGHUP.
async fn hang_ups(tell: mpsc::Sender<()>) {
    let Ok(mut hangups) = signal(SignalKind::hangup()) else {
        tracing::warn!("SIGHUP can't be waited for");
        return;
    };
    while hangups.recv().await.is_some() {
        // One that waits stands for those after it.
        let _ = tell.try_send(());
    }
}

/// Allows no more clients than there are files for.
fn fit(config: &mut Config, files: Option<u64>) {
    config.own_max = config.own_that_fit(files);
    let clients_max = config.clients_that_fit(files);
    if clients_max < config.clients_max {
        let asked = config.clients_max;
        tracing::warn!(
            ?files,
            asked,
            clients_max,
            "there are too few open files for --clients-max"
        );
        config.clients_max = clients_max;
    }
}

/// Waits for SIGTERM or SIGINT.
async fn asked_to_stop() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::warn!("signals can't be waited for; the proxy ends only by being killed");
        return std::future::pending().await;
    };
    tokio::select! {
        biased;
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tracing::info!("asked to stop");
}
