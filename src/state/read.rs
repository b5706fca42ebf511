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
pub(super) type Found = Vec<(EntityRef, Result<Answer<Single>, ReadError>)>;

/// Reads a group with one request, and not each of it if that fails. An entity that is not in the answer is asked for
/// alone: only a 404 says that it is gone. What fails for one entity fails for that one.
pub(super) async fn read(reader: EntityReader, group: Group) -> Found {
    let mut found = Found::with_capacity(group.len());
    let mut alone = group;
    if let [first, _, ..] = &alone[..]
        && first.kind.is_read_in_bulk()
        && let Some(container) = &first.container
    {
        let ids: Vec<String> = alone.iter().map(|entity| entity.id.clone()).collect();
        let Answer { accurate_at, complete_to, sent_at, value } =
            match reader.many(first.kind, container, &ids).await {
                Ok(answer) => answer,
                Err(error) => return alone.into_iter().map(|entity| (entity, Err(error.clone()))).collect(),
            };
        for entity in value {
            if let Some(at) = alone.iter().position(|wanted| wanted.id == entity.id) {
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

/// A 404 says nothing while the key may not see the object of a record, the list of an entry, or that of what a note or a
/// comment is about; and none of those that could be seen before the 404 need be seen with it. All are of one kind.
async fn check_containers(reader: &EntityReader, found: &mut Found) {
    let is_gone = |(entity, answer): &(EntityRef, Result<Answer<Single>, ReadError>)| {
        entity.container.is_some() && matches!(answer, Ok(Answer { value: Single::Gone, .. }))
    };
    let Some((EntityRef { kind, .. }, _)) = found.iter().find(|found| is_gone(found)) else { return };
    let times = found.iter().filter(|found| is_gone(found)).flat_map(|(_, answer)| answer);
    let latest = times.map(|answer| answer.accurate_at).max().unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let owners = match kind {
        Kind::Record => &[Resource::Object][..],
        Kind::ListEntry => &[Resource::List],
        Kind::Note | Kind::Task | Kind::Comment => &[Resource::Object, Resource::List],
    };
    let mut known = Vec::new();
    for owner in owners {
        known.push(containers(reader, *owner, latest).await);
    }
    for (entity, answer) in found.iter_mut().filter(|found| is_gone(found)) {
        let container = entity.container.as_deref().unwrap_or_default();
        for known in &known {
            match (known, &mut *answer) {
                (Ok(known), Ok(answer)) => answer.limit_to(known),
                (Err(error), answer) => *answer = Err(error.clone()),
                (Ok(_), Err(_)) => {}
            }
        }
        let is_seen =
            |name: &str| known.iter().flatten().any(|known| known.value.iter().any(|known| known.is(name)));
        // A comment on an entry needs both.
        let hidden =
            [Some(container), entity.object.as_deref()].into_iter().flatten().find(|name| !is_seen(name));
        if let (Some(hidden), Ok(answer)) = (hidden, answer) {
            answer.value = Single::Unseen(hidden.to_owned());
        }
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
        let behind = Duration::try_from(since - known.complete_to).unwrap_or_default();
        tokio::time::sleep(behind.clamp(PAUSES.0, PAUSES.1)).await;
    }
    Err(ReadError::Retryable(format!("the {}s that Attio names are those of before its 404", owner.name())))
}
