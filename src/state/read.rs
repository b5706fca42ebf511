//! Reads the entities of a group.

use std::time::Duration;

use time::OffsetDateTime;

use super::settle::Group;
use crate::attio::entities::{Answer, Container, EntityReader, EntityRef, Kind, ReadError, Single};
use crate::attio::types::Resource;

/// How often objects or lists are asked for until the answer is not older than the 404 that it is compared with.
const LOOKS: u32 = 4;

/// The pause between two of them, at least and at most: answers are seldom older than all of them together.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3));

/// What became of the read of each entity of a group.
pub(super) type Found = Vec<(EntityRef, One)>;

/// Reads a group with one request, and not each of it if that fails. An entity that is not in the answer is asked for
/// alone: only a 404 says that it is gone. What fails for one entity fails for that one.
pub(super) async fn read(reader: EntityReader, group: Group) -> Found {
    let mut found = Found::with_capacity(group.len());
    let mut alone = group;
    if let [first, _, ..] = &alone[..]
        && first.kind.is_read_in_bulk()
        && let Some(container) = &first.container
    {
        let ids: Vec<&str> = alone.iter().map(|entity| &*entity.id).collect();
        let Answer { accurate_at, complete_to, sent_at, value } =
            match reader.many(first.kind, container, &ids).await {
                Ok(answer) => answer,
                Err(error) => return alone.into_iter().map(|entity| (entity, Err(error.clone()))).collect(),
            };
        for entity in value {
            if let Some(at) = alone.iter().position(|wanted| *wanted.id == *entity.id) {
                let value = Single::Found(entity);
                found.push((alone.swap_remove(at), Ok(Answer { accurate_at, complete_to, sent_at, value })));
            }
        }
    }
    for entity in alone {
        let answer = reader.one(&entity).await;
        found.push((entity, answer));
    }
    check_containers(&reader, &mut found).await;
    found
}

/// What became of the read of one entity.
type One = Result<Answer<Single>, ReadError>;

/// The objects or lists that the key may see.
type Seen = Vec<Answer<Vec<Container>>>;

fn is_gone((entity, answer): &(EntityRef, One)) -> bool {
    entity.container.is_some() && matches!(answer, Ok(Answer { value: Single::Gone, .. }))
}

/// A 404 says nothing while the key may not see the object of a record, the list of an entry, or that of what a note or a
/// comment is about. It may be hidden or shown at any time: only a 404 counts before which and after which it was seen.
/// All are of one kind.
async fn check_containers(reader: &EntityReader, found: &mut Found) {
    if let Some(before) = limit_to_seen(reader, found).await {
        read_again(reader, found, &before).await;
        limit_to_seen(reader, found).await;
    }
}

/// Compares each 404 with what the key may see later. Returns that, if anything counts as gone.
async fn limit_to_seen(reader: &EntityReader, found: &mut Found) -> Option<Seen> {
    let kind = found.iter().find(|found| is_gone(found))?.0.kind;
    let times = found.iter().filter(|found| is_gone(found)).flat_map(|(_, answer)| answer);
    let latest = times.map(|answer| answer.accurate_at).max().unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let owners = match kind {
        Kind::Record => &[Resource::Object][..],
        Kind::ListEntry => &[Resource::List],
        Kind::Note | Kind::Task | Kind::Comment => &[Resource::Object, Resource::List],
    };
    let mut seen = Seen::new();
    for owner in owners {
        match containers(reader, *owner, latest).await {
            Ok(known) => seen.push(known),
            Err(error) => {
                for (_, answer) in found.iter_mut().filter(|found| is_gone(found)) {
                    *answer = Err(error.clone());
                }
                return None;
            }
        }
    }
    for (entity, answer) in found.iter_mut().filter(|found| is_gone(found)) {
        let Ok(answer) = answer else { continue };
        seen.iter().for_each(|known| answer.limit_to(known));
        let is_seen = |name: &str| seen.iter().any(|known| known.value.iter().any(|known| known.is(name)));
        // A comment on an entry needs both.
        let needed = [entity.container.as_deref(), entity.object.as_deref()];
        if let Some(hidden) = needed.into_iter().flatten().find(|name| !is_seen(name)) {
            answer.value = Single::Unseen(hidden.to_owned());
        }
    }
    found.iter().any(is_gone).then_some(seen)
}

/// Reads what counts as gone again, until the answer is no older than what the key was seen to see.
async fn read_again(reader: &EntityReader, found: &mut Found, seen: &Seen) {
    let times = seen.iter().map(|known| known.accurate_at);
    let since = times.max().unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let mut open: Vec<usize> = (0..found.len()).filter(|at| is_gone(&found[*at])).collect();
    for look in 1..=LOOKS {
        let (mut older, mut oldest) = (Vec::new(), since);
        for at in open {
            let (entity, answer) = &mut found[at];
            *answer = reader.one(entity).await;
            if let Some(behind) = answer.as_ref().ok().map(|answer| answer.complete_to)
                && behind < since
            {
                older.push(at);
                oldest = oldest.min(behind);
            }
        }
        if older.is_empty() {
            return;
        }
        open = older;
        if look < LOOKS {
            pause(since - oldest).await;
        }
    }
    for at in open {
        let why = "Attio answers from before it named the objects or lists that it was asked for";
        found[at].1 = Err(ReadError::Retryable(why.into()));
    }
}

/// The objects or lists that the key may see at that time or later.
async fn containers(
    reader: &EntityReader,
    owner: Resource,
    since: OffsetDateTime,
) -> Result<Answer<Vec<Container>>, ReadError> {
    for _ in 0..LOOKS {
        let known = reader.containers(owner).await?;
        if known.complete_to >= since {
            return Ok(known);
        }
        pause(since - known.complete_to).await;
    }
    Err(ReadError::Retryable(format!("the {}s that Attio names are those of before its 404", owner.name())))
}

/// Waits until an answer may be so much later.
async fn pause(behind: time::Duration) {
    let behind = Duration::try_from(behind).unwrap_or_default();
    tokio::time::sleep(behind.clamp(PAUSES.0, PAUSES.1)).await;
}
