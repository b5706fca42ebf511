//! Deliveries as Attio sends them: every body unique, signed beforehand, each sent under a key of its own.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::peer::Scheme;

/// Bodies made beforehand. They come round again after that, under a new `Idempotency-Key`: to the
/// bridge that is a new event.
const BODIES: usize = 2_000;

/// A set of deliveries with so many events each.
pub struct Deliveries {
    bodies: Vec<Signed>,
    next: AtomicU64,
    /// Tells this process's keys from those of others.
    run: u64,
}

struct Signed {
    request: Vec<u8>,
    /// Where the 32 digits of the key stand.
    key_at: usize,
}

impl Deliveries {
    /// Makes and signs them as Attio does.
    pub fn new(events: usize) -> Self {
        Self::signed(events, Scheme::Attio, "/webhooks/attio")
    }

    /// The same in another scheme, to another path.
    pub fn signed(events: usize, scheme: Scheme, path: &str) -> Self {
        let bodies = (0..BODIES).map(|_| signed(&body(events), scheme, path)).collect();
        Self { bodies, next: AtomicU64::new(0), run: fastrand::u64(..) }
    }

    /// Writes the next request in the place of what `out` held.
    pub fn next_into(&self, out: &mut Vec<u8>) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let Signed { request, key_at } = &self.bodies[number as usize % self.bodies.len()];
        out.clear();
        out.extend_from_slice(request);
        let key = u128::from(self.run) << 64 | u128::from(number);
        for (place, digit) in out[*key_at..*key_at + 32].iter_mut().zip(0..) {
            *place = b"0123456789abcdef"[(key >> (124 - 4 * digit)) as usize & 15];
        }
    }
}

/// One body, of real shape and with random ids.
pub fn body(events: usize) -> String {
    let events: Vec<String> = (0..events).map(|_| event()).collect();
    format!(r#"{{"webhook_id":"{}","events":[{}]}}"#, id(), events.join(","))
}

fn event() -> String {
    let ids = |names: &[&str]| -> String {
        names.iter().map(|name| format!(r#""{name}":"{}""#, id())).collect::<Vec<_>>().join(",")
    };
    format!(
        r#"{{"event_type":"list-entry.updated","id":{{{}}},{},"actor":{{"type":"workspace-member",{}}}}}"#,
        ids(&["workspace_id", "list_id", "entry_id", "attribute_id"]),
        ids(&["parent_object_id", "parent_record_id"]),
        ids(&["id"]),
    )
}

fn id() -> uuid::Uuid {
    uuid::Uuid::from_u128(fastrand::u128(..))
}

fn signed(body: &str, scheme: Scheme, path: &str) -> Signed {
    let signature = scheme.headers(body.as_bytes());
    let before = format!(
        "POST {path} HTTP/1.1\r\nHost: bridge.example.com\r\nUser-Agent: Attio-Webhooks\r\n\
         Accept: */*\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         {signature}Idempotency-Key: ",
        body.len()
    );
    let request = format!("{before}{}\r\n\r\n{body}", "0".repeat(32)).into_bytes();
    Signed { request, key_at: before.len() }
}
