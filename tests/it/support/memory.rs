//! A bus in memory: it records messages and settles them as scripted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use attio_bridge::pipeline::publish::{
    Ack, BoxFuture, BrokerIdentity, Bus, BusState, Message, PublishError, PublishHandle, PublishResult,
};

/// How the memory bus settles a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Stores the message and acknowledges it.
    Acknowledge,
    /// Acknowledges a duplicate, without storing it.
    Duplicate,
    /// Stores nothing and fails.
    Fail(PublishError),
    /// Stores nothing and is not settled until [`Memory::release`].
    Hang,
    /// Stores the message and acknowledges it only at [`Memory::release`].
    Late,
}

/// The bus, shared by the bridge and the test.
pub struct Memory {
    state: Mutex<State>,
}

struct State {
    default: Answer,
    script: VecDeque<Answer>,
    stored: Vec<Message>,
    attempts: usize,
    waiting: Vec<(PublishHandle, PublishResult)>,
    bus: BusState,
    data_losses: u64,
    identity: Option<Arc<BrokerIdentity>>,
}

impl Memory {
    /// A bus that acknowledges everything.
    pub fn new() -> Arc<Self> {
        let state = State {
            default: Answer::Acknowledge,
            script: VecDeque::new(),
            stored: Vec::new(),
            attempts: 0,
            waiting: Vec::new(),
            bus: BusState::Up,
            data_losses: 0,
            identity: Some(Arc::new(BrokerIdentity::new("memory"))),
        };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Sets the result of every publish that is not scripted.
    pub fn answer(&self, answer: Answer) {
        self.state.lock().default = answer;
    }

    /// Scripts the results of the next publishes, in order.
    pub fn script(&self, answers: impl IntoIterator<Item = Answer>) {
        self.state.lock().script.extend(answers);
    }

    /// The stored messages, in order.
    pub fn stored(&self) -> Vec<Message> {
        self.state.lock().stored.clone()
    }

    /// Publishes so far, whatever their result.
    pub fn attempts(&self) -> usize {
        self.state.lock().attempts
    }

    /// Settles what is in flight: late messages as acknowledged, the others as timed out.
    pub fn release(&self) {
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        for (handle, result) in waiting {
            handle.settle(result);
        }
    }

    /// Publishes without a result.
    pub fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// Its data is replaced, as the bus would notice.
    pub fn lose_data(&self) {
        self.state.lock().data_losses += 1;
    }

    /// From now on these are other brokers, without data; none: they have not told which they are.
    pub fn become_another(&self, name: Option<&str>) {
        let mut state = self.state.lock();
        state.stored.clear();
        state.identity = name.map(|name| Arc::new(BrokerIdentity::new(name)));
    }

    /// Sets the state of the broker.
    pub fn set_state(&self, bus: BusState) {
        self.state.lock().bus = bus;
    }
}

const ACKNOWLEDGED: PublishResult = Ok(Ack { duplicate: false, position: None });

impl Bus for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn publish(&self, message: Message, handle: PublishHandle) {
        let mut state = self.state.lock();
        state.attempts += 1;
        let answer = state.script.pop_front().unwrap_or_else(|| state.default.clone());
        let result = match answer {
            Answer::Acknowledge => {
                state.stored.push(message);
                ACKNOWLEDGED
            }
            Answer::Duplicate => Ok(Ack { duplicate: true, position: None }),
            Answer::Fail(error) => Err(error),
            Answer::Hang => {
                let timeout = PublishError::Timeout { detail: "hangs".into() };
                return state.waiting.push((handle, Err(timeout)));
            }
            Answer::Late => {
                state.stored.push(message);
                return state.waiting.push((handle, ACKNOWLEDGED));
            }
        };
        drop(state);
        handle.settle(result);
    }

    fn state(&self) -> BusState {
        self.state.lock().bus
    }

    fn identity(&self) -> Option<Arc<BrokerIdentity>> {
        self.state.lock().identity.clone()
    }

    fn data_losses(&self) -> u64 {
        self.state.lock().data_losses
    }

    fn flush(&self, _within: Duration) -> BoxFuture<'_, u64> {
        let waiting = self.waiting() as u64;
        Box::pin(std::future::ready(waiting))
    }
}
