//! Reads the quarantine in bounded memory: first every entry without its body, then bodies in batches.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::quarantined::{Entry, Quarantined};
use crate::bus::read::{Begin, Item, Plan, Position};
use crate::bus::{self, Kind, ReadError};
use crate::cloudevent::decode::DecodedEvent;
use crate::pipeline::publish::Destination;

/// Bytes of bodies that are in memory at a time; a single larger body is read alone.
const BATCH_BYTES: usize = 8 << 20;

/// Where the quarantine is, and what interrupts reading it.
#[derive(Clone)]
pub struct QuarantineReader {
    pub bus: Kind,
    /// The dead-letter topic or subject.
    pub destination: Arc<Destination>,
    /// Cancelled when reading is to stop.
    pub stop: CancellationToken,
}

/// An entry, and where the broker has its body.
#[derive(Clone, Debug)]
pub struct Stored {
    pub entry: Entry,
    position: Position,
    stored_at: Option<OffsetDateTime>,
}

/// Why the quarantine cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum QuarantineError {
    #[error("interrupted")]
    Interrupted,
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Retention removed it after it was listed.
    #[error("{0} is no longer in the quarantine: the broker has removed it")]
    Gone(String),
}

impl QuarantineReader {
    /// Reads to the end: the wanted entries, each id once, in the order of receipt. `skipped` is called
    /// for each message that is not a quarantine record.
    pub async fn entries(
        &self,
        begin: Begin,
        wanted: impl Fn(&Entry) -> bool,
        mut skipped: impl FnMut(&Item),
    ) -> Result<Vec<Stored>, QuarantineError> {
        let (mut seen, mut entries) = (BTreeSet::new(), Vec::new());
        self.read(begin, |item| {
            match decode(&item) {
                None => skipped(&item),
                Some(Quarantined { entry, .. }) => {
                    if wanted(&entry) && seen.insert(entry.id.clone()) {
                        entries.push(Stored { entry, position: item.position, stored_at: item.stored_at });
                    }
                }
            }
            true
        })
        .await?;
        entries.sort_by_key(|stored| stored.entry.received_at);
        Ok(entries)
    }

    /// The bodies of these entries, in their order.
    pub fn bodies(&self, entries: Vec<Stored>) -> Bodies {
        Bodies { reader: self.clone(), entries: entries.into(), batch: VecDeque::new() }
    }

    /// Reads messages until `accept` answers false, or to the end.
    async fn read(&self, begin: Begin, mut accept: impl FnMut(Item) -> bool) -> Result<(), QuarantineError> {
        let plan = Plan { destinations: vec![Arc::clone(&self.destination)], begin, follow: false };
        let mut reader = bus::read(&self.bus, plan).await?;
        let done = loop {
            let item = tokio::select! {
                () = self.stop.cancelled() => break Err(QuarantineError::Interrupted),
                item = reader.next() => item,
            };
            match item {
                None => break Ok(()),
                Some(Err(error)) => break Err(error.into()),
                Some(Ok(item)) => {
                    if !accept(item) {
                        break Ok(());
                    }
                }
            }
        };
        reader.end().await;
        done
    }
}

fn decode(item: &Item) -> Option<Quarantined> {
    Quarantined::from_event(DecodedEvent::from_message(&item.headers, &item.payload).ok()?)
}

/// Bodies that are read as they are needed.
pub struct Bodies {
    reader: QuarantineReader,
    /// Not read yet.
    entries: VecDeque<Stored>,
    /// Read, but not returned yet.
    batch: VecDeque<Quarantined>,
}

impl Bodies {
    pub async fn next(&mut self) -> Result<Option<Quarantined>, QuarantineError> {
        if self.batch.is_empty() && !self.entries.is_empty() {
            self.batch = self.read_batch().await?;
        }
        Ok(self.batch.pop_front())
    }

    async fn read_batch(&mut self) -> Result<VecDeque<Quarantined>, QuarantineError> {
        let mut bytes = 0;
        let fits = |stored: &&Stored| {
            bytes += stored.entry.bytes;
            bytes <= BATCH_BYTES
        };
        let count = self.entries.iter().take_while(fits).count().max(1);
        let wanted: Vec<Stored> = self.entries.drain(..count.min(self.entries.len())).collect();
        let mut missing: BTreeMap<Position, usize> =
            wanted.iter().enumerate().map(|(at, stored)| (stored.position, at)).collect();
        let mut found: Vec<Option<Quarantined>> = vec![None; wanted.len()];
        // Times may decrease with positions if a broker's clock was set back: then read from the beginning.
        let oldest = wanted.iter().map(|stored| stored.stored_at).min().flatten();
        for begin in oldest.map(Begin::At).into_iter().chain([Begin::Beginning]) {
            let accept = |item: Item| {
                if let Some(at) = missing.remove(&item.position) {
                    found[at] = decode(&item);
                }
                !missing.is_empty()
            };
            self.reader.read(begin, accept).await?;
            if missing.is_empty() {
                break;
            }
        }
        let body = |(stored, found): (Stored, Option<Quarantined>)| {
            found.ok_or(QuarantineError::Gone(stored.entry.id))
        };
        wanted.into_iter().zip(found).map(body).collect()
    }
}
