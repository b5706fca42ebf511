//! Made-up deliveries of every type of the catalog.

use uuid::Uuid;

use crate::catalog::{EVENT_TYPES, EventType};
use crate::fake_attio::deliver::envelope;
use crate::signing::Payload;
use crate::signing::Scheme;
use crate::try_out::world::World;

/// About how many of a hundred made-up deliveries are not one event for the first time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shares {
    /// The one before, once more.
    pub duplicates: u32,
    /// Several events at once.
    pub batches: u32,
    /// Signed, and no JSON: they belong into quarantine.
    pub broken: u32,
}

/// Events in a batch.
const BATCH: usize = 3;

/// Makes deliveries up, without end.
pub struct Invention {
    world: World,
    scheme: Scheme,
    types: Vec<&'static EventType>,
    shares: Shares,
    /// Duplicates, batches and broken ones so far.
    made: [u64; 3],
    count: u64,
    turn: usize,
    last: Option<Payload>,
}

impl Invention {
    /// Deliveries of these types in turn; of all types where none is named.
    pub fn new(scheme: Scheme, types: &[&'static EventType], shares: Shares) -> Self {
        let types = if types.is_empty() { EVENT_TYPES.iter().collect() } else { types.to_vec() };
        Self { world: World::new(), scheme, types, shares, made: [0; 3], count: 0, turn: 0, last: None }
    }

    fn event_type(&mut self) -> &'static EventType {
        self.turn += 1;
        self.types[(self.turn - 1) % self.types.len()]
    }

    fn single(&mut self) -> String {
        let entry = self.event_type();
        match self.scheme {
            Scheme::Attio => {
                let json = self.world.event(entry).json;
                envelope(&self.world.webhook_id, &[&json])
            }
            Scheme::Timestamped => self.world.guide_event(entry).sample.json,
        }
    }

    fn batch(&mut self) -> String {
        let events: Vec<String> = (0..BATCH)
            .map(|_| {
                let entry = self.event_type();
                self.world.event(entry).json
            })
            .collect();
        let events: Vec<&str> = events.iter().map(String::as_str).collect();
        envelope(&self.world.webhook_id, &events)
    }

    /// The kind that is most behind its share, if one is half a delivery behind: none waits for the
    /// end, where all would be owed at once.
    fn owed(&mut self) -> Option<usize> {
        let shares = [self.shares.duplicates, self.shares.batches, self.shares.broken].map(u64::from);
        let behind = |kind: &usize| (self.count * shares[*kind]).saturating_sub(self.made[*kind] * 100);
        let kind = (0..3).max_by_key(behind).filter(|kind| behind(kind) >= 50)?;
        self.made[kind] += 1;
        Some(kind)
    }
}

impl Iterator for Invention {
    type Item = Payload;

    fn next(&mut self) -> Option<Payload> {
        self.count += 1;
        let owed = self.owed();
        if let (Some(0), Some(last)) = (owed, &self.last) {
            return Some(last.clone());
        }
        let body = match owed {
            Some(1) => self.batch(),
            Some(2) => format!("{{\"webhook_id\":\"{}\",\"eve", Uuid::new_v4()),
            _ => self.single(),
        };
        let mail = Payload::new(self.scheme, body);
        self.last = Some(mail.clone());
        Some(mail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn shares_are_kept_and_the_rest_is_of_every_type() {
        let shares = Shares { duplicates: 20, batches: 10, broken: 5 };
        let mails: Vec<Payload> = Invention::new(Scheme::Attio, &[], shares).take(200).collect();
        let keys: BTreeSet<_> = mails.iter().map(|mail| mail.key.clone()).collect();
        assert_eq!(200 - keys.len(), 40, "duplicates");
        let again = mails.windows(2).filter(|pair| pair[0].key == pair[1].key);
        assert!(again.clone().all(|pair| pair[0].body == pair[1].body));
        let mut seen = BTreeSet::new();
        let (mut batches, mut broken) = (0, 0);
        for mail in mails.iter().filter(|mail| seen.insert(mail.key.clone())) {
            match serde_json::from_slice::<serde_json::Value>(&mail.body) {
                Ok(body) => {
                    batches += usize::from(body["events"].as_array().is_some_and(|all| all.len() == BATCH))
                }
                Err(_) => broken += 1,
            }
        }
        assert_eq!((batches, broken), (20, 10));
    }

    #[test]
    fn every_type_of_the_catalog_comes_in_turn() {
        let all = Invention::new(Scheme::Timestamped, &[], Shares::default());
        let bodies: Vec<serde_json::Value> =
            all.take(EVENT_TYPES.len()).map(|mail| serde_json::from_slice(&mail.body).unwrap()).collect();
        for (body, entry) in bodies.iter().zip(EVENT_TYPES) {
            assert_eq!(body["event_type"], entry.name);
        }
    }
}
