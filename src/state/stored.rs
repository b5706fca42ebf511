//! Reads the states of a kind back from their topic or subjects.

use bytes::Bytes;

use super::{Options, notice};
use crate::attio::entities::Kind;
use crate::bus::read::{Begin, Item, Plan, Reader};
use crate::bus::state::{Role, StateError, Version};
use crate::bus::{self, ReadError, states};
use crate::cloudevent::decode::DecodedEvent;
use crate::pipeline::publish::Destination;

/// A message of a state topic.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The entity.
    pub id: String,
    pub version: Version,
    /// Its state; none for a tombstone.
    pub event: Option<DecodedEvent>,
}

impl Stored {
    /// None for a message that is no state. `prefix` is that of the states' addresses.
    pub fn new(item: &Item, prefix: &str) -> Option<Self> {
        let id = match &item.key {
            Some(key) => String::from_utf8_lossy(key).into_owned(),
            // `<prefix>.<kind>.<id>`: a prefix and an id may have a `.`, a kind has none.
            None => item.address.strip_prefix(prefix)?.strip_prefix('.')?.split_once('.')?.1.to_owned(),
        };
        let version = Version::of(&item.headers, &item.payload)?;
        let event = DecodedEvent::from_message(&item.headers, &item.payload).ok();
        Some(Self { id, version, event: event.filter(|_| version != Version::Gone) })
    }

    /// Fails if it is of another workspace.
    pub fn check_workspace(&self, own: &str) -> Result<(), StateError> {
        let source = self.event.as_ref().and_then(|event| event.get("source"));
        match source.and_then(notice::workspace).filter(|other| *other != own) {
            None => Ok(()),
            Some(other) => Err(StateError::Lasting(format!(
                "the states are those of workspace {other}, ATTIO_API_KEY is a key of workspace {own}: use a key of \
                 that workspace, or another state.prefix"
            ))),
        }
    }

    /// The event; for a tombstone one that has its type and its key.
    pub fn to_event(&self, item: &Item) -> Option<DecodedEvent> {
        let named = |name: &str| ["ce_type", "ce-type"].iter().any(|known| name.eq_ignore_ascii_case(known));
        let header = |(name, value): &(String, Bytes)| {
            named(name).then(|| String::from_utf8_lossy(value).into_owned())
        };
        let gone = || {
            let event_type = item.headers.iter().find_map(header)?;
            let json = serde_json::json!({ "type": event_type, "partitionkey": self.id, "data": null });
            DecodedEvent::from_json(json.to_string().as_bytes()).ok()
        };
        self.event.clone().or_else(gone)
    }
}

/// Fails if what is kept is of another workspace than that of the key, as far as one state of all tells.
pub async fn check_workspace(options: &Options, bus: &bus::Options, own: &str) -> Result<(), StateError> {
    let kept = states::any(bus, &options.writer(Role::Run)).await?;
    kept.and_then(|item| Stored::new(&item, &options.prefix))
        .map_or(Ok(()), |stored| stored.check_workspace(own))
}

/// Where the states of a kind are, of one entity if its id is given: Kafka has all of a kind together.
pub fn destinations(options: &Options, kind: Kind, id: Option<&str>) -> Destination {
    let address = options.address(kind);
    Destination { subject: format!("{address}.{}", id.unwrap_or(">")).into(), address }
}

/// The bus with the states' own stream.
pub fn bus_of(options: &Options, bus: &bus::Kind) -> bus::Kind {
    let mut bus = bus.clone();
    if let bus::Kind::Nats(nats) = &mut bus {
        nats.stream.name.clone_from(&options.stream);
    }
    bus
}

/// Begins to read everything of a kind, of one entity if its id is given, up to its end. The last message of an entity
/// counts.
pub async fn read(
    options: &Options,
    bus: &bus::Kind,
    kind: Kind,
    id: Option<&str>,
) -> Result<Reader, ReadError> {
    // One topic at a time: behind the last record of a transaction is a marker, which hides the end of the topic from
    // a reader of several.
    let plan = Plan {
        destinations: vec![destinations(options, kind, id).into()],
        begin: Begin::Beginning,
        follow: false,
    };
    bus::read(&bus_of(options, bus), plan).await
}
