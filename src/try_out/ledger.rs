//! Compares what a consumer read with what was sent.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::cloud::{Cloud, Received};
use super::planned::Expected;

/// Ids that are remembered after they were read, to notice one that comes again.
const REMEMBERED: usize = 50_000;

/// What is still to be read, and what has been.
#[derive(Default)]
pub struct Ledger {
    /// On a broker that others use: the CloudEvents source of what is ours.
    own: Option<String>,
    /// In the order of sending.
    open: BTreeMap<u64, (u64, Expected)>,
    by_id: HashMap<String, u64>,
    next: u64,
    read: HashMap<String, u64>,
    order: VecDeque<String>,
}

/// What one message turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// What was sent and not read before.
    Expected,
    /// What was read before.
    Again,
    /// What this sender did not send, though it comes from its workspace.
    NotSent,
    /// No CloudEvent.
    Unreadable,
    /// Somebody else's, on a broker that is not ours alone.
    Foreign,
}

/// What one message turned out to be, and how it differs from what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// What it is.
    pub found: Found,
    /// The delivery it belongs to.
    pub delivery: Option<u64>,
    /// What is not as expected.
    pub differences: Vec<String>,
}

impl Match {
    fn new(found: Found, delivery: Option<u64>, differences: impl IntoIterator<Item = String>) -> Self {
        Self { found, delivery, differences: differences.into_iter().collect() }
    }
}

impl Ledger {
    /// A ledger for a broker that others use: only what has this CloudEvents source is looked at.
    pub fn of_source(source: String) -> Self {
        Self { own: Some(source), ..Self::default() }
    }

    /// A delivery is about to be made.
    pub fn expect(&mut self, delivery: u64, events: &[Expected]) {
        for expected in events {
            if let Some(id) = &expected.id {
                self.by_id.insert(id.clone(), self.next);
            }
            self.open.insert(self.next, (delivery, expected.clone()));
            self.next += 1;
        }
    }

    /// A message was read.
    pub fn read(&mut self, received: &Received) -> Match {
        let place = format!("{}[{}]@{}", received.topic, received.partition, received.offset);
        let event = match &received.event {
            Ok(event) => event,
            Err(_) if self.own.is_some() => return Match::new(Found::Foreign, None, None),
            Err(problem) => return Match::new(Found::Unreadable, None, Some(format!("{place}: {problem}"))),
        };
        if self.own.is_some() && event.attributes.get("source") != self.own.as_ref() {
            return Match::new(Found::Foreign, None, None);
        }
        let id = event.attributes.get("id").cloned().unwrap_or_default();
        if let Some(delivery) = self.read.get(&id) {
            return Match::new(Found::Again, Some(*delivery), Some(format!("{place}: {id} was read before")));
        }
        let Some(slot) = self.by_id.remove(&id).or_else(|| self.by_data(event)) else {
            let kind = event.attributes.get("type").map_or("(no type)", String::as_str);
            return Match::new(Found::NotSent, None, Some(format!("{place}: {kind} {id} was not sent")));
        };
        let (delivery, expected) = self.open.remove(&slot).expect("what has an index is open");
        if let Some(id) = &expected.id {
            self.by_id.remove(id);
        }
        self.remember(id, delivery);
        Match::new(Found::Expected, Some(delivery), differences(&expected, received, event))
    }

    /// What has not been read, with its delivery.
    pub fn open(&self) -> impl Iterator<Item = (u64, &Expected)> {
        self.open.values().map(|(delivery, expected)| (*delivery, expected))
    }

    /// An event whose id is not known in advance, or is not what it should be.
    fn by_data(&self, event: &Cloud) -> Option<u64> {
        let key = event.attributes.get("correlationid");
        let fits = |expected: &Expected| {
            expected.data == event.data && expected.attributes["correlationid"].as_ref() == key
        };
        self.open.iter().find(|(_, (_, expected))| fits(expected)).map(|(slot, _)| *slot)
    }

    fn remember(&mut self, id: String, delivery: u64) {
        if self.order.len() == REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.read.remove(&oldest);
        }
        self.order.push_back(id.clone());
        self.read.insert(id, delivery);
    }
}

/// Everything about a message that is not as expected.
fn differences(expected: &Expected, received: &Received, event: &Cloud) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |name: &str, expected: Option<&str>, got: Option<&str>| {
        if expected != got {
            let shown = |value: Option<&str>| value.map_or("absent".into(), |text| format!("{text:?}"));
            found.push(format!("{name} is {}, expected {}", shown(got), shown(expected)));
        }
    };
    let attribute = |name: &str| event.attributes.get(name).map(String::as_str);
    compare("topic", Some(&expected.topic), Some(&received.topic));
    if expected.id.is_some() {
        compare("id", expected.id.as_deref(), attribute("id"));
    }
    for (name, value) in &expected.attributes {
        compare(name, value.as_deref(), attribute(name));
    }
    compare("key", attribute("partitionkey"), Some(received.key_text()));
    if expected.data != event.data {
        found.push(data_difference(&expected.data, &event.data));
    }
    found
}

/// Where the data begins to differ, and a little of both.
fn data_difference(expected: &[u8], got: &[u8]) -> String {
    const SHOWN: usize = 20;
    let at = expected.iter().zip(got).take_while(|(expected, got)| expected == got).count();
    let shown = |data: &[u8]| String::from_utf8_lossy(&data[at..data.len().min(at + SHOWN)]).into_owned();
    format!("data is {:?} from byte {at} on, expected {:?}", shown(got), shown(expected))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::try_out::plan::Planner;
    use crate::try_out::planned::Planned;
    use crate::try_out::world::World;

    /// A delivery of three events, and what a consumer reads if all goes well.
    fn delivery() -> (Planned, Vec<Received>) {
        let mut planner = Planner::new(World::new(), "0123456789abcdef".into(), &[]);
        let planned = std::iter::repeat_with(|| planner.plan()).find(|planned| planned.events.len() == 3);
        let planned = planned.expect("the mix has a batch");
        let received = planned.events.iter().map(read_well).collect();
        (planned, received)
    }

    fn read_well(expected: &Expected) -> Received {
        let given = expected.attributes.iter();
        let given = given.filter_map(|(name, value)| Some((String::from(*name), value.clone()?)));
        let mut attributes: BTreeMap<String, String> = given.collect();
        attributes.extend(expected.id.clone().map(|id| ("id".to_owned(), id)));
        Received {
            topic: expected.topic.clone(),
            partition: 0,
            offset: 0,
            key: expected.attributes["partitionkey"].clone().map(Into::into),
            event: Ok(Cloud { attributes, data: expected.data.clone() }),
        }
    }

    fn all(received: &[Received], planned: &Planned) -> (Vec<String>, usize) {
        let mut ledger = Ledger::default();
        ledger.expect(7, &planned.events);
        let found = received.iter().flat_map(|received| ledger.read(received).differences).collect();
        (found, ledger.open().count())
    }

    #[test]
    fn what_is_as_expected_has_no_difference() {
        let (planned, mut received) = delivery();
        received.reverse();
        assert_eq!(all(&received, &planned), (Vec::new(), 0));
    }

    #[test]
    fn a_missing_event_stays_open() {
        let (planned, received) = delivery();
        assert_eq!(all(&received[1..], &planned), (Vec::new(), 1));
    }

    #[test]
    fn an_event_read_twice_is_noticed() {
        let (planned, mut received) = delivery();
        received.push(received[0].clone());
        let (found, open) = all(&received, &planned);
        assert_eq!((found.len(), open), (1, 0));
        assert!(found[0].contains("was read before"), "{found:?}");
    }

    #[test]
    fn an_event_that_was_not_sent_is_noticed() {
        let (planned, mut received) = delivery();
        let (_, others) = delivery();
        received.push(others[0].clone());
        let (found, open) = all(&received, &planned);
        assert_eq!((found.len(), open), (1, 0));
        assert!(found[0].contains("was not sent"), "{found:?}");
    }

    #[test]
    fn every_alteration_is_noticed() {
        type Alter = fn(&mut Received);
        let table: [(&str, Alter); 7] = [
            ("data", |received| {
                let event = received.event.as_mut().unwrap();
                event.data = [&event.data[..], b" "].concat().into();
            }),
            ("topic", |received| received.topic = "attio.else".into()),
            ("key", |received| received.key = None),
            ("id", |received| set(received, "id", "another")),
            ("subject", |received| set(received, "subject", "elsewhere")),
            ("type", |received| set(received, "type", "com.attio.else")),
            ("reason", |received| set(received, "reason", "none")),
        ];
        for (name, alter) in table {
            let (planned, mut received) = delivery();
            alter(&mut received[1]);
            let (found, open) = all(&received, &planned);
            assert_eq!((found.len(), open), (1, 0), "{name}: {found:?}");
            assert!(found[0].starts_with(&format!("{name} is ")), "{found:?}");
        }
    }

    #[test]
    fn on_a_shared_broker_the_events_of_others_are_left_alone() {
        let (planned, received) = delivery();
        let own = planned.events[0].attributes["source"].clone().unwrap();
        let mut ledger = Ledger::of_source(own);
        ledger.expect(7, &planned.events);
        assert_eq!(ledger.read(&delivery().1[0]).found, Found::Foreign);
        assert_eq!(ledger.read(&received[0]).found, Found::Expected);
    }

    #[test]
    fn what_is_no_event_is_a_difference() {
        let (planned, mut received) = delivery();
        received[0].event = Err("not a JSON object".into());
        let (found, open) = all(&received, &planned);
        assert_eq!((found.len(), open), (1, 1));
    }

    fn set(received: &mut Received, name: &str, value: &str) {
        received.event.as_mut().unwrap().attributes.insert(name.into(), value.into());
    }
}
