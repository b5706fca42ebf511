//! Something that happened, written down in Attio's form and in the guide's.

use time::OffsetDateTime;
use time::macros::format_description;
use uuid::Uuid;

use super::body::Json;
use crate::catalog::{Category, EventType, Id, Part};

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// `actor.type`.
    pub kind: &'static str,
    /// `actor.id`; null for the system.
    pub id: Option<String>,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Happening {
    /// What.
    pub entry: &'static EventType,
    /// To whom: every id of the type's subject.
    pub ids: Vec<(Id, String)>,
    /// By whom.
    pub actor: Actor,
    /// The attribute that changed, where the type names it.
    pub attribute_id: Option<String>,
    /// The members beside `id` that the type has.
    pub relatives: Vec<(&'static str, Json)>,
}

/// One event: its JSON, and what its author knows of it.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The event's JSON.
    pub json: String,
    /// `event_type`.
    pub name: &'static str,
    /// Its category.
    pub category: Category,
    /// The path of ids that leads to its entity.
    pub subject: String,
    /// The entity's id.
    pub entity: String,
    /// Who did it.
    pub actor: Actor,
}

/// One event in the guide's form.
#[derive(Clone, Debug)]
pub struct GuideSample {
    /// The event.
    pub sample: Sample,
    /// `id.event_id`.
    pub event_id: String,
    /// `created_at`.
    pub created_at: String,
}

impl Happening {
    /// In Attio's form.
    pub fn attio(self, workspace_id: &str) -> Sample {
        let at = |top_level| self.ids.iter().filter(move |(id, _)| id.top_level == top_level);
        let text = |(id, value): &(Id, String)| (id.name.to_owned(), Json::text(value));
        let mut id = vec![("workspace_id".to_owned(), Json::text(workspace_id))];
        id.extend(at(false).map(text));
        id.extend(self.attribute_id.as_ref().map(|value| ("attribute_id".to_owned(), Json::text(value))));
        let mut event =
            vec![("event_type".to_owned(), Json::text(self.entry.name)), ("id".to_owned(), Json::Object(id))];
        event.extend(at(true).map(text));
        event.extend(self.relatives.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        event.push(("actor".to_owned(), self.actor.json()));
        self.sample(&Json::Object(event))
    }

    /// In the guide's form: no workspace, an id and a time of its own, and every entity as an object,
    /// with its slug where it has one.
    pub fn guide<'a>(self, slug: impl Fn(&str) -> Option<&'a str>) -> GuideSample {
        let event_id = Uuid::new_v4().to_string();
        let created_at = now();
        let mut event = vec![
            ("event_type".to_owned(), Json::text(self.entry.name)),
            ("id".to_owned(), Json::single("event_id", Json::text(&event_id))),
            ("created_at".to_owned(), Json::text(&created_at)),
            ("actor".to_owned(), self.actor.json()),
        ];
        for (id, value) in &self.ids {
            let mut entity = vec![("id".to_owned(), Json::single(id.name, Json::text(value)))];
            entity.extend(slug(value).map(|slug| ("api_slug".to_owned(), Json::text(slug))));
            let name = id.name.strip_suffix("_id").unwrap_or(id.name);
            event.push((name.to_owned(), Json::Object(entity)));
        }
        GuideSample { sample: self.sample(&Json::Object(event)), event_id, created_at }
    }

    fn sample(&self, json: &Json) -> Sample {
        let value = |wanted: &Id| {
            let (_, value) = self.ids.iter().find(|(id, _)| id == wanted)?;
            Some(value.as_str())
        };
        let part = |part: &Part| match part {
            Part::Text(text) => *text,
            Part::Id(id) => value(id).expect("every id of the subject is there"),
        };
        let subject: Vec<&str> = self.entry.subject.iter().map(part).collect();
        let entity = value(&self.entry.partition_key).expect("the entity is part of its subject");
        Sample {
            json: json.write(),
            name: self.entry.name,
            category: self.entry.category,
            subject: subject.join("/"),
            entity: entity.to_owned(),
            actor: self.actor.clone(),
        }
    }
}

impl Actor {
    fn json(&self) -> Json {
        let id = self.id.as_ref().map_or(Json::Null, Json::text);
        Json::Object(vec![("type".to_owned(), Json::text(self.kind)), ("id".to_owned(), id)])
    }
}

/// The time as the guide writes it, which is also how the bridge does.
fn now() -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::now_utc().format(&format).expect("the format names only parts that a time has")
}
