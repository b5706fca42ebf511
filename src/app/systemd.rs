//! What systemd is told, where it started the bridge and wants to hear (`NOTIFY_SOCKET`).
//!
//! Ready means listening, and not "the broker was reached": a broker that is down must not make the
//! unit fail to start, for the bridge answers 503 until it is there and heals by itself. Whether the
//! broker was ever reached is what `/readyz` says.

use std::time::Duration;

use sd_notify::NotifyState;

/// The bridge listens, or a reload has ended.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A reload has begun.
pub fn reloading() {
    // Without a monotonic clock there is no reload that systemd would understand.
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// The drain has begun.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says that the bridge is alive, twice as often as it must, where the unit asks for it. It is a
/// task among the others, so that it falls silent when they are stuck.
pub async fn watchdog() {
    let mut limit = 0;
    if !sd_notify::watchdog_enabled(false, &mut limit) {
        return;
    }
    let mut beat = tokio::time::interval(Duration::from_micros(limit / 2).max(Duration::from_millis(1)));
    loop {
        beat.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::debug!(%error, "systemd cannot be told");
    }
}
