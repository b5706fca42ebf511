//! Redis or Valkey: one server, a cluster, or the master that sentinels name.
//!
//! | step | commands |
//! |---|---|
//! | claim | `SET key L:<owner> NX PX lease`, `GET key` in one request |
//! | commit | `SET key D PX window`: after the broker's ack it is true whoever holds the claim |
//! | release | a script that deletes the key if its value is still `L:<owner>` |
//!
//! The owner of a claim is what `GET` returns, not the reply to `SET`: a client that sends the `SET` again after a lost
//! reply finds its own claim, and a full server refuses the `SET` and still shows what is remembered. No command has
//! more than one key, so a cluster takes them all.

mod address;
mod inspect;
mod link;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::{Pipeline, Value};

use super::backend::{Backend, Reply, Settlement};
use super::options::{Options, RedisOptions};
use crate::bus::StartError;
use crate::bus::inspect::Row;
use crate::pipeline::publish::BoxFuture;
use crate::pipeline::store::Held;
use link::{Link, RELEASE, Target};

/// The value of an acknowledged id.
const DONE: &[u8] = b"D";
/// How long the key of the probe lasts.
const PROBE_LIFE: Duration = Duration::from_secs(10);

pub(super) struct Redis {
    target: Target,
    link: Mutex<Option<Link>>,
    prefix: String,
    lease: Duration,
    window: Duration,
}

/// Checks that a client can be created from these options, without contacting a server.
pub(super) fn check(options: &RedisOptions) -> Result<(), StartError> {
    Target::new(options).map(drop)
}

impl Redis {
    pub(super) fn new(redis: &RedisOptions, options: &Options) -> Result<Self, StartError> {
        Ok(Self {
            target: Target::new(redis)?,
            link: Mutex::default(),
            prefix: redis.prefix.clone(),
            lease: options.lease,
            window: options.window,
        })
    }

    fn link(&self) -> Result<Link, Arc<str>> {
        self.link.lock().clone().ok_or_else(|| "not connected".into())
    }

    fn key(&self, held: &Held) -> String {
        let (prefix, hex) = (&self.prefix, held.key.to_hex());
        match held.generation {
            0 => format!("{prefix}:{hex}"),
            generation => format!("{prefix}:{generation}:{hex}"),
        }
    }

    fn claim_commands(&self, held: &Held, pipeline: &mut Pipeline) {
        let key = self.key(held);
        pipeline.cmd("SET").arg(&key).arg(owner(held)).arg("NX").arg("PX").arg(millis(self.lease));
        pipeline.cmd("GET").arg(&key);
    }

    fn settle_command(&self, settlement: &Settlement, pipeline: &mut Pipeline) {
        let key = self.key(&settlement.held);
        match settlement.acknowledged {
            true => pipeline.cmd("SET").arg(key).arg(DONE).arg("PX").arg(millis(self.window)),
            false => pipeline.cmd("EVAL").arg(RELEASE).arg(1).arg(key).arg(owner(&settlement.held)),
        };
    }
}

/// The value of a claim.
fn owner(held: &Held) -> String {
    format!("L:{:032x}", held.owner)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

impl Backend for Redis {
    fn claim<'a>(&'a self, claims: &'a [Held]) -> BoxFuture<'a, Result<Vec<Reply>, Arc<str>>> {
        Box::pin(async move {
            let replies =
                self.link()?.send(claims, 2, |held, pipeline| self.claim_commands(held, pipeline)).await?;
            let pairs = replies.chunks_exact(2);
            Ok(claims.iter().zip(pairs).map(|(held, pair)| reply(held, &pair[0], &pair[1])).collect())
        })
    }

    fn settle<'a>(&'a self, settlements: &'a [Settlement]) -> BoxFuture<'a, Result<(), Arc<str>>> {
        Box::pin(async move {
            let command =
                |settlement: &Settlement, pipeline: &mut Pipeline| self.settle_command(settlement, pipeline);
            let replies = self.link()?.send(settlements, 1, command).await?;
            let failed = settlements.iter().zip(&replies).find_map(|(settlement, reply)| match reply {
                Value::ServerError(error) if settlement.acknowledged => Some(error.to_string()),
                // Without the right to run a script the claim ends with its lease.
                _ => None,
            });
            failed.map_or(Ok(()), |error| Err(error.into()))
        })
    }

    fn connect(&self) -> BoxFuture<'_, Result<(), Arc<str>>> {
        Box::pin(async move {
            if self.link().is_err() {
                let link = self.target.connect().await.map_err(link::reason)?;
                *self.link.lock() = Some(link);
            }
            Ok(())
        })
    }

    fn inspect(&self) -> BoxFuture<'_, Result<Vec<Row>, Arc<str>>> {
        let Self { prefix, lease, window, .. } = self;
        let serving = inspect::Use { prefix, lease: *lease, window: *window };
        Box::pin(async move { Ok(inspect::inspect(&serving, &self.link()?).await) })
    }

    fn disconnect(&self) {
        *self.link.lock() = None;
    }

    fn probe(&self, generation: u64) -> BoxFuture<'_, Result<u64, Arc<str>>> {
        Box::pin(async move {
            let probe = format!("{}:probe", self.prefix);
            let key = format!("{}:generation", self.prefix);
            let link = self.link()?;
            let write = |_: &(), pipeline: &mut Pipeline| {
                pipeline.cmd("SET").arg(&probe).arg("1").arg("PX").arg(millis(PROBE_LIFE));
            };
            let read = |_: &(), pipeline: &mut Pipeline| {
                pipeline.cmd("GET").arg(&key);
            };
            let (written, stored) = (link.send(&[()], 1, write).await?, link.send(&[()], 1, read).await?);
            for reply in written.iter().chain(&stored) {
                if let Value::ServerError(error) = reply {
                    return Err(error.to_string().into());
                }
            }
            let stored = match stored.first() {
                Some(Value::BulkString(text)) => {
                    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok())
                }
                _ => None,
            };
            let stored: u64 = stored.unwrap_or(0);
            if stored >= generation {
                return Ok(stored);
            }
            let raise = |_: &(), pipeline: &mut Pipeline| {
                pipeline.cmd("SET").arg(&key).arg(generation);
            };
            match link.send(&[()], 1, raise).await?.first() {
                Some(Value::ServerError(error)) => Err(error.to_string().into()),
                _ => Ok(generation),
            }
        })
    }
}

/// What the replies to `SET` and `GET` say of a claim.
fn reply(held: &Held, set: &Value, get: &Value) -> Reply {
    match (set, get) {
        (_, Value::BulkString(value)) if value == DONE => Reply::Acknowledged,
        (_, Value::BulkString(value)) if *value == owner(held).as_bytes() => Reply::Claimed,
        (_, Value::BulkString(value)) if value.starts_with(b"L:") => Reply::InFlight,
        (Value::ServerError(error), _) | (_, Value::ServerError(error)) => {
            Reply::Failed(error.to_string().into())
        }
        (_, Value::Nil) => Reply::Failed("the claim was gone at once: the server evicts keys".into()),
        _ => Reply::Failed(
            "the key holds something else: dedup.redis.prefix is used by another program".into(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::identify::DedupKey;

    #[test]
    fn the_value_decides_whose_claim_it_is_whatever_became_of_the_set() {
        let held = Held { key: DedupKey(1), owner: 7, generation: 0 };
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let own = text(&owner(&held));
        let parse = |reply: &str| redis::parse_redis_value(reply.as_bytes()).expect("a reply");
        let full = || parse("-OOM command not allowed when used memory > 'maxmemory'.\r\n");
        let table = [
            (Value::Okay, own.clone(), Reply::Claimed),
            // The first reply was lost, and the client has sent the command again.
            (Value::Nil, own, Reply::Claimed),
            (Value::Nil, text("L:0"), Reply::InFlight),
            (Value::Nil, text("D"), Reply::Acknowledged),
            // A full server still shows what it remembers.
            (full(), text("D"), Reply::Acknowledged),
        ];
        for (set, get, expected) in table {
            assert_eq!(reply(&held, &set, &get), expected, "{set:?} {get:?}");
        }
        for (set, get) in [(full(), Value::Nil), (Value::Okay, Value::Nil), (Value::Nil, text("x"))] {
            assert!(matches!(reply(&held, &set, &get), Reply::Failed(_)), "{set:?} {get:?}");
        }
    }
}
