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
/// The longest pause while something is hidden of which something was left out.
const HIDDEN: Duration = Duration::from_secs(30);
/// Hidden objects and lists that are remembered.
const REMEMBERED: usize = 1000;

type Read = Result<Names, ReadError>;

/// An object or a list of which something was left out.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Hidden {
    pub(super) kind: Kind,
    pub(super) container: Arc<str>,
    /// The object of an entry's record, for a comment on that entry.
    object: Option<Arc<str>>,
}

impl Hidden {
    /// What may hide an entity; none if nothing may.
    pub(super) fn of(entity: &EntityRef) -> Option<Self> {
        let (kind, object) = (entity.kind, entity.object.clone());
        entity.container.clone().map(|container| Self { kind, container, object })
    }

    /// Its object or list, if the key may see all of it.
    pub(super) fn find<'a>(&self, names: &'a Names) -> Option<(Kind, &'a Container)> {
        let is_seen = |object: &Arc<str>| names.find(Kind::Record, object).is_some();
        let is_whole = self.object.as_ref().is_none_or(is_seen);
        let container = names.find(self.kind, &self.container).filter(|_| is_whole)?;
        Some((self.kind, container))
    }
}

pub(super) struct Known {
    names: Arc<Names>,
    reader: EntityReader,
    /// Events of what is not among the names, and how many of them came before the names are read again.
    waiting: Vec<(Receipt, Notice)>,
    asked: usize,
    /// Objects and lists of which something was left out, as the key could not see them, or the object of an entry's
    /// record, at that time.
    hidden: HashMap<Hidden, OffsetDateTime>,
    reading: JoinSet<Read>,
    begun: Instant,
    /// When the names were asked for that there are.
    asked_at: Instant,
    in_vain: u32,
}

impl Known {
    pub(super) fn new(names: Arc<Names>, reader: EntityReader) -> Self {
        let (waiting, hidden, reading, now) = (Vec::new(), HashMap::new(), JoinSet::new(), Instant::now());
        Self { names, reader, waiting, asked: 0, hidden, reading, begun: now, asked_at: now, in_vain: 0 }
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

    /// Something was left out, as the key could not see it at that time. The names are read again soon.
    pub(super) fn hide(&mut self, hidden: Hidden, at: OffsetDateTime) {
        if self.hidden.len() < REMEMBERED || self.hidden.contains_key(&hidden) {
            self.hide_again(hidden, at);
        }
    }

    /// The same of what was hidden before, however many there are.
    pub(super) fn hide_again(&mut self, hidden: Hidden, at: OffsetDateTime) {
        let known = self.hidden.entry(hidden).or_insert_with(|| {
            self.in_vain = 0;
            at
        });
        *known = at.max(*known);
    }

    /// Those of which something was left out and that the key may see now. They are remembered no more.
    pub(super) fn shown(&mut self) -> Vec<Hidden> {
        let names = &self.names;
        let shown = |hidden: &Hidden, at: &mut OffsetDateTime| {
            names.complete_to > *at && hidden.find(names).is_some()
        };
        self.hidden.extract_if(shown).map(|(hidden, _)| hidden).collect()
    }

    /// Begins to read the names if that is due; sooner also if others wait for them.
    pub(super) fn renew(&mut self, others_wait: bool) {
        let (first, longest) = PAUSES;
        let is_hidden = !self.hidden.is_empty() || others_wait;
        let longest = match (self.waiting.is_empty(), is_hidden) {
            (false, _) => longest,
            (true, true) => HIDDEN,
            (true, false) => RENEWED,
        };
        let is_wanted = !self.waiting.is_empty() || is_hidden;
        let grown = (first * 2_u32.saturating_pow(self.in_vain.min(10))).min(longest);
        let pause = if is_wanted { grown } else { longest };
        if !self.reading.is_empty() || self.begun.elapsed() < pause {
            return;
        }
        (self.begun, self.asked) = (Instant::now(), self.waiting.len());
        let (names, reader) = (Arc::clone(&self.names), self.reader.clone());
        self.reading.spawn(async move { names.renew(&reader).await });
    }

    pub(super) fn asked_at(&self) -> Instant {
        self.asked_at
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
                (self.names, self.asked_at) = (Arc::new(names), self.begun);
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
