//! What `state run` warns of: of each thing once, or once a minute.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::names::Names;
use super::notice::CLOCKS;
use crate::attio::entities::{EntityRef, Kind};

/// Between two warnings of a kind.
const PAUSE: Duration = Duration::from_secs(60);
/// Objects and lists that are named.
const NAMED: usize = 1000;

#[derive(Default)]
pub(super) struct Warnings {
    of_workspace: bool,
    unseen: HashSet<String>,
    clocks: Option<Instant>,
    receipts: Option<Instant>,
    writer: Option<Instant>,
    broker: Option<Instant>,
}

impl Warnings {
    /// Events of another workspace: read with this key, each would be 404.
    pub(super) fn of_workspace(&mut self, other: &str, own: &str) {
        if !std::mem::replace(&mut self.of_workspace, true) {
            tracing::warn!(
                "events of workspace {other} are ignored: ATTIO_API_KEY is a key of workspace {own}"
            );
        }
    }

    /// An object or a list that the key may not see.
    pub(super) fn of_unseen(&mut self, kind: Kind, id: &str) {
        if self.unseen.len() < NAMED && self.unseen.insert(id.to_owned()) {
            let owner = match kind {
                Kind::Record => "object",
                Kind::ListEntry => "list",
                Kind::Note | Kind::Task | Kind::Comment => "what belongs to",
            };
            tracing::warn!(
                "events of {owner} {id} are ignored: ATTIO_API_KEY may not see it, or it was deleted; once the key may \
                 see it, what it holds is read"
            );
        }
    }

    /// These objects and lists the key may see now.
    pub(super) fn seen(&mut self, names: &Names) {
        self.unseen.retain(|hidden| names.find(Kind::Comment, hidden).is_none());
    }

    /// An answer that is much older than the request.
    pub(super) fn of_clocks(&mut self, entity: &EntityRef, age: time::Duration) {
        let age = Duration::try_from(age).unwrap_or_default();
        if age > CLOCKS && is_due(&mut self.clocks) {
            tracing::warn!(
                kind = entity.kind.as_str(),
                id = &*entity.id,
                "Attio's answer is {} s old, older than the event: reading again until it is not; if this lasts, the \
                 clocks of the bridge and of Attio differ",
                age.as_secs()
            );
        }
    }

    /// An event whose receipt is later than Attio's answer was sent that it was taken before.
    pub(super) fn of_receipts(&mut self, entity: &EntityRef, ahead: time::Duration) {
        if is_due(&mut self.receipts) {
            tracing::warn!(
                kind = entity.kind.as_str(),
                id = &*entity.id,
                "an event was received {} s after Attio's time now, as it says: the clock of the bridge that received it is \
                 ahead; its state is {} s late",
                ahead.whole_seconds(),
                CLOCKS.as_secs()
            );
        }
    }

    /// A state that the writer takes for too old.
    pub(super) fn of_writer(&mut self, entity: &EntityRef, age: i64) {
        if is_due(&mut self.writer) {
            tracing::error!(
                kind = entity.kind.as_str(),
                id = &*entity.id,
                "what Attio has answered counts as {} s old, too old to be stored, and is read again: if this lasts, the \
                 clock of this host is ahead of Attio's: correct it",
                age / 1000
            );
        }
    }

    pub(super) fn of_broker(&mut self, reason: &str) {
        if is_due(&mut self.broker) {
            tracing::warn!("states are not stored, trying on: {reason}");
        }
    }
}

fn is_due(last: &mut Option<Instant>) -> bool {
    let is_due = last.is_none_or(|at| at.elapsed() > PAUSE);
    if is_due {
        *last = Some(Instant::now());
    }
    is_due
}
