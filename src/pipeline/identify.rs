//! Gives each event its identity: the same on every retry, different for every event.
//!
//! Attio sends no event id, so the id is made of what a retry repeats: the webhook, the
//! `Idempotency-DedupKey`, the place in the batch, and a digest of the event's bytes. The digest keeps a
//! captured body under a stolen key from suppressing a real event; the key is there because two
//! honest updates of one attribute are byte-identical.

use sha1::Sha1;
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

/// The namespace of every name-based id the bridge makes.
pub const NAMESPACE: Uuid = uuid::uuid!("82aa3251-fb12-5533-8215-e473197ca642");

/// The key of an event in dedup: 128 bits of a hash, so it needs no further hashing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DedupKey(pub u128);

impl DedupKey {
    /// First half of SHA-256 over `<source name>\n<id>`. The source is part of it because NATS
    /// drops repeats over a whole stream, which several sources may share.
    pub fn new(source: &str, id: &str) -> Self {
        let digest = Sha256::new().chain_update(source).chain_update("\n").chain_update(id).finalize();
        let (half, _) = digest.split_at(16);
        Self(half.iter().fold(0, |key, byte| key << 8 | u128::from(*byte)))
    }

    /// 32 hex digits: the message id on the bus.
    pub fn to_hex(self) -> String {
        let mut digits = Uuid::encode_buffer();
        Uuid::from_u128(self.0).as_simple().encode_lower(&mut digits).to_owned()
    }
}

/// The identity of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The CloudEvents `id`.
    pub id: String,
    /// The key in dedup and on the bus.
    pub key: DedupKey,
    /// False for an event that nothing identifies: its id is random and not remembered.
    pub repeatable: bool,
}

/// What an event's identity is made of.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The source's name.
    pub source: &'a str,
    /// `webhook_id`, empty for a bare event.
    pub webhook_id: &'a str,
    /// The usable idempotency key.
    pub idempotency_key: Option<&'a str>,
    /// Place in the delivery, from 0.
    pub index: usize,
    /// The event's bytes as received.
    pub raw: &'a [u8],
}

impl Identity {
    /// The identity of an event. `event_id` is its own id, where the guide's form brings one along.
    pub fn of_event(event_id: Option<&str>, facts: Facts<'_>) -> Self {
        let (id, repeatable) = match (event_id, facts.idempotency_key) {
            (Some(event_id), _) => (event_id.to_owned(), true),
            (None, Some(key)) => (name_based("", key, facts), true),
            (None, None) => (Uuid::new_v4().to_string(), false),
        };
        Self { key: DedupKey::new(facts.source, &id), id, repeatable }
    }

    /// The identity of something in quarantine. Bytes without a key still have one, because two
    /// copies of the same unusable bytes are worth no more than one.
    pub fn of_quarantined(facts: Facts<'_>) -> Self {
        let id = name_based("quarantine\n", facts.idempotency_key.unwrap_or(""), facts);
        Self { key: DedupKey::new(facts.source, &id), id, repeatable: true }
    }
}

/// UUID version 5 over `<webhook_id>\n<key>\n<index>\n<hex SHA-256 of the bytes>`. Made here, because uuid's
/// own SHA-1 does not use the processor's.
fn name_based(kind: &str, key: &str, facts: Facts<'_>) -> String {
    let Facts { webhook_id, index, raw, .. } = facts;
    let digest: [u8; 32] = Sha256::digest(raw).into();
    let mut hash = Sha1::new_with_prefix(NAMESPACE.as_bytes());
    hash.update(kind);
    for line in [webhook_id, key, &index.to_string()] {
        hash.update(line);
        hash.update("\n");
    }
    hash.update(hex(&digest));
    let hash: [u8; 20] = hash.finalize().into();
    let (id, _) = hash.split_first_chunk().expect("20 bytes begin with 16");
    let mut text = Uuid::encode_buffer();
    Builder::from_sha1_bytes(*id).into_uuid().as_hyphenated().encode_lower(&mut text).to_owned()
}

/// 64 digits, lower case.
fn hex(digest: &[u8; 32]) -> [u8; 64] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = [0; 64];
    for (pair, byte) in out.chunks_exact_mut(2).zip(digest) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    out
}
