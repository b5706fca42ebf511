//! Objects and lists that the key could not see for a while, and may see again: what happened meanwhile was ignored, so
//! everything in them is read. One is gone through at a time, and again until nothing of it is left out, or the key cannot
//! see it any more.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use time::OffsetDateTime;

use super::Engine;
use crate::attio::entities::EntityRef;
use crate::state::Error;
use crate::state::backfill::{self, Counts, Journal};
use crate::state::known::Hidden;
use crate::state::names::Names;
use crate::state::targets::Target;
use crate::state::writing::{ATTEMPTS, Failures, Reading, Writing};

/// Before something is gone through again that was not read, or not whole: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// Attio's answers are at most so much older than their requests, with something to spare.
const STALE: Duration = Duration::from_secs(5);

/// What is to be gone through.
#[derive(Default)]
pub(super) struct CatchUp {
    /// What waits, by name.
    waiting: BTreeMap<String, Wanted>,
    /// At most one that is under way.
    walk: FuturesUnordered<LocalBoxFuture<'static, Walked>>,
    /// What the reason of that one is, and whether the key could not see it meanwhile.
    walking: (Vec<Hidden>, bool),
    /// What was left out last time, by the name of its target.
    left_out: BTreeMap<String, Failures>,
    /// What was gone through until then. Notes and comments may be missing because they were hidden meanwhile.
    done: Vec<(Vec<Hidden>, Instant)>,
}

pub(super) struct Wanted {
    target: Target,
    /// What is the reason.
    hidden: Vec<Hidden>,
    journal: Journal,
    due: Instant,
    /// How often it was gone through in vain.
    in_vain: u32,
}

pub(super) type Walked = (Wanted, Result<Counts, Error>);

impl CatchUp {
    /// Wants all of a target, also if some of it was read before.
    fn add(&mut self, target: Target, shown: Hidden) {
        let (name, journal) = (target.key(), Journal::unwritten());
        let mut wanted = Wanted { target, hidden: vec![shown], journal, due: Instant::now(), in_vain: 0 };
        if let Some(former) = self.waiting.remove(&name) {
            wanted.hidden.extend(former.hidden);
        }
        self.waiting.insert(name, wanted);
    }

    /// Begins with what is due, unless something is under way.
    fn begin(&mut self, writing: impl FnOnce() -> Writing) {
        if !self.walk.is_empty() {
            return;
        }
        let due = self.waiting.iter().min_by_key(|(_, wanted)| wanted.due);
        let due = due.filter(|(_, wanted)| wanted.due <= Instant::now()).map(|(name, _)| name.clone());
        let Some(mut wanted) = due.and_then(|name| self.waiting.remove(&name)) else { return };
        let writing = writing();
        self.walking = (wanted.hidden.clone(), false);
        let walk = async move {
            let targets = std::slice::from_ref(&wanted.target);
            let walked = backfill::run(&writing, targets, &mut wanted.journal, ATTEMPTS, |_| {}).await;
            (wanted, walked)
        };
        self.walk.push(walk.boxed_local());
    }

    /// Waits for what is under way; none if nothing is.
    pub(super) async fn next(&mut self) -> Option<Walked> {
        self.walk.next().await
    }

    /// Takes note of what became of it. An error is one that ends this process.
    pub(super) fn walked(&mut self, (mut wanted, walked): Walked) -> Result<(), Error> {
        let (name, label) = (wanted.target.key(), wanted.target.label());
        let (first, longest) = AGAIN;
        let pause = (first * 2_u32.saturating_pow(wanted.in_vain.min(16))).min(longest);
        let seconds = pause.as_secs();
        match walked {
            Ok(Counts { rows, published, failed }) if failed.count() == 0 => {
                let published: u64 = published.values().sum();
                tracing::info!(rows, published, "what can be seen again is read: {label}");
                self.left_out.remove(&name);
                if !self.walking.1 {
                    self.done.push((wanted.hidden, Instant::now()));
                    return Ok(());
                }
            }
            Ok(Counts { failed, .. }) => {
                let count = failed.count();
                tracing::error!(
                    "what can be seen again is read, but for {count}: {label}; trying on in {seconds} s"
                );
                self.left_out.insert(name.clone(), failed);
            }
            Err(error @ (Error::Bus(_) | Error::Denied(_))) => return Err(error),
            Err(error) => {
                tracing::error!(
                    "what can be seen again is not read: {label}: {error}; trying on in {seconds} s"
                );
            }
        }
        wanted.in_vain += 1;
        wanted.due = Instant::now() + pause;
        // It may have been hidden and shown once more: then it is wanted from its beginning.
        match self.waiting.entry(name) {
            Entry::Occupied(mut again) => again.get_mut().hidden.extend(wanted.hidden),
            Entry::Vacant(vacant) => drop(vacant.insert(wanted)),
        }
        Ok(())
    }

    /// Whether it depends on what the key can see now.
    pub(super) fn waits_for_names(&self) -> bool {
        !self.walk.is_empty()
            || !self.done.is_empty()
            || self.waiting.values().any(|wanted| wanted.in_vain > 0)
    }

    /// What the key cannot see any more by names that were asked for then, be it that it was deleted. It is not wanted
    /// until it is shown again.
    fn hidden(&mut self, names: &Names, asked: Instant) -> HashSet<Hidden> {
        let is_hidden = |hidden: &mut Hidden| hidden.find(names).is_none();
        let mut all = HashSet::new();
        let (walking, was_hidden) = &mut self.walking;
        *was_hidden |= walking.iter_mut().any(is_hidden);
        for (mut hidden, _) in self.done.extract_if(.., |(_, until)| *until + STALE < asked) {
            all.extend(hidden.extract_if(.., is_hidden));
        }
        self.waiting.retain(|name, wanted| {
            all.extend(wanted.hidden.extract_if(.., is_hidden));
            let is_wanted = !wanted.hidden.is_empty();
            if !is_wanted {
                self.left_out.remove(name);
            }
            is_wanted
        });
        all
    }

    /// How many were left out that are not among these.
    pub(super) fn left_out(&self, others: impl Iterator<Item = String>) -> usize {
        if self.left_out.is_empty() {
            return 0;
        }
        let mut all = Failures::default();
        self.left_out.values().for_each(|failed| all.extend(failed.clone()));
        let known = others.filter(|other| all.named.contains(other)).count();
        usize::try_from(all.count()).unwrap_or(usize::MAX).saturating_sub(known)
    }
}

impl Engine {
    /// Events of an object or a list are ignored that the key could not see at that time.
    pub(super) fn unseen(&mut self, entity: &EntityRef, hidden: &str, at: OffsetDateTime) {
        self.warnings.of_unseen(entity.kind, hidden);
        if let Some(hidden) = Hidden::of(entity) {
            self.known.hide(hidden, at);
        }
    }

    /// Wants what the key may see again, and nothing that it cannot see any more.
    pub(super) fn shown(&mut self) {
        let names = self.known.shared();
        for hidden in self.catch_up.hidden(&names, self.known.asked_at()) {
            let (kind, container) = (hidden.kind.as_str(), &*hidden.container);
            tracing::warn!(
                kind,
                container,
                "the object or list cannot be seen any more: what it holds is read once it can be"
            );
            self.known.hide_again(hidden, names.complete_to);
        }
        for hidden in self.known.shown() {
            let Some((kind, container)) = hidden.find(&names) else { continue };
            let slug = container.slug.as_deref().unwrap_or_default();
            tracing::info!(
                kind = kind.as_str(),
                container = container.id,
                slug,
                "it can be seen again: its entities are read"
            );
            if names.keep(&self.run.options, kind, Some(&container.id)) {
                self.catch_up.add(Target::of(kind, &names, container.clone()), hidden);
            }
        }
        self.warnings.seen(&names);
    }

    /// Begins to go through what is wanted.
    pub(super) fn catch_up(&mut self) {
        let (run, known) = (&self.run, &self.known);
        self.catch_up.begin(|| Writing {
            reading: Reading {
                options: Arc::clone(&run.options),
                names: known.shared(),
                reader: run.reader.clone(),
            },
            publisher: run.publisher.clone(),
        });
    }
}
