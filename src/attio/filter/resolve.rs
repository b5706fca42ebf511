//! From slugs to ids, and to the place where an event of a type has them.

use std::collections::HashMap;

use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{Condition, Filter, Which, parse};
use crate::attio::types::{Named, Owner};
use crate::attio::{self, Client, Subscription};
use crate::catalog::{Category, Kind};

/// Why a filter cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be said in Attio's grammar.
    #[error("the filter of {event_type}: {reason}")]
    Refused {
        /// Whose filter.
        event_type: String,
        /// Why not.
        reason: String,
    },
    /// Attio could not be asked for ids.
    #[error(transparent)]
    Attio(#[from] attio::Error),
}

/// Turns filters into what Attio takes. Asks for objects, lists and attributes once each, and only
/// where a slug needs it.
pub struct Resolver<'c> {
    client: &'c Client,
    owners: HashMap<Owner, Vec<Named>>,
    attributes: HashMap<(Owner, String), Vec<Named>>,
}

impl<'c> Resolver<'c> {
    /// Knows nothing yet.
    pub fn new(client: &'c Client) -> Self {
        Self { client, owners: HashMap::new(), attributes: HashMap::new() }
    }

    /// The subscription as Attio takes it.
    pub async fn resolve(&mut self, wanted: &Subscription) -> Result<Subscription, Error> {
        let event_type = &wanted.event_type;
        let refused = |reason| Error::Refused { event_type: event_type.clone(), reason };
        let filter = parse(wanted.filter.as_ref().unwrap_or(&Json::Null)).map_err(refused)?;
        if filter.conditions.is_empty() && !filter.any {
            return Ok(Subscription { event_type: event_type.clone(), filter: None });
        }
        let mut operations = Vec::new();
        for condition in &filter.conditions {
            let (field, equals, value) = match condition {
                Condition::Field { field, equals, value } => (field.clone(), *equals, value.clone()),
                Condition::Slug { which, equals, slug } => {
                    let field = field_of(event_type, *which).map_err(refused)?;
                    let id = self.id(event_type, &filter, *which, slug).await?;
                    (field.to_owned(), *equals, id)
                }
            };
            let operator = if equals { "equals" } else { "not_equals" };
            operations.push(json!({ "field": field, "operator": operator, "value": value }));
        }
        let join = if filter.any { "$or" } else { "$and" };
        Ok(Subscription { event_type: event_type.clone(), filter: Some(json!({ join: operations })) })
    }

    async fn id(
        &mut self,
        event_type: &str,
        filter: &Filter,
        which: Which,
        slug: &str,
    ) -> Result<String, Error> {
        if Uuid::parse_str(slug).is_ok() {
            return Ok(slug.to_owned());
        }
        let (known, of) = match which {
            Which::Object => (self.owners(Owner::Object).await?, String::new()),
            Which::List => (self.owners(Owner::List).await?, String::new()),
            Which::Attribute => {
                let reason = |reason| Error::Refused { event_type: event_type.to_owned(), reason };
                let (owner, name) = owner_of(event_type, filter).map_err(reason)?;
                let which = if owner == Owner::Object { Which::Object } else { Which::List };
                let id = Box::pin(self.id(event_type, filter, which, &name)).await?;
                (self.attributes(owner, id).await?, format!(" of {} {name:?}", which.name()))
            }
        };
        let found = known.iter().find(|named| named.slug.as_deref() == Some(slug));
        found.map(|named| named.id.clone()).ok_or_else(|| {
            let slugs: Vec<&str> = known.iter().filter_map(|named| named.slug.as_deref()).collect();
            let reason =
                format!("there is no {} {slug:?}{of}; there are: {}", which.name(), slugs.join(", "));
            Error::Refused { event_type: event_type.to_owned(), reason }
        })
    }

    async fn owners(&mut self, owner: Owner) -> Result<&[Named], attio::Error> {
        if !self.owners.contains_key(&owner) {
            self.owners.insert(owner, self.client.owners(owner).await?);
        }
        Ok(&self.owners[&owner])
    }

    async fn attributes(&mut self, owner: Owner, id: String) -> Result<&[Named], attio::Error> {
        let key = (owner, id);
        if !self.attributes.contains_key(&key) {
            let all = self.client.attributes(owner, &key.1).await?;
            self.attributes.insert(key.clone(), all);
        }
        Ok(&self.attributes[&key])
    }
}

/// Where an event of a type has the id in question.
fn field_of(event_type: &str, which: Which) -> Result<&'static str, String> {
    use Category::{Comment, List, ListAttribute, ListEntry, Note, ObjectAttribute, Record};
    let Some(category) = Kind::of(event_type).category() else {
        return Err(format!(
            "where {event_type:?} has the id of an {} is not known: say it by field, operator, value",
            which.name()
        ));
    };
    let changes = matches!(event_type, "record.updated" | "list-entry.updated");
    match (which, category) {
        (Which::Object, Record | ObjectAttribute) => Ok("id.object_id"),
        (Which::Object, ListEntry | Note) => Ok("parent_object_id"),
        (Which::Object, Comment) => Ok("object_id"),
        (Which::List, List | ListEntry | ListAttribute) => Ok("id.list_id"),
        (Which::List, Comment) => Ok("list_id"),
        (Which::Attribute, ObjectAttribute | ListAttribute) => Ok("id.attribute_id"),
        (Which::Attribute, _) if changes => Ok("id.attribute_id"),
        _ => Err(format!("{event_type} does not say which {} it is about", which.name())),
    }
}

/// The object or list that attributes of a filter belong to.
fn owner_of(event_type: &str, filter: &Filter) -> Result<(Owner, String), String> {
    use Category::{ListAttribute, ListEntry};
    let of_list = matches!(Kind::of(event_type).category(), Some(ListEntry | ListAttribute));
    let (owner, which, field) = match of_list {
        true => (Owner::List, Which::List, "id.list_id"),
        false => (Owner::Object, Which::Object, "id.object_id"),
    };
    let name = |condition: &Condition| match condition {
        Condition::Slug { which: known, equals: true, slug } if *known == which => Some(slug.clone()),
        Condition::Field { field: known, equals: true, value } if known == field => Some(value.clone()),
        _ => None,
    };
    let mut names = filter.conditions.iter().filter_map(name);
    match (names.next(), names.next()) {
        (Some(name), None) if !filter.any => Ok((owner, name)),
        _ => {
            let which = which.name();
            Err(format!("an attribute's slug needs its {which} beside it, exactly one, joined by $and"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_says_where_its_ids_are() {
        let table = [
            ("record.updated", Which::Object, Ok("id.object_id")),
            ("record.updated", Which::Attribute, Ok("id.attribute_id")),
            ("record.created", Which::Attribute, Err("does not say which attribute")),
            ("note.created", Which::Object, Ok("parent_object_id")),
            ("list-entry.created", Which::List, Ok("id.list_id")),
            ("list-entry.created", Which::Object, Ok("parent_object_id")),
            ("task.created", Which::Object, Err("does not say which object")),
            ("meeting.created", Which::Object, Err("is not known")),
        ];
        for (event_type, which, expected) in table {
            match (field_of(event_type, which), expected) {
                (Ok(field), Ok(expected)) => assert_eq!(field, expected, "{event_type}"),
                (Err(reason), Err(part)) => assert!(reason.contains(part), "{reason}"),
                (found, _) => panic!("{event_type}: {found:?}"),
            }
        }
    }
}
