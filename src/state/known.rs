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
    /// Events that the names are too old for.
    waiting: Vec<(Receipt, Notice)>,
    reading: JoinSet<Read>,
    begun: Instant,
    in_vain: u32,
}

impl Known {
    pub(super) fn new(names: Arc<Names>, reader: EntityReader) -> Self {
        let reading = JoinSet::new();
        Self { names, reader, waiting: Vec::new(), reading, begun: Instant::now(), in_vain: 0 }
    }

    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    /// Gives an event back if it is known whether the key may see its object or list; otherwise it waits.
    pub(super) fn decide(&mut self, receipt: Receipt, notice: Notice) -> Option<Notice> {
        let is_decided = self.names.knows(&notice.entity) || self.names.complete_to >= notice.recorded_at;
        if !is_decided {
            self.waiting.push((receipt, notice));
            return None;
        }
        Some(notice)
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
        self.begun = Instant::now();
        let (names, reader) = (Arc::clone(&self.names), self.reader.clone());
        self.reading.spawn(async move { names.renew(&reader).await });
    }

    /// Waits until names were read; none if they are not being read.
    pub(super) async fn read(&mut self) -> Option<Result<Read, JoinError>> {
        self.reading.join_next().await
    }

    /// Takes the names that were read. Returns the events that wait for them.
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
                tracing::warn!("names of objects and lists, trying on: {reason}")
            }
        }
        Ok(std::mem::take(&mut self.waiting))
    }
}

/// A task that panicked has logged why.
pub(super) fn flat<T>(joined: Result<T, JoinError>) -> Result<T, Error> {
    joined.map_err(|error| Error::Bus(StateError::Lasting(error.to_string())))
}
