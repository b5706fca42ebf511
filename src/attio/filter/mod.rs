//! Filters: as Attio takes them, or by slug as people write them; one level, one `$and` or `$or`.
//!
//! Attio's grammar, from the webhook schema of <https://api.attio.com/openapi/api>: null, or one of
//! `{"$and": […]}` and `{"$or": […]}` over `{field, operator, value}`, where `field` is a dotted path into
//! the event, `operator` is `equals` or `not_equals`, and ids are UUIDs.
//!
//! By slug: `{"object": "deals", "attribute": "stage"}`, where a text stands for `{"$eq": text}`. Several
//! members are joined by `$and`; `$and` and `$or` may be written out as well.

mod resolve;

use serde_json::{Map, Value as Json};

pub use resolve::{Error, Resolver};

/// What a slug names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// An object.
    Object,
    /// A list.
    List,
    /// An attribute of the object or list beside it.
    Attribute,
}

impl Which {
    const ALL: [(&'static str, Self); 3] =
        [("object", Self::Object), ("list", Self::List), ("attribute", Self::Attribute)];

    fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::List => "list",
            Self::Attribute => "attribute",
        }
    }
}

/// One comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// In Attio's own words.
    Field {
        /// A dotted path into the event.
        field: String,
        /// `equals`, else `not_equals`.
        equals: bool,
        /// What it is compared with.
        value: String,
    },
    /// By slug, or by id.
    Slug {
        /// What it names.
        which: Which,
        /// `$eq`, else `$ne`.
        equals: bool,
        /// The slug.
        slug: String,
    },
}

/// A filter that has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// `$or`, else `$and`.
    pub any: bool,
    /// What it compares.
    pub conditions: Vec<Condition>,
}

/// Reads a filter; on failure the reason.
pub fn parse(filter: &Json) -> Result<Filter, String> {
    let members = match filter {
        Json::Null => return Ok(Filter { any: false, conditions: Vec::new() }),
        Json::Object(members) => members,
        _ => return Err("expects an object".into()),
    };
    let joins: Vec<&str> = ["$and", "$or"].into_iter().filter(|join| members.contains_key(*join)).collect();
    let [join] = joins[..] else {
        return match joins.len() {
            0 => Ok(Filter { any: false, conditions: operation(members)? }),
            _ => Err("has both $and and $or, and Attio takes one of them: use two subscriptions".into()),
        };
    };
    if members.len() > 1 {
        return Err(format!("has members beside {join}: put them into its list"));
    }
    let items = members[join].as_array().ok_or_else(|| format!("{join}: expects a list"))?;
    let mut conditions = Vec::new();
    for item in items {
        let members = item.as_object().ok_or_else(|| format!("{join}: expects a list of objects"))?;
        let mut found = operation(members)?;
        if found.len() > 1 && join == "$or" {
            return Err(
                "has an `and` inside $or, and Attio's filters have one level: use two subscriptions".into()
            );
        }
        conditions.append(&mut found);
    }
    Ok(Filter { any: join == "$or", conditions })
}

fn operation(members: &Map<String, Json>) -> Result<Vec<Condition>, String> {
    if let Some(join) = ["$and", "$or"].into_iter().find(|join| members.contains_key(*join)) {
        return Err(format!("{join} is nested, and Attio's filters have one level"));
    }
    if ["field", "operator", "value"].iter().any(|name| members.contains_key(*name)) {
        return field(members).map(|condition| vec![condition]);
    }
    if members.is_empty() {
        return Err("has an empty object; leave the filter out to get all events".into());
    }
    members.iter().map(|(name, value)| slug(name, value)).collect()
}

fn field(members: &Map<String, Json>) -> Result<Condition, String> {
    let text = |name: &str| {
        let found = members.get(name).and_then(Json::as_str);
        found.map(String::from).ok_or_else(|| format!("`{name}` must be there and be text"))
    };
    if let Some(other) = members.keys().find(|name| !["field", "operator", "value"].contains(&name.as_str()))
    {
        return Err(format!("{other:?} stands beside field, operator and value, which are all there is"));
    }
    let operator = text("operator")?;
    if !["equals", "not_equals"].contains(&operator.as_str()) {
        return Err(format!("operator {operator:?}: Attio has `equals` and `not_equals` alone"));
    }
    Ok(Condition::Field { field: text("field")?, equals: operator == "equals", value: text("value")? })
}

fn slug(name: &str, value: &Json) -> Result<Condition, String> {
    let Some((_, which)) = Which::ALL.into_iter().find(|(known, _)| *known == name) else {
        return Err(format!(
            "{name:?} is none of object, list and attribute; say it by field, operator, value"
        ));
    };
    let (operator, slug) = match value {
        Json::String(slug) => ("$eq", slug),
        Json::Object(members) if members.len() == 1 => match members.iter().next() {
            Some((operator, Json::String(slug))) => (operator.as_str(), slug),
            _ => return Err(format!("{name}: expects one slug")),
        },
        _ => return Err(format!("{name}: expects a slug, or {{\"$eq\": slug}}")),
    };
    match operator {
        "$eq" | "$ne" => Ok(Condition::Slug { which, equals: operator == "$eq", slug: slug.clone() }),
        _ => {
            Err(format!("{name}: {operator}: Attio's filters can say equal ($eq) and not equal ($ne) alone"))
        }
    }
}

/// Equal for filters that mean the same to Attio: the order of comparisons has no meaning, and no filter
/// is an empty `$and`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Canonical(String);

impl Canonical {
    /// Of a filter in Attio's grammar; one that cannot be read is equal to itself alone.
    pub fn of(filter: Option<&Json>) -> Self {
        let Ok(Filter { any, conditions }) = parse(filter.unwrap_or(&Json::Null)) else {
            return Self(filter.map(Json::to_string).unwrap_or_default());
        };
        let mut parts: Vec<String> = conditions.iter().map(|condition| format!("{condition:?}")).collect();
        parts.sort();
        Self(format!("{any} {}", parts.join(" ")))
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
    fn the_guides_form_and_attios_are_read() {
        let eq = |which, slug: &str| Condition::Slug { which, equals: true, slug: slug.into() };
        let guide = parse(
            &json!({ "$and": [{ "object": { "$eq": "deals" } }, { "attribute": { "$eq": "stage" } }] }),
        );
        let both = vec![eq(Which::Object, "deals"), eq(Which::Attribute, "stage")];
        assert_eq!(guide.unwrap().conditions, both);
        let short = parse(&json!({ "object": "deals", "attribute": "stage" })).unwrap();
        assert_eq!(short.conditions.len(), 2);
        let one = parse(&json!({ "list": { "$eq": "sales_pipeline" } })).unwrap();
        assert_eq!(one, Filter { any: false, conditions: vec![eq(Which::List, "sales_pipeline")] });
        let attio =
            json!({ "$or": [{ "field": "actor.type", "operator": "not_equals", "value": "system" }] });
        let Filter { any, conditions } = parse(&attio).unwrap();
        assert!(any && matches!(&conditions[..], [Condition::Field { equals: false, .. }]));
    }

    #[test]
    fn what_attio_cannot_say_is_refused_with_the_reason() {
        let table = [
            (json!({ "$and": [], "$or": [] }), "both $and and $or"),
            (json!({ "$and": [{ "$or": [] }] }), "nested"),
            (json!({ "$and": [], "object": "deals" }), "beside $and"),
            (json!({ "$or": [{ "object": "a", "list": "b" }] }), "one level"),
            (json!({ "object": { "$in": ["a"] } }), "expects one slug"),
            (json!({ "object": { "$contains": "a" } }), "$contains"),
            (json!({ "record": "a" }), "none of object, list and attribute"),
            (json!({ "field": "a", "operator": "like", "value": "b" }), "equals"),
            (json!({ "field": "a", "operator": "equals", "value": 1 }), "`value`"),
            (json!({ "field": "a", "operator": "equals", "value": "b", "list": "c" }), "beside field"),
            (json!([]), "expects an object"),
        ];
        for (filter, part) in table {
            let reason = reason(filter.clone());
            assert!(reason.contains(part), "{filter}: {reason}");
        }
    }

    #[test]
    fn the_same_filter_is_the_same_however_it_is_written() {
        let operation = |value: &str| json!({ "field": "id.list_id", "operator": "equals", "value": value });
        let (a, b) = (operation("a"), operation("b"));
        let of = |filter: &Json| Canonical::of(Some(filter));
        assert_eq!(of(&json!({ "$and": [a, b] })), of(&json!({ "$and": [b, a] })));
        assert_eq!(of(&json!({ "$and": [] })), Canonical::of(None));
        assert_ne!(of(&json!({ "$and": [a, b] })), of(&json!({ "$or": [a, b] })));
    }
}
