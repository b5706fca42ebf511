//! Signals, and the stages of a graceful stop: unready, stop accepting, drain, flush.

use std::future::Future;
use std::io;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long to keep serving after `/readyz` has become 503.
    pub delay: Duration,
    /// How long to wait for accepted deliveries and their acks.
    pub drain_timeout: Duration,
}

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

/// How long a forced exit waits for the log.
const FORCED_FLUSH: Duration = Duration::from_millis(500);

/// Ends the process with exit code 1 when a stop takes too long, whatever hangs. Cheap to clone.
#[derive(Clone)]
pub struct ForcedExit(Arc<Forced>);

struct Forced {
    flush_log: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    timer: Mutex<Timer>,
    disarmed: Condvar,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Timer {
    Unarmed,
    Armed,
    Disarmed,
}

impl ForcedExit {
    /// Not armed. `flush_log` is called before the exit, and may take half a second.
    pub fn new(flush_log: impl FnOnce() + Send + 'static) -> Self {
        let flush_log = Mutex::new(Some(Box::new(flush_log) as _));
        Self(Arc::new(Forced { flush_log, timer: Mutex::new(Timer::Unarmed), disarmed: Condvar::new() }))
    }

    /// Exits after `limit` unless disarmed before. Armed once: later calls change nothing.
    pub fn arm(&self, limit: Duration) {
        {
            let mut timer = self.0.timer.lock();
            if *timer != Timer::Unarmed {
                return;
            }
            *timer = Timer::Armed;
        }
        let forced = self.clone();
        // A thread, because whatever hangs may hold up every task.
        let wait = move || {
            let mut timer = forced.0.timer.lock();
            let armed = |timer: &mut Timer| *timer == Timer::Armed;
            if forced.0.disarmed.wait_while_for(&mut timer, armed, limit).timed_out() {
                tracing::error!("the stop took longer than {} s: exiting now", limit.as_secs());
                forced.exit();
            }
        };
        if let Err(error) = thread::Builder::new().name("stop-timer".into()).spawn(wait) {
            tracing::warn!(%error, "cannot start the timer of the stop");
        }
    }

    /// The stop is over: it does not exit any more.
    pub fn disarm(&self) {
        *self.0.timer.lock() = Timer::Disarmed;
        self.0.disarmed.notify_all();
    }

    fn exit(&self) -> ! {
        if let Some(flush_log) = self.0.flush_log.lock().take() {
            let (done, flushed) = mpsc::sync_channel(1);
            let flush = move || {
                flush_log();
                // Nobody waits where it took too long.
                let _ = done.send(());
            };
            if thread::Builder::new().name("last-flush".into()).spawn(flush).is_ok() {
                let _ = flushed.recv_timeout(FORCED_FLUSH);
            }
        }
        std::process::exit(FORCED_EXIT)
    }
}

/// Listens for SIGTERM and SIGINT from now on; the future ends with the first of them. A second one ends the
/// process at once with exit code 1, after `flush_log`.
pub fn stop_signal(flush_log: impl FnOnce() + Send + 'static) -> io::Result<impl Future<Output = ()> + Send> {
    listen(None, ForcedExit::new(flush_log))
}

/// The same; a stop that takes longer than `limit` ends the process too, whatever hangs.
pub fn stop_signal_within(
    limit: Duration,
    forced_exit: ForcedExit,
) -> io::Result<impl Future<Output = ()> + Send> {
    listen(Some(limit), forced_exit)
}

/// Listens on a thread of its own: a signal is received also while every worker is blocked.
fn listen(limit: Option<Duration>, forced_exit: ForcedExit) -> io::Result<impl Future<Output = ()> + Send> {
    let first = CancellationToken::new();
    let received = first.clone();
    let (started, listening) = mpsc::sync_channel(1);
    let signals = move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(error))),
        };
        runtime.block_on(async {
            let registered =
                signal(SignalKind::terminate()).and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
            let (mut terminate, mut interrupt) = match registered {
                Ok(registered) => registered,
                Err(error) => return drop(started.send(Err(error))),
            };
            drop(started.send(Ok(())));
            let name = next(&mut terminate, &mut interrupt).await;
            if let Some(limit) = limit {
                forced_exit.arm(limit);
            }
            tracing::info!(signal = name, "stopping");
            received.cancel();
            let name = next(&mut terminate, &mut interrupt).await;
            tracing::error!(signal = name, "second signal: exiting now");
            forced_exit.exit();
        });
    };
    thread::Builder::new().name("signals".into()).spawn(signals)?;
    // The thread panicked where it sends nothing.
    listening.recv().unwrap_or_else(|_| Err(io::Error::other("the thread that listens for them ended")))?;
    Ok(async move { first.cancelled().await })
}

/// From now on these signals no longer end the process. Those that nothing listens for are ignored.
pub fn survive(signals: impl IntoIterator<Item = SignalKind>) -> io::Result<()> {
    // Needed to install the handlers, which outlive it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _entered = runtime.enter();
    signals.into_iter().try_for_each(|kind| signal(kind).map(drop))
}

/// SIGXFSZ: with it ignored, a write beyond the limit of a file's size (`ulimit -f`) is an error like a full disk.
pub fn file_too_large() -> SignalKind {
    SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())
}

/// Listens for SIGHUP from now on; the future notifies on each. Several at once may be one.
pub fn reload_signal(reload: Arc<Notify>) -> io::Result<impl Future<Output = ()> + Send> {
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            tracing::info!(signal = "SIGHUP", "reloading");
            reload.notify_one();
        }
    })
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
