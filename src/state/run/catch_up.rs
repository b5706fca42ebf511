//! Objects and lists that the key could not see for a while, and may see again.

use std::sync::Arc;

use futures_util::FutureExt as _;
use time::OffsetDateTime;

use super::Engine;
use crate::attio::entities::EntityRef;
use crate::state::Error;
use crate::state::backfill::{self, Counts, Journal};
use crate::state::targets::Target;
use crate::state::writing::{Reading, Writing};

impl Engine {
    /// Events of an object or a list are ignored that the key could not see at that time.
    pub(super) fn unseen(&mut self, entity: &EntityRef, at: OffsetDateTime) {
        self.warnings.of_unseen(entity);
        self.known.hide(entity, at);
    }

    /// Goes through the objects and lists that the key may see again, as what happened meanwhile was ignored.
    pub(super) fn catch_up(&mut self) {
        for (kind, container) in self.known.shown() {
            let slug = container.slug.as_deref().unwrap_or_default();
            tracing::info!(
                kind = kind.as_str(),
                container = container.id,
                slug,
                "it can be seen again: its entities are read"
            );
            self.warnings.seen(&container.id);
            let writing = Writing {
                reading: Reading {
                    options: Arc::clone(&self.run.options),
                    names: self.known.shared(),
                    reader: self.run.reader.clone(),
                },
                publisher: self.run.publisher.clone(),
            };
            if self.known.names().keep(&self.run.options, kind, Some(&container.id)) {
                let target = Target::of(kind, self.known.names(), container);
                let walk =
                    async move { backfill::run(&writing, &[target], Journal::unwritten(), |_| {}).await };
                self.walks.push(walk.boxed_local());
            }
        }
    }

    /// What cannot go on for other reasons than those of the walk ends `state run` too, by itself.
    pub(super) fn caught_up(counts: Result<Counts, Error>) {
        match counts {
            Ok(Counts { rows, published, failed }) => {
                let published: u64 = published.values().sum();
                tracing::info!(rows, published, failed, "what can be seen again is read");
            }
            Err(error) => {
                tracing::error!("what can be seen again is not read, run `state backfill`: {error}");
            }
        }
    }
}
