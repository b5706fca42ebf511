//! The objects and lists that `state run` knows of. They are read again beside its work, now and then, and as soon as an
//! event names one that is not among them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{JoinError, JoinSet};

use super::Error;
use super::names::Names;
use super::notice::Notice;
use crate::attio::entities::{EntityReader, ReadError};
use crate::bus::state::{Receipt, StateError};

/// How old the names become, for example a slug that was changed.
const RENEWED: Duration = Duration::from_secs(10 * 60);
/// Between two reads while events wait: at first, and at most if none brings anything new.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

type Read = Result<Names, ReadError>;

pub(super) struct Known {
    names: Arc<Names>,
    reader: EntityReader,
    /// Events of what is not among the names, and how many of them came before the names are read again.
    waiting: Vec<(Receipt, Notice)>,
    asked: usize,
    reading: JoinSet<Read>,
    begun: Instant,
    in_vain: u32,
}

impl Known {
    pub(super) fn new(names: Arc<Names>, reader: EntityReader) -> Self {
        let reading = JoinSet::new();
        Self { names, reader, waiting: Vec::new(), asked: 0, reading, begun: Instant::now(), in_vain: 0 }
    }

    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    /// Gives an event back if what it names is known; otherwise it waits.
    pub(super) fn decide(&mut self, receipt: Receipt, notice: Notice) -> Option<Notice> {
        if self.names.knows(&notice.entity) {
            return Some(notice);
        }
        self.waiting.push((receipt, notice));
        None
    }

    /// Begins to read the names if that is due.
    pub(super) fn renew(&mut self) {
        let (first, longest) = PAUSES;
        let pause = match self.waiting.is_empty() {
            true => RENEWED,
            false => (first * 2_u32.saturating_pow(self.in_vain.min(10))).min(longest),
        };
        if !self.reading.is_empty() || self.begun.elapsed() < pause {
            return;
        }
        (self.begun, self.asked) = (Instant::now(), self.waiting.len());
        let (names, reader) = (Arc::clone(&self.names), self.reader.clone());
        self.reading.spawn(async move { names.renew(&reader).await });
    }

    /// Waits until names were read; none if they are not being read.
    pub(super) async fn read(&mut self) -> Option<Result<Read, JoinError>> {
        self.reading.join_next().await
    }

    /// Takes the names that were read. Returns the events that are decided: what they name is among the names, or is not
    /// in an answer that was asked for after they came and is no older.
    pub(super) fn renewed(&mut self, read: Read) -> Result<Vec<(Receipt, Notice)>, Error> {
        self.in_vain += 1;
        match read {
            Ok(names) => {
                if (&names.objects, &names.lists) != (&self.names.objects, &self.names.lists) {
                    self.in_vain = 0;
                }
                self.names = Arc::new(names);
            }
            Err(ReadError::Denied { reason, .. }) => return Err(Error::Denied(reason)),
            Err(ReadError::Retryable(reason)) => {
                tracing::warn!("names of objects and lists, trying on: {reason}");
                return Ok(Vec::new());
            }
        }
        let (mut decided, mut open) = (Vec::new(), Vec::new());
        for (at, waiting) in std::mem::take(&mut self.waiting).into_iter().enumerate() {
            let is_answered = at < self.asked && waiting.1.recorded_at <= self.names.complete_to;
            let is_decided = is_answered || self.names.knows(&waiting.1.entity);
            if is_decided { &mut decided } else { &mut open }.push(waiting);
        }
        self.waiting = open;
        Ok(decided)
    }
}

/// A task that panicked has logged why.
pub(super) fn flat<T>(joined: Result<T, JoinError>) -> Result<T, Error> {
    joined.map_err(|error| Error::Bus(StateError::Lasting(error.to_string())))
}
