//! Notifications to systemd, if it started the bridge (`NOTIFY_SOCKET`, `sd_notify(3)`).
//!
//! `READY=1` means listening, not that the broker was reached: a broker that is down must not make the
//! unit fail to start, because the bridge answers 503 until the broker is there. `/readyz` reports whether
//! the broker was ever reached.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sd_notify::NotifyState;

/// Sends notifications. Nothing but the watchdog's follows `STOPPING=1`. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Notifier {
    /// Held while sending, so that a reload that ends during the stop cannot overtake it.
    stopping: Arc<Mutex<bool>>,
}

impl Notifier {
    /// The bridge listens, or a reload has ended.
    pub fn ready(&self) {
        self.unless_stopping(|| vec![NotifyState::Ready]);
    }

    pub fn reloading(&self) {
        // Without a monotonic clock systemd would ignore the reload.
        let state = || NotifyState::monotonic_usec_now().map(|now| vec![NotifyState::Reloading, now]);
        self.unless_stopping(|| state().unwrap_or_default());
    }

    pub fn stopping(&self) {
        let mut stopping = self.stopping.lock();
        *stopping = true;
        send(&[NotifyState::Stopping]);
    }

    fn unless_stopping(&self, states: impl FnOnce() -> Vec<NotifyState<'static>>) {
        let stopping = self.stopping.lock();
        if !*stopping {
            send(&states());
        }
    }
}

/// The watchdog task, if the unit asks for one (`WatchdogSec=`). It notifies twice as often as it must.
/// It is a task like the others, so it stops notifying when they are stuck.
pub fn watchdog() -> Option<impl Future<Output = ()> + Send> {
    let mut limit = 0;
    if !sd_notify::watchdog_enabled(false, &mut limit) {
        return None;
    }
    let every = Duration::from_micros(limit / 2).max(Duration::from_millis(1));
    Some(async move {
        let mut interval = tokio::time::interval(every);
        loop {
            interval.tick().await;
            send(&[NotifyState::Watchdog]);
        }
    })
}

fn send(states: &[NotifyState<'_>]) {
    if states.is_empty() {
        return;
    }
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::debug!(%error, "cannot notify systemd");
    }
}
