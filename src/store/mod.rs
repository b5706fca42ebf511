//! The memory of acknowledged ids that replicas share, behind the port of [`crate::pipeline::store`].
//!
//! [`Shared`] keeps the deadline, and counts; a backend ([`redis`], [`nats_kv`]) speaks to the server. One task looks
//! after it ([`probe`]): it closes the [`breaker`] and learns the [`generation`]. Another stores what became of claims
//! ([`settle`]), so that no callback of a bus waits for a server; over one connection it sends the claims as well
//! ([`batch`]).
//!
//! A claim whose answer was lost is unknown: the event is published without counting on it, or refused, as
//! `dedup.on_store_failure` says.

mod backend;
mod batch;
mod breaker;
mod generation;
mod nats_kv;
mod options;
mod probe;
mod redis;
mod settle;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

pub use nats_kv::Setup;
pub use options::{Kind, LEASE_MARGIN, NatsKvOptions, OnFailure, Options, RedisOptions};

use crate::bus::StartError;
use crate::bus::inspect::{Level, Report};
use crate::metrics::StoreMetrics;
use crate::pipeline::publish::{BoxFuture, Bus};
use crate::pipeline::store::{Claim, Held, Store, Wanted};
use crate::supervise::Supervisor;
use backend::{Backend, Reply, Settlement};
use batch::{Batcher, Batches};
use breaker::Breaker;
use generation::{Generations, Known};
use probe::Prober;
use settle::{Ledger, Settlements, Settler};

/// How long the checks of `check --connect` may take.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Checks that a client can be created from these options, without contacting a server.
pub fn check(options: &RedisOptions) -> Result<(), StartError> {
    redis::check(options)
}

/// The most claims of one request: a delivery with more does not keep those of others waiting for long.
const CLAIMS: usize = 512;

/// Starts the store of these options for what `bus` acknowledges. `forget` makes this replica forget what it remembers
/// by itself. A server that is away is not an error.
pub fn start(
    options: Options,
    bus: Arc<dyn Bus>,
    forget: impl Fn() + Send + Sync + 'static,
    metrics: StoreMetrics,
    supervisor: &Supervisor,
) -> Result<Arc<dyn Store>, StartError> {
    let backend = backend(&options)?;
    let (name, parts) = (options.kind.name(), backend.parts());
    let breaker = Arc::new(Breaker::new(name, options.on_failure, parts, metrics.clone()));
    let generations = Arc::new(Generations::new(bus, Box::new(forget)));
    let (settlements, queues) = Settlements::new(parts, metrics.clone());
    let prober = Prober {
        backend: Arc::clone(&backend),
        breaker: Arc::clone(&breaker),
        generations: Arc::clone(&generations),
        limit: options.timeout,
    };
    supervisor.spawn("dedup store probe", prober.run());
    let connection = Arc::clone(&backend).connection();
    let batches = connection.is_some().then(Batches::default);
    for (part, queue) in queues.into_iter().enumerate() {
        let ledger = Ledger {
            part,
            breaker: Arc::clone(&breaker),
            generations: Arc::clone(&generations),
            settlements: settlements.clone(),
        };
        match (&batches, &connection) {
            (Some(batches), Some(connection)) => {
                let (batches, connection) = (batches.clone(), Arc::clone(connection));
                let batcher = Batcher { batches, connection, ledger, limit: options.timeout };
                supervisor.spawn("dedup store requests", batcher.run(queue));
            }
            _ => {
                let settler = Settler { backend: Arc::clone(&backend), ledger };
                supervisor.spawn("dedup store settlements", settler.run(queue));
            }
        }
    }
    let Options { on_failure, timeout, .. } = options;
    let (owners, process) = (AtomicU64::new(0), fastrand::u64(..));
    Ok(Arc::new(Shared {
        backend,
        batches,
        breaker,
        generations,
        settlements,
        on_failure,
        timeout,
        process,
        owners,
        metrics,
    }))
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
    let found = timeout(INSPECT_TIMEOUT, backend.inspect()).await;
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
    /// Where claims are sent together; none where each goes its own way.
    batches: Option<Batches>,
    breaker: Arc<Breaker>,
    generations: Arc<Generations>,
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

    /// Why an id is not to be asked for now.
    fn reason(&self, held: &Held, known: Option<&Known>) -> Option<Arc<str>> {
        match (known, held.generation) {
            (Some(_), Some(_)) => self.breaker.reason_of(self.backend.part_of(held)),
            (Some(_), None) => Some("the broker has not told yet what the event's topic is".into()),
            (None, _) => Some(self.breaker.reason().unwrap_or_else(|| {
                let reason: Arc<str> = "the brokers have lost their data, or are others".into();
                self.breaker.open_whole(Arc::clone(&reason));
                reason
            })),
        }
    }

    /// What the store replied; for each id the reason where it did not.
    async fn ask(&self, claims: &[Held], known: Option<&Known>, deadline: Instant) -> Vec<Reply> {
        let skipped = |held| self.reason(held, known).map(Reply::Skipped);
        let mut replies: Vec<_> = claims.iter().map(skipped).collect();
        let asked: Vec<_> = (0..claims.len()).filter(|at| replies[*at].is_none()).collect();
        for some in asked.chunks(CLAIMS) {
            let started = Instant::now();
            if started >= deadline {
                break;
            }
            let request: Vec<_> = some.iter().map(|at| claims[*at]).collect();
            let answers = match &self.batches {
                Some(batches) => batches.claim(request, deadline).await,
                None => self.backend.claim(&request, deadline).await,
            };
            let took = started.elapsed();
            self.metrics.duration.observe(took.as_secs_f64());
            // What had little time left is no sign of a store that fails.
            let had_time = started + took < deadline || took >= self.timeout / 2;
            for (at, reply) in some.iter().zip(answers) {
                if let Reply::Failed(reason) = &reply
                    && had_time
                {
                    self.breaker.open(self.backend.part_of(&claims[*at]), Arc::clone(reason));
                }
                replies[*at] = Some(reply);
            }
        }
        let late = || Reply::Skipped("no time is left for more claims".into());
        let replies = replies.into_iter().map(|reply| reply.unwrap_or_else(late));
        replies.inspect(|reply| self.metrics.count(reply.result(), 1)).collect()
    }

    fn claim_of(&self, held: Held, reply: Reply, is_overdue: bool) -> Claim {
        let (reason, was_asked) = match reply {
            Reply::Claimed => return Claim::Publish(held),
            Reply::Acknowledged => return Claim::Acknowledged(held),
            Reply::InFlight => return Claim::InFlight,
            Reply::Failed(reason) => (reason, true),
            Reply::Skipped(reason) => (reason, false),
        };
        if !is_overdue && self.on_failure == OnFailure::Degrade {
            return Claim::Publish(held);
        }
        if was_asked {
            // The claim may have arrived all the same.
            self.settle(held, false);
        }
        if is_overdue { Claim::Overdue } else { Claim::Refused(reason) }
    }
}

impl Store for Shared {
    fn claim(&self, wanted: Vec<Wanted>, answer_by: Option<Instant>) -> BoxFuture<'_, Vec<Claim>> {
        Box::pin(async move {
            let limit = Instant::now() + self.timeout;
            let deadline = answer_by.map_or(limit, |answer_by| limit.min(answer_by));
            if self.breaker.is_starting() {
                // Whether it is away, and the generation of its keys, are about to be known.
                let _ = timeout_at(deadline, self.breaker.first_probe()).await;
            }
            let (owner, known) = (self.new_owner(), self.generations.present());
            let held = |wanted: &Wanted| {
                let known = known.as_ref().filter(|known| known.brokers.knows(&wanted.address));
                Held { key: wanted.key, owner, generation: known.map(|known| known.generation) }
            };
            let held: Vec<_> = wanted.iter().map(held).collect();
            let replies = self.ask(&held, known.as_deref(), deadline).await;
            let is_overdue = answer_by.is_some_and(|answer_by| Instant::now() >= answer_by);
            let is_present = || {
                let present = self.generations.present();
                present.map(|known| known.generation) == known.as_ref().map(|known| known.generation)
            };
            let outdated = replies.contains(&Reply::Acknowledged) && !is_present();
            let counts = |reply| match reply {
                Reply::Acknowledged if outdated => {
                    Reply::Failed("the broker has lost its data meanwhile".into())
                }
                reply => reply,
            };
            let claims = held.into_iter().zip(replies);
            claims.map(|(held, reply)| self.claim_of(held, counts(reply), is_overdue)).collect()
        })
    }

    fn settle(&self, held: Held, acknowledged: bool) {
        if acknowledged {
            self.generations.remembered(held.generation);
        }
        // Without a generation it was never claimed.
        if acknowledged || held.generation.is_some() {
            self.settlements.add(self.backend.part_of(&held), Settlement { held, acknowledged });
            if let Some(batches) = &self.batches {
                batches.settled();
            }
        }
    }

    fn remembered(&self, held: Held) {
        self.generations.remembered(held.generation);
    }

    fn is_starting(&self) -> bool {
        self.breaker.is_starting()
    }

    fn warning(&self) -> Option<Arc<str>> {
        self.breaker.warning()
    }

    fn flush(&self, within: Duration) -> BoxFuture<'_, [u64; 2]> {
        let deadline = Instant::now() + within;
        Box::pin(async move {
            // What is left while a part of the store is away cannot be stored now.
            let is_there = |part| self.breaker.reason_of(part).is_none();
            while self.settlements.waits_for(is_there) && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            self.settlements.pending()
        })
    }
}
