//! The parts of `dev` and `send`: generated events and deliveries, the run that sends them, and the comparison of
//! what a consumer reads with what was sent.

pub mod broker;
pub mod delivery;
pub mod events;
pub mod keyboard;
pub mod load;
pub mod mix;
pub mod output;
pub mod run;
pub mod screen;
pub mod states;
pub mod text;
pub mod totals;
pub mod tracker;
pub mod workspace;

use crate::bus::error::ReadError;
use crate::fake_attio::post::PostError;

/// The source that deliveries are posted to.
pub const SOURCE: &str = "attio";

/// The prefix of all topics.
pub const PREFIX: &str = "attio";

/// That of the topics with states.
pub const STATE_PREFIX: &str = "attio-state";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the broker in this process does not start: {0}")]
    Broker(#[source] rdkafka::error::KafkaError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("reading back has ended")]
    ReaderEnded,
    #[error("the bridge did not reach {bus} within {seconds} s: {answer}")]
    NotReady { bus: String, seconds: u64, answer: String },
    #[error("the admin listener does not answer: {0}")]
    Admin(#[source] PostError),
    #[error("standard output: {0}")]
    Output(#[from] std::io::Error),
}
