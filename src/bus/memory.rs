//! A bus in the process's own memory, for tests: it records what is published and can be told how to
//! answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::pipeline::publish::{
    Ack, BoxFuture, Bus, BusState, Message, PublishError, PublishHandle, PublishResult,
};

/// How the memory bus answers a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Stores the message and acknowledges it.
    Acknowledge,
    /// Acknowledges without storing: the broker had the message already.
    Duplicate,
    /// Stores nothing and fails.
    Fail(PublishError),
    /// Stores nothing and says nothing until [`Memory::release`].
    Hang,
    /// Stores the message and says so only at [`Memory::release`].
    Late,
}

/// The bus. Shared by the bridge and the test that watches it.
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
        };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Answers every publish so that the script does not cover.
    pub fn answer(&self, answer: Answer) {
        self.state.lock().default = answer;
    }

    /// Answers the next publishes so, one each.
    pub fn script(&self, answers: impl IntoIterator<Item = Answer>) {
        self.state.lock().script.extend(answers);
    }

    /// What is stored, in the order of storing.
    pub fn stored(&self) -> Vec<Message> {
        self.state.lock().stored.clone()
    }

    /// Publishes asked for, whatever became of them.
    pub fn attempts(&self) -> usize {
        self.state.lock().attempts
    }

    /// Settles what hangs: late messages as acknowledged, the others as timed out.
    pub fn release(&self) {
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        for (handle, verdict) in waiting {
            handle.settle(verdict);
        }
    }

    /// Publishes without a verdict.
    pub fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// Sets what the client knows of its broker.
    pub fn set_state(&self, bus: BusState) {
        self.state.lock().bus = bus;
    }
}

const ACKNOWLEDGED: PublishResult = Ok(Ack { duplicate: false });

impl Bus for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn publish(&self, message: Message, handle: PublishHandle) {
        let mut state = self.state.lock();
        state.attempts += 1;
        let answer = state.script.pop_front().unwrap_or_else(|| state.default.clone());
        let verdict = match answer {
            Answer::Acknowledge => {
                state.stored.push(message);
                ACKNOWLEDGED
            }
            Answer::Duplicate => Ok(Ack { duplicate: true }),
            Answer::Fail(error) => Err(error),
            Answer::Hang => {
                let timeout = PublishError::Timeout { detail: "told to hang".into() };
                return state.waiting.push((handle, Err(timeout)));
            }
            Answer::Late => {
                state.stored.push(message);
                return state.waiting.push((handle, ACKNOWLEDGED));
            }
        };
        drop(state);
        handle.settle(verdict);
    }

    fn state(&self) -> BusState {
        self.state.lock().bus
    }

    fn flush(&self, _within: Duration) -> BoxFuture<'_, u64> {
        let waiting = self.waiting() as u64;
        Box::pin(std::future::ready(waiting))
    }
}
