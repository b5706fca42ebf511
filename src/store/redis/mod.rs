//! Redis or Valkey: one server, a cluster, or the master that sentinels name.
//!
//! | step | commands |
//! |---|---|
//! | claim | `SET key L:<owner> NX PX lease`, `GET key` in one request |
//! | commit | `SET key D PX window`: after the broker's ack it is true whoever holds the claim |
//! | release | a script that deletes the key if its value is still `L:<owner>` |
//! | register | `SET key value NX`, later a script that sets it if its value is still what was read |
//!
//! The owner of a claim is what `GET` returns, not the reply to `SET`: a client that sends the `SET` again after a lost
//! reply finds its own claim, and a full server refuses the `SET` and still shows what is remembered. No command has
//! more than one key, so a cluster takes them all.

mod address;
mod inspect;
mod link;
mod slots;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::{Pipeline, Value};
use tokio::time::Instant;

use super::backend::{Backend, Connection, Replies, Reply, Settled, Settlement, Stored};
use super::options::{Options, RedisOptions};
use crate::bus::StartError;
use crate::bus::inspect::Row;
use crate::pipeline::publish::BoxFuture;
use crate::pipeline::store::Held;
use link::{Link, Links, RELEASE, REPLACE, Target};

/// The value of an acknowledged id.
const DONE: &[u8] = b"D";
/// How long the key of the probe lasts.
const PROBE_LIFE: Duration = Duration::from_secs(10);

pub(super) struct Redis {
    target: Target,
    links: Mutex<Option<Links>>,
    prefix: String,
    /// The key of the register of generations.
    register: String,
    /// The keys of the probes, part by part.
    probes: Vec<String>,
    lease: Duration,
    window: Duration,
}

/// Checks that a client can be created from these options, without contacting a server.
pub(super) fn check(options: &RedisOptions) -> Result<(), StartError> {
    Target::new(options).map(drop)
}

impl Redis {
    pub(super) fn new(redis: &RedisOptions, options: &Options) -> Result<Self, StartError> {
        let target = Target::new(redis)?;
        let probe = format!("{}:probe", redis.prefix);
        let probes = match target {
            Target::Cluster(_) => slots::keys_of_all(&probe),
            Target::One(_) | Target::Sentinel(_) => vec![probe],
        };
        Ok(Self {
            target,
            links: Mutex::default(),
            prefix: redis.prefix.clone(),
            register: format!("{}:generation", redis.prefix),
            probes,
            lease: options.lease,
            window: options.window,
        })
    }

    fn links(&self) -> Result<Links, Arc<str>> {
        self.links.lock().clone().ok_or_else(|| "not connected".into())
    }

    fn key(&self, held: &Held) -> String {
        let (prefix, hex) = (&self.prefix, held.key.to_hex());
        match held.generation.unwrap_or_default() {
            0 => format!("{prefix}:{hex}"),
            generation => format!("{prefix}:{generation}:{hex}"),
        }
    }

    async fn send<T>(
        link: Result<Link, Arc<str>>,
        items: &[T],
        commands: usize,
        deadline: Instant,
        add: impl Fn(&T, &mut Pipeline),
    ) -> Vec<Result<Vec<Value>, Arc<str>>> {
        match link {
            Ok(link) => link.send(items, commands, deadline, add).await,
            Err(reason) => items.iter().map(|_| Err(Arc::clone(&reason))).collect(),
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
    fn parts(&self) -> usize {
        if matches!(self.target, Target::Cluster(_)) { slots::RANGES } else { 1 }
    }

    fn part_of(&self, held: &Held) -> usize {
        if self.parts() == 1 { 0 } else { slots::range_of(&self.key(held)) }
    }

    fn claim<'a>(&'a self, claims: &'a [Held], deadline: Instant) -> BoxFuture<'a, Vec<Reply>> {
        Box::pin(async move {
            let add = |held: &Held, pipeline: &mut Pipeline| self.claim_commands(held, pipeline);
            let replies = Self::send(self.links().map(|links| links.claims), claims, 2, deadline, add).await;
            let pairs = claims.iter().zip(replies);
            pairs
                .map(|(held, replies)| replies.map_or_else(Reply::Failed, |pair| reply(held, &pair)))
                .collect()
        })
    }

    fn settle<'a>(&'a self, settlements: &'a [Settlement], deadline: Instant) -> BoxFuture<'a, Vec<Settled>> {
        Box::pin(async move {
            let add =
                |settlement: &Settlement, pipeline: &mut Pipeline| self.settle_command(settlement, pipeline);
            let replies =
                Self::send(self.links().map(|links| links.claims), settlements, 1, deadline, add).await;
            let pairs = settlements.iter().zip(replies);
            pairs.map(|(settlement, replies)| settled(settlement, replies?.first())).collect()
        })
    }

    fn connection(self: Arc<Self>) -> Option<Arc<dyn Connection>> {
        match self.target {
            Target::One(_) | Target::Sentinel(_) => Some(self),
            Target::Cluster(_) => None,
        }
    }

    fn connect(&self) -> BoxFuture<'_, Result<(), Arc<str>>> {
        Box::pin(async move { if self.links().is_err() { self.reconnect().await } else { Ok(()) } })
    }

    fn reconnect(&self) -> BoxFuture<'_, Result<(), Arc<str>>> {
        Box::pin(async move {
            let links = self.target.connect().await.map_err(link::reason)?;
            *self.links.lock() = Some(links);
            Ok(())
        })
    }

    fn inspect(&self) -> BoxFuture<'_, Result<Vec<Row>, Arc<str>>> {
        let Self { prefix, lease, window, .. } = self;
        let serving = inspect::Use { prefix, lease: *lease, window: *window };
        Box::pin(async move {
            self.connect().await?;
            Ok(inspect::inspect(&serving, &self.links()?.claims).await)
        })
    }

    fn disconnect(&self) {
        *self.links.lock() = None;
    }

    fn probe(&self, deadline: Instant) -> BoxFuture<'_, Vec<Result<(), Arc<str>>>> {
        let add = |key: &String, pipeline: &mut Pipeline| {
            pipeline.cmd("SET").arg(key).arg("1").arg("PX").arg(millis(PROBE_LIFE));
        };
        Box::pin(async move {
            let link = self.links().map(|links| links.probes);
            let replies = Self::send(link, &self.probes, 1, deadline, add).await;
            let written = |replies: Result<Vec<Value>, Arc<str>>| written(replies?.first());
            let all: Vec<_> = replies.into_iter().map(written).collect();
            // Those of one part are next to each other.
            let by_part = all.chunks(self.probes.len() / self.parts());
            by_part.map(|of_part| of_part.iter().cloned().collect()).collect()
        })
    }

    fn read_register(&self) -> BoxFuture<'_, Result<Option<Stored>, Arc<str>>> {
        Box::pin(async move {
            match self.links()?.probes.command(&["GET", &self.register]).await? {
                Value::BulkString(value) => Ok(Some(Stored { value, sequence: 0 })),
                Value::Nil => Ok(None),
                Value::ServerError(error) => Err(error.to_string().into()),
                _ => Err("the register of generations is no text".into()),
            }
        })
    }

    /// Only from a master.
    fn reads_may_lag(&self) -> bool {
        false
    }

    fn write_register(&self, value: String, read: Option<Stored>) -> BoxFuture<'_, Result<bool, Arc<str>>> {
        Box::pin(async move {
            let read = read.map(|read| String::from_utf8_lossy(&read.value).into_owned());
            let words = match &read {
                None => vec!["SET", &self.register, &value, "NX"],
                Some(read) => vec!["EVAL", REPLACE, "1", &self.register, read, &value],
            };
            match self.links()?.probes.command(&words).await? {
                Value::Okay | Value::Int(1) => Ok(true),
                Value::ServerError(error) => Err(error.to_string().into()),
                _ => Ok(false),
            }
        })
    }
}

impl Connection for Redis {
    fn exchange(&self, settlements: Vec<Settlement>, claims: Vec<Held>) -> BoxFuture<'_, Replies> {
        Box::pin(async move {
            let mut pipeline = Pipeline::with_capacity(settlements.len() + 2 * claims.len());
            settlements.iter().for_each(|settlement| self.settle_command(settlement, &mut pipeline));
            claims.iter().for_each(|held| self.claim_commands(held, &mut pipeline));
            let replies = match self.links() {
                Ok(links) => links.claims.send_all(&pipeline).await,
                Err(reason) => Err(reason),
            };
            match replies {
                Ok(replies) => {
                    let (of_settlements, of_claims) = replies.split_at(settlements.len().min(replies.len()));
                    let settlements = settlements.iter().enumerate();
                    let claims = claims.iter().zip(of_claims.chunks(2));
                    Replies {
                        settled: settlements
                            .map(|(at, settlement)| settled(settlement, of_settlements.get(at)))
                            .collect(),
                        claimed: claims.map(|(held, pair)| reply(held, pair)).collect(),
                    }
                }
                Err(reason) => Replies {
                    settled: settlements.iter().map(|_| Err(Arc::clone(&reason))).collect(),
                    claimed: claims.iter().map(|_| Reply::Failed(Arc::clone(&reason))).collect(),
                },
            }
        })
    }
}

/// What the reply to a commit or a release says.
fn settled(settlement: &Settlement, reply: Option<&Value>) -> Settled {
    match reply {
        // Without the right to run a script the claim ends with its lease.
        Some(Value::ServerError(error)) if settlement.acknowledged => Err(error.to_string().into()),
        _ => Ok(()),
    }
}

fn written(reply: Option<&Value>) -> Result<(), Arc<str>> {
    match reply {
        Some(Value::ServerError(error)) => Err(error.to_string().into()),
        _ => Ok(()),
    }
}

/// What the replies to `SET` and `GET` say of a claim.
fn reply(held: &Held, replies: &[Value]) -> Reply {
    let [set, get] = replies else { return Reply::Failed("no reply to the claim".into()) };
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
        let held = Held { key: DedupKey(1), owner: 7, generation: Some(0) };
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
            assert_eq!(reply(&held, &[set.clone(), get.clone()]), expected, "{set:?} {get:?}");
        }
        for (set, get) in [(full(), Value::Nil), (Value::Okay, Value::Nil), (Value::Nil, text("x"))] {
            assert!(matches!(reply(&held, &[set.clone(), get.clone()]), Reply::Failed(_)), "{set:?} {get:?}");
        }
    }
}
