//! What came of what was sent.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::Sent;
use crate::fake_attio::post::PostError;

/// What a delivery was answered in the end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A status, and a reason where the answer has one.
    Answer(u16, String),
    /// None.
    Lost(PostError),
}

/// The account.
#[derive(Debug, Default)]
pub struct Tally {
    /// How many deliveries ended in each way.
    pub kinds: BTreeMap<Kind, u64>,
    /// Deliveries.
    pub deliveries: u64,
    /// Attempts: more than deliveries where some were sent again.
    pub attempts: u64,
    /// Deliveries answered 200 or 202.
    pub good: u64,
    /// How long all of it took.
    pub elapsed: Duration,
    took: Vec<Duration>,
}

impl Tally {
    /// Adds one delivery.
    pub fn add(&mut self, sent: Sent) {
        let Sent { reply, attempts } = sent;
        self.deliveries += 1;
        self.attempts += u64::from(attempts);
        let kind = match reply {
            Ok(reply) => {
                self.good += u64::from(reply.is_success());
                self.took.push(reply.took);
                Kind::Answer(reply.status, reply.reason())
            }
            Err(lost) => Kind::Lost(lost),
        };
        *self.kinds.entry(kind).or_default() += 1;
    }

    /// Whether every delivery was answered 200 or 202.
    pub fn is_good(&self) -> bool {
        self.good == self.deliveries
    }

    /// Whether anybody was reached, for an answer or not.
    pub fn is_reached(&self) -> bool {
        self.kinds.keys().any(|kind| !matches!(kind, Kind::Lost(PostError::NotReached(_))))
    }

    /// From request to answer, of the last attempt of each delivery that was answered: the 50th, 90th
    /// and 99th percentile and the longest; none where nothing was answered.
    pub fn latency(&self) -> Option<[(&'static str, Duration); 4]> {
        let mut sorted = self.took.clone();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        // The smallest that is not below so many of a hundred.
        let at = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).saturating_sub(1)];
        Some([("p50", at(50)), ("p90", at(90)), ("p99", at(99)), ("max", sorted[last])])
    }

    /// All of it.
    pub fn to_json(&self) -> Json {
        let answers = self.kinds.iter().map(|(kind, count)| match kind {
            Kind::Answer(status, reason) => json!({ "status": status, "reason": reason, "count": count }),
            Kind::Lost(lost) => json!({ "status": null, "reason": lost.to_string(), "count": count }),
        });
        let latency = self.latency().map(|all| {
            let all = all.map(|(name, took)| (name.to_owned(), milliseconds(took).into()));
            Json::Object(all.into_iter().collect())
        });
        json!({
            "deliveries": self.deliveries,
            "attempts": self.attempts,
            "answers": answers.collect::<Vec<_>>(),
            "latency_ms": latency,
            "elapsed_ms": milliseconds(self.elapsed),
        })
    }
}

/// To the microsecond.
pub fn milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::fake_attio::post::Reply;

    #[test]
    fn percentiles_are_of_what_was_answered() {
        let mut tally = Tally::default();
        assert_eq!(tally.latency(), None);
        for took in (1..=100).rev().map(Duration::from_millis) {
            let reply = Reply { status: 200, body: Bytes::new(), took };
            tally.add(Sent { reply: Ok(reply), attempts: 1 });
        }
        tally.add(Sent { reply: Err(PostError::Timeout), attempts: 2 });
        let latency = tally.latency().unwrap().map(|(_, took)| took.as_millis());
        assert_eq!(latency, [50, 90, 99, 100]);
        assert_eq!((tally.deliveries, tally.attempts, tally.is_good()), (101, 102, false));
    }
}
