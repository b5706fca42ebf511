//! An explanation as text and as JSON.

use std::fmt::Write;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::{Events, Explanation, ProcessedEvent};
use crate::bus::read::EncodedMessage;
use crate::cloudevent::Attribute;
use crate::pipeline::outcome::Reason;
use crate::pipeline::publish::Message;
use crate::pipeline::verify::SignatureError;
use crate::printable::{line, lines};

/// The bus that events would be published to.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// `kafka`, `nats` or `stdout`.
    pub bus: &'static str,
    /// The secrets that a signature was compared with: source, label, and the file if there is one.
    pub tried: &'a [(String, String, Option<PathBuf>)],
    /// Encodes a message for that bus.
    pub encode: &'a dyn Fn(&Message) -> Result<EncodedMessage, String>,
}

impl Target<'_> {
    fn address(self, message: &Message) -> String {
        let to = &message.destination;
        let key = message.event.get(Attribute::PartitionKey).unwrap_or_default();
        match self.bus {
            "kafka" => format!("topic {}, key {key}", to.address),
            "nats" => format!("subject {}, partitionkey {key}", to.subject),
            _ => format!("standard output, as {}", to.address),
        }
    }
}

pub fn text(explanation: &Explanation, target: Target<'_>) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_text(&mut out, explanation, target);
    out
}

fn write_text(out: &mut String, explanation: &Explanation, target: Target<'_>) -> std::fmt::Result {
    let Explanation { source, bytes, verified, mistakes, notes, events } = explanation;
    writeln!(out, "request    to source {source}, {bytes} bytes")?;
    match verified {
        Ok(label) => writeln!(out, "signature  good: secret `{label}`")?,
        Err(error) => {
            writeln!(out, "signature  refused, 401 ({}): {error}", Reason::from(*error).slug())?;
        }
    }
    match mistakes {
        Some(mistakes) => {
            writeln!(out, "because")?;
            mistakes.iter().try_for_each(|mistake| writeln!(out, "  - {}", line(mistake)))?;
        }
        None if matches!(verified, Err(SignatureError::Mismatch)) => {
            writeln!(
                out,
                "because    of no common mistake: the sender uses another secret, or a proxy changed the body"
            )?;
        }
        None => {}
    }
    if matches!(verified, Err(SignatureError::Mismatch)) {
        let file = |file: &PathBuf| format!(", file {}", file.display());
        target.tried.iter().try_for_each(|(source, label, path)| {
            let file = path.as_ref().map(file).unwrap_or_default();
            writeln!(out, "tried      secret `{label}` of source {source}{}", line(&file))
        })?;
    }
    notes.iter().try_for_each(|note| writeln!(out, "note       {}", line(note)))?;
    match events {
        Events::Unverified(names) if names.is_empty() => writeln!(out, "holds      no event"),
        Events::Unverified(names) => writeln!(out, "holds      {}", line(&names.join(", "))),
        Events::Processed(events) => {
            let fixed = if verified.is_err() { ", as processed without the mistake" } else { "" };
            writeln!(out, "events     {}{fixed}", events.len())?;
            events.iter().zip(1..).try_for_each(|(event, number)| write_event(out, number, event, target))
        }
    }
}

fn write_event(
    out: &mut String,
    number: usize,
    event: &ProcessedEvent,
    target: Target<'_>,
) -> std::fmt::Result {
    let ProcessedEvent { event_type, category, result, message } = event;
    match event_type {
        Ok(event_type) => writeln!(out, "\n{number}. {}", line(event_type))?,
        Err(reason) => writeln!(out, "\n{number}. unusable ({reason})")?,
    }
    let meaning = match *result {
        "published" => "would be published",
        "quarantined" => "cannot be published: goes to quarantine",
        "filtered" => "dropped by the source's filter",
        "duplicate" => "a duplicate of an earlier event",
        other => other,
    };
    writeln!(out, "   category {category}, {meaning}")?;
    let Some(message) = message else { return Ok(()) };
    writeln!(out, "   to       {}", target.address(message))?;
    writeln!(out, "   id       {}", message.event.get(Attribute::Id).unwrap_or_default())?;
    match (target.encode)(message) {
        Ok(EncodedMessage { headers, payload }) => {
            headers.iter().try_for_each(|(name, value)| writeln!(out, "   {name}: {}", line(value)))?;
            writeln!(out, "{}", lines(String::from_utf8_lossy(&payload).trim_end_matches('\n')))
        }
        Err(error) => writeln!(out, "   cannot be published: {}", line(&error)),
    }
}

pub fn json(explanation: &Explanation, target: Target<'_>) -> Value {
    let Explanation { source, bytes, verified, mistakes, notes, events } = explanation;
    let (holds, events) = match events {
        Events::Unverified(names) => (json!(names), Value::Null),
        Events::Processed(events) => {
            (Value::Null, events.iter().map(|event| event_json(event, target)).collect())
        }
    };
    let tried = |(source, label, file): &(String, String, Option<PathBuf>)| json!({ "source": source, "secret": label, "file": file });
    json!({
        "source": source.as_str(),
        "bytes": bytes,
        "verifies": verified.is_ok(),
        "secret": verified.as_ref().ok(),
        "reason": verified.as_ref().err().map(|error| Reason::from(*error).slug()),
        "tried": target.tried.iter().map(tried).collect::<Value>(),
        "mistakes": mistakes,
        "notes": notes,
        "holds": holds,
        "events": events,
    })
}

fn event_json(event: &ProcessedEvent, target: Target<'_>) -> Value {
    let ProcessedEvent { event_type, category, result, message } = event;
    let message = message.as_ref().map(|message| {
        let (headers, payload, error) = match (target.encode)(message) {
            Ok(EncodedMessage { headers, payload }) => (headers, payload, None),
            Err(error) => (Vec::new(), Vec::new(), Some(error)),
        };
        let headers: Map<String, Value> =
            headers.into_iter().map(|(name, value)| (name, value.into())).collect();
        json!({
            "topic": &*message.destination.address,
            "subject": &*message.destination.subject,
            "key": message.event.get(Attribute::PartitionKey),
            "id": message.event.get(Attribute::Id),
            "headers": headers,
            "payload": String::from_utf8_lossy(&payload).trim_end_matches('\n'),
            "error": error,
        })
    });
    json!({
        "event_type": event_type.as_ref().ok(),
        "unusable": event_type.as_ref().err(),
        "category": category,
        "result": result,
        "message": message,
    })
}
