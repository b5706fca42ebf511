//! The id of each event: the same on every retry, different for every event.
//!
//! Attio sends no event id, so it is made of what a retry repeats: the webhook id, the `Idempotency-Key`, the
//! index in the delivery, and a digest of the event's bytes. The digest prevents a replayed body under another
//! delivery's key from suppressing a real event; the key is needed because two updates of one attribute may be
//! byte-identical.

use data_encoding::HEXLOWER;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

/// The namespace of every UUID version 5 that the bridge makes.
pub const NAMESPACE: Uuid = uuid::uuid!("82aa3251-fb12-5533-8215-e473197ca642");

/// The dedup key of an event: 128 bits of a hash, so it needs no further hashing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DedupKey(pub u128);

impl DedupKey {
    /// The first half of SHA-256 over `<source name>\n<id>`. The source is included because NATS deduplicates
    /// over a whole stream, which several sources may share.
    pub fn new(source: &str, id: &str) -> Self {
        let digest = Sha256::new().chain_update(source).chain_update("\n").chain_update(id).finalize();
        let (half, _) = digest.split_at(16);
        Self(half.iter().fold(0, |key, byte| key << 8 | u128::from(*byte)))
    }

    /// 32 hex digits: `Nats-Msg-Id`.
    pub fn to_hex(self) -> String {
        let mut digits = Uuid::encode_buffer();
        Uuid::from_u128(self.0).as_simple().encode_lower(&mut digits).to_owned()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The CloudEvents `id`.
    pub id: String,
    pub key: DedupKey,
    /// False if nothing identifies the event: its id is random and not remembered.
    pub repeatable: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub source: &'a str,
    /// `webhook_id`, empty for a bare event.
    pub webhook_id: &'a str,
    pub idempotency_key: Option<&'a str>,
    /// The index in the delivery, from 0.
    pub index: usize,
    /// The event's bytes as received.
    pub raw: &'a [u8],
}

impl Identity {
    /// The identity of an event. `event_id` is the id that the single-event form includes.
    pub fn of_event(event_id: Option<&str>, facts: Facts<'_>) -> Self {
        let (id, repeatable) = match (event_id, facts.idempotency_key) {
            (Some(event_id), _) => (event_id.to_owned(), true),
            (None, Some(key)) => (name_based("", key, facts), true),
            (None, None) => (Uuid::new_v4().to_string(), false),
        };
        Self { key: DedupKey::new(facts.source, &id), id, repeatable }
    }

    /// The identity of a quarantined event. It needs no idempotency key, because one copy of the same bytes is
    /// enough.
    pub fn of_quarantined(facts: Facts<'_>) -> Self {
        let id = name_based("quarantine\n", facts.idempotency_key.unwrap_or(""), facts);
        Self { key: DedupKey::new(facts.source, &id), id, repeatable: true }
    }
}

/// UUID version 5 over `<webhook_id>\n<key>\n<index>\n<hex SHA-256 of the bytes>`. Hashed here, because the SHA-1
/// of the uuid crate does not use the processor's SHA instructions.
fn name_based(kind: &str, key: &str, facts: Facts<'_>) -> String {
    let Facts { webhook_id, index, raw, .. } = facts;
    let digest: [u8; 32] = Sha256::digest(raw).into();
    let mut hash = Sha1::new_with_prefix(NAMESPACE.as_bytes());
    hash.update(kind);
    for line in [webhook_id, key, &index.to_string()] {
        hash.update(line);
        hash.update("\n");
    }
    let mut hex = [0; 64];
    HEXLOWER.encode_mut(&digest, &mut hex);
    hash.update(hex);
    let hash: [u8; 20] = hash.finalize().into();
    let (id, _) = hash.split_first_chunk().expect("20 bytes begin with 16");
    let mut text = Uuid::encode_buffer();
    Builder::from_sha1_bytes(*id).into_uuid().as_hyphenated().encode_lower(&mut text).to_owned()
}
