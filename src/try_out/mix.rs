//! The mix: deliveries of every type of the catalog, and between them repeats, unusual, broken and forged ones,
//! each with its expected result. The order is always the same; ids differ from run to run.

use time::{Duration, OffsetDateTime};

use super::PREFIX;
use super::delivery::{Answer, Counts, Delivery, ExpectedEvent, Group, Sender};
use super::events::{EventGenerator, object, string, uuid};
use crate::catalog::{EVENT_TYPES, EventType, Kind};
use crate::fake_attio::deliver::envelope;
use crate::pipeline::quarantine;
use crate::signing::{Payload, Scheme, SignedRequest};

#[derive(Clone, Copy, Debug)]
enum Step {
    One(&'static EventType),
    Batch(&'static [&'static str]),
    Timestamped(&'static str),
    Again,
    /// A category, or an action, that the catalog does not have: event type, name of its id, category.
    Unknown(&'static str, &'static str, &'static str),
    /// One event without an envelope.
    Bare,
    /// White space, escapes and unknown members: every byte must be kept.
    Odd,
    /// An envelope without events.
    Empty,
    NotJson,
    BrokenElement,
    Forged(Forgery),
}

/// Ways of forging a delivery.
#[derive(Clone, Copy, Debug)]
enum Forgery {
    WrongSecret,
    NoSignature,
    AlteredBody,
    StaleTimestamp,
    /// A timestamped delivery, replayed as a plain one.
    Spliced,
}

impl Step {
    const fn group(self) -> Group {
        match self {
            Self::One(_) => Group::One,
            Self::Batch(_) => Group::Batch,
            Self::Timestamped(_) => Group::Timestamped,
            Self::Again => Group::Repeat,
            Self::Unknown(..) | Self::Bare | Self::Odd | Self::Empty => Group::Unusual,
            Self::NotJson | Self::BrokenElement => Group::Broken,
            Self::Forged(_) => Group::Forged,
        }
    }
}

/// What comes between the types. Every form of a delivery is repeated once.
const SPECIALS: [&[Step]; 14] = [
    &[Step::Again],
    &[Step::Batch(&["record.created", "record.updated", "task.created"]), Step::Again],
    &[Step::Forged(Forgery::WrongSecret)],
    &[Step::Timestamped("record.updated"), Step::Again],
    &[Step::NotJson, Step::Again],
    &[Step::Unknown("meeting.created", "meeting_id", "unknown"), Step::Forged(Forgery::NoSignature)],
    &[Step::BrokenElement, Step::Again],
    &[Step::Empty],
    &[Step::Timestamped("list-entry.created"), Step::Forged(Forgery::StaleTimestamp)],
    &[Step::Bare, Step::Again],
    &[Step::Forged(Forgery::AlteredBody)],
    &[
        Step::Unknown("record.archived", "record_id", "record"),
        Step::Batch(&["record.merged", "note.updated", "note-content.updated"]),
    ],
    &[Step::Timestamped("task.updated"), Step::Forged(Forgery::Spliced)],
    &[Step::Odd, Step::Again],
];

/// Every type once, entities before what happens to them, and the specials spread between them.
fn round() -> Vec<Step> {
    let mut types: Vec<&'static EventType> = EVENT_TYPES.iter().collect();
    types.sort_by_key(|entry| (age(entry.action), entry.category));
    let mut round = Vec::new();
    let mut specials = SPECIALS.into_iter();
    for (index, entry) in types.iter().enumerate() {
        round.push(Step::One(entry));
        // After each type as many specials as keep the two lists in step.
        let due = (index + 1) * SPECIALS.len() / types.len() - index * SPECIALS.len() / types.len();
        round.extend(specials.by_ref().take(due).flatten());
    }
    round
}

/// When in its life an entity meets an action.
fn age(action: &str) -> u8 {
    match action {
        "created" => 0,
        "deleted" => 3,
        "merged" | "unresolved" => 2,
        _ => 1,
    }
}

/// A type of the catalog that the mix names.
fn of_catalog(name: &str) -> &'static EventType {
    match Kind::of(name) {
        Kind::Known(entry) => entry,
        Kind::UnknownAction(_) | Kind::Unknown => unreachable!("the mix names types of the catalog"),
    }
}

pub struct Mix {
    events: EventGenerator,
    /// For forgers, who come as close as they can.
    secret: String,
    round: Vec<Step>,
    next: usize,
    /// The last delivery that was accepted.
    last: Draft,
}

/// A delivery before its answer is known.
#[derive(Clone)]
struct Draft {
    label: String,
    payload: Payload,
    events: u64,
}

impl Draft {
    fn attio(label: impl Into<String>, body: String, events: u64) -> Self {
        Self { label: label.into(), payload: Payload::new(Scheme::Attio, body), events }
    }

    /// An event of the draft, on the topic of that category.
    fn event(&self, category: &str, name: &str, json: &str) -> ExpectedEvent {
        ExpectedEvent {
            topic: format!("{PREFIX}.{category}"),
            event_type: format!("com.attio.{name}"),
            reason: None,
            key: self.payload.key.clone(),
            data: json.to_owned().into(),
        }
    }

    fn known(&self, entry: &EventType, json: &str) -> ExpectedEvent {
        self.event(entry.category.as_str(), entry.name, json)
    }

    fn quarantined(&self, reason: &'static str, raw: &str) -> ExpectedEvent {
        let event_type = quarantine::TYPE.to_owned();
        ExpectedEvent { event_type, reason: Some(reason), ..self.event("quarantine", "", raw) }
    }
}

impl Mix {
    /// The deliveries of these groups; of all groups if none is named.
    pub fn new(mut events: EventGenerator, secret: String, groups: &[Group]) -> Self {
        let mut round = round();
        round.retain(|step| groups.is_empty() || groups.contains(&step.group()));
        // A repeat needs a delivery before it.
        if round.iter().all(|step| step.group() == Group::Repeat) {
            round.insert(0, Step::One(of_catalog("record.created")));
        }
        let json = events.event(of_catalog("record.created"));
        let last = Draft::attio("record.created", envelope(&events.webhook_id, &[&json]), 1);
        Self { events, secret, round, next: 0, last }
    }

    pub fn round_len(&self) -> usize {
        self.round.len()
    }

    pub fn next_delivery(&mut self) -> Delivery {
        let step = self.round[self.next % self.round.len()];
        self.next += 1;
        let group = step.group();
        let (draft, events) = match step {
            Step::One(entry) => self.batch(entry.name.into(), &[entry]),
            Step::Batch(names) => {
                let entries: Vec<_> = names.iter().map(|name| of_catalog(name)).collect();
                self.batch(format!("{} events at once", entries.len()), &entries)
            }
            Step::Timestamped(name) => {
                let entry = of_catalog(name);
                let json = self.events.single_event(entry);
                let payload = Payload::new(Scheme::Timestamped, json.clone());
                let draft = Draft { label: format!("{name}, timestamped"), payload, events: 1 };
                let expected = draft.known(entry, &json);
                (draft, vec![expected])
            }
            Step::Unknown(name, id, category) => {
                let ids = [("workspace_id", string(&self.events.workspace_id)), (id, string(&uuid()))];
                let event = [("event_type", string(name)), ("id", object(&ids)), ("actor", "null".into())];
                let json = object(&event);
                let body = envelope(&self.events.webhook_id, &[&json]);
                let draft = Draft::attio(format!("{name}, unknown"), body, 1);
                let expected = draft.event(category, name, &json);
                (draft, vec![expected])
            }
            Step::Bare => {
                let entry = of_catalog("note.created");
                let json = self.events.event(entry);
                let draft = Draft::attio("note.created, no envelope", json.clone(), 1);
                let expected = draft.known(entry, &json);
                (draft, vec![expected])
            }
            Step::Odd => {
                let (entry, webhook_id) = (of_catalog("task.updated"), self.events.webhook_id.clone());
                let json = with_odd_json(&self.events.event(entry));
                let body = format!("\n{{ \"events\" : [\t{json} ]\r\n, \"webhook_id\":\"{webhook_id}\" }}\n");
                let draft = Draft::attio("task.updated, unusual JSON", body, 1);
                let expected = draft.known(entry, &json);
                (draft, vec![expected])
            }
            Step::Empty => (Draft::attio("no events", envelope(&self.events.webhook_id, &[]), 0), Vec::new()),
            Step::NotJson => {
                let body = format!("{{\"webhook_id\":\"{}\",\"eve", self.events.webhook_id);
                let draft = Draft::attio("not JSON", body.clone(), 1);
                let quarantined = draft.quarantined("not_json", &body);
                (draft, vec![quarantined])
            }
            Step::BrokenElement => self.broken_element(),
            Step::Again => return self.again(),
            Step::Forged(forgery) => return self.forged(forgery),
        };
        let quarantined = u64::from(group == Group::Broken);
        let published = events.len() as u64 - quarantined;
        let counts = Counts { events: draft.events, published, quarantined, ..Counts::default() };
        self.last = draft.clone();
        let (label, sender) = (draft.label, Sender::Attio(draft.payload));
        Delivery { group, label, sender, answer: Answer::ok(counts), events }
    }

    fn batch(&mut self, label: String, entries: &[&'static EventType]) -> (Draft, Vec<ExpectedEvent>) {
        let json: Vec<String> = entries.iter().map(|entry| self.events.event(entry)).collect();
        let all: Vec<&str> = json.iter().map(String::as_str).collect();
        let draft = Draft::attio(label, envelope(&self.events.webhook_id, &all), entries.len() as u64);
        let expected = entries.iter().zip(&json).map(|(entry, json)| draft.known(entry, json)).collect();
        (draft, expected)
    }

    /// The last accepted delivery, repeated as if its answer had been lost.
    fn again(&self) -> Delivery {
        let Draft { label, payload, events } = self.last.clone();
        let counts = Counts { events, duplicates: events, ..Counts::default() };
        let (label, sender) = (format!("{label}, again"), Sender::Attio(payload));
        Delivery { group: Group::Repeat, label, sender, answer: Answer::ok(counts), events: Vec::new() }
    }

    /// Three elements, the second without a type: the others are published.
    fn broken_element(&mut self) -> (Draft, Vec<ExpectedEvent>) {
        let entries = [of_catalog("record.created"), of_catalog("list-entry.updated")];
        let [first, last] = entries.map(|entry| self.events.event(entry));
        let broken = object(&[("id", object(&[("workspace_id", string(&self.events.workspace_id))]))]);
        let body = envelope(&self.events.webhook_id, &[&first, &broken, &last]);
        let draft = Draft::attio("3 events, one broken", body, 3);
        let expected = vec![
            draft.known(entries[0], &first),
            draft.quarantined("no_event_type", &broken),
            draft.known(entries[1], &last),
        ];
        (draft, expected)
    }

    fn forged(&mut self, forgery: Forgery) -> Delivery {
        let update = of_catalog("record.updated");
        let payload = match forgery {
            Forgery::StaleTimestamp | Forgery::Spliced => {
                Payload::new(Scheme::Timestamped, self.events.single_event(update))
            }
            Forgery::WrongSecret | Forgery::NoSignature | Forgery::AlteredBody => {
                let json = self.events.event(update);
                Payload::new(Scheme::Attio, envelope(&self.events.webhook_id, &[&json]))
            }
        };
        let label = format!("{}, {}", update.name, forgery.name());
        let sender = Sender::Forger(forgery.forge(&payload, &self.secret));
        Delivery { group: Group::Forged, label, sender, answer: Answer::unauthorized(), events: Vec::new() }
    }
}

impl Forgery {
    const fn name(self) -> &'static str {
        match self {
            Self::WrongSecret => "wrong secret",
            Self::NoSignature => "no signature",
            Self::AlteredBody => "altered",
            Self::StaleTimestamp => "an hour old",
            Self::Spliced => "spliced",
        }
    }

    fn forge(self, payload: &Payload, secret: &str) -> SignedRequest {
        let now = OffsetDateTime::now_utc();
        let mut request = payload.sign(secret, now);
        match self {
            Self::WrongSecret => request = payload.sign(&"0".repeat(64), now),
            Self::StaleTimestamp => request = payload.sign(secret, now - Duration::HOUR),
            Self::NoSignature => request.headers.retain(|(name, _)| !name.ends_with("Attio-Signature")),
            Self::AlteredBody => {
                let body = String::from_utf8_lossy(&payload.body);
                request.body = body.replace("record.updated", "record.deleted").into();
            }
            // The timestamp moves from its header into the body: the signed bytes are the same.
            Self::Spliced => {
                let timestamp = now.unix_timestamp().to_string();
                request.headers.retain(|(name, _)| *name != "X-Attio-Timestamp");
                request.body = [timestamp.as_bytes(), b".", &payload.body].concat().into();
            }
        }
        request
    }
}

/// The event with white space, escapes, a number that a parser would shorten, and unknown members.
fn with_odd_json(json: &str) -> String {
    let rest = json.strip_prefix('{').unwrap_or(json);
    format!(
        "{{ \"remark\" : \"Zo\\u00eb \\/ \u{1f600}\",\r\n\t\"amount\":1.50e+2, \"deep\":[[{{ }}]] ,{rest}"
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::fake_attio::store::Store;

    fn one_round() -> Vec<Delivery> {
        round_of(&[])
    }

    fn round_of(groups: &[Group]) -> Vec<Delivery> {
        let events = EventGenerator::new(&Store::new(""), "webhook");
        let mut mix = Mix::new(events, "0123456789abcdef".into(), groups);
        (0..mix.round_len()).map(|_| mix.next_delivery()).collect()
    }

    #[test]
    fn a_round_has_every_type_and_every_group() {
        let round = one_round();
        assert_eq!(round.len(), EVENT_TYPES.len() + SPECIALS.concat().len());
        let one = round.iter().filter(|delivery| delivery.group == Group::One);
        let types: BTreeSet<&str> = one.map(|delivery| delivery.label.as_str()).collect();
        assert_eq!(types.len(), EVENT_TYPES.len());
        assert!(EVENT_TYPES.iter().all(|entry| types.contains(entry.name)));
        for group in Group::ALL {
            assert!(round.iter().any(|delivery| delivery.group == group), "{group:?}");
        }
    }

    #[test]
    fn mix_has_the_requested_groups() {
        for group in Group::ALL {
            let round = round_of(&[group]);
            let others = round.iter().filter(|delivery| delivery.group != group).count();
            assert_eq!(others, usize::from(group == Group::Repeat), "{group:?}");
        }
        let two = round_of(&[Group::Batch, Group::Forged]);
        assert!(two.iter().all(|delivery| matches!(delivery.group, Group::Batch | Group::Forged)));
    }

    #[test]
    fn order_is_constant_and_ids_are_new() {
        let (one, other) = (one_round(), one_round());
        for (one, other) in one.iter().zip(&other) {
            assert_eq!((&one.label, &one.answer), (&other.label, &other.answer));
        }
        let events = |round: &[Delivery]| {
            let events = round.iter().flat_map(|delivery| delivery.events.clone());
            events.map(|expected| (expected.key, expected.data)).collect::<BTreeSet<_>>()
        };
        assert!(events(&one).is_disjoint(&events(&other)));
    }

    #[test]
    fn expected_events_match_expected_counts() {
        for delivery in one_round() {
            let counts = delivery.answer.counts.unwrap_or_default();
            assert_eq!(
                delivery.events.len() as u64,
                counts.published + counts.quarantined,
                "{}",
                delivery.label
            );
        }
    }
}
