//! When Attio delivers: as values, without a clock of their own.

use std::time::{Duration, Instant};

/// How often a delivery is tried in all.
pub const TRIES: u32 = 10;

/// From the first try to the last.
const ALL_TRIES: Duration = Duration::from_secs(3 * 24 * 3600);

/// How long a webhook may be degraded.
const DEGRADED: Duration = Duration::from_secs(7 * 24 * 3600);

/// How fast the fake lives.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// So many times faster than Attio: of the waits between tries and of how long a webhook may be degraded.
    pub hurry: f64,
    /// Deliveries in a second to one target URL. Attio's are 25.
    pub per_second: u32,
}

impl Default for Times {
    fn default() -> Self {
        Self { hurry: 1.0, per_second: 25 }
    }
}

impl Times {
    /// How long to wait after a try that failed, the first being 1; none after the last. Each wait is
    /// twice the one before it, and all of them together are three days.
    pub fn after(&self, tries: u32) -> Option<Duration> {
        let waits = TRIES - 1;
        let first = ALL_TRIES / ((1 << waits) - 1);
        (1..=waits).contains(&tries).then(|| self.scaled(first * (1 << (tries - 1))))
    }

    /// How long a webhook is degraded before it gets nothing more.
    pub fn degraded(&self) -> Duration {
        self.scaled(DEGRADED)
    }

    fn scaled(&self, time: Duration) -> Duration {
        time.div_f64(self.hurry)
    }
}

/// The turns at one target URL.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lane {
    free: Option<Instant>,
}

impl Lane {
    /// Takes the next turn: when it is.
    pub fn turn(&mut self, now: Instant, times: &Times) -> Instant {
        let turn = self.free.map_or(now, |free| free.max(now));
        self.free = Some(turn + Duration::from_secs(1) / times.per_second);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_tries_take_three_days_and_each_wait_is_twice_the_last() {
        let waits: Vec<Duration> = (1..).map_while(|tries| Times::default().after(tries)).collect();
        assert_eq!(waits.len(), 9);
        assert!(waits.windows(2).all(|two| two[1] == two[0] * 2), "{waits:?}");
        let total: Duration = waits.iter().sum();
        assert!(ALL_TRIES.abs_diff(total) < Duration::from_secs(1), "{total:?}");
        let hurried = Times { hurry: 1000.0, ..Times::default() };
        assert_eq!(hurried.after(1), waits.first().map(|wait| wait.div_f64(1000.0)));
        assert_eq!(hurried.degraded(), Duration::from_millis(604_800));
    }

    #[test]
    fn twenty_five_in_a_second_and_no_credit_for_idling() {
        let (start, times) = (Instant::now(), Times::default());
        let mut lane = Lane::default();
        let turns: Vec<Duration> = (0..51).map(|_| lane.turn(start, &times) - start).collect();
        assert_eq!(
            (turns[0], turns[25], turns[50]),
            (Duration::ZERO, Duration::from_secs(1), Duration::from_secs(2))
        );
        let later = start + Duration::from_secs(60);
        assert_eq!(lane.turn(later, &times), later);
        assert_eq!(lane.turn(later, &times), later + Duration::from_millis(40));
    }
}
