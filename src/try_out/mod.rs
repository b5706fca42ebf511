//! What `attio-bridge dev` is made of: a broker in the process, a fake Attio that delivers, a consumer that
//! reads everything back, and the comparison of the two.
//!
//! What must arrive is worked out from what was sent and from the catalog, and never by asking the
//! pipeline: the data path is what is being tried out here.

pub mod body;
pub mod world;
pub mod sample;
pub mod letter;
pub mod forge;
pub mod planned;
pub mod expect;
pub mod compose;
pub mod plan;
pub mod senders;
pub mod broker;
pub mod bus_reader;
pub mod readback;
pub mod reader;
pub mod cloud;
pub mod tee;
pub mod ledger;
pub mod account;
pub mod tally;
pub mod trial;
pub mod session;
pub mod output;
pub mod header;
pub mod footer;
pub mod summary;
pub mod screen;
pub mod lines;
pub mod send;

/// The source that the sender posts to.
pub const SOURCE: &str = "attio";

/// First part of every topic.
pub const PREFIX: &str = "attio";

/// Why the trial could not be carried through.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker in the process cannot be made.
    #[error("the broker in this process does not start: {0}")]
    Broker(#[source] rdkafka::error::KafkaError),
    /// The consumer cannot be made, or cannot learn what there is to read.
    #[error("reading back from Kafka at {bootstrap} fails: {source}")]
    Reader {
        /// The broker's address.
        bootstrap: String,
        /// What the client said.
        source: rdkafka::error::KafkaError,
    },
    /// The bus cannot be read.
    #[error("{0}")]
    Readback(String),
    /// The thread of the consumer cannot be started.
    #[error("the thread that reads back cannot be started: {0}")]
    Thread(#[source] std::io::Error),
    /// The thread of the consumer has ended.
    #[error("the thread that reads back has ended")]
    ReaderGone,
    /// The bridge did not become ready.
    #[error("the bridge did not reach {bus} within {seconds} s: {answer}")]
    NotReady {
        /// The bus.
        bus: String,
        /// How long it was waited for.
        seconds: u64,
        /// What readiness said last.
        answer: String,
    },
    /// The admin listener does not answer.
    #[error("the admin listener does not answer: {0}")]
    Admin(#[source] crate::fake_attio::post::PostError),
    /// What is printed cannot be written.
    #[error("standard output: {0}")]
    Output(#[from] std::io::Error),
}

/// Hex SHA-256.
fn digest(bytes: &[u8]) -> String {
    use sha2::Digest;
    data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(bytes))
}
