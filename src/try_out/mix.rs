//! The mix: deliveries of every type of the catalog, and between them repeats, unusual, broken and forged ones,
//! each with its expected result. The order is always the same; ids differ from run to run.

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::delivery::{Answer, Counts, Delivery, ExpectedEvent, Group, Sender};
use super::events::{EventGenerator, object, string};
use super::expected::Rules;
use crate::catalog::{EVENT_TYPES, EventType, Kind};
use crate::fake_attio::deliver::envelope;
use crate::signing::{Payload, Scheme, SignedRequest};

/// One delivery of the mix.
#[derive(Clone, Copy, Debug)]
enum Step {
    One(&'static EventType),
    Batch(&'static [&'static str]),
    Timestamped(&'static str),
    Again,
    Unusual(Unusual),
    NotJson,
    BrokenElement,
    Forged(Forgery),
}

/// Unusual deliveries that must be published nevertheless.
#[derive(Clone, Copy, Debug)]
enum Unusual {
    /// A category that the catalog does not have.
    UnknownType,
    /// An action that the catalog does not have.
    UnknownAction,
    /// One event without an envelope.
    Bare,
    /// White space, escapes and unknown members: every byte must be kept.
    Odd,
    /// An envelope without events.
    Empty,
}

/// Ways of forging a delivery.
#[derive(Clone, Copy, Debug)]
enum Forgery {
    WrongSecret,
    NoSignature,
    /// Changed after it was signed.
    AlteredBody,
    /// Signed an hour ago.
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
            Self::Unusual(_) => Group::Unusual,
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
    &[Step::Unusual(Unusual::UnknownType), Step::Forged(Forgery::NoSignature)],
    &[Step::BrokenElement, Step::Again],
    &[Step::Unusual(Unusual::Empty)],
    &[Step::Timestamped("list-entry.created"), Step::Forged(Forgery::StaleTimestamp)],
    &[Step::Unusual(Unusual::Bare), Step::Again],
    &[Step::Forged(Forgery::AlteredBody)],
    &[
        Step::Unusual(Unusual::UnknownAction),
        Step::Batch(&["record.merged", "note.updated", "note-content.updated"]),
    ],
    &[Step::Timestamped("task.updated"), Step::Forged(Forgery::Spliced)],
    &[Step::Unusual(Unusual::Odd), Step::Again],
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

/// Makes the deliveries of the mix, round after round.
pub struct Mix {
    events: EventGenerator,
    rules: Rules,
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

    fn timestamped(label: String, body: String) -> Self {
        Self { label, payload: Payload::new(Scheme::Timestamped, body), events: 1 }
    }

    /// The idempotency key; empty in the timestamped scheme.
    fn key(&self) -> &str {
        self.payload.key.as_deref().unwrap_or_default()
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
        let rules = Rules::new(&events);
        let json = events.event(of_catalog("record.created")).json;
        let last = Draft::attio("record.created", envelope(&events.webhook_id, &[&json]), 1);
        Self { events, rules, secret, round, next: 0, last }
    }

    /// Deliveries in a round.
    pub fn round_len(&self) -> usize {
        self.round.len()
    }

    /// The next delivery.
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
                let guide = self.events.guide_event(of_catalog(name));
                let draft = Draft::timestamped(format!("{name}, timestamped"), guide.event.json.clone());
                (draft, vec![self.rules.guide_event(&guide)])
            }
            Step::Unusual(unusual) => self.unusual(unusual),
            Step::NotJson => {
                let body = format!("{{\"webhook_id\":\"{}\",\"eve", self.events.webhook_id);
                let draft = Draft::attio("not JSON", body.clone(), 1);
                let quarantined = self.rules.quarantined(&body, "not_json", draft.key(), None);
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
        let events: Vec<_> = entries.iter().map(|entry| self.events.event(entry)).collect();
        let json: Vec<&str> = events.iter().map(|event| event.json.as_str()).collect();
        let draft = Draft::attio(label, envelope(&self.events.webhook_id, &json), entries.len() as u64);
        let expected =
            events.iter().enumerate().map(|(index, event)| self.rules.event(event, draft.key(), index));
        let expected = expected.collect();
        (draft, expected)
    }

    /// The last accepted delivery, repeated as if its answer had been lost.
    fn again(&self) -> Delivery {
        let Draft { label, payload, events } = self.last.clone();
        let counts = Counts { events, duplicates: events, ..Counts::default() };
        let (label, sender) = (format!("{label}, again"), Sender::Attio(payload));
        Delivery { group: Group::Repeat, label, sender, answer: Answer::ok(counts), events: Vec::new() }
    }

    fn unusual(&mut self, unusual: Unusual) -> (Draft, Vec<ExpectedEvent>) {
        let webhook_id = &self.events.webhook_id;
        match unusual {
            Unusual::Empty => (Draft::attio("no events", envelope(webhook_id, &[]), 0), Vec::new()),
            Unusual::Bare => {
                let event = self.events.event(of_catalog("note.created"));
                let draft = Draft::attio("note.created, no envelope", event.json.clone(), 1);
                let expected = self.rules.bare_event(&event, draft.key());
                (draft, vec![expected])
            }
            Unusual::Odd => {
                let webhook_id = webhook_id.clone();
                let mut event = self.events.event(of_catalog("task.updated"));
                event.json = with_odd_json(&event.json);
                let json = &event.json;
                let body = format!("\n{{ \"events\" : [\t{json} ]\r\n, \"webhook_id\":\"{webhook_id}\" }}\n");
                let draft = Draft::attio("task.updated, oddly spelled", body, 1);
                let expected = self.rules.event(&event, draft.key(), 0);
                (draft, vec![expected])
            }
            Unusual::UnknownType => self.unknown("meeting.created", "meeting_id", "unknown"),
            Unusual::UnknownAction => self.unknown("record.archived", "record_id", "record"),
        }
    }

    fn unknown(&self, name: &str, id: &str, category: &str) -> (Draft, Vec<ExpectedEvent>) {
        let entity = Uuid::new_v4().to_string();
        let ids = object(&[("workspace_id", string(&self.events.workspace_id)), (id, string(&entity))]);
        let json = object(&[("event_type", string(name)), ("id", ids), ("actor", "null".to_owned())]);
        let draft = Draft::attio(format!("{name}, unknown"), envelope(&self.events.webhook_id, &[&json]), 1);
        let expected = self.rules.unknown(name, category, &entity, &json, draft.key());
        (draft, vec![expected])
    }

    /// Three elements, the second without a type: the others are published.
    fn broken_element(&mut self) -> (Draft, Vec<ExpectedEvent>) {
        let first = self.events.event(of_catalog("record.created"));
        let last = self.events.event(of_catalog("list-entry.updated"));
        let broken = object(&[("id", object(&[("workspace_id", string(&self.events.workspace_id))]))]);
        let body = envelope(&self.events.webhook_id, &[&first.json, &broken, &last.json]);
        let draft = Draft::attio("3 events, one broken", body, 3);
        let expected = vec![
            self.rules.event(&first, draft.key(), 0),
            self.rules.quarantined(&broken, "no_event_type", draft.key(), Some(1)),
            self.rules.event(&last, draft.key(), 2),
        ];
        (draft, expected)
    }

    fn forged(&mut self, forgery: Forgery) -> Delivery {
        let update = of_catalog("record.updated");
        let payload = match forgery {
            Forgery::StaleTimestamp | Forgery::Spliced => {
                Payload::new(Scheme::Timestamped, self.events.guide_event(update).event.json)
            }
            Forgery::WrongSecret | Forgery::NoSignature | Forgery::AlteredBody => {
                let json = self.events.event(update).json;
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

    fn one_round() -> Vec<Delivery> {
        round_of(&[])
    }

    fn round_of(groups: &[Group]) -> Vec<Delivery> {
        let mut mix = Mix::new(EventGenerator::new(), "0123456789abcdef".into(), groups);
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
        let ids = |round: &[Delivery]| {
            let events = round.iter().flat_map(|delivery| delivery.events.clone());
            events.filter_map(|expected| expected.id).collect::<BTreeSet<_>>()
        };
        assert!(ids(&one).is_disjoint(&ids(&other)));
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
