//! What a consumer wrote down, against what is on the bus.

use std::collections::{BTreeMap, BTreeSet};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::inbox::{EventRow, RecordRow, Tables};
use super::json;
use super::message::{Event, Message, Mode};
use super::published::{ODD, Published};

/// What of the events of a mode did not come through, in words.
pub type Lost = BTreeMap<Mode, BTreeSet<String>>;

/// Compares everything; panics where no loss is allowed.
pub fn compare(published: &Published, tables: &Tables) -> Lost {
    let mut lost: Lost = Mode::ALL.into_iter().map(|mode| (mode, BTreeSet::new())).collect();
    let key = |row: &EventRow| (row.source.clone(), row.id.clone());
    let mut rows: BTreeMap<_, _> = tables.event.iter().map(|row| (key(row), row)).collect();
    let mut set_aside: BTreeMap<_, _> =
        tables.set_aside.iter().map(|row| (row.position.as_str(), row)).collect();
    let mut tally = BTreeMap::new();
    for (id, (message, event)) in published.events() {
        let lost = lost.get_mut(&event.mode).expect("every mode is there");
        match rows.remove(&id) {
            Some(row) => {
                *tally.entry(event.attributes["type"].clone()).or_default() += 1;
                event_row(message, event, row, lost);
            }
            None => {
                let row = set_aside.remove(message.position.as_str());
                let row = row.unwrap_or_else(|| panic!("neither handled nor set aside: {message:?}"));
                assert_eq!(row.value, message.value, "{}", row.position);
                lost.insert(format!("an event is set aside: {}", row.reason));
            }
        }
    }
    for message in published.poison() {
        let row = set_aside.remove(message.position.as_str());
        let row = row.unwrap_or_else(|| panic!("not set aside: {message:?}; more events: {rows:?}"));
        assert_eq!(row.value, message.value, "{}", row.position);
    }
    for message in published.odd() {
        let handled = tables.event.iter().find(|row| row.position == message.position);
        match handled {
            Some(row) => {
                rows.remove(&key(row));
                *tally.entry("com.attio.record.merged".to_owned()).or_default() += 1;
            }
            None => {
                let row = set_aside.remove(message.position.as_str());
                assert!(row.is_some(), "neither handled nor set aside: {message:?}");
            }
        }
    }
    assert!(rows.is_empty(), "nobody published these: {rows:?}");
    let repeats = published.messages.iter().filter_map(|message| message.event.as_ref());
    assert!(
        repeats.count() >= 2 * published.events().len(),
        "every event is there twice, and was handled once"
    );
    // A repeat of an event that was set aside is set aside too.
    set_aside.retain(|position, _| {
        published.messages.iter().all(|message| message.position != *position || message.event.is_none())
    });
    assert!(set_aside.is_empty(), "no poison: {set_aside:?}");
    assert_eq!(tables.tally(), tally, "handled once each");
    assert_eq!(records(&tables.record), expected_records(published, tables), "records and their merges");
    lost
}

fn event_row(message: &Message, event: &Event, row: &EventRow, lost: &mut BTreeSet<String>) {
    assert_eq!(row.position, message.position, "the first message of the event");
    assert_eq!(row.key.as_deref(), Some(message.key.as_str()), "{}", row.position);
    let headers: BTreeMap<String, String> = serde_json::from_str(&row.headers).expect("headers");
    assert_eq!(headers, message.headers, "{}", row.position);
    let attributes: BTreeMap<String, String> = serde_json::from_str(&row.attributes).expect("attributes");
    for name in attributes.keys().chain(event.attributes.keys()).collect::<BTreeSet<_>>() {
        match (event.attributes.get(name), attributes.get(name)) {
            (Some(sent), Some(got)) if sent == got => {}
            (Some(sent), Some(got)) if is_same_instant(sent, got) => {
                lost.insert(format!("the form of `{name}`, which is the same instant"));
            }
            (Some(sent), Some(got)) => drop(lost.insert(format!("`{name}`: `{sent}` becomes `{got}`"))),
            (Some(_), None) => drop(lost.insert(format!("`{name}`"))),
            (None, got) => drop(lost.insert(format!("an attribute `{name}` is added: {got:?}"))),
        }
    }
    json::compare(&event.data, &row.data, lost);
}

fn is_same_instant(sent: &str, got: &str) -> bool {
    let read = |text: &str| OffsetDateTime::parse(text, &Rfc3339).ok();
    read(sent).is_some_and(|sent| read(got) == Some(sent))
}

/// The count of each record, and what it was merged into.
type Records = BTreeMap<String, (u64, Option<String>)>;

fn records(rows: &[RecordRow]) -> Records {
    // What odd events count for depends on whether the SDK takes the Kafka key for that of the event.
    let rows = rows.iter().filter(|row| ![ODD, "odd", "poison"].contains(&row.id.as_str()));
    rows.map(|row| (row.id.clone(), (row.events, row.merged_into.clone()))).collect()
}

fn expected_records(published: &Published, tables: &Tables) -> Records {
    let handled: BTreeSet<_> = tables.event.iter().map(|row| (row.source.clone(), row.id.clone())).collect();
    let mut records = Records::new();
    let mut merged = BTreeMap::new();
    for (id, (_, event)) in published.events() {
        if !handled.contains(&id) || !event.attributes["type"].starts_with("com.attio.record.") {
            continue;
        }
        let record = &event.attributes["partitionkey"];
        records.entry(record.clone()).or_default().0 += 1;
        let data: serde_json::Value = serde_json::from_slice(&event.data).unwrap_or_default();
        if let Some(duplicate) = data["duplicate_record_id"].as_str() {
            merged.insert(duplicate.to_owned(), record.clone());
        }
    }
    for (duplicate, mut record) in &merged {
        while let Some(next) = merged.get(record) {
            record = next;
        }
        let left = (0, Some(record.clone()));
        let (events, _) = records.insert(duplicate.clone(), left).unwrap_or_default();
        records.get_mut(record).expect("the merge is an event of its own").0 += events;
    }
    records
}
