//! The API's limits: requests in the current second, and the score of queries in the last ten.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;

/// Requests in the current second.
#[derive(Clone, Debug)]
pub struct ApiLimit {
    pub reads: u32,
    pub writes: u32,
    second: i64,
    used: (u32, u32),
    last_reads: VecDeque<OffsetDateTime>,
    /// The most reads within any one second so far.
    pub most_reads: usize,
    /// All reads so far.
    pub all_reads: u64,
    /// Requests that were answered with 429.
    pub refused: u64,
}

impl Default for ApiLimit {
    fn default() -> Self {
        let last_reads = VecDeque::new();
        Self {
            reads: 100,
            writes: 25,
            second: 0,
            used: (0, 0),
            last_reads,
            most_reads: 0,
            all_reads: 0,
            refused: 0,
        }
    }
}

impl ApiLimit {
    /// Counts a request. Over the limit: the value of `Retry-After`.
    pub(super) fn take(&mut self, write: bool) -> Result<(), String> {
        let now = OffsetDateTime::now_utc();
        if now.unix_timestamp() != self.second {
            (self.second, self.used) = (now.unix_timestamp(), (0, 0));
        }
        if !write {
            self.all_reads += 1;
            self.last_reads.push_back(now);
            let old =
                self.last_reads.iter().take_while(|read| now - **read >= Duration::from_secs(1)).count();
            self.last_reads.drain(..old);
            self.most_reads = self.most_reads.max(self.last_reads.len());
        }
        let (used, limit) =
            if write { (&mut self.used.1, self.writes) } else { (&mut self.used.0, self.reads) };
        *used += 1;
        if *used <= limit {
            return Ok(());
        }
        self.refused += 1;
        Err(http_date(now, 1))
    }
}

/// The score of queries within ten seconds, over all apps. Attio publishes no numbers: here each query costs 1.
#[derive(Clone, Debug)]
pub struct ScoreLimit {
    pub most: usize,
    queries: VecDeque<OffsetDateTime>,
}

impl Default for ScoreLimit {
    fn default() -> Self {
        Self { most: usize::MAX, queries: VecDeque::new() }
    }
}

impl ScoreLimit {
    /// Counts a query. Over the limit: the value of `Retry-After`.
    pub(super) fn take(&mut self) -> Result<(), String> {
        let now = OffsetDateTime::now_utc();
        self.queries.retain(|at| now - *at < Duration::from_secs(10));
        if self.queries.len() >= self.most {
            return Err(http_date(now, 2));
        }
        self.queries.push_back(now);
        Ok(())
    }
}

/// The time in so many seconds, as an HTTP date: whole seconds.
fn http_date(now: OffsetDateTime, seconds: u64) -> String {
    httpdate::fmt_http_date(SystemTime::from(now) + Duration::from_secs(seconds))
}
