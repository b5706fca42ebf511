//! States on Kafka: a transactional producer whose transactions hold the states and the positions of their events.
//!
//! * The transactional id is fixed, so a writer that starts fences the one before it: that one can commit neither
//!   states nor positions any more, and ends. The positions are read only after that.
//! * A transaction is committed only if the rule of [`crate::bus::state`] holds for each of its records where it
//!   stands in the log, which the [`tail`] finds out by reading up to it. A conflict aborts the transaction, and it is
//!   tried again without the states that are refused.
//!
//! A crash between any two steps leaves an open transaction, which the next start of the writer aborts: neither its
//! states nor its positions count, and its events are taken again.

mod calls;
mod check;
mod deliveries;
mod newest;
mod positions;
mod tail;
mod transaction;

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::options::{NO_STATES, Options};
use super::read;
use crate::bus::error::StartError;
use crate::bus::read::{Begin, Item, Plan, Position, Reader};
use crate::bus::state::{Change, Clock, Outcome, Receipt, StateError, Writer};
use crate::cloudevent::ContentMode;
use crate::pipeline::publish::Destination;
pub(in crate::bus) use check::{existing, inspect};
use positions::Positions;
use transaction::Transactions;

/// How often the state topics are read on while nothing is published.
const IDLE: Duration = Duration::from_millis(200);
/// Batches that wait: each caller has one at a time.
const QUEUE: usize = 16;

/// Publishes states, on a thread of its own: most calls of the client block.
#[derive(Clone)]
pub struct Publisher {
    jobs: mpsc::SyncSender<Job>,
    positions: Arc<Mutex<Positions>>,
}

struct Job {
    changes: Vec<Change>,
    done: oneshot::Sender<Result<Vec<Outcome>, StateError>>,
}

impl Publisher {
    /// Fences every other writer of this name, and reads the last minutes of the state topics.
    pub(in crate::bus) async fn start(
        options: Options,
        content_mode: ContentMode,
        writer: Writer,
        now: Clock,
    ) -> Result<Self, StateError> {
        if options.oauth.is_some() {
            return Err(StartError::setting_of("kafka.sasl_mechanism", NO_STATES).into());
        }
        let positions = Arc::<Mutex<Positions>>::default();
        let ((jobs, queue), (started, start)) = (mpsc::sync_channel::<Job>(QUEUE), oneshot::channel());
        let shared = Arc::clone(&positions);
        let work = move || match Transactions::start(&options, content_mode, &writer, shared, now) {
            Err(error) => drop(started.send(Err(error))),
            Ok(mut transactions) => {
                // Fails if the start was given up.
                if started.send(Ok(())).is_ok() {
                    run(&mut transactions, &queue);
                }
            }
        };
        let thread = "kafka-state";
        let spawned = thread::Builder::new().name(thread.into()).spawn(work);
        spawned.map_err(|source| StartError::Thread { thread, source })?;
        start.await.unwrap_or_else(|_| Err(ended()))?;
        Ok(Self { jobs, positions })
    }

    pub(in crate::bus) async fn publish(&self, changes: Vec<Change>) -> Result<Vec<Outcome>, StateError> {
        let (done, outcome) = oneshot::channel();
        self.jobs.try_send(Job { changes, done }).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => StateError::Passing("too many batches are waiting".into()),
            mpsc::TrySendError::Disconnected(_) => ended(),
        })?;
        outcome.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Begins where the group's positions are; without one, at the oldest event.
    pub(in crate::bus) async fn follow(
        &self,
        options: Options,
        group: &str,
        destinations: Vec<Arc<Destination>>,
    ) -> Result<Follower, StateError> {
        let plan = Plan { destinations, begin: Begin::Beginning, follow: true };
        let group = Some(group.to_owned());
        let reader = Reader::start(async |sink, stop| read::read_as(options, plan, group, sink, stop).await);
        Ok(Follower { reader: reader.await?, positions: Arc::clone(&self.positions) })
    }
}

fn run(transactions: &mut Transactions, queue: &mpsc::Receiver<Job>) {
    loop {
        match queue.recv_timeout(IDLE) {
            // Nobody may wait for the outcome any more.
            Ok(Job { changes, done }) => drop(done.send(transactions.publish(&changes))),
            Err(mpsc::RecvTimeoutError::Timeout) => transactions.idle(IDLE),
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn ended() -> StateError {
    StateError::Lasting("the thread that writes states has ended".into())
}

/// Takes events from the positions of a group that has no members: fencing, not membership, decides who commits.
pub struct Follower {
    reader: Reader,
    positions: Arc<Mutex<Positions>>,
}

impl Follower {
    pub(in crate::bus) async fn next(&mut self) -> Result<(Item, Receipt), StateError> {
        let Some(item) = self.reader.next().await else {
            return Err(StateError::Lasting("the reader of the events has ended".into()));
        };
        let item = item?;
        let Position::Kafka { partition, offset } = item.position else { return Err(ended()) };
        let receipt = self.positions.lock().take((item.address.clone(), partition), offset);
        Ok((item, receipt))
    }
}
