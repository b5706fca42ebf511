//! Reads the entities of a group.

use super::settle::Group;
use crate::attio::entities::{Answer, EntityReader, EntityRef, Kind, ReadError, Single};
use crate::attio::types::Resource;

/// What a read of a group found: when it was true, and each entity of the group.
pub(super) type Found = Result<Vec<(EntityRef, Answer<Single>)>, (Group, ReadError)>;

/// Reads a group with one request. An entity that is not in the answer is asked for alone: only a 404 says that it is
/// gone, and only while the key may see its object or list.
pub(super) async fn read(reader: EntityReader, group: Group) -> Found {
    let mut found = Vec::with_capacity(group.len());
    let mut alone = group.clone();
    if let [first, _, ..] = &group[..]
        && let Some(container) = &first.container
    {
        let ids: Vec<String> = group.iter().map(|entity| entity.id.clone()).collect();
        let Answer { accurate_at, value } = match reader.many(first.kind, container, &ids).await {
            Ok(answer) => answer,
            Err(error) => return Err((group, error)),
        };
        for entity in value {
            if let Some(at) = alone.iter().position(|wanted| wanted.id == entity.id) {
                let wanted = alone.swap_remove(at);
                found.push((wanted, Answer { accurate_at, value: Single::Found(entity) }));
            }
        }
    }
    for entity in alone {
        match reader.one(&entity).await {
            Ok(answer) => found.push((entity, answer)),
            Err(error) => return Err((group, error)),
        }
    }
    let container = group.first().and_then(|first| Some((first.kind, first.container.as_deref()?)));
    if let Some((kind, container)) = container
        && found.iter().any(|(_, answer)| matches!(answer.value, Single::Gone))
    {
        let owner = if kind == Kind::ListEntry { Resource::List } else { Resource::Object };
        let known = match reader.containers(owner).await {
            Ok(known) => known,
            Err(error) => return Err((group, error)),
        };
        if !known.iter().any(|known| known.is(container)) {
            let gone = found.iter_mut().filter(|(_, answer)| matches!(answer.value, Single::Gone));
            gone.for_each(|(_, answer)| answer.value = Single::Unseen);
        }
    }
    Ok(found)
}
