//! `state diff`: compares what Attio holds with the state topics, and publishes the difference.
//!
//! Both sides change meanwhile, so what differs at first is looked at once more after `state run` has had the time to
//! publish it: only what still differs then is a difference.
//!
//! What the topics hold of an object or a list that the key may not see is not compared: whether it still exists is not
//! known, and a tombstone is for ever. It is named, and left as it is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Error;
use super::names::Names;
use super::stored::{self, Stored};
use super::targets::{Scope, Target};
use super::writing::{Reading, Reread, Writing, patiently};
use crate::attio::entities::{Answer, EntityRef, Kind, Position, Single};
use crate::bus;
use crate::bus::state::StateError;
use crate::cloudevent::Data;
use crate::named_enum::named_enum;

/// In addition to `state.settle`: how long `state run` may take for an event.
const ALLOWANCE: Duration = Duration::from_secs(2);

/// Entities that are read at a time, to be confirmed or repaired.
const BATCH: usize = 500;

named_enum! {
    /// How an entity differs.
    pub enum Difference,
    /// The difference in outputs.
    as_str {
        /// Attio has it, the topic has not.
        Missing = "missing",
        /// The topic has an earlier state of it.
        Stale = "stale",
        /// The topic has it, Attio no longer.
        LeftOver = "left over",
    }
}

/// An entity that differs.
#[derive(Clone, Debug)]
pub struct Found {
    pub entity: EntityRef,
    pub difference: Difference,
}

/// 128 bits of a hash over the entity's JSON, whatever its white space and the order of its members are.
type Digest = [u8; 16];

/// A state that the topic holds.
struct Held {
    entity: EntityRef,
    digest: Digest,
    at: Option<OffsetDateTime>,
}

type HeldById = HashMap<(Kind, String), Held>;

/// What was found.
#[derive(Debug, Default)]
pub struct Compared {
    /// How many entities Attio has.
    pub count: usize,
    pub found: Vec<Found>,
    /// Objects and lists that the key may not see, by kind and id, with how many states of each are kept.
    pub hidden: BTreeMap<(Kind, String), usize>,
    /// How many could not be read. The log names them.
    pub failed: u64,
}

/// Compares the targets. `seen` is told of each page.
pub async fn diff(
    reading: &Reading,
    bus: &bus::Kind,
    targets: &[Target],
    scope: &Scope,
    seen: impl Fn(usize),
) -> Result<Compared, Error> {
    let mut held = held(reading, bus, targets, scope).await?;
    for list in &scope.deleted_lists {
        check_deleted(reading, &held, list).map_err(Error::Setup)?;
    }
    let (mut suspects, mut compared, mut unreadable) = (Vec::new(), HashSet::new(), HashSet::new());
    for target in targets {
        let mut pages = target.pages(&reading.reader, Position::default());
        while let Some(page) = patiently(async || pages.next().await).await? {
            seen(page.rows);
            unreadable.extend(page.unreadable.into_iter().map(|id| (target.kind, id)));
            for (at, entity) in page.entities {
                // Pages overlap.
                if !compared.insert((entity.kind, entity.id.clone())) {
                    continue;
                }
                let same = held
                    .remove(&(entity.kind, entity.id.clone()))
                    .is_some_and(|held| held.digest == digest(&entity.data));
                if !same {
                    suspects.extend(reading.state(at, &entity).map(|(entity, _)| entity));
                }
            }
        }
    }
    // One that is kept is asked for alone below, and another page may have had one that could be read.
    unreadable.retain(|entity| !held.contains_key(entity) && !compared.contains(entity));
    // Rows that no page had may have been on none by chance: each is asked for, if it can be seen at all.
    let mut differences =
        Compared { count: compared.len(), failed: unreadable.len() as u64, ..Compared::default() };
    for Held { entity, .. } in held.into_values() {
        if reading.names.knows(&entity) || scope.is_deleted(&entity) {
            suspects.push(entity);
        } else {
            differences.hide(entity.kind, entity.container.as_deref().unwrap_or_default().to_owned());
        }
    }
    if !suspects.is_empty() {
        tokio::time::sleep(reading.options.settle + ALLOWANCE).await;
        confirm(reading, bus, targets, scope, suspects, &mut differences).await?;
    }
    Ok(differences)
}

impl Compared {
    /// Notes an entity that is not compared, and the object or list that the key may not see.
    fn hide(&mut self, kind: Kind, hidden: String) {
        *self.hidden.entry((kind, hidden)).or_default() += 1;
    }
}

/// Whether something says that it is a list of this workspace that the key does not see: what is buried is so for ever.
fn check_deleted(reading: &Reading, held: &HeldById, list: &str) -> Result<(), String> {
    let Reading { options, names, .. } = reading;
    let is = |kind| names.find(kind, list).is_some();
    let is_object = |held: &Held| {
        let EntityRef { kind, container, object, .. } = &held.entity;
        let is_record = *kind == Kind::Record && container.as_deref() == Some(list);
        is_record || (*kind == Kind::Comment && object.as_deref() == Some(list))
    };
    if is(Kind::ListEntry) {
        return Err(format!("list {list} was not deleted: ATTIO_API_KEY sees it"));
    }
    if is(Kind::Record) || held.values().any(is_object) {
        return Err(format!("{list} is an object and no list: nothing is repaired"));
    }
    let is_named = options.lists.iter().any(|known| known == list);
    if is_named || held.values().any(|held| held.entity.is_of_list(list)) {
        return Ok(());
    }
    Err(format!(
        "{list} is no list that is known here: no entry of it and no comment on one is kept, and state.lists does not name \
         it: nothing is repaired"
    ))
}

/// Adds those that still differ, and how many could not be read.
async fn confirm(
    reading: &Reading,
    bus: &bus::Kind,
    targets: &[Target],
    scope: &Scope,
    suspects: Vec<EntityRef>,
    differences: &mut Compared,
) -> Result<(), Error> {
    // Of each answer only what is compared: there may be as many as the workspace has entities.
    let mut answers = Vec::with_capacity(suspects.len());
    for some in suspects.chunks(BATCH) {
        let Reread { found, failed } = reading.read(some.to_vec()).await?;
        differences.failed += failed.count();
        for (entity, Answer { accurate_at, complete_to, value, .. }) in found {
            match value {
                Single::Found(now) => {
                    answers.push((entity, accurate_at, Some(digest(&now.data))));
                }
                Single::Gone => answers.push((entity, complete_to, None)),
                Single::Unseen(hidden) if scope.deleted_lists.contains(&hidden) => {
                    answers.push((entity, complete_to, None));
                }
                Single::Unseen(hidden) => differences.hide(entity.kind, hidden),
                // Its event is still to come.
                Single::MergeInProgress => {}
            }
        }
    }
    // Read after Attio: a state that came meanwhile is newer than the answer.
    let held = held(reading, bus, targets, scope).await?;
    for (entity, accurate_at, now) in answers {
        let difference = match (now, held.get(&(entity.kind, entity.id.to_string()))) {
            (None, None) => continue,
            (Some(_), None) => Difference::Missing,
            // It may be younger than the answer.
            (_, Some(held)) if held.at.is_some_and(|at| at >= accurate_at) => continue,
            (None, Some(_)) => Difference::LeftOver,
            (Some(now), Some(held)) if now == held.digest => continue,
            (Some(_), Some(_)) => Difference::Stale,
        };
        differences.found.push(Found { entity, difference });
    }
    differences.found.sort_by(|a, b| a.entity.cmp(&b.entity));
    Ok(())
}

/// Publishes what Attio holds now of those that differ, and tombstones of those that it no longer has. Returns how many
/// could not be read or published. The log names them.
pub async fn repair(writing: &Writing, scope: &Scope, found: &[Found]) -> Result<u64, Error> {
    let mut failed = 0;
    for some in found.chunks(BATCH) {
        let is_kept = |entity: &EntityRef| {
            some.iter().any(|found| found.entity == *entity && found.difference != Difference::Missing)
        };
        let entities = some.iter().map(|found| found.entity.clone()).collect();
        let (mut states, reread) = (Vec::new(), writing.reading.read(entities).await?);
        failed += reread.failed.count();
        for (entity, Answer { accurate_at, value, .. }) in reread.found {
            match value {
                Single::Found(now) => states.extend(writing.reading.state(accurate_at, &now)),
                Single::Gone if is_kept(&entity) => states.push(writing.reading.tombstone(entity)),
                Single::Unseen(hidden) if is_kept(&entity) && scope.deleted_lists.contains(&hidden) => {
                    states.push(writing.reading.tombstone(entity));
                }
                // It was there a moment ago: its event is still to come.
                Single::Gone | Single::MergeInProgress | Single::Unseen(_) => {}
            }
        }
        failed += writing.publish(states).await?.failed.count();
    }
    Ok(failed)
}

/// What the topics hold of the targets.
async fn held(
    reading: &Reading,
    bus: &bus::Kind,
    targets: &[Target],
    scope: &Scope,
) -> Result<HeldById, Error> {
    let mut kinds: HashSet<Kind> = targets.iter().map(|target| target.kind).collect();
    if scope.is_everything() || !scope.deleted_lists.is_empty() {
        // Of what can be seen there may be no target.
        kinds.extend(reading.options.kinds());
    }
    let mut all = HeldById::new();
    for kind in Kind::ALL.into_iter().filter(|kind| kinds.contains(kind)) {
        let reader = stored::read(&reading.options, bus, kind, None).await;
        let mut reader = reader.map_err(StateError::from)?;
        while let Some(item) = reader.next().await {
            let item = item.map_err(StateError::from)?;
            let Some(stored) = Stored::new(&item, &reading.options.prefix) else { continue };
            stored.check_workspace(&reading.names.workspace)?;
            let key = (kind, stored.id.clone());
            match of(kind, &stored).filter(|held| is_in(&reading.names, targets, scope, &held.entity)) {
                Some(held) => drop(all.insert(key, held)),
                None => drop(all.remove(&key)),
            }
        }
        reader.end().await;
    }
    Ok(all)
}

/// The state of a message; none of a tombstone.
fn of(kind: Kind, stored: &Stored) -> Option<Held> {
    let event = stored.event.as_ref()?;
    let Data::Json(data) = event.data() else { return None };
    // `objects/<object_id>/records/<record_id>`
    let (container, object) = match kind {
        Kind::Record | Kind::ListEntry => (event.get("subject")?.split('/').nth(1).map(Arc::from), None),
        Kind::Note | Kind::Comment => about(data),
        Kind::Task => (None, None),
    };
    let at = event.get("time").and_then(|time| OffsetDateTime::parse(time, &Rfc3339).ok());
    let entity = EntityRef { kind, container, object, id: stored.id.as_str().into() };
    Some(Held { entity, digest: digest(data), at })
}

/// The object or list of what a note or a comment is about, and the object of a comment's record.
fn about(data: &[u8]) -> (Option<Arc<str>>, Option<Arc<str>>) {
    let data: Json = serde_json::from_slice(data).unwrap_or_default();
    let text = |place: &Json| place.as_str().map(Arc::from);
    let object = text(&data["record"]["object_id"]);
    let container = text(&data["entry"]["list_id"]).or_else(|| object.clone());
    (container.or_else(|| text(&data["parent_object"])), object)
}

/// Whether an entity belongs to one of the targets. One whose object or list cannot be seen belongs to everything.
fn is_in(names: &Names, targets: &[Target], scope: &Scope, entity: &EntityRef) -> bool {
    let container = |target: &Target| target.container.as_ref().map(|container| container.id.clone());
    let is_of = |target: &Target| match (container(target), &entity.container) {
        (Some(of), Some(container)) => *of == **container,
        _ => true,
    };
    targets.iter().any(|target| target.kind == entity.kind && is_of(target))
        || (scope.is_everything() && !(entity.kind.is_read_in_bulk() && names.knows(entity)))
        || scope.is_deleted(entity)
}

fn digest(data: &[u8]) -> Digest {
    // Its members are sorted.
    let json = serde_json::from_slice::<Json>(data).map(|json| json.to_string());
    let hash = json.map_or_else(|_| Sha256::digest(data), Sha256::digest);
    let mut digest = Digest::default();
    digest.copy_from_slice(&hash[..16]);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_and_order_make_no_difference() {
        let a = digest(br#"{"a": 1, "b": {"d": [1, 2], "c": null}}"#);
        assert_eq!(a, digest(br#"{"b":{"c":null,"d":[1,2]},"a":1}"#));
        assert_ne!(a, digest(br#"{"b":{"c":null,"d":[2,1]},"a":1}"#));
    }
}
