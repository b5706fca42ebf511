//! `[dedup]` and the stores that replicas share.

use std::time::Duration;

use super::{CENTURY, INSTANT, tls_files};
use crate::bus::{self, nats};
use crate::config::kinds::{Case, Choice, FilePath, Form, Integer, Pattern, Secret, TimeSpan};
use crate::config::section::{Section, keys};
use crate::pipeline::dedup::Options;
use crate::store::{self, Kind, LEASE_MARGIN, NatsKvOptions, OnFailure, RedisOptions};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Store {
    Memory,
    Redis,
    NatsKv,
}

const STORES: [(&str, Store); 3] =
    [("memory", Store::Memory), ("redis", Store::Redis), ("nats-kv", Store::NatsKv)];
const ON_FAILURE: [(&str, OnFailure); 2] = [("degrade", OnFailure::Degrade), ("refuse", OnFailure::Refuse)];

const PREFIX: Pattern = Pattern {
    expects: "1 to 64 letters, digits, _, -, . and :",
    regex: "^[A-Za-z0-9_.:-]{1,64}$",
    accepts: |prefix| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b':');
        (1..=64).contains(&prefix.len()) && prefix.bytes().all(fits)
    },
};

keys! {
    Dedup {
        /// How long an acknowledged event is remembered. Attio retries for about 3 days.
        window: TimeSpan(Duration::from_secs(1)..=CENTURY) = "96h";
        /// Most events that are remembered, the latest ones; about 100 bytes each. At 25 events per second, as fast as
        /// Attio sends, 250000 are 2 h 46 min, whatever the window is; 96 h would need 8640000 (0.9 GB). Within the
        /// window a repeat of a forgotten event is published again.
        capacity: Integer<u64>(1..=u64::MAX) = "250000";
        /// Where replicas share what they remember, so that a repeat that reaches another replica is not published
        /// again. "memory": nowhere. Memory comes first in any case.
        store: Choice<Store>(&STORES, Case::Exact) = "memory";
        /// While the store is away. "degrade": each replica goes on with its own memory, and a repeat at another one is
        /// published again. "refuse": deliveries are answered 503 store_unavailable.
        on_store_failure: Choice<OnFailure>(&ON_FAILURE, Case::Exact) = "degrade";
        /// How long a request to the store may take. After it the store counts as away until it answers a probe.
        store_timeout: TimeSpan(INSTANT..=Duration::from_secs(2)) = "100ms";
    }
}

keys! {
    Redis {
        /// The server, with the login and the number of a database: redis://user:password@host:6379/0. TLS: rediss://.
        /// A cluster: redis-cluster://host:6379,host:6379. The master that sentinels name:
        /// redis-sentinel://host:26379,host:26379/NAME.
        url: Secret like "redis://localhost:6379";
        /// What every key begins with. Bridges that share a memory have the same.
        prefix: Form(&PREFIX) = "attio-bridge";
        /// PEM file with the authorities that may sign the server's certificate. If not set,
        /// the system's.
        ca_file: FilePath like "/etc/attio-bridge/ca.pem";
        /// PEM file with the bridge's own certificate.
        cert_file: FilePath like "/etc/attio-bridge/client.pem";
        /// PEM file with the key of cert_file.
        key_file: FilePath like "/etc/attio-bridge/client.key";
    }
}

const BUCKET: Pattern = Pattern {
    expects: "1 to 200 letters, digits, _ and -",
    regex: "^[A-Za-z0-9_-]{1,200}$",
    accepts: |name| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        (1..=200).contains(&name.len()) && name.bytes().all(fits)
    },
};

keys! {
    Nats {
        /// Name of the bucket. nats.stream.ensure says whether it is verified or created, nats.stream.replicas with how
        /// many replicas.
        bucket: Form(&BUCKET) = "ATTIO_DEDUP";
    }
}

/// What `[dedup]` says.
pub struct Keys {
    pub memory: Options,
    store: Store,
    on_failure: OnFailure,
    timeout: Duration,
    redis: Option<RedisOptions>,
    bucket: String,
}

/// Reads `[dedup]`; a store is checked if it is used.
pub fn read(section: &mut Section<'_>) -> Keys {
    let Dedup { window, capacity, store, on_store_failure, store_timeout } = Dedup::read(section);
    let redis = redis(&mut section.section("redis"), store == Store::Redis);
    let Nats { bucket } = Nats::read(&mut section.section("nats"));
    let memory = Options { window, capacity };
    Keys { memory, store, on_failure: on_store_failure, timeout: store_timeout, redis, bucket }
}

fn redis(section: &mut Section<'_>, used: bool) -> Option<RedisOptions> {
    let keys = Redis::read(section);
    if !used {
        return None;
    }
    tls_files(section, [keys.ca_file.as_deref(), keys.cert_file.as_deref(), keys.key_file.as_deref()]);
    let Some(url) = keys.url else {
        let message = "required for dedup.store \"redis\", as in url = \"redis://localhost:6379\" (also \
                       ATTIO_BRIDGE__DEDUP__REDIS__URL, or …_URL_FILE)";
        section.diagnostics().required("dedup.redis.url", None, message);
        return None;
    };
    let Redis { prefix, ca_file, cert_file, key_file, .. } = keys;
    let options = RedisOptions { url, prefix, ca_file, cert_file, key_file };
    if section.diagnostics().is_good()
        && let Err(error) = store::check(&options)
        && let Some((key, reason)) = error.setting()
    {
        section.diagnostics().refuse(&key, reason);
    }
    Some(options)
}

impl Keys {
    pub fn is_on_nats(&self) -> bool {
        self.store == Store::NatsKv
    }

    /// The store to start; none for memory alone.
    pub fn store(self, bus: &bus::Options, nats: nats::Options) -> Option<store::Options> {
        let Self { memory, store, on_failure, timeout, redis, bucket } = self;
        let kind = match store {
            Store::Memory => return None,
            Store::Redis => Kind::Redis(Box::new(redis?)),
            Store::NatsKv => Kind::NatsKv(Box::new(NatsKvOptions { nats, bucket })),
        };
        let lease = bus.kind.publish_timeout() + timeout + LEASE_MARGIN;
        Some(store::Options { kind, on_failure, timeout, window: memory.window, lease })
    }
}
