//! The parts of `dev` and `send`: generated events and deliveries, the expected results, the run that sends
//! them, and the comparison with what a consumer reads.
//!
//! The expected result of a delivery is computed from what was sent and from the catalog, never by the pipeline,
//! which is what is being tested.

pub mod broker;
pub mod delivery;
pub mod events;
pub mod expected;
pub mod load;
pub mod mix;
pub mod output;
pub mod reading;
pub mod run;
pub mod screen;
pub mod totals;
pub mod tracker;

use crate::bus::error::ReadError;
use crate::fake_attio::post::PostError;

/// The source that deliveries are posted to.
pub const SOURCE: &str = "attio";

/// The prefix of all topics.
pub const PREFIX: &str = "attio";

/// Why a run ends early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker in this process cannot be created.
    #[error("the broker in this process does not start: {0}")]
    Broker(#[source] rdkafka::error::KafkaError),
    /// The bus cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The reader has ended by itself.
    #[error("reading back has ended")]
    ReaderEnded,
    /// The bridge did not become ready.
    #[error("the bridge did not reach {bus} within {seconds} s: {answer}")]
    NotReady {
        /// The bus.
        bus: String,
        /// How long it was awaited.
        seconds: u64,
        /// The last answer of `/readyz`.
        answer: String,
    },
    /// The admin listener does not answer.
    #[error("the admin listener does not answer: {0}")]
    Admin(#[source] PostError),
    /// The output cannot be written.
    #[error("standard output: {0}")]
    Output(#[from] std::io::Error),
}
