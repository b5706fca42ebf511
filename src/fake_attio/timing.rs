//! Attio's timing: the API's rate limit, the delivery rate and the schedule of retries.
//!
//! Sources: <https://docs.attio.com/rest-api/guides/rate-limiting>,
//! <https://docs.attio.com/rest-api/guides/webhooks>. Not documented, and chosen here: each wait is twice
//! the one before.

use std::time::{Duration, Instant, SystemTime};

use time::OffsetDateTime;

/// Attempts of a delivery, the first included.
pub const ATTEMPTS: u32 = 10;

/// From the first attempt to the last.
const ALL_ATTEMPTS: Duration = Duration::from_secs(3 * 24 * 3600);

/// How long a webhook is degraded before it is inactive.
const DEGRADED: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How many times faster than Attio: divides the waits between attempts and the time of degradation.
    pub time_scale: f64,
    /// Deliveries per second to one target URL; Attio's limit is 25.
    pub per_second: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self { time_scale: 1.0, per_second: 25 }
    }
}

impl Timing {
    /// The wait after that many failed attempts; none after the last.
    pub fn retry_delay(&self, attempts: u32) -> Option<Duration> {
        let waits = ATTEMPTS - 1;
        let first = ALL_ATTEMPTS / ((1 << waits) - 1);
        (1..=waits).contains(&attempts).then(|| self.scaled(first * (1 << (attempts - 1))))
    }

    pub fn degraded(&self) -> Duration {
        self.scaled(DEGRADED)
    }

    fn scaled(&self, time: Duration) -> Duration {
        time.div_f64(self.time_scale)
    }
}

/// Limits deliveries to one target URL. Unused time is not saved up.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateLimiter {
    next: Option<Instant>,
}

impl RateLimiter {
    /// Reserves the next slot: when the delivery may be sent.
    pub fn reserve(&mut self, now: Instant, timing: &Timing) -> Instant {
        let slot = self.next.map_or(now, |next| next.max(now));
        self.next = Some(slot + Duration::from_secs(1) / timing.per_second);
        slot
    }
}

/// The API's rate limit: requests in the current second.
#[derive(Clone, Copy, Debug)]
pub struct ApiLimit {
    pub reads: u32,
    pub writes: u32,
    second: i64,
    used: (u32, u32),
}

impl Default for ApiLimit {
    fn default() -> Self {
        Self { reads: 100, writes: 25, second: 0, used: (0, 0) }
    }
}

impl ApiLimit {
    /// Counts a request. Over the limit: the value of `Retry-After`.
    pub fn take(&mut self, write: bool) -> Result<(), String> {
        let now = OffsetDateTime::now_utc();
        if now.unix_timestamp() != self.second {
            (self.second, self.used) = (now.unix_timestamp(), (0, 0));
        }
        let (used, limit) =
            if write { (&mut self.used.1, self.writes) } else { (&mut self.used.0, self.reads) };
        *used += 1;
        if *used <= limit { Ok(()) } else { Err(next_second(now)) }
    }
}

/// The second after this one, as an HTTP date.
pub fn next_second(now: OffsetDateTime) -> String {
    httpdate::fmt_http_date(SystemTime::from(now) + Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_attempts_take_three_days_and_each_wait_doubles() {
        let waits: Vec<Duration> = (1..).map_while(|n| Timing::default().retry_delay(n)).collect();
        assert_eq!(waits.len(), 9);
        assert!(waits.windows(2).all(|two| two[1] == two[0] * 2), "{waits:?}");
        let total: Duration = waits.iter().sum();
        assert!(ALL_ATTEMPTS.abs_diff(total) < Duration::from_secs(1), "{total:?}");
        let fast = Timing { time_scale: 1000.0, ..Timing::default() };
        assert_eq!(fast.retry_delay(1), waits.first().map(|wait| wait.div_f64(1000.0)));
        assert_eq!(fast.degraded(), Duration::from_millis(604_800));
    }

    #[test]
    fn rate_limiter_allows_25_per_second_without_saving_up() {
        let (start, timing) = (Instant::now(), Timing::default());
        let mut limiter = RateLimiter::default();
        let slots: Vec<Duration> = (0..51).map(|_| limiter.reserve(start, &timing) - start).collect();
        assert_eq!(
            (slots[0], slots[25], slots[50]),
            (Duration::ZERO, Duration::from_secs(1), Duration::from_secs(2))
        );
        let later = start + Duration::from_secs(60);
        assert_eq!(limiter.reserve(later, &timing), later);
        assert_eq!(limiter.reserve(later, &timing), later + Duration::from_millis(40));
    }
}
