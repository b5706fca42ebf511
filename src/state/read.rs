//! Reads the entities of a group.

use super::settle::Group;
use crate::attio::entities::{Answer, EntityReader, EntityRef, Kind, ReadError, Single};
use crate::attio::types::Resource;

/// What became of the read of each entity of a group.
pub(super) type Found = Vec<(EntityRef, Result<Answer<Single>, ReadError>)>;

/// Reads a group with one request. An entity that is not in the answer is asked for alone: only a 404 says that it is
/// gone. What fails for one entity fails for that one.
pub(super) async fn read(reader: EntityReader, group: Group) -> Found {
    let mut found = Found::with_capacity(group.len());
    let mut alone = group;
    if let [first, _, ..] = &alone[..]
        && let Some(container) = &first.container
    {
        let ids: Vec<String> = alone.iter().map(|entity| entity.id.clone()).collect();
        let Answer { accurate_at, complete_to, value } = match reader.many(first.kind, container, &ids).await
        {
            Ok(answer) => answer,
            Err(error) => return alone.into_iter().map(|entity| (entity, Err(error.clone()))).collect(),
        };
        for entity in value {
            if let Some(at) = alone.iter().position(|wanted| wanted.id == entity.id) {
                let value = Single::Found(entity);
                found.push((alone.swap_remove(at), Ok(Answer { accurate_at, complete_to, value })));
            }
        }
    }
    for entity in alone {
        let answer = reader.one(&entity).await;
        found.push((entity, answer));
    }
    check_objects(&reader, &mut found).await;
    found
}

/// The 404 of a record says nothing while the key may not see its object: Attio deletes no objects. A list that it may
/// not see is deleted or hidden, and its entries are gone with it.
async fn check_objects(reader: &EntityReader, found: &mut Found) {
    let is_gone =
        |answer: &Result<Answer<Single>, ReadError>| matches!(answer, Ok(Answer { value: Single::Gone, .. }));
    let mut gone: Vec<_> =
        found.iter_mut().filter(|(entity, answer)| entity.kind == Kind::Record && is_gone(answer)).collect();
    if gone.is_empty() {
        return;
    }
    let objects = reader.containers(Resource::Object).await;
    for (entity, answer) in &mut gone {
        let object = entity.container.as_deref().unwrap_or_default();
        match (&objects, answer) {
            (Ok(known), _) if known.value.iter().any(|known| known.is(object)) => {}
            (Ok(_), Ok(answer)) => answer.value = Single::Unseen,
            (Err(error), answer) => *answer = Err(error.clone()),
            (Ok(_), Err(_)) => {}
        }
    }
}
