//! What a consumer must read for each event that is sent, worked out from the event and the catalog.
//! The rules are those of the README's table, written down a second time on purpose.

use std::collections::BTreeMap;

use bytes::Bytes;
use uuid::Uuid;

use super::digest;
use super::planned::Expected;
use super::sample::{Actor, GuideSample, Sample};
use super::world::World;
use super::{PREFIX, SOURCE};

/// The namespace of the ids, as consumers know it.
const NAMESPACE: Uuid = uuid::uuid!("82aa3251-fb12-5533-8215-e473197ca642");

/// What all events of one workspace have in common.
pub struct Expect {
    source: String,
    webhook_id: String,
}

impl Expect {
    /// Of a workspace whose id the bridge knows from its configuration too.
    pub fn new(world: &World) -> Self {
        let source = format!("https://attio.com/workspaces/{}", world.workspace_id);
        Self { source, webhook_id: world.webhook_id.clone() }
    }

    /// An event of Attio's envelope at that place in it.
    pub fn event(&self, sample: &Sample, key: &str, index: usize) -> Expected {
        let webhook_id = Some(self.webhook_id.as_str());
        self.of_sample(sample, Some(id(webhook_id, key, index, &sample.json)), webhook_id, Some(key))
    }

    /// An event without an envelope.
    pub fn bare_event(&self, sample: &Sample, key: &str) -> Expected {
        self.of_sample(sample, Some(id(None, key, 0, &sample.json)), None, Some(key))
    }

    /// An event in the guide's form.
    pub fn guide_event(&self, guide: &GuideSample) -> Expected {
        let mut expected = self.of_sample(&guide.sample, Some(guide.event_id.clone()), None, None);
        expected.attributes.insert("time", Some(guide.created_at.clone()));
        expected
    }

    fn of_sample(
        &self,
        sample: &Sample,
        id: Option<String>,
        webhook_id: Option<&str>,
        key: Option<&str>,
    ) -> Expected {
        let mut attributes = self.common(sample.name, webhook_id, key);
        attributes.insert("subject", Some(sample.subject.clone()));
        attributes.insert("partitionkey", Some(sample.entity.clone()));
        attributes.insert("authtype", Some(auth_type(&sample.actor).into()));
        attributes.insert("authid", sample.actor.id.clone());
        let topic = format!("{PREFIX}.{}", sample.category);
        Expected { topic, id, attributes, data: Bytes::from(sample.json.clone()) }
    }

    /// An event of a type that the catalog not_ready_reason, by nobody.
    pub fn unknown(&self, name: &str, category: &str, entity: &str, json: &str, key: &str) -> Expected {
        let webhook_id = Some(self.webhook_id.as_str());
        let mut attributes = self.common(name, webhook_id, Some(key));
        attributes.insert("partitionkey", Some(entity.into()));
        attributes.extend(["subject", "authtype", "authid"].map(|name| (name, None)));
        let id = Some(id(webhook_id, key, 0, json));
        Expected { topic: format!("{PREFIX}.{category}"), id, attributes, data: Bytes::from(json.to_owned()) }
    }

    /// What went into quarantine: a whole delivery, or one element of a delivery that could be read. Its
    /// id is the bridge's own affair.
    pub fn quarantined(&self, raw: &str, reason: &str, key: &str, element: Option<usize>) -> Expected {
        let absent = ["subject", "authtype", "authid"].map(|name| (name, None));
        let mut attributes = BTreeMap::from(absent);
        attributes.insert("attiowebhookid", element.map(|_| self.webhook_id.clone()));
        attributes.insert("attioindex", element.map(|index| index.to_string()));
        attributes.insert("attiosource", Some(SOURCE.into()));
        attributes.insert("type", Some("dev.attio-bridge.delivery.quarantined".into()));
        attributes.insert("source", Some(self.source.clone()));
        attributes.insert("reason", Some(reason.into()));
        attributes.insert("correlationid", Some(key.into()));
        let data = Bytes::from(raw.to_owned());
        Expected { topic: format!("{PREFIX}.quarantine"), id: None, attributes, data }
    }

    fn common(
        &self,
        name: &str,
        webhook_id: Option<&str>,
        key: Option<&str>,
    ) -> BTreeMap<&'static str, Option<String>> {
        BTreeMap::from([
            ("specversion", Some("1.0".into())),
            ("source", Some(self.source.clone())),
            ("type", Some(format!("com.attio.{name}"))),
            ("datacontenttype", Some("application/json".into())),
            ("attiowebhookid", webhook_id.map(str::to_owned)),
            ("correlationid", key.map(str::to_owned)),
            ("reason", None),
        ])
    }
}

/// UUID version 5 over `<webhook_id>\n<Idempotency-Key>\n<index>\n<hex SHA-256 of the bytes>`.
fn id(webhook_id: Option<&str>, key: &str, index: usize, json: &str) -> String {
    let name = format!("{}\n{key}\n{index}\n{}", webhook_id.unwrap_or(""), digest(json.as_bytes()));
    Uuid::new_v5(&NAMESPACE, name.as_bytes()).to_string()
}

fn auth_type(actor: &Actor) -> &'static str {
    match actor.kind {
        "workspace-member" => "app_user",
        "api-token" => "api_key",
        "app" => "service_account",
        "system" => "system",
        _ => "unknown",
    }
}
