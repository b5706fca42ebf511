//! Reads the entities of a group.

use super::settle::Group;
use crate::attio::entities::{Answer, EntityReader, EntityRef, Kind, ReadError, Single};
use crate::attio::types::Resource;

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
/// comment is about. All are of one kind.
async fn check_containers(reader: &EntityReader, found: &mut Found) {
    let is_gone = |(entity, answer): &(EntityRef, Result<Answer<Single>, ReadError>)| {
        entity.container.is_some() && matches!(answer, Ok(Answer { value: Single::Gone, .. }))
    };
    let Some((EntityRef { kind, .. }, _)) = found.iter().find(|found| is_gone(found)) else { return };
    let owners = match kind {
        Kind::Record => &[Resource::Object][..],
        Kind::ListEntry => &[Resource::List],
        Kind::Note | Kind::Task | Kind::Comment => &[Resource::Object, Resource::List],
    };
    let mut known = Vec::new();
    for owner in owners {
        known.push(reader.containers(*owner).await);
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
        let is_seen = known.iter().flatten().any(|known| known.value.iter().any(|known| known.is(container)));
        if let (false, Ok(answer)) = (is_seen, answer) {
            answer.value = Single::Unseen;
        }
    }
}
