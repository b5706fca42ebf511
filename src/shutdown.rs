//! Signals: to reload, and to stop; and the steps of a graceful stop: unready, stop accepting, finish, flush.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How a stop takes its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long to go on serving after readiness has fallen.
    pub delay: Duration,
    /// How long to wait for what was accepted.
    pub drain_timeout: Duration,
}

/// The stages of a stop, each a token that whoever must know holds.
#[derive(Clone, Debug, Default)]
pub struct Stages {
    /// No more traffic should be sent here.
    pub unready: CancellationToken,
    /// Nothing more is accepted.
    pub drain: CancellationToken,
    /// Everything is over, the admin listener included.
    pub over: CancellationToken,
}

/// The exit code of a process that was told twice.
const SECOND_SIGNAL_EXIT: i32 = 1;

/// Listens for SIGTERM and SIGINT from now on; the future ends with the first of them. A second one
/// ends the process at once, whatever it is doing, after `last_words`.
pub fn stop_signal(
    last_words: impl FnOnce() + Send + 'static,
) -> std::io::Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let first = CancellationToken::new();
    let told = first.clone();
    tokio::spawn(async move {
        let name = next(&mut terminate, &mut interrupt).await;
        tracing::info!(signal = name, "stopping");
        told.cancel();
        let name = next(&mut terminate, &mut interrupt).await;
        tracing::error!(signal = name, "second signal: ending at once");
        last_words();
        std::process::exit(SECOND_SIGNAL_EXIT);
    });
    Ok(async move { first.cancelled().await })
}

/// Passes every SIGHUP on, from now on; several that come together are one.
pub fn reload_signal(told: Arc<Notify>) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            tracing::info!(signal = "SIGHUP", "reloading");
            told.notify_one();
        }
    });
    Ok(())
}

async fn next(
    terminate: &mut tokio::signal::unix::Signal,
    interrupt: &mut tokio::signal::unix::Signal,
) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
