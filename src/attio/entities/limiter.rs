//! The limit on requests: at most so many reach Attio within any one second.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

const SECOND: Duration = Duration::from_secs(1);

/// How often to look whether a request has been answered on which the next one waits.
const LOOK: Duration = Duration::from_millis(20);

/// How many turns may be made up for at once after a late one.
const MADE_UP: u32 = 4;

pub(super) struct Limiter {
    /// Whoever holds the lock is next.
    turns: tokio::sync::Mutex<Turns>,
    per_second: u32,
    /// Until when Attio asked to wait.
    paused: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Turns {
    /// When the last ones were over, at most as many as a second may have. A request has reached Attio before it is over,
    /// so that the one that may not be in the same second begins a second after that.
    last: VecDeque<Arc<OnceLock<Instant>>>,
    /// When the next one is due at an even distance, so that requests of other programs fit between them.
    due: Option<Instant>,
}

/// One request. It is over once it is answered. Dropped before, it may reach Attio within the next second: what was sent is on
/// its way, also after whoever asked has gone.
pub(super) struct Request(Arc<OnceLock<Instant>>);

impl Request {
    pub(super) fn answered(self) {
        // Set once: here, or when it is dropped.
        let _ = self.0.set(Instant::now());
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let _ = self.0.set(Instant::now() + SECOND);
    }
}

impl Limiter {
    pub(super) fn new(per_second: u32) -> Self {
        Self { turns: tokio::sync::Mutex::default(), per_second: per_second.max(1), paused: Mutex::new(None) }
    }

    pub(super) fn per_second(&self) -> usize {
        self.per_second as usize
    }

    /// Waits until one more request may begin. Who asks first is first; a cancelled wait uses no turn.
    pub(super) async fn turn(&self) -> Request {
        let mut turns = self.turns.lock().await;
        while let Some(at) = self.next(&turns).filter(|at| *at > Instant::now()) {
            sleep_until(at).await;
        }
        let (begun, distance) = (Instant::now(), SECOND / self.per_second);
        let earliest = begun.checked_sub(distance * MADE_UP).unwrap_or(begun);
        turns.due = Some(turns.due.map_or(begun, |due| due.max(earliest)) + distance);
        if turns.last.len() == self.per_second() {
            turns.last.pop_front();
        }
        let ended = Arc::default();
        turns.last.push_back(Arc::clone(&ended));
        Request(ended)
    }

    fn next(&self, turns: &Turns) -> Option<Instant> {
        let is_full = turns.last.len() == self.per_second();
        let oldest = turns.last.front().filter(|_| is_full).map(|ended| match ended.get() {
            Some(ended) => *ended + SECOND,
            None => Instant::now() + LOOK,
        });
        [oldest, turns.due, *self.paused.lock()].into_iter().flatten().max()
    }

    /// Lets no request begin for this long.
    pub(super) fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut paused = self.paused.lock();
        *paused = Some(paused.map_or(until, |known| known.max(until)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When so many turns come, with a pause before the one of that number.
    async fn turns(count: usize, per_second: u32, pause: Option<usize>) -> Vec<Duration> {
        let (limiter, start) = (Limiter::new(per_second), Instant::now());
        let mut times = Vec::new();
        for number in 0..count {
            if pause == Some(number) {
                limiter.pause(Duration::from_secs(3));
            }
            let request = limiter.turn().await;
            times.push(start.elapsed());
            request.answered();
        }
        times
    }

    #[tokio::test(start_paused = true)]
    async fn no_second_has_more_than_the_limit_and_most_of_it_is_used() {
        for per_second in [1, 3, 50, 100] {
            let many = per_second as usize * 10;
            let times = turns(many + 1, per_second, None).await;
            for (at, time) in times.iter().enumerate() {
                let within = times[at..].iter().take_while(|later| **later - *time < Duration::from_secs(1));
                assert!(within.count() <= per_second as usize, "{per_second}: from {time:?}");
            }
            let rate = many as f64 / times[many].as_secs_f64();
            assert!(rate >= 0.9 * f64::from(per_second), "{rate} of {per_second}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn request_that_is_dropped_may_be_on_its_way_for_a_second() {
        let (limiter, start) = (Limiter::new(1), Instant::now());
        drop(limiter.turn().await);
        let _request = limiter.turn().await;
        assert_eq!(start.elapsed(), 2 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn pause_holds_back_everyone() {
        let times = turns(3, 100, Some(2)).await;
        assert!(times[1] < Duration::from_secs(1) && times[2] >= Duration::from_secs(3), "{times:?}");
    }
}
