//! The memory of acknowledged ids that replicas share, behind the port of [`crate::pipeline::store`].
//!
//! [`Shared`] keeps the deadline and the breaker, and counts; a backend ([`redis`], [`nats_kv`]) speaks to the server.
//! The claims that have ended are stored by one task ([`settle`]), so that no callback of a bus waits for a server.
//!
//! A claim whose answer was lost is unknown: the event is published without counting on it, or refused, as
//! `dedup.on_store_failure` says.

mod backend;
mod breaker;
mod nats_kv;
mod options;
mod redis;
mod settle;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::time::timeout;

pub use nats_kv::Setup;
pub use options::{Kind, LEASE_MARGIN, NatsKvOptions, OnFailure, Options, RedisOptions};

use crate::bus::StartError;
use crate::bus::inspect::{Level, Report};
use crate::metrics::{StoreMetrics, StoreResult};
use crate::pipeline::identify::DedupKey;
use crate::pipeline::publish::BoxFuture;
use crate::pipeline::store::{Claim, Held, Store};
use crate::supervise::Supervisor;
use backend::{Backend, Reply};
use breaker::Breaker;
use settle::Settlements;

/// How long the checks of `check --connect` may take.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Checks that a client can be created from these options, without contacting a server.
pub fn check(options: &RedisOptions) -> Result<(), StartError> {
    redis::check(options)
}

/// Starts the store of these options. A server that is away is not an error.
pub fn start(
    options: Options,
    metrics: StoreMetrics,
    supervisor: &Supervisor,
) -> Result<Arc<dyn Store>, StartError> {
    let backend = backend(&options)?;
    let breaker = Arc::new(Breaker::new(options.kind.name(), options.on_failure, metrics.clone()));
    let (settlements, receiver) = Settlements::new(metrics.clone());
    let probing = Arc::clone(&breaker).probe(Arc::clone(&backend), options.timeout);
    supervisor.spawn("dedup store probe", probing);
    let settling = settle::run(receiver, Arc::clone(&backend), Arc::clone(&breaker), settlements.clone());
    supervisor.spawn("dedup store settlements", settling);
    let Options { on_failure, timeout, .. } = options;
    let owners = AtomicU64::new(0);
    let process = fastrand::u64(..);
    Ok(Arc::new(Shared { backend, breaker, settlements, on_failure, timeout, process, owners, metrics }))
}

fn backend(options: &Options) -> Result<Arc<dyn Backend>, StartError> {
    Ok(match &options.kind {
        Kind::Redis(redis) => Arc::new(redis::Redis::new(redis, options)?),
        Kind::NatsKv(nats) => Arc::new(nats_kv::NatsKv::new(nats, options)?),
    })
}

/// What the store of the options needs, for `topics`; none where nothing is to be created.
pub fn setup(options: &Options) -> Option<Setup> {
    match &options.kind {
        Kind::Redis(_) => None,
        Kind::NatsKv(nats) => Some(nats_kv::setup(nats, options.window)),
    }
}

/// Adds to a report what `check --connect` finds of the store.
pub async fn inspect(options: &Options, report: &mut Report) -> Result<(), StartError> {
    let backend = backend(options)?;
    let found = async {
        backend.connect().await?;
        backend.inspect().await
    };
    let found = timeout(INSPECT_TIMEOUT, found).await;
    let found = found.unwrap_or_else(|_| Err(format!("no answer within {INSPECT_TIMEOUT:?}").into()));
    match found {
        Ok(rows) => {
            report.add("dedup store", Level::Ok, format!("{} answers", options.kind.name()));
            report.checks.extend(rows);
        }
        Err(error) => report.add("dedup store", Level::Failed, format!("{}: {error}", options.kind.name())),
    }
    Ok(())
}

struct Shared {
    backend: Arc<dyn Backend>,
    breaker: Arc<Breaker>,
    settlements: Settlements,
    on_failure: OnFailure,
    timeout: Duration,
    /// Random: the first half of every owner.
    process: u64,
    /// Claims so far: the second half.
    owners: AtomicU64,
    metrics: StoreMetrics,
}

impl Shared {
    fn new_owner(&self) -> u128 {
        u128::from(self.process) << 64 | u128::from(self.owners.fetch_add(1, Ordering::Relaxed))
    }

    /// What the store replied; for each id the reason where it did not.
    async fn ask(&self, claims: &[Held]) -> Vec<Reply> {
        let unknown = |reason: Arc<str>| claims.iter().map(|_| Reply::Failed(Arc::clone(&reason))).collect();
        if let Some(reason) = self.breaker.reason() {
            self.metrics.count(StoreResult::Skipped, claims.len() as u64);
            return unknown(reason);
        }
        let started = Instant::now();
        let replies = match timeout(self.timeout, self.backend.claim(claims)).await {
            Ok(Ok(replies)) => replies,
            Ok(Err(error)) => unknown(error),
            Err(_) => unknown(format!("no answer within {:?}", self.timeout).into()),
        };
        self.metrics.duration.observe(started.elapsed().as_secs_f64());
        for reply in &replies {
            self.metrics.count(reply.result(), 1);
        }
        if let Some(error) = replies.iter().find_map(Reply::error) {
            self.breaker.open(error);
        }
        replies
    }

    fn claim_of(&self, held: Held, reply: Reply) -> Claim {
        match reply {
            Reply::Claimed => Claim::Publish(held),
            Reply::Acknowledged => Claim::Acknowledged,
            Reply::InFlight => Claim::InFlight,
            Reply::Failed(_) if self.on_failure == OnFailure::Degrade => Claim::Publish(held),
            Reply::Failed(reason) => {
                // The claim may have arrived all the same.
                self.settlements.add(held, false);
                Claim::Refused(reason)
            }
        }
    }
}

impl Store for Shared {
    fn claim(&self, keys: Vec<DedupKey>) -> BoxFuture<'_, Vec<Claim>> {
        Box::pin(async move {
            if self.breaker.is_starting() {
                // Whether it is away, and the generation of its keys, are about to be known.
                let _ = timeout(self.timeout, self.breaker.first_probe()).await;
            }
            let (owner, generation) = (self.new_owner(), self.breaker.generation());
            let held: Vec<_> = keys.into_iter().map(|key| Held { key, owner, generation }).collect();
            let replies = self.ask(&held).await;
            let is_current = self.breaker.is_current(generation);
            let counts = |reply| match reply {
                Reply::Acknowledged if !is_current => {
                    Reply::Failed("the broker has lost its data meanwhile".into())
                }
                reply => reply,
            };
            held.into_iter().zip(replies).map(|(held, reply)| self.claim_of(held, counts(reply))).collect()
        })
    }

    fn settle(&self, held: Held, acknowledged: bool) {
        self.settlements.add(held, acknowledged);
    }

    fn forget(&self) {
        self.breaker.forget();
    }

    fn is_starting(&self) -> bool {
        self.breaker.is_starting()
    }

    fn warning(&self) -> Option<Arc<str>> {
        self.breaker.warning()
    }

    fn flush(&self, within: Duration) -> BoxFuture<'_, u64> {
        let deadline = Instant::now() + within;
        Box::pin(async move {
            // What is left while the store is away cannot be stored now.
            while self.settlements.pending() > 0
                && self.breaker.reason().is_none()
                && Instant::now() < deadline
            {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            self.settlements.pending()
        })
    }
}
