//! Composes each kind of delivery, together with what must come of it.

use uuid::Uuid;

use super::body::Json;
use super::expect::Expect;
use super::forge::Forgery;
use super::letter::Letter;
use super::plan::of_catalog;
use super::planned::{Answer, By, Counts, Expected, Group, Planned};
use super::world::World;
use crate::catalog::EventType;
use crate::fake_attio::deliver::envelope;

/// Something unusual that must be published all the same.
#[derive(Clone, Copy, Debug)]
pub enum Spelling {
    /// A category and type that the catalog not_ready_reason.
    UnknownType,
    /// A known category with an action that the catalog not_ready_reason.
    UnknownAction,
    /// One event without an envelope.
    Bare,
    /// White space, escapes and members that nobody knows: not a byte of them may change.
    Odd,
    /// An envelope without events.
    Empty,
}

/// Composes deliveries.
pub struct Composer {
    world: World,
    secret: String,
    expect: Expect,
    last: Letter,
}

impl Composer {
    /// A composer of what happens there; only forgers need the secret, to come as close as they can.
    pub fn new(mut world: World, secret: String) -> Self {
        let expect = Expect::new(&world);
        let json = world.event(of_catalog("record.created")).json;
        let last = Letter::attio("record.created", envelope(&world.webhook_id, &[&json]), 1);
        Self { world, secret, expect, last }
    }

    /// One event in Attio's envelope.
    pub fn one(&mut self, entry: &'static EventType) -> Planned {
        self.batch_of(Group::One, entry.name.into(), &[entry])
    }

    /// Several events in one delivery.
    pub fn batch(&mut self, names: &[&str]) -> Planned {
        let entries: Vec<_> = names.iter().map(|name| of_catalog(name)).collect();
        self.batch_of(Group::Batch, format!("{} events at once", entries.len()), &entries)
    }

    fn batch_of(&mut self, group: Group, label: String, entries: &[&'static EventType]) -> Planned {
        let samples: Vec<_> = entries.iter().map(|entry| self.world.event(entry)).collect();
        let bodies: Vec<&str> = samples.iter().map(|sample| sample.json.as_str()).collect();
        let letter = Letter::attio(label, envelope(&self.world.webhook_id, &bodies), entries.len() as u64);
        let events = samples.iter().enumerate();
        let events = events.map(|(index, sample)| self.expect.event(sample, letter.key(), index)).collect();
        self.published(group, letter, events)
    }

    /// The guide's single event, with a timestamp in its signature and an id of its own.
    pub fn guide(&mut self, entry: &'static EventType) -> Planned {
        let guide = self.world.guide_event(entry);
        let label = format!("{}, timestamped", entry.name);
        let letter = Letter::guide(label, guide.sample.json.clone());
        let events = vec![self.expect.guide_event(&guide)];
        self.published(Group::Guide, letter, events)
    }

    /// The last delivery that was taken, once more, under the same identity: as if its answer had been lost.
    pub fn again(&mut self) -> Planned {
        let letter = self.last.clone();
        let counts = Counts { events: letter.events, duplicates: letter.events, ..Counts::default() };
        let label = format!("{}, again", letter.label);
        let (by, answer) = (By::Attio(letter.mail), Answer::taken(counts));
        Planned { group: Group::Repeat, label, by, answer, events: Vec::new() }
    }

    /// Something unusual that is published all the same.
    pub fn unusual(&mut self, spelling: Spelling) -> Planned {
        let webhook_id = self.world.webhook_id.clone();
        let (letter, events) = match spelling {
            Spelling::Empty => (Letter::attio("no events", envelope(&webhook_id, &[]), 0), Vec::new()),
            Spelling::Bare => {
                let sample = self.world.event(of_catalog("note.created"));
                let letter = Letter::attio("note.created, no envelope", sample.json.clone(), 1);
                let expected = self.expect.bare_event(&sample, letter.key());
                (letter, vec![expected])
            }
            Spelling::Odd => {
                let mut sample = self.world.event(of_catalog("task.updated"));
                sample.json = oddly(&sample.json);
                let body = format!(
                    "\n{{ \"events\" : [\t{} ]\r\n, \"webhook_id\":\"{webhook_id}\" }}\n",
                    sample.json
                );
                let letter = Letter::attio("task.updated, oddly spelled", body, 1);
                let expected = self.expect.event(&sample, letter.key(), 0);
                (letter, vec![expected])
            }
            Spelling::UnknownType => self.unknown("meeting.created", "meeting_id", "unknown"),
            Spelling::UnknownAction => self.unknown("record.archived", "record_id", "record"),
        };
        self.published(Group::Unusual, letter, events)
    }

    fn unknown(&self, name: &str, id: &str, category: &str) -> (Letter, Vec<Expected>) {
        let entity = Uuid::new_v4().to_string();
        let id_members = vec![
            ("workspace_id".to_owned(), Json::text(&self.world.workspace_id)),
            (id.to_owned(), Json::text(&entity)),
        ];
        let event = vec![
            ("event_type".to_owned(), Json::text(name)),
            ("id".to_owned(), Json::Object(id_members)),
            ("actor".to_owned(), Json::Null),
        ];
        let json = Json::Object(event).write();
        let letter = Letter::attio(format!("{name}, unknown"), envelope(&self.world.webhook_id, &[&json]), 1);
        let expected = self.expect.unknown(name, category, &entity, &json, letter.key());
        (letter, vec![expected])
    }

    /// A body that is no JSON.
    pub fn unreadable(&mut self) -> Planned {
        let body = format!("{{\"webhook_id\":\"{}\",\"eve", self.world.webhook_id);
        let letter = Letter::attio("not JSON", body.clone(), 1);
        let events = vec![self.expect.quarantined(&body, "not_json", letter.key(), None)];
        self.taken(Group::Broken, letter, events, 1)
    }

    /// Three elements, the second without a type: its neighbours go on.
    pub fn broken_element(&mut self) -> Planned {
        let first = self.world.event(of_catalog("record.created"));
        let last = self.world.event(of_catalog("list-entry.updated"));
        let broken = Json::single("id", Json::single("workspace_id", Json::text(&self.world.workspace_id)));
        let broken = broken.write();
        let body = envelope(&self.world.webhook_id, &[&first.json, &broken, &last.json]);
        let letter = Letter::attio("3 events, one broken", body, 3);
        let events = vec![
            self.expect.event(&first, letter.key(), 0),
            self.expect.quarantined(&broken, "no_event_type", letter.key(), Some(1)),
            self.expect.event(&last, letter.key(), 2),
        ];
        self.taken(Group::Broken, letter, events, 1)
    }

    /// Something that is not genuine.
    pub fn forged(&mut self, forgery: Forgery) -> Planned {
        let update = of_catalog("record.updated");
        let letter = match forgery {
            Forgery::StaleTimestamp | Forgery::Spliced => {
                Letter::guide(String::new(), self.world.guide_event(update).sample.json)
            }
            Forgery::WrongSecret | Forgery::NoSignature | Forgery::AlteredBody => {
                let json = self.world.event(update).json;
                Letter::attio("", envelope(&self.world.webhook_id, &[&json]), 1)
            }
        };
        let label = format!("{}, {}", update.name, forgery.name());
        let by = By::Stranger(forgery.request(&letter.mail, &self.secret));
        Planned { group: Group::Forged, label, by, answer: Answer::refused(), events: Vec::new() }
    }

    fn published(&mut self, group: Group, letter: Letter, events: Vec<Expected>) -> Planned {
        self.taken(group, letter, events, 0)
    }

    fn taken(&mut self, group: Group, letter: Letter, events: Vec<Expected>, quarantined: u64) -> Planned {
        let published = events.len() as u64 - quarantined;
        let answer =
            Answer::taken(Counts { events: letter.events, published, quarantined, ..Counts::default() });
        let (label, by) = (letter.label.clone(), By::Attio(letter.mail.clone()));
        self.last = letter;
        Planned { group, label, by, answer, events }
    }
}

/// The same event with white space, escapes, a number that a parser would shorten, and members that
/// nobody knows.
fn oddly(json: &str) -> String {
    let rest = json.strip_prefix('{').unwrap_or(json);
    format!(
        "{{ \"remark\" : \"Zo\\u00eb \\/ \u{1f600}\",\r\n\t\"amount\":1.50e+2, \"deep\":[[{{ }}]] ,{rest}"
    )
}
