//! The objects and lists that `state run` knows of. They are read again beside its work, now and then, and as soon as an
//! event names one that is not among them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::task::{JoinError, JoinSet};

use super::Error;
use super::names::Names;
use super::notice::{Notice, latest_receipt};
use crate::attio::entities::{Container, EntityReader, EntityRef, Kind, ReadError};
use crate::bus::state::{Receipt, StateError};

/// How old the names become, for example a slug that was changed.
const RENEWED: Duration = Duration::from_secs(10 * 60);
/// Between two reads while events wait: at first, and at most if none brings anything new.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// The longest pause while something is hidden of which events were ignored.
const HIDDEN: Duration = Duration::from_secs(30);
/// Hidden objects and lists that are remembered.
const REMEMBERED: usize = 1000;

type Read = Result<Names, ReadError>;

#[derive(PartialEq, Eq, Hash)]
struct Hidden {
    kind: Kind,
    container: String,
    /// See [`EntityRef::object`].
    object: Option<String>,
}

pub(super) struct Known {
    names: Arc<Names>,
    reader: EntityReader,
    /// Events of what is not among the names, and how many of them came before the names are read again.
    waiting: Vec<(Receipt, Notice)>,
    asked: usize,
    /// Objects and lists of which events were ignored, as the key could not see them, or the object of an entry's record,
    /// at that time.
    hidden: HashMap<Hidden, OffsetDateTime>,
    reading: JoinSet<Read>,
    begun: Instant,
    in_vain: u32,
}

impl Known {
    pub(super) fn new(names: Arc<Names>, reader: EntityReader) -> Self {
        let (waiting, hidden, reading) = (Vec::new(), HashMap::new(), JoinSet::new());
        Self { names, reader, waiting, asked: 0, hidden, reading, begun: Instant::now(), in_vain: 0 }
    }

    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    pub(super) fn shared(&self) -> Arc<Names> {
        Arc::clone(&self.names)
    }

    /// Gives an event back if what it names is known; otherwise it waits.
    pub(super) fn decide(&mut self, receipt: Receipt, notice: Notice) -> Option<Notice> {
        if self.names.knows(&notice.entity) {
            return Some(notice);
        }
        self.waiting.push((receipt, notice));
        None
    }

    /// An event was ignored, as the key could not see its object or list at that time. The names are read again soon.
    pub(super) fn hide(&mut self, entity: &EntityRef, at: OffsetDateTime) {
        let Some(container) = entity.container.clone() else { return };
        if self.hidden.len() < REMEMBERED {
            let (kind, object) = (entity.kind, entity.object.clone());
            let hidden = self.hidden.entry(Hidden { kind, container, object });
            let known = hidden.or_insert_with(|| {
                self.in_vain = 0;
                at
            });
            *known = at.max(*known);
        }
    }

    /// Those of which events were ignored and that the key may see now. They are remembered no more.
    pub(super) fn shown(&mut self) -> Vec<(Kind, Container)> {
        let (mut shown, names) = (Vec::new(), &self.names);
        self.hidden.retain(|Hidden { kind, container, object }, at| {
            let is_whole = object.as_ref().is_none_or(|object| names.find(Kind::Record, object).is_some());
            let found = names.find(*kind, container).filter(|_| is_whole && names.complete_to > *at);
            shown.extend(found.map(|container| (*kind, container.clone())));
            found.is_none()
        });
        shown
    }

    /// Begins to read the names if that is due.
    pub(super) fn renew(&mut self) {
        let (first, longest) = PAUSES;
        let longest = match (self.waiting.is_empty(), self.hidden.is_empty()) {
            (false, _) => longest,
            (true, false) => HIDDEN,
            (true, true) => RENEWED,
        };
        let is_wanted = !self.waiting.is_empty() || !self.hidden.is_empty();
        let grown = (first * 2_u32.saturating_pow(self.in_vain.min(10))).min(longest);
        let pause = if is_wanted { grown } else { longest };
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
            Err(error) => {
                tracing::warn!("names of objects and lists, trying on: {error}");
                return Ok(Vec::new());
            }
        }
        let (mut decided, mut open) = (Vec::new(), Vec::new());
        for (at, mut waiting) in std::mem::take(&mut self.waiting).into_iter().enumerate() {
            if let Some(sent_at) = self.names.sent_at.filter(|_| at < self.asked) {
                waiting.1.recorded_at = waiting.1.recorded_at.min(latest_receipt(sent_at));
            }
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
