//! What `send` is made of: payloads from files or generated, signed and posted as Attio does, and the answers.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Map, Value as Json, json};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::events::EventGenerator;
use super::output::milliseconds;
use super::totals::Latencies;
use crate::catalog::{EVENT_TYPES, EventType};
use crate::fake_attio::deliver::envelope;
use crate::fake_attio::post::{PostError, Poster, Reply};
use crate::fake_attio::store::Store;
use crate::signing::{Payload, Scheme};

/// The wait before the first retry; each further one is twice as long. Attio's own are not published, and
/// are spread over three days.
const FIRST_RETRY: Duration = Duration::from_millis(500);

const LONGEST_RETRY: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub concurrency: usize,
    /// Deliveries per second at most.
    pub rate: Option<f64>,
    /// Retries of a delivery that was not answered 2xx.
    pub retries: u32,
}

pub struct Target<'a> {
    pub url: &'a str,
    pub secret: &'a str,
    pub poster: Poster,
}

/// Sends all payloads. `progress` is called after each delivery.
pub async fn send(
    target: &Target<'_>,
    options: Options,
    payloads: impl Iterator<Item = Payload>,
    mut progress: impl FnMut(&Answers),
) -> Answers {
    let start = Instant::now();
    let due = |index: usize| {
        // A count of deliveries is far below 2^52.
        #[expect(clippy::cast_precision_loss)]
        let seconds = options.rate.map_or(0.0, |rate| index as f64 / rate);
        start + Duration::from_secs_f64(seconds)
    };
    let deliveries = payloads.enumerate().map(|(index, payload)| async move {
        sleep_until(due(index)).await;
        deliver(target, options, &payload).await
    });
    let mut deliveries = futures_util::stream::iter(deliveries).buffer_unordered(options.concurrency);
    let mut answers = Answers::default();
    while let Some((result, attempts)) = deliveries.next().await {
        answers.add(result, attempts);
        progress(&answers);
    }
    answers.elapsed = start.elapsed();
    answers
}

type PostResult = Result<Reply, PostError>;

/// Sends one delivery until it is answered 2xx or has no retries left. Returns the last result and the number
/// of attempts. Each attempt has a new signature and the same key.
async fn deliver(target: &Target<'_>, options: Options, payload: &Payload) -> (PostResult, u32) {
    let mut attempts = 0;
    loop {
        let request = payload.sign(target.secret, OffsetDateTime::now_utc());
        let result = target.poster.post(target.url, &request).await;
        attempts += 1;
        let retry = match &result {
            Ok(reply) => !reply.is_2xx(),
            Err(error) => *error != PostError::Invalid,
        };
        if !retry || attempts > options.retries {
            return (result, attempts);
        }
        sleep(retry_delay(attempts)).await;
    }
}

fn retry_delay(attempts: u32) -> Duration {
    FIRST_RETRY.saturating_mul(2u32.saturating_pow(attempts - 1)).min(LONGEST_RETRY)
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    Answer(u16, String),
    NoAnswer(PostError),
}

#[derive(Debug, Default)]
pub struct Answers {
    pub endings: BTreeMap<Ending, u64>,
    pub deliveries: u64,
    /// Attempts: more than deliveries after retries.
    pub attempts: u64,
    pub succeeded: u64,
    /// From the first delivery to the last answer.
    pub elapsed: Duration,
    latencies: Latencies,
}

impl Answers {
    fn add(&mut self, result: PostResult, attempts: u32) {
        self.deliveries += 1;
        self.attempts += u64::from(attempts);
        let ending = match result {
            Ok(reply) => {
                self.succeeded += u64::from(reply.is_success());
                self.latencies.record(reply.took);
                Ending::Answer(reply.status, reply.reason())
            }
            Err(error) => Ending::NoAnswer(error),
        };
        *self.endings.entry(ending).or_default() += 1;
    }

    pub fn all_succeeded(&self) -> bool {
        self.succeeded == self.deliveries
    }

    /// Whether any connection was made.
    pub fn is_reached(&self) -> bool {
        self.endings.keys().any(|ending| !matches!(ending, Ending::NoAnswer(PostError::NotReached(_))))
    }

    /// Latencies in milliseconds, of the last attempt of each answered delivery; none without answers.
    pub fn latency(&self) -> Option<[(&'static str, f64); 4]> {
        let at = |share| self.latencies.quantile(share).map(milliseconds);
        Some([("p50", at(0.5)?), ("p90", at(0.9)?), ("p99", at(0.99)?), ("max", at(1.0)?)])
    }

    pub fn to_json(&self) -> Json {
        let endings = self.endings.iter().map(|(ending, count)| match ending {
            Ending::Answer(status, reason) => json!({ "status": status, "reason": reason, "count": count }),
            Ending::NoAnswer(error) => json!({ "status": null, "reason": error.to_string(), "count": count }),
        });
        let latency = self.latency().map(|all| {
            all.into_iter().map(|(name, took)| (name.to_owned(), Json::from(took))).collect::<Map<_, _>>()
        });
        json!({
            "deliveries": self.deliveries,
            "attempts": self.attempts,
            "answers": endings.collect::<Vec<_>>(),
            "latency_ms": latency,
            "elapsed_ms": milliseconds(self.elapsed),
        })
    }
}

/// Shares of generated deliveries in percent, about. The rest are one new event each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shares {
    /// The previous delivery, repeated.
    pub duplicates: u32,
    pub batches: u32,
    /// Signed, but not JSON: they are quarantined.
    pub broken: u32,
}

const BATCH: usize = 3;

/// Generates payloads without end.
pub struct PayloadGenerator {
    events: EventGenerator,
    scheme: Scheme,
    types: Vec<&'static EventType>,
    shares: Shares,
    /// Duplicates, batches and broken payloads so far.
    made: [u64; 3],
    count: u64,
    next_type: usize,
    last: Option<Payload>,
}

impl PayloadGenerator {
    /// Events of these types in turn; of all types if there are none.
    pub fn new(scheme: Scheme, types: &[&'static EventType], shares: Shares) -> Self {
        let types = if types.is_empty() { EVENT_TYPES.iter().collect() } else { types.to_vec() };
        let events = EventGenerator::new(&Store::new(""), &Uuid::new_v4().to_string());
        Self { events, scheme, types, shares, made: [0; 3], count: 0, next_type: 0, last: None }
    }

    fn event_type(&mut self) -> &'static EventType {
        self.next_type += 1;
        self.types[(self.next_type - 1) % self.types.len()]
    }

    fn batch(&mut self, size: usize) -> String {
        let mut event = || {
            let entry = self.event_type();
            self.events.event(entry)
        };
        let events: Vec<String> = (0..size).map(|_| event()).collect();
        let events: Vec<&str> = events.iter().map(String::as_str).collect();
        envelope(&self.events.webhook_id, &events)
    }

    /// The kind that is most behind its share, if it is at least half a delivery behind. So the kinds are spread
    /// evenly.
    fn due(&mut self) -> Option<usize> {
        let shares = [self.shares.duplicates, self.shares.batches, self.shares.broken].map(u64::from);
        let behind = |kind: &usize| (self.count * shares[*kind]).saturating_sub(self.made[*kind] * 100);
        let kind = (0..3).max_by_key(behind).filter(|kind| behind(kind) >= 50)?;
        self.made[kind] += 1;
        Some(kind)
    }
}

impl Iterator for PayloadGenerator {
    type Item = Payload;

    fn next(&mut self) -> Option<Payload> {
        self.count += 1;
        let due = self.due();
        if let (Some(0), Some(last)) = (due, &self.last) {
            return Some(last.clone());
        }
        let body = match (due, self.scheme) {
            (Some(1), _) => self.batch(BATCH),
            (Some(2), _) => format!("{{\"webhook_id\":\"{}\",\"eve", Uuid::new_v4()),
            (_, Scheme::Attio) => self.batch(1),
            (_, Scheme::Timestamped) => {
                let entry = self.event_type();
                self.events.single_event(entry)
            }
        };
        self.last = Some(Payload::new(self.scheme, body));
        self.last.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::Bytes;

    use super::*;

    #[test]
    fn retry_delays_double_up_to_30_s() {
        let delays = [1, 2, 3, 7, 40].map(|attempts| retry_delay(attempts).as_millis());
        assert_eq!(delays, [500, 1000, 2000, 30_000, 30_000]);
    }

    #[test]
    fn latencies_are_those_of_answered_deliveries() {
        let mut answers = Answers::default();
        assert_eq!(answers.latency(), None);
        for took in (1..=100).rev().map(Duration::from_millis) {
            answers.add(Ok(Reply { status: 200, body: Bytes::new(), took }), 1);
        }
        answers.add(Err(PostError::Timeout), 2);
        let latency = answers.latency().unwrap().map(|(_, took)| took.round());
        assert_eq!(latency, [50.0, 90.0, 99.0, 100.0]);
        assert_eq!((answers.deliveries, answers.attempts, answers.all_succeeded()), (101, 102, false));
    }

    #[test]
    fn generated_payloads_have_the_requested_shares() {
        let shares = Shares { duplicates: 20, batches: 10, broken: 5 };
        let payloads: Vec<Payload> = PayloadGenerator::new(Scheme::Attio, &[], shares).take(200).collect();
        let keys: BTreeSet<_> = payloads.iter().map(|payload| payload.key.clone()).collect();
        assert_eq!(200 - keys.len(), 40, "duplicates");
        let mut repeated = payloads.windows(2).filter(|pair| pair[0].key == pair[1].key);
        assert!(repeated.all(|pair| pair[0].body == pair[1].body));
        let mut seen = BTreeSet::new();
        let (mut batches, mut broken) = (0, 0);
        for payload in payloads.iter().filter(|payload| seen.insert(payload.key.clone())) {
            match serde_json::from_slice::<Json>(&payload.body) {
                Ok(body) => {
                    batches += usize::from(body["events"].as_array().is_some_and(|all| all.len() == BATCH));
                }
                Err(_) => broken += 1,
            }
        }
        assert_eq!((batches, broken), (20, 10));
    }

    #[test]
    fn generated_events_are_of_every_type_in_turn() {
        let payloads = PayloadGenerator::new(Scheme::Timestamped, &[], Shares::default());
        for (payload, entry) in payloads.zip(EVENT_TYPES) {
            let body: Json = serde_json::from_slice(&payload.body).unwrap();
            assert_eq!(body["event_type"], entry.name);
        }
    }
}
