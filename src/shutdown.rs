//! Signals, and the stages of a graceful stop: unready, stop accepting, drain, flush.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long a stop may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long to keep serving after `/readyz` has become 503.
    pub delay: Duration,
    /// How long to wait for accepted deliveries and their acks.
    pub drain_timeout: Duration,
}

/// The stages of a stop. Each is cancelled when it begins.
#[derive(Clone, Debug, Default)]
pub struct Stages {
    /// `/readyz` is 503.
    pub unready: CancellationToken,
    /// No new connections or deliveries are accepted.
    pub drain: CancellationToken,
    /// The drain is over; the admin listener closes too.
    pub over: CancellationToken,
}

/// The exit code after a second signal or a forced stop.
const FORCED_EXIT: i32 = 1;

/// Listens for SIGTERM and SIGINT from now on; the future ends with the first of them. A second one ends the
/// process at once with exit code 1, after `flush_log`.
pub fn stop_signal(
    flush_log: impl FnOnce() + Send + 'static,
) -> std::io::Result<impl Future<Output = ()> + Send> {
    listen(None, flush_log)
}

/// The same; a stop that takes longer than `limit` ends the process too, whatever hangs.
pub fn stop_signal_within(
    limit: Duration,
    flush_log: impl FnOnce() + Send + 'static,
) -> std::io::Result<impl Future<Output = ()> + Send> {
    listen(Some(limit), flush_log)
}

fn listen(
    limit: Option<Duration>,
    flush_log: impl FnOnce() + Send + 'static,
) -> std::io::Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let first = CancellationToken::new();
    let received = first.clone();
    let flush_log = Arc::new(Mutex::new(Some(flush_log)));
    let force = move || {
        if let Some(flush_log) = flush_log.lock().take() {
            flush_log();
        }
        std::process::exit(FORCED_EXIT);
    };
    tokio::spawn(async move {
        let name = next(&mut terminate, &mut interrupt).await;
        tracing::info!(signal = name, "stopping");
        if let Some(limit) = limit {
            force_after(limit, force.clone());
        }
        received.cancel();
        let name = next(&mut terminate, &mut interrupt).await;
        tracing::error!(signal = name, "second signal: exiting now");
        force();
    });
    Ok(async move { first.cancelled().await })
}

/// Calls `force` after `limit`, from a thread, because a hang may block every task.
fn force_after(limit: Duration, force: impl FnOnce() + Send + 'static) {
    let timer = move || {
        std::thread::sleep(limit);
        tracing::error!("the stop took longer than {} s: exiting now", limit.as_secs());
        force();
    };
    if let Err(error) = std::thread::Builder::new().name("stop-timer".into()).spawn(timer) {
        tracing::warn!(%error, "cannot start the timer of the stop");
    }
}

/// Listens for SIGHUP from now on; the future notifies on each. Several at once may be one.
pub fn reload_signal(reload: Arc<Notify>) -> std::io::Result<impl Future<Output = ()> + Send> {
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            tracing::info!(signal = "SIGHUP", "reloading");
            reload.notify_one();
        }
    })
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
