//! A real store for replicas to share: Redis, Valkey or a NATS bucket.

use std::time::Duration;

use async_nats::HeaderMap;

use super::nats::Server;
use super::redis::{self, Redis};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Redis,
    Valkey,
    NatsKv,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Redis, Self::Valkey, Self::NatsKv];
}

/// A store of its own.
pub enum SharedStore {
    Redis(Redis),
    Nats(Server),
    /// Of several servers, by their URL.
    At(String),
}

const BUCKET: &str = "ATTIO_DEDUP";

/// The machine may be busy; the tests of the deadline set their own.
pub const PATIENT: (&str, &str) = ("ATTIO_BRIDGE__DEDUP__STORE_TIMEOUT", "2s");

impl SharedStore {
    pub fn start(kind: Kind) -> Self {
        match kind {
            Kind::Redis => Self::Redis(Redis::start(redis::Kind::Redis)),
            Kind::Valkey => Self::Redis(Redis::start(redis::Kind::Valkey)),
            Kind::NatsKv => Self::Nats(Server::start()),
        }
    }

    /// The variables of a bridge that uses it.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = match self {
            Self::Redis(redis) => vec![
                ("ATTIO_BRIDGE__DEDUP__STORE", "redis".into()),
                ("ATTIO_BRIDGE__DEDUP__REDIS__URL", redis.url()),
            ],
            Self::At(url) => vec![
                ("ATTIO_BRIDGE__DEDUP__STORE", "redis".into()),
                ("ATTIO_BRIDGE__DEDUP__REDIS__URL", url.clone()),
            ],
            Self::Nats(server) => vec![
                ("ATTIO_BRIDGE__DEDUP__STORE", "nats-kv".into()),
                ("ATTIO_BRIDGE__NATS__SERVERS", server.url()),
                ("ATTIO_BRIDGE__NATS__STREAM__ENSURE", "create".into()),
            ],
        };
        variables.push((PATIENT.0, PATIENT.1.into()));
        variables
    }

    /// The value of an id.
    pub async fn value(&self, id: &str) -> Option<String> {
        match self {
            Self::Redis(redis) => redis.run(&["GET", &format!("attio-bridge:{id}")]),
            Self::Nats(server) => {
                let stream = server.admin().await.get_stream(format!("KV_{BUCKET}")).await.unwrap();
                let message = stream.direct_get_last_for_subject(format!("$KV.{BUCKET}.{id}")).await.ok()?;
                Some(String::from_utf8(message.payload.to_vec()).unwrap())
            }
            Self::At(url) => panic!("{url} is several servers"),
        }
    }

    /// How long an id is kept.
    pub async fn life(&self, id: &str) -> Duration {
        match self {
            Self::Redis(redis) => {
                Duration::from_millis(redis.run::<u64>(&["PTTL", &format!("attio-bridge:{id}")]))
            }
            Self::Nats(server) => {
                let stream = server.admin().await.get_stream(format!("KV_{BUCKET}")).await.unwrap();
                let message = stream.direct_get_last_for_subject(format!("$KV.{BUCKET}.{id}")).await.unwrap();
                humantime::parse_duration(message.headers.get("Nats-TTL").unwrap().as_str()).unwrap()
            }
            Self::At(url) => panic!("{url} is several servers"),
        }
    }

    /// Writes an id as another replica would.
    pub async fn put(&self, id: &str, value: &str, life: Duration) {
        match self {
            Self::Redis(redis) => {
                let life = life.as_millis().to_string();
                redis.run::<String>(&["SET", &format!("attio-bridge:{id}"), value, "PX", &life]);
            }
            Self::Nats(server) => {
                let mut headers = HeaderMap::new();
                headers.insert("Nats-TTL", format!("{}s", life.as_secs().max(1)));
                let (subject, value) = (format!("$KV.{BUCKET}.{id}"), value.to_owned());
                let admin = server.admin().await;
                admin.publish_with_headers(subject, headers, value.into()).await.unwrap().await.unwrap();
            }
            Self::At(url) => panic!("{url} is several servers"),
        }
    }

    /// Freezes it (SIGSTOP).
    pub fn pause(&self) {
        match self {
            Self::Redis(redis) => redis.pause(),
            Self::Nats(server) => server.pause(),
            Self::At(url) => panic!("{url} is several servers"),
        }
    }

    /// Resumes it (SIGCONT).
    pub fn resume(&self) {
        match self {
            Self::Redis(redis) => redis.resume(),
            Self::Nats(server) => server.resume(),
            Self::At(url) => panic!("{url} is several servers"),
        }
    }

    /// Kills it (SIGKILL).
    pub fn kill(&self) {
        match self {
            Self::Redis(redis) => redis.kill(),
            Self::Nats(server) => server.kill(),
            Self::At(url) => panic!("{url} is several servers"),
        }
    }

    /// Starts it again: Redis empty, NATS with what it had stored.
    pub fn restart(&self) {
        match self {
            Self::Redis(redis) => redis.restart(),
            Self::Nats(server) => server.restart(),
            Self::At(url) => panic!("{url} is several servers"),
        }
    }

    /// Forgets everything.
    pub async fn flush(&self) {
        match self {
            Self::Redis(redis) => redis.run::<()>(&["FLUSHALL"]),
            Self::Nats(server) => {
                let stream = server.admin().await.get_stream(format!("KV_{BUCKET}")).await.unwrap();
                stream.purge().await.unwrap();
            }
            Self::At(url) => panic!("{url} is several servers"),
        }
    }
}
