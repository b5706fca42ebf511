//! An event as a line of text: time, type, key, id, and a summary of its data.

use console::{Alignment, pad_str, truncate_str};
use serde_json::Value;

use crate::cloudevent::Data;
use crate::cloudevent::decode::DecodedEvent;
use crate::pipeline::quarantine;
use crate::printable::{DIM, KNOWN, Paint, REFUSED, STRONG, line as escaped};

/// Columns of a terminal whose width is unknown.
pub const DEFAULT_COLUMNS: usize = 120;

/// The time of day in a timestamp: `12:34:56.789`.
const CLOCK: std::ops::Range<usize> = 11..23;

/// Longer parts of a subject, its ids, are shortened.
const MAX_PART: usize = 18;

/// The widths of type, key and id on a terminal of so many columns.
const fn widths(columns: usize) -> [usize; 3] {
    match columns {
        180.. => [29, 36, 36],
        110.. => [29, 13, 9],
        _ => [21, 9, 9],
    }
}

/// The names of the columns.
pub fn heading(columns: usize) -> String {
    let [kind, key, id] = widths(columns);
    short(&format!("{:<12} {:<kind$} {:<key$} {:<id$} data", "time (UTC)", "type", "key", "id"), columns)
}

/// The line, at most `columns` wide.
pub fn line(event: &DecodedEvent, key: &str, columns: usize, paint: Paint) -> String {
    let get = |name| event.get(name).unwrap_or("-");
    let time = get("recordedtime");
    let clock = escaped(time.get(CLOCK).unwrap_or(time));
    let kind = escaped(get("type"));
    let kind = kind.strip_prefix("com.attio.").unwrap_or(&kind);
    let in_quarantine = kind == quarantine::TYPE;
    let kind = if in_quarantine { format!("quarantine {}", escaped(get("reason"))) } else { kind.to_owned() };
    let cell = |text: &str, width| pad_str(text, width, Alignment::Left, Some("…")).into_owned();
    let [kind_width, key_width, id_width] = widths(columns);
    let kind = cell(&kind, kind_width);
    let kind = if in_quarantine { paint.with(REFUSED, &kind) } else { paint.with(STRONG, &kind) };
    let line = format!(
        "{} {kind} {} {} {}",
        paint.with(DIM, &cell(&clock, 12)),
        paint.with(KNOWN, &cell(&escaped(key), key_width)),
        paint.with(DIM, &cell(&escaped(get("id")), id_width)),
        summary(event)
    );
    short(line.trim_end(), columns)
}

/// A text that is wider than `width`, cut and marked with `…`.
pub fn short(text: &str, width: usize) -> String {
    truncate_str(text, width, "…").into_owned()
}

/// The data without the ids that are already in the line.
fn summary(event: &DecodedEvent) -> String {
    let data = match event.data() {
        Data::Binary(bytes) => return format!("{} bytes", bytes.len()),
        Data::Json(bytes) => bytes,
    };
    let Ok(Value::Object(members)) = serde_json::from_slice::<Value>(data) else { return String::new() };
    let subject =
        event.get("subject").unwrap_or_default().split('/').map(|part| short(&escaped(part), MAX_PART));
    let mut parts = vec![subject.collect::<Vec<_>>().join("/")];
    for (name, value) in &members {
        match (name.as_str(), value) {
            ("event_type", _) | (_, Value::Null) => {}
            ("id", Value::Object(ids)) => {
                parts.extend(ids.get("attribute_id").map(|id| pair("attribute", id)))
            }
            ("actor", actor) => parts.extend(actor.get("type").map(|kind| pair("by", kind))),
            (name, value) => parts.push(pair(&escaped(name), value)),
        }
    }
    parts.retain(|part| !part.is_empty());
    parts.join(" ")
}

fn pair(name: &str, value: &Value) -> String {
    match value {
        Value::String(text) => format!("{name}={}", escaped(text)),
        value => format!("{name}={}", escaped(&value.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> DecodedEvent {
        let json = r#"{"id":"9d5ee6c0-aaaa","type":"com.attio.record.updated","subject":"objects/o/records/r",
            "recordedtime":"2026-11-24T12:34:56.789Z","data":{"event_type":"record.updated",
            "id":{"record_id":"r","attribute_id":"a"},"actor":{"type":"system","id":null},"x":"\u001b[2J"}}"#;
        DecodedEvent::from_json(json.as_bytes()).unwrap()
    }

    #[test]
    fn line_has_its_columns_and_fits() {
        let plain = line(&event(), "a-very-long-record-id", 200, Paint(false));
        assert_eq!(
            plain,
            "12:34:56.789 record.updated                a-very-long-record-id                9d5ee6c0-aaaa                        \
             objects/o/records/r by=system attribute=a x=\\u001b[2J"
        );
        for columns in [40, 80, 110, 179] {
            let line = line(&event(), &"k".repeat(50), columns, Paint(false));
            assert_eq!(
                (line.chars().count() <= columns, line.ends_with('…')),
                (true, columns < 179),
                "{line}"
            );
            assert!(heading(columns).chars().count() <= columns);
        }
        assert!(line(&event(), "k", 80, Paint(true)).contains("\x1b[1mrecord.updated"));
    }

    #[test]
    fn ids_of_a_subject_are_shortened() {
        let json = r#"{"id":"i","type":"com.attio.x.y","subject":"records/891dcbfc-9141-415d-9b2a-2238a6cc012d","data":{}}"#;
        let line = line(&DecodedEvent::from_json(json.as_bytes()).unwrap(), "k", 120, Paint(false));
        assert!(line.ends_with(" records/891dcbfc-9141-415…"), "{line}");
    }

    #[test]
    fn quarantined_event_shows_its_reason() {
        let json = r#"{"id":"i","type":"dev.attio-bridge.delivery.quarantined","reason":"not_json","data_base64":"e30="}"#;
        let line = line(&DecodedEvent::from_json(json.as_bytes()).unwrap(), "i", 120, Paint(false));
        assert!(line.contains("quarantine not_json") && line.ends_with("2 bytes"), "{line}");
    }
}
