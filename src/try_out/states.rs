//! Events, and the states that they led to, side by side.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use console::{measure_text_width, pad_str, truncate_str};
use serde_json::{Value as Json, json};

use crate::bus::read::Item;
use crate::bus::state::{Version, milliseconds};
use crate::catalog::Category;
use crate::cloudevent::Data;
use crate::cloudevent::decode::DecodedEvent;
use crate::fake_attio::store::Store;
use crate::printable::{self, DIM, KNOWN, REFUSED, STRONG, line as safe, styled};
use crate::state::notice::{Notice, Says};
use crate::state::stored::Stored;

/// Gone entities that are remembered.
const REMEMBERED: usize = 10_000;

/// The last state of an entity: a CloudEvent, for a tombstone one that has its type and its key.
struct State {
    version: Version,
    event: DecodedEvent,
}

/// An event that waits for a state.
struct Told {
    recorded_at: i64,
    event: DecodedEvent,
}

/// Events of one entity, and a state that is true after all of them.
pub struct Pair<'a> {
    pub id: &'a str,
    pub events: Vec<DecodedEvent>,
    state: &'a State,
}

/// Which events have led to which states.
pub struct Pairs {
    workspace: String,
    /// That of the states' addresses.
    prefix: String,
    waiting: BTreeMap<String, Vec<Told>>,
    states: HashMap<String, State>,
    pub events: u64,
    pub published: u64,
}

impl Pairs {
    /// Those of events of this workspace; others share the bus.
    pub fn new(workspace: &str, prefix: &str) -> Self {
        Self {
            workspace: workspace.to_owned(),
            prefix: prefix.to_owned(),
            waiting: BTreeMap::new(),
            states: HashMap::new(),
            events: 0,
            published: 0,
        }
    }

    /// Entities that wait for a state.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes an event. Returns the ids of its entities, of both for a merge.
    pub fn told(&mut self, item: &Item) -> Vec<String> {
        let Some(notice) = Notice::read(item) else { return Vec::new() };
        let event = DecodedEvent::from_message(&item.headers, &item.payload);
        let (Ok(event), true) = (event, notice.workspace.as_ref() == Some(&self.workspace)) else {
            return Vec::new();
        };
        self.events += 1;
        let duplicate = if let Says::Merged(duplicate) = notice.says { Some(duplicate.id) } else { None };
        let ids = [notice.entity.id].into_iter().chain(duplicate);
        let ids: Vec<String> = ids.map(|id| id.to_string()).collect();
        for id in &ids {
            let told = Told { recorded_at: milliseconds(notice.recorded_at), event: event.clone() };
            self.waiting.entry(id.clone()).or_default().push(told);
        }
        ids
    }

    /// Takes a state. Returns the id of its entity.
    pub fn stored(&mut self, item: &Item) -> Option<String> {
        let stored = Stored::new(item, &self.prefix)?;
        let event = stored.to_event(item)?;
        self.published += 1;
        self.states.insert(stored.id.clone(), State { version: stored.version, event });
        if self.states.len() > REMEMBERED {
            self.states.retain(|_, state| state.version != Version::Gone);
        }
        Some(stored.id)
    }

    /// The events of an entity that its last state answers; none if it answers none that is left.
    pub fn pair(&mut self, id: &str) -> Option<Pair<'_>> {
        let (id, state) = self.states.get_key_value(id)?;
        let waiting = self.waiting.remove(id)?;
        let is_answered = |told: &Told| state.version >= Version::At(told.recorded_at);
        let (answered, left): (Vec<Told>, Vec<Told>) = waiting.into_iter().partition(is_answered);
        if !left.is_empty() {
            self.waiting.insert(id.clone(), left);
        }
        let events: Vec<_> = answered.into_iter().map(|told| told.event).collect();
        (!events.is_empty()).then_some(Pair { id, events, state })
    }

    /// The entities whose last state is not what the workspace holds.
    pub fn differing(&self, store: &Store) -> Vec<String> {
        let of_kinds = Category::ALL.into_iter().flat_map(|category| store.everything(category));
        let mut world: HashMap<String, Json> = of_kinds.collect();
        let there = self.states.iter().filter(|(_, state)| state.version != Version::Gone);
        let mut wrong = Vec::new();
        for (id, state) in there {
            if world.remove(id) != Some(data(&state.event)) {
                wrong.push(id.clone());
            }
        }
        wrong.extend(world.into_keys());
        wrong.sort();
        wrong
    }
}

fn data(event: &DecodedEvent) -> Json {
    match event.data() {
        Data::Json(bytes) => serde_json::from_slice(bytes).unwrap_or_default(),
        Data::Binary(_) => Json::Null,
    }
}

impl Pair<'_> {
    fn is_gone(&self) -> bool {
        self.state.version == Version::Gone
    }

    /// One JSON object.
    pub fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        let event = |event: &DecodedEvent| {
            let attributes = ["type", "id", "recordedtime"];
            attributes.into_iter().map(|name| (name.to_owned(), json!(event.get(name)))).collect::<Json>()
        };
        let state: Json = serde_json::from_str(&self.state.event.to_json()).unwrap_or_default();
        let line = json!({
            "kind": "state", "entity": self.id, "gone": self.is_gone(),
            "events": self.events.iter().map(event).collect::<Vec<_>>(), "state": state,
        });
        writeln!(out, "{}", printable::lines(&line.to_string()))
    }

    /// Lines of that width: the events on the left, the state on the right.
    pub fn write_lines(&self, out: &mut impl Write, width: usize) -> io::Result<()> {
        let columns = Columns::of(width);
        let left = self.events.iter().map(|event| columns.event(event, self.id));
        let mut left: Vec<String> = left.collect();
        let mut right = self.state(columns.right);
        let height = left.len().max(right.len());
        left.resize(height, " ".repeat(columns.left));
        right.resize(height, String::new());
        for (at, (left, right)) in left.into_iter().zip(right).enumerate() {
            let arrow = match (at, &*right) {
                (0, _) => format!(" {DIM}->{DIM:#} "),
                (_, "") => String::new(),
                _ => "    ".to_owned(),
            };
            let line = format!("{left}{arrow}{right}");
            writeln!(out, "{}", truncate_str(&styled(&line), width, "…"))?;
        }
        Ok(())
    }

    /// Lines of at most that width.
    fn state(&self, width: usize) -> Vec<String> {
        let State { event, .. } = self.state;
        let kind = event.get("type").unwrap_or_default().trim_start_matches("com.attio.");
        let (kind, _) = kind.rsplit_once('.').unwrap_or((kind, ""));
        let of = event.get("attioobject").filter(|_| kind == "record").or(event.get("attiolist"));
        let name = format!("{} {}", safe(of.unwrap_or(kind)), short(self.id));
        if self.is_gone() {
            return vec![format!(
                "{REFUSED}{}{REFUSED:#}",
                truncate_str(&format!("{name} is gone"), width, "…")
            )];
        }
        let mut lines = vec![String::new()];
        for part in values(&data(event)) {
            let part = truncate_str(&part, width, "…").into_owned();
            let last = lines.last_mut().expect("there is a line");
            let used = measure_text_width(last);
            if used > 0 && used + 2 + measure_text_width(&part) > width {
                lines.push(part);
            } else {
                *last += &format!("{}{part}", if used > 0 { "  " } else { "" });
            }
        }
        let first = format!("{STRONG}{}{STRONG:#}", truncate_str(&name, width, "…"));
        let time = event.get("time").and_then(|time| time.get(CLOCK)).unwrap_or_default();
        let last = truncate_str(&format!("true at {}", safe(time)), width, "…").into_owned();
        [first].into_iter().chain(lines).chain([format!("{DIM}{last}{DIM:#}")]).collect()
    }
}

/// The time of day in a timestamp, to the millisecond.
const CLOCK: std::ops::Range<usize> = 11..23;

/// From this width on events are shown to the millisecond.
const WIDE: usize = 100;

#[derive(Clone, Copy)]
pub struct Columns {
    clock: usize,
    pub left: usize,
    pub right: usize,
}

impl Columns {
    /// The longest type, an id, and spaces.
    const REST: usize = 20 + 8 + 2;

    pub fn of(width: usize) -> Self {
        let clock = if width < WIDE { 8 } else { 12 };
        let left = clock + Self::REST;
        Self { clock, left, right: width.saturating_sub(left + 4).max(20) }
    }

    fn event(self, event: &DecodedEvent, id: &str) -> String {
        let time = event.get("recordedtime").and_then(|time| time.get(CLOCK)).unwrap_or_default();
        let kind = event.get("type").unwrap_or_default().trim_start_matches("com.attio.");
        let kind = pad_str(&safe(kind), 20, console::Alignment::Left, Some("…")).into_owned();
        let clock: String = safe(time).chars().take(self.clock).collect();
        format!("{DIM}{clock:<0$}{DIM:#} {kind} {KNOWN}{1:<8}{KNOWN:#}", self.clock, short(id))
    }
}

fn short(id: &str) -> String {
    safe(id).chars().take(8).collect()
}

/// What an entity holds, as `name=value`; what names it or repeats its creation is left out.
fn values(data: &Json) -> Vec<String> {
    let attributes = ["values", "entry_values"].into_iter().find_map(|name| data[name].as_object());
    let known = ["title", "content_plaintext", "is_completed", "resolved_at"];
    match attributes {
        Some(attributes) => {
            let shown = attributes.iter().filter(|(name, _)| *name != "created_at");
            shown.map(|(name, values)| pair(name, &value(&values[0]))).collect()
        }
        None => known
            .into_iter()
            .filter(|name| !data[*name].is_null())
            .map(|name| pair(name, &data[name]))
            .collect(),
    }
}

/// The member that says what an attribute's value is.
fn value(value: &Json) -> Json {
    let names = ["full_name", "email_address", "domain", "value"];
    names.into_iter().map(|name| &value[name]).find(|value| !value.is_null()).unwrap_or(value).clone()
}

fn pair(name: &str, value: &Json) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    format!("{}={}", safe(name), safe(&text))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::bus::read::Position;

    fn item(json: Json) -> Item {
        let headers = vec![("content-type".to_owned(), Bytes::from_static(b"application/cloudevents+json"))];
        let key = json["partitionkey"].as_str().map(|key| Bytes::copy_from_slice(key.as_bytes()));
        let position = Position::Kafka { partition: 0, offset: 0 };
        let payload = json.to_string().into();
        Item { address: "t".into(), key, headers, payload, stored_at: None, position }
    }

    fn event(seconds: u8) -> Item {
        item(json!({
            "specversion": "1.0", "id": "e", "type": "com.attio.record.updated", "partitionkey": "the-person",
            "source": "https://attio.com/workspaces/w", "recordedtime": format!("2026-01-01T00:00:0{seconds}.000Z"),
            "data": { "id": { "object_id": "o", "record_id": "the-person" } },
        }))
    }

    fn state(seconds: u8, name: &str) -> Item {
        item(json!({
            "specversion": "1.0", "id": "s", "type": "com.attio.record.state", "partitionkey": "the-person",
            "source": "https://attio.com/workspaces/w", "time": format!("2026-01-01T00:00:0{seconds}.500Z"),
            "attioobject": "people", "data": { "values": { "name": [{ "full_name": name }] } },
        }))
    }

    #[test]
    fn state_answers_the_events_before_it_in_either_order() {
        let mut pairs = Pairs::new("w", "attio-state");
        assert_eq!(pairs.told(&event(1)), ["the-person"]);
        pairs.told(&event(2));
        pairs.told(&event(3));
        assert!(pairs.pair("the-person").is_none());
        assert_eq!(pairs.stored(&state(2, "Ada")).as_deref(), Some("the-person"));
        assert_eq!(pairs.pair("the-person").map(|pair| pair.events.len()), Some(2));
        assert!(pairs.pair("the-person").is_none() && pairs.waiting() == 1);
        pairs.stored(&state(4, "Ada"));
        pairs.told(&event(4));
        assert_eq!(pairs.pair("the-person").map(|pair| pair.events.len()), Some(2));
        assert_eq!(pairs.waiting(), 0);
    }

    #[test]
    fn lines_hold_both_and_fit() {
        let mut pairs = Pairs::new("w", "attio-state");
        (1..4).for_each(|second| drop(pairs.told(&event(second))));
        pairs.stored(&state(5, &"Ada ".repeat(50)));
        let pair = pairs.pair("the-person").unwrap();
        for width in [40, 80, 120] {
            let mut out = Vec::new();
            pair.write_lines(&mut out, width).unwrap();
            let text = console::strip_ansi_codes(std::str::from_utf8(&out).unwrap()).into_owned();
            assert!(text.lines().all(|line| measure_text_width(line) <= width), "{text}");
            if width == 40 {
                continue;
            }
            assert!(text.contains("record.updated       the-pers -> people the-pers\n"), "{text}");
            assert!(text.contains("name=Ada Ada") && text.contains("true at 00:00:05.500"), "{text}");
        }
    }
}
