//! An explanation, for people and for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{Carried, Contents, Explanation};
use crate::cloudevent::Attribute;
use crate::pipeline::outcome::Reason;
use crate::pipeline::publish::Message;
use crate::pipeline::verify::SignatureError;

/// The bus that events would go to.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// `kafka`, `nats` or `stdout`.
    pub bus: &'static str,
    /// Lays a message out as that bus would hold it.
    pub lay: &'a dyn Fn(&Message) -> Result<Layout, String>,
}

/// Headers and payload of a message.
pub type Layout = (Vec<(String, String)>, Vec<u8>);

impl Place<'_> {
    fn of(self, message: &Message) -> String {
        let to = &message.destination;
        let key = message.event.get(Attribute::PartitionKey).unwrap_or_default();
        match self.bus {
            "kafka" => format!("topic {}, key {key}", to.address),
            "nats" => format!("subject {}, partitionkey {key}", to.subject),
            _ => format!("standard output, as {}", to.address),
        }
    }
}

/// For people.
pub fn text(explanation: &Explanation, place: Place<'_>) -> String {
    let mut out = String::new();
    let Explanation { source, bytes, verified, mended, remarks, contents } = explanation;
    line(&mut out, &format!("request    to source {source}, {bytes} bytes"));
    match verified {
        Ok(label) => line(&mut out, &format!("signature  good: secret `{label}`")),
        Err(error) => {
            let reason = Reason::from(*error).slug();
            line(&mut out, &format!("signature  refused, 401 ({reason}): {error}"));
        }
    }
    match mended {
        Some(changes) => {
            line(&mut out, "because");
            changes.iter().for_each(|change| line(&mut out, &format!("  - {change}")));
        }
        None if matches!(verified, Err(SignatureError::Mismatch)) => {
            line(&mut out, "because    of none of the usual mistakes: most likely another secret is used");
        }
        None => {}
    }
    remarks.iter().for_each(|remark| line(&mut out, &format!("note       {remark}")));
    match contents {
        Contents::Read(names) => line(&mut out, &format!("holds      {}", list(names))),
        Contents::Carried(events) => {
            let mended = if verified.is_err() { ", as it would be without the mistake" } else { "" };
            line(&mut out, &format!("events     {}{mended}", events.len()));
            for (index, event) in events.iter().enumerate() {
                carried(&mut out, index + 1, event, place);
            }
        }
    }
    out
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "no event".into() } else { names.join(", ") }
}

fn carried(out: &mut String, number: usize, event: &Carried, place: Place<'_>) {
    let Carried { what, category, result, message } = event;
    let name = match what {
        Ok(event_type) => event_type.clone(),
        Err(reason) => format!("unusable ({reason})"),
    };
    line(out, &format!("\n{number}. {name}"));
    line(out, &format!("   category {category}, {}", meaning(result)));
    let Some(message) = message else { return };
    line(out, &format!("   to       {}", place.of(message)));
    line(out, &format!("   id       {}", message.event.get(Attribute::Id).unwrap_or_default()));
    match (place.lay)(message) {
        Ok((headers, payload)) => {
            for (name, value) in headers {
                line(out, &format!("   {name}: {value}"));
            }
            line(out, String::from_utf8_lossy(&payload).trim_end_matches('\n'));
        }
        Err(error) => line(out, &format!("   cannot be published: {error}")),
    }
}

fn meaning(result: &str) -> &str {
    match result {
        "published" => "would be published",
        "quarantined" => "can never be published: goes to quarantine",
        "filtered" => "dropped by the source's filter",
        "duplicate" => "the same event as one before it",
        other => other,
    }
}

/// For programs.
pub fn json(explanation: &Explanation, place: Place<'_>) -> Value {
    let Explanation { source, bytes, verified, mended, remarks, contents } = explanation;
    let (read, events) = match contents {
        Contents::Read(names) => (json!(names), Value::Null),
        Contents::Carried(events) => {
            (Value::Null, events.iter().map(|event| event_json(event, place)).collect())
        }
    };
    json!({
        "source": source.as_str(),
        "bytes": bytes,
        "verifies": verified.is_ok(),
        "secret": verified.as_ref().ok(),
        "reason": verified.as_ref().err().map(|error| Reason::from(*error).slug()),
        "mistakes": mended,
        "notes": remarks,
        "holds": read,
        "events": events,
    })
}

fn event_json(event: &Carried, place: Place<'_>) -> Value {
    let Carried { what, category, result, message } = event;
    let published = message.as_ref().map(|message| {
        let laid = (place.lay)(message);
        let (headers, payload) = laid.as_ref().ok().cloned().unwrap_or_default();
        let headers: serde_json::Map<String, Value> =
            headers.into_iter().map(|(name, value)| (name, value.into())).collect();
        json!({
            "topic": &*message.destination.address,
            "subject": &*message.destination.subject,
            "key": message.event.get(Attribute::PartitionKey),
            "id": message.event.get(Attribute::Id),
            "headers": headers,
            "payload": String::from_utf8_lossy(&payload).trim_end_matches('\n'),
            "error": laid.err(),
        })
    });
    json!({
        "event_type": what.as_ref().ok(),
        "unusable": what.as_ref().err(),
        "category": category,
        "result": result,
        "message": published,
    })
}

fn line(out: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{line}");
}
