//! What consumers can rely on, made from the catalog and the configuration: the event types, the JSON Schemas of
//! their data, an AsyncAPI document, and a page for people.

pub mod schema;

mod asyncapi;
mod example;
mod page;
pub mod yaml;

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value as Json;

use crate::bus;
use crate::catalog::{EVENT_TYPES, EventType, Kind};
use crate::pipeline::publish::Destination;
use crate::pipeline::route::{self, Routes};

/// The contract of one configuration.
pub struct Contract {
    routes: Routes,
    base_url: Option<String>,
}

/// One event type, as `contract events` prints it.
#[derive(Debug, Serialize)]
pub struct Row {
    #[serde(rename = "type")]
    pub name: &'static str,
    pub category: &'static str,
    pub action: &'static str,
    /// The Kafka topic.
    pub topic: String,
    /// The NATS subject.
    pub subject: String,
    /// The id that is the Kafka key.
    pub key: &'static str,
    /// The members that `id` has in Attio's form.
    pub ids: Vec<&'static str>,
}

impl Contract {
    pub fn new(route: &route::Options, base_url: Option<String>) -> Self {
        Self { routes: Routes::new(route), base_url }
    }

    /// Every type of the catalog.
    pub fn events(&self) -> Vec<Row> {
        EVENT_TYPES.iter().map(|entry| self.row(entry)).collect()
    }

    fn row(&self, entry: &'static EventType) -> Row {
        let Destination { address, subject } = &**self.routes.event(Kind::Known(entry));
        Row {
            name: entry.name,
            category: entry.category.as_str(),
            action: entry.action,
            topic: address.to_string(),
            subject: subject.to_string(),
            key: entry.partition_key.name,
            ids: schema::attio_ids(entry).collect(),
        }
    }

    /// Every schema as a document, by name.
    pub fn schemas(&self) -> Vec<(&'static str, Json)> {
        let document = |(name, schema)| (name, schema::document(name, schema, self.base_url.as_deref()));
        schema::all().into_iter().map(document).collect()
    }

    /// The AsyncAPI document of a bus.
    pub fn asyncapi(&self, bus: &bus::Options) -> Result<Json, String> {
        asyncapi::document(self, bus)
    }

    /// The page, of a bus.
    pub fn page(&self, bus: &bus::Options) -> Result<String, String> {
        page::page(self, bus)
    }

    fn destination(&self, kind: Kind) -> &Arc<Destination> {
        self.routes.event(kind)
    }
}
