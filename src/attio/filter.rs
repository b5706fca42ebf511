//! Filters: Attio's own, or by slug as people write them; one level, one `$and` or `$or`.
//!
//! Attio's grammar, from the webhook schema of <https://api.attio.com/openapi/api>: null, or one of
//! `{"$and": […]}` and `{"$or": […]}` over `{field, operator, value}`, where `field` is a dotted path into
//! the event, `operator` is `equals` or `not_equals`, and ids are UUIDs.
//!
//! By slug: `{"object": "deals", "attribute": "stage"}`, where a string means `{"$eq": string}`. Several
//! members are joined by `$and`; `$and` and `$or` may be written out as well.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value as Json, json};
use uuid::Uuid;

use super::types::{Named, Resource};
use super::{Client, Subscription, shown};
use crate::catalog::{Category, Kind};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// A path, in Attio's grammar.
    Path(String),
    /// The id of one of these, given by slug or id.
    Of(Resource),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub field: Field,
    pub equals: bool,
    pub value: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// `$or`, else `$and`.
    pub any: bool,
    pub conditions: Vec<Condition>,
}

/// Parses a filter, without network access. An error is the reason.
pub fn parse(filter: &Json) -> Result<Filter, String> {
    let members = match filter {
        Json::Null => return Ok(Filter::default()),
        Json::Object(members) => members,
        _ => return Err("expected an object".into()),
    };
    let (join, items) = match (members.get("$and"), members.get("$or")) {
        (None, None) => return Ok(Filter { any: false, conditions: operation(members)? }),
        (Some(_), Some(_)) => {
            return Err("has both $and and $or; Attio accepts only one: use two subscriptions".into());
        }
        (Some(items), None) => ("$and", items),
        (None, Some(items)) => ("$or", items),
    };
    if members.len() > 1 {
        return Err(format!("has members beside {join}: move them into its list"));
    }
    let mut conditions = Vec::new();
    for item in items.as_array().ok_or_else(|| format!("{join}: expected a list"))? {
        let members = item.as_object().ok_or_else(|| format!("{join}: expected a list of objects"))?;
        let found = operation(members)?;
        if found.len() > 1 && join == "$or" {
            return Err(
                "has an `and` inside $or; Attio's filters have one level: use two subscriptions".into()
            );
        }
        conditions.extend(found);
    }
    Ok(Filter { any: join == "$or", conditions })
}

fn operation(members: &Map<String, Json>) -> Result<Vec<Condition>, String> {
    const FIELD: [&str; 3] = ["field", "operator", "value"];
    if let Some(join) = ["$and", "$or"].into_iter().find(|join| members.contains_key(*join)) {
        return Err(format!("{join} is nested; Attio's filters have one level"));
    }
    if members.is_empty() {
        return Err("has an empty object; omit the filter to get all events".into());
    }
    if !FIELD.iter().any(|name| members.contains_key(*name)) {
        return members.iter().map(|(name, value)| slug(name, value)).collect();
    }
    if let Some(other) = members.keys().find(|name| !FIELD.contains(&name.as_str())) {
        return Err(format!("unknown member {other:?} beside field, operator and value"));
    }
    let text = |name: &str| {
        let found = members.get(name).and_then(Json::as_str);
        found.map(String::from).ok_or_else(|| format!("`{name}` must be a string"))
    };
    let operator = text("operator")?;
    if !["equals", "not_equals"].contains(&operator.as_str()) {
        return Err(format!("unknown operator {operator:?}: Attio has only `equals` and `not_equals`"));
    }
    let field = Field::Path(text("field")?);
    Ok(vec![Condition { field, equals: operator == "equals", value: text("value")? }])
}

fn slug(name: &str, value: &Json) -> Result<Condition, String> {
    let resource = Resource::ALL.into_iter().find(|resource| resource.name() == name).ok_or_else(|| {
        format!("{name:?} is not one of object, list and attribute; use field, operator, value")
    })?;
    let (operator, slug) = match value {
        Json::String(slug) => ("$eq", slug),
        Json::Object(members) if members.len() == 1 => match members.iter().next() {
            Some((operator, Json::String(slug))) => (operator.as_str(), slug),
            _ => return Err(format!("{name}: expected one slug")),
        },
        _ => return Err(format!("{name}: expected a slug, or {{\"$eq\": slug}}")),
    };
    match operator {
        "$eq" | "$ne" => {
            Ok(Condition { field: Field::Of(resource), equals: operator == "$eq", value: slug.clone() })
        }
        _ => Err(format!("{name}: {operator}: Attio's filters have only equal ($eq) and not equal ($ne)")),
    }
}

/// Equal for filters in Attio's grammar that mean the same: the order of comparisons does not matter, and no filter
/// equals an empty `$and`. An invalid one equals only itself.
fn canonical(filter: Option<&Json>) -> String {
    let Ok(Filter { any, conditions }) = parse(filter.unwrap_or(&Json::Null)) else {
        return filter.map(Json::to_string).unwrap_or_default();
    };
    let mut parts: Vec<String> = conditions.iter().map(|condition| format!("{condition:?}")).collect();
    parts.sort();
    format!("{any} {}", parts.join(" "))
}

/// What must be unique among the subscriptions of one URL.
pub fn key(subscription: &Subscription) -> (String, String) {
    (subscription.event_type.clone(), canonical(subscription.filter.as_ref()))
}

pub fn keys(subscriptions: &[Subscription]) -> BTreeSet<(String, String)> {
    subscriptions.iter().map(key).collect()
}

/// A subscription for people. Ids are named by these slugs, where they are known.
pub fn describe(
    Subscription { event_type, filter }: &Subscription,
    slugs: &HashMap<String, String>,
) -> String {
    let Some(filter) = filter else { return event_type.clone() };
    let Ok(Filter { any, conditions }) = parse(filter) else { return format!("{event_type} {filter}") };
    let text = |Condition { field, equals, value }: &Condition| {
        let operator = if *equals { "=" } else { "!=" };
        let field = match field {
            Field::Path(path) => path,
            Field::Of(resource) => resource.name(),
        };
        let is_of = |resource: &Resource| field.ends_with(&format!("{}_id", resource.name()));
        match (slugs.get(value), Resource::ALL.iter().find(|resource| is_of(resource))) {
            (Some(slug), Some(resource)) => format!("{} {operator} {slug}", resource.name()),
            _ => format!("{field} {operator} {value}"),
        }
    };
    let mut conditions: Vec<String> = conditions.iter().map(text).collect();
    conditions.sort_by_key(|condition| condition.starts_with("attribute "));
    match &conditions[..] {
        [] if any => format!("{event_type} where nothing matches"),
        [] => event_type.clone(),
        all => format!("{event_type} where {}", all.join(if any { " or " } else { " and " })),
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Attio's grammar cannot express it, or it names something unknown.
    #[error("filter of {event_type}: {reason}")]
    Invalid { event_type: String, reason: String },
    #[error(transparent)]
    Attio(#[from] super::Error),
}

/// Turns slugs into ids. Reads objects, lists and attributes at most once each, and only if a slug needs it.
pub struct Resolver<'c> {
    client: &'c Client,
    /// Objects, lists, and the attributes of the one with that id.
    read: HashMap<(Resource, Option<String>), Vec<Named>>,
}

impl<'c> Resolver<'c> {
    pub fn new(client: &'c Client) -> Self {
        Self { client, read: HashMap::new() }
    }

    pub fn slugs(&self) -> HashMap<String, String> {
        self.read.values().flatten().map(|named| (named.id.clone(), named.slug.clone())).collect()
    }

    pub async fn resolve(&mut self, subscription: &Subscription) -> Result<Subscription, Error> {
        let event_type = &subscription.event_type;
        let invalid = |reason| Error::Invalid { event_type: event_type.clone(), reason };
        let filter = parse(subscription.filter.as_ref().unwrap_or(&Json::Null)).map_err(invalid)?;
        if filter.conditions.is_empty() && !filter.any {
            return Ok(Subscription { event_type: event_type.clone(), filter: None });
        }
        let mut operations = Vec::new();
        for Condition { field, equals, value } in &filter.conditions {
            let (field, value) = match field {
                Field::Path(path) => (path.as_str(), value.clone()),
                Field::Of(resource) => {
                    let field = field_of(event_type, *resource).map_err(invalid)?;
                    (field, self.id(event_type, &filter, *resource, value).await?)
                }
            };
            let operator = if *equals { "equals" } else { "not_equals" };
            operations.push(json!({ "field": field, "operator": operator, "value": value }));
        }
        let join = if filter.any { "$or" } else { "$and" };
        Ok(Subscription { event_type: event_type.clone(), filter: Some(json!({ join: operations })) })
    }

    async fn id(
        &mut self,
        event_type: &str,
        filter: &Filter,
        resource: Resource,
        slug: &str,
    ) -> Result<String, Error> {
        if Uuid::parse_str(slug).is_ok() {
            return Ok(slug.to_owned());
        }
        let invalid = |reason| Error::Invalid { event_type: event_type.to_owned(), reason };
        let (known, of) = match resource {
            Resource::Object | Resource::List => (self.named(resource, None).await?, String::new()),
            Resource::Attribute => {
                let (owner, name) = owner_of(event_type, filter).map_err(invalid)?;
                let id = Box::pin(self.id(event_type, filter, owner, &name)).await?;
                (self.named(owner, Some(id)).await?, format!(" of {} {name:?}", owner.name()))
            }
        };
        let found = known.iter().find(|named| named.slug == slug);
        found.map(|named| named.id.clone()).ok_or_else(|| {
            let slugs: Vec<&str> = known.iter().map(|named| named.slug.as_str()).collect();
            let (resource, slugs) = (resource.name(), shown(&slugs.join(", ")));
            invalid(format!("there is no {resource} {slug:?}{of}; there are: {slugs}"))
        })
    }

    /// Objects or lists, or the attributes of one.
    async fn named(&mut self, owner: Resource, of: Option<String>) -> Result<&[Named], super::Error> {
        let key = (owner, of);
        if !self.read.contains_key(&key) {
            let all = match &key.1 {
                None => self.client.owners(owner).await?,
                Some(id) => self.client.attributes(owner, id).await?,
            };
            self.read.insert(key.clone(), all);
        }
        Ok(&self.read[&key])
    }
}

/// The path of an id in events of a type.
fn field_of(event_type: &str, resource: Resource) -> Result<&'static str, String> {
    use Category::{Comment, List, ListAttribute, ListEntry, Note, ObjectAttribute, Record};
    let name = resource.name();
    let category = Kind::of(event_type).category().ok_or_else(|| {
        format!("the path of the {name} id in {event_type:?} is unknown: use field, operator, value")
    })?;
    let changes = matches!(event_type, "record.updated" | "list-entry.updated");
    match (resource, category) {
        (Resource::Object, Record | ObjectAttribute) => Ok("id.object_id"),
        (Resource::Object, ListEntry | Note) => Ok("parent_object_id"),
        (Resource::Object, Comment) => Ok("object_id"),
        (Resource::List, List | ListEntry | ListAttribute) => Ok("id.list_id"),
        (Resource::List, Comment) => Ok("list_id"),
        (Resource::Attribute, ObjectAttribute | ListAttribute) => Ok("id.attribute_id"),
        (Resource::Attribute, _) if changes => Ok("id.attribute_id"),
        _ => Err(format!("{event_type} has no {name} id")),
    }
}

/// The object or list that the attributes in a filter belong to.
fn owner_of(event_type: &str, filter: &Filter) -> Result<(Resource, String), String> {
    use Category::{ListAttribute, ListEntry};
    let (owner, path) = match Kind::of(event_type).category() {
        Some(ListEntry | ListAttribute) => (Resource::List, "id.list_id"),
        _ => (Resource::Object, "id.object_id"),
    };
    let is_owner = |condition: &&Condition| match &condition.field {
        Field::Of(resource) => condition.equals && *resource == owner,
        Field::Path(field) => condition.equals && field == path,
    };
    let mut owners = filter.conditions.iter().filter(is_owner);
    match (owners.next(), owners.next()) {
        (Some(Condition { value, .. }), None) if !filter.any => Ok((owner, value.clone())),
        _ => Err(format!("an attribute's slug needs exactly one {} beside it, joined by $and", owner.name())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reason(filter: Json) -> String {
        parse(&filter).unwrap_err()
    }

    #[test]
    fn parses_slugs_and_attios_grammar() {
        let eq =
            |resource, slug: &str| Condition { field: Field::Of(resource), equals: true, value: slug.into() };
        let guide = parse(
            &json!({ "$and": [{ "object": { "$eq": "deals" } }, { "attribute": { "$eq": "stage" } }] }),
        );
        let both = vec![eq(Resource::Object, "deals"), eq(Resource::Attribute, "stage")];
        assert_eq!(guide.unwrap().conditions, both);
        let short = parse(&json!({ "object": "deals", "attribute": "stage" })).unwrap();
        assert_eq!(short.conditions.len(), 2);
        let one = parse(&json!({ "list": { "$eq": "sales_pipeline" } })).unwrap();
        assert_eq!(one, Filter { any: false, conditions: vec![eq(Resource::List, "sales_pipeline")] });
        let attio =
            json!({ "$or": [{ "field": "actor.type", "operator": "not_equals", "value": "system" }] });
        let Filter { any, conditions } = parse(&attio).unwrap();
        assert!(any && matches!(&conditions[..], [Condition { field: Field::Path(_), equals: false, .. }]));
    }

    #[test]
    fn rejects_what_attio_cannot_express_with_the_reason() {
        let table = [
            (json!({ "$and": [], "$or": [] }), "both $and and $or"),
            (json!({ "$and": [{ "$or": [] }] }), "nested"),
            (json!({ "$and": [], "object": "deals" }), "beside $and"),
            (json!({ "$or": [{ "object": "a", "list": "b" }] }), "one level"),
            (json!({ "object": { "$in": ["a"] } }), "expected one slug"),
            (json!({ "object": { "$contains": "a" } }), "$contains"),
            (json!({ "record": "a" }), "not one of object, list and attribute"),
            (json!({ "field": "a", "operator": "like", "value": "b" }), "equals"),
            (json!({ "field": "a", "operator": "equals", "value": 1 }), "`value`"),
            (json!({ "field": "a", "operator": "equals", "value": "b", "list": "c" }), "beside field"),
            (json!([]), "expected an object"),
        ];
        for (filter, part) in table {
            let reason = reason(filter.clone());
            assert!(reason.contains(part), "{filter}: {reason}");
        }
    }

    #[test]
    fn canonical_form_ignores_order() {
        let operation = |value: &str| json!({ "field": "id.list_id", "operator": "equals", "value": value });
        let (a, b) = (operation("a"), operation("b"));
        let of = |filter: &Json| canonical(Some(filter));
        assert_eq!(of(&json!({ "$and": [a, b] })), of(&json!({ "$and": [b, a] })));
        assert_eq!(of(&json!({ "$and": [] })), canonical(None));
        assert_ne!(of(&json!({ "$and": [a, b] })), of(&json!({ "$or": [a, b] })));
    }

    #[test]
    fn described_filters_have_slugs_for_known_ids() {
        let slugs =
            HashMap::from([("o".to_owned(), "deals".to_owned()), ("a".to_owned(), "stage".to_owned())]);
        let field = |field: &str, operator: &str, value: &str| json!({ "field": field, "operator": operator, "value": value });
        let both = [field("id.object_id", "equals", "o"), field("id.attribute_id", "not_equals", "a")];
        let other = [field("parent_object_id", "equals", "p"), field("actor.type", "equals", "o")];
        let table = [
            (Json::Null, "x.y"),
            (json!({ "$and": [] }), "x.y"),
            (json!({ "$or": [] }), "x.y where nothing matches"),
            (json!({ "$and": both }), "x.y where object = deals and attribute != stage"),
            (json!({ "$or": other }), "x.y where parent_object_id = p or actor.type = o"),
            (json!({ "object": "deals" }), "x.y where object = deals"),
            (json!({ "new": 1 }), "x.y {\"new\":1}"),
        ];
        for (filter, expected) in table {
            let filter = Some(filter).filter(|filter| !filter.is_null());
            assert_eq!(describe(&Subscription { event_type: "x.y".into(), filter }, &slugs), expected);
        }
    }

    #[test]
    fn ids_are_found_by_event_type() {
        let table = [
            ("record.updated", Resource::Object, Ok("id.object_id")),
            ("record.updated", Resource::Attribute, Ok("id.attribute_id")),
            ("record.created", Resource::Attribute, Err("has no attribute id")),
            ("note.created", Resource::Object, Ok("parent_object_id")),
            ("list-entry.created", Resource::List, Ok("id.list_id")),
            ("list-entry.created", Resource::Object, Ok("parent_object_id")),
            ("task.created", Resource::Object, Err("has no object id")),
            ("meeting.created", Resource::Object, Err("is unknown")),
        ];
        for (event_type, resource, expected) in table {
            match (field_of(event_type, resource), expected) {
                (Ok(field), Ok(expected)) => assert_eq!(field, expected, "{event_type}"),
                (Err(reason), Err(part)) => assert!(reason.contains(part), "{reason}"),
                (found, _) => panic!("{event_type}: {found:?}"),
            }
        }
    }
}
