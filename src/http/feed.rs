//! The last deliveries, for the admin page.
//!
//! A delivery is encoded once, when it ends, and kept in a ring, where each reader looks twice a second: a
//! reader, however slow, holds up no delivery. While nobody reads, a few deliveries a second are kept, so that
//! the page begins with the last ones.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use parking_lot::Mutex;
use serde::Serialize;

use crate::pipeline::outcome::{EventDetails, EventOutcome, EventResult, Outcome};
use crate::pipeline::publish::{Position, PublishError};

/// What the ring holds at most: more than a reader misses between two looks.
const MAX_ENTRIES: usize = 256;
const MAX_BYTES: usize = 1024 * 1024;

/// Deliveries that are kept of a burst; after it one every [`UNREAD`], or [`READ`] while somebody reads.
const BURST: u32 = 200;
const UNREAD: Duration = Duration::from_millis(100);
const READ: Duration = Duration::from_millis(20);

/// Streams at once: each holds one of the admin listener's connections, which probes need too.
const MAX_READERS: usize = 16;

pub struct Feed {
    /// Distinguishes the entries of this process from those before a restart.
    process: u32,
    started: Instant,
    deliveries: AtomicU64,
    /// Nanoseconds since `started` up to which deliveries are kept in advance.
    kept_until: AtomicU64,
    readers: AtomicUsize,
    ring: Mutex<Ring>,
}

#[derive(Default)]
struct Ring {
    entries: VecDeque<Bytes>,
    bytes: usize,
    /// Entries that are no longer in the ring: the index of the first that is.
    removed: u64,
}

/// One delivery as `GET /deliveries` shows it. Never the body, a secret or a signature.
#[derive(Serialize)]
pub(super) struct Delivery<'a> {
    /// Counts every delivery of the process: between two entries as many were left out as it skips.
    pub number: u64,
    pub time: Option<String>,
    pub source: &'a str,
    pub status: u16,
    pub reason: &'static str,
    pub duration_ms: f64,
    pub bytes: usize,
    pub delivery_id: Option<&'a str>,
    pub webhook_id: Option<&'a str>,
    /// The label of the secret that matched.
    pub secret: Option<&'a str>,
    pub error: Option<&'a str>,
    pub events: Vec<Event<'a>>,
    /// Events without an element in `events`.
    pub more_events: usize,
}

#[derive(Serialize)]
pub(super) struct Event<'a> {
    id: Option<&'a str>,
    r#type: &'a str,
    key: Option<&'a str>,
    address: Option<&'a str>,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The events of an outcome that have details.
pub(super) fn events(outcome: &Outcome) -> Vec<Event<'_>> {
    outcome.events.iter().filter_map(|event| Some(Event::new(event, event.details.as_ref()?))).collect()
}

impl<'a> Event<'a> {
    fn new(EventOutcome { result, .. }: &EventOutcome, details: &'a EventDetails) -> Self {
        let (partition, offset, sequence) = match details.position {
            Some(Position::Offset { partition, offset }) => (Some(partition), Some(offset), None),
            Some(Position::Sequence(sequence)) => (None, None, Some(sequence)),
            None => (None, None, None),
        };
        let error = match result {
            EventResult::Failed(error) => Some(PublishError::to_string(error)),
            _ => None,
        };
        Self {
            id: details.id.as_deref(),
            r#type: &details.event_type,
            key: details.key.as_deref(),
            address: details.address.as_deref(),
            result: result.label(),
            partition,
            offset,
            sequence,
            error,
        }
    }
}

impl Feed {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            process: fastrand::u32(..),
            started: Instant::now(),
            deliveries: AtomicU64::new(0),
            kept_until: AtomicU64::new(0),
            readers: AtomicUsize::new(0),
            ring: Mutex::default(),
        })
    }

    /// Whether to keep a delivery that begins now. Two at once may both take the last place, which does no harm.
    pub(super) fn keeps(&self, now: Instant) -> bool {
        let interval = if self.readers.load(Ordering::Relaxed) == 0 { UNREAD } else { READ };
        let now = nanoseconds(now.saturating_duration_since(self.started));
        let from = self.kept_until.load(Ordering::Relaxed).max(now);
        let keeps = from - now <= nanoseconds(interval * BURST);
        if keeps {
            self.kept_until.store(from + nanoseconds(interval), Ordering::Relaxed);
        }
        keeps
    }

    /// Counts a delivery; its number.
    pub(super) fn count(&self) -> u64 {
        self.deliveries.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn push(&self, delivery: &Delivery<'_>) {
        let mut json = Vec::with_capacity(768);
        if serde_json::to_writer(&mut json, delivery).is_err() {
            // Writing to memory does not fail.
            return;
        }
        let mut ring = self.ring.lock();
        ring.bytes += json.len();
        ring.entries.push_back(json.into());
        while ring.entries.len() > MAX_ENTRIES || ring.bytes > MAX_BYTES {
            let Some(removed) = ring.entries.pop_front() else { break };
            ring.bytes -= removed.len();
            ring.removed += 1;
        }
    }

    /// A reader that begins with the whole ring, or after the entry of this id. None if there are too many.
    pub(super) fn read(self: &Arc<Self>, after: Option<&str>) -> Option<Reader> {
        let last_id = after.and_then(|id| id.split_once('-')).and_then(|(process, index)| {
            (process.parse() == Ok(self.process)).then(|| index.parse::<u64>().ok())?
        });
        let before = self.readers.fetch_add(1, Ordering::Relaxed);
        let reader = Reader { feed: Arc::clone(self), next: last_id.map_or(0, |index| index + 1) };
        if before == 0 {
            // What was kept in advance was at the slower rate.
            self.kept_until.store(0, Ordering::Relaxed);
        }
        (before < MAX_READERS).then_some(reader)
    }
}

pub(super) struct Reader {
    feed: Arc<Feed>,
    /// The index of the next entry.
    next: u64,
}

impl Reader {
    /// The entries since the last call, as server-sent events; empty if there are none. A comment says how many
    /// were removed before this reader came to them.
    pub(super) fn take(&mut self) -> String {
        let (first, new) = {
            let ring = self.feed.ring.lock();
            let end = ring.removed + ring.entries.len() as u64;
            // Of a later index: the ring of another process has the same random number.
            let first = self.next.clamp(ring.removed, end);
            let skip = usize::try_from(first - ring.removed).unwrap_or(usize::MAX);
            (first, ring.entries.iter().skip(skip).cloned().collect::<Vec<_>>())
        };
        let missed = if self.next == 0 { 0 } else { first.saturating_sub(self.next) };
        let mut text = String::with_capacity(new.iter().map(|entry| entry.len() + 40).sum());
        if missed > 0 {
            text.push_str(&format!(": {missed} deliveries were left out: this reader is too slow\n\n"));
        }
        self.next = first + new.len() as u64;
        for (index, entry) in (first..).zip(&new) {
            text.push_str(&format!("id: {}-{index}\ndata: ", self.feed.process));
            text.push_str(&String::from_utf8_lossy(entry));
            text.push_str("\n\n");
        }
        text
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.feed.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(feed: &Feed, bytes: usize) {
        let source = "x".repeat(bytes);
        feed.push(&Delivery {
            number: feed.count(),
            time: None,
            source: &source,
            status: 200,
            reason: "accepted",
            duration_ms: 1.0,
            bytes,
            delivery_id: None,
            webhook_id: None,
            secret: None,
            error: None,
            events: Vec::new(),
            more_events: 0,
        });
    }

    fn ids(text: &str) -> Vec<&str> {
        text.lines().filter_map(|line| line.strip_prefix("id: ")).collect()
    }

    #[test]
    fn a_reader_begins_with_the_ring_and_goes_on_after_its_last_entry() {
        let feed = Feed::new();
        (0..3).for_each(|_| push(&feed, 10));
        let mut reader = feed.read(None).unwrap();
        let text = reader.take();
        assert_eq!(ids(&text).len(), 3);
        assert!(reader.take().is_empty());
        let mut resumed = feed.read(Some(ids(&text)[1])).unwrap();
        assert_eq!(ids(&resumed.take()), ids(&text)[2..]);
        for unknown in ["", "1-2", "x", "99999999999-1"] {
            assert_eq!(ids(&feed.read(Some(unknown)).unwrap().take()).len(), 3, "{unknown}");
        }
    }

    #[test]
    fn a_slow_reader_is_told_what_it_missed() {
        let feed = Feed::new();
        push(&feed, 10);
        let mut reader = feed.read(None).unwrap();
        reader.take();
        (0..MAX_ENTRIES + 7).for_each(|_| push(&feed, 10));
        let text = reader.take();
        assert!(text.starts_with(": 7 deliveries were left out"), "{}", &text[..80]);
        assert_eq!(ids(&text).len(), MAX_ENTRIES);
    }

    #[test]
    fn the_ring_holds_so_many_bytes_and_the_feed_so_many_readers() {
        let feed = Feed::new();
        (0..30).for_each(|_| push(&feed, MAX_BYTES / 10));
        assert!(feed.ring.lock().bytes <= MAX_BYTES);
        let readers: Vec<_> = (0..MAX_READERS).map(|_| feed.read(None).unwrap()).collect();
        assert!(feed.read(None).is_none());
        drop(readers);
        assert!(feed.read(None).is_some());
    }

    #[test]
    fn of_a_burst_the_first_are_kept_and_then_a_few_each_second() {
        let feed = Feed::new();
        let kept = |from: Duration, count: u32, apart: Duration| {
            (0..count).filter(|at| feed.keeps(feed.started + from + apart * *at)).count()
        };
        assert_eq!(kept(Duration::ZERO, 1000, Duration::ZERO), BURST as usize + 1);
        assert_eq!(kept(Duration::from_millis(1), 10_000, Duration::from_millis(1)), 100);
        let _reader = feed.read(None).unwrap();
        assert_eq!(kept(Duration::from_secs(11), 300, Duration::from_millis(10)), 300);
    }
}
