//! Calls of the transactional client, and what its errors mean.

use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};

use crate::bus::state::StateError;

/// How long a call is repeated before the changes count as failed for now.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A broker fails all records of a batch for one of them.
pub(super) fn is_too_large(error: &KafkaError) -> bool {
    use Code::{InvalidMessageSize, MessageBatchTooLarge, MessageSizeTooLarge};
    let code = error.rdkafka_error_code();
    matches!(code, Some(MessageSizeTooLarge | MessageBatchTooLarge | InvalidMessageSize))
}

/// Calls the client until the broker answers.
pub(super) fn call<T>(attempt: impl Fn() -> KafkaResult<T>) -> Result<T, StateError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Err(error) if is_retriable(&error) && Instant::now() < deadline => {
                tracing::debug!("kafka: {error}; trying again");
                std::thread::sleep(Duration::from_millis(50));
            }
            result => return result.map_err(passing),
        }
    }
}

/// Ends a transaction, however long the broker is away: until the client knows how it has ended, it refuses every other
/// call.
pub(super) fn end(attempt: impl Fn() -> KafkaResult<()>) -> Result<(), StateError> {
    let mut said = Instant::now();
    loop {
        match attempt() {
            Err(error) if is_retriable(&error) => {
                if said.elapsed() > PATIENCE {
                    said = Instant::now();
                    tracing::warn!("kafka: the states are not committed, trying on: {error}");
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            result => return result.map_err(passing),
        }
    }
}

fn is_retriable(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => {
            error.is_retriable() && !error.txn_requires_abort() && !error.is_fatal()
        }
        _ => false,
    }
}

/// Whether the client fails a record only as another one of its batch, or of its transaction before, has failed.
pub(super) fn is_consequence(error: &KafkaError) -> bool {
    use Code::{InvalidDifferentRecord, PurgeInflight, PurgeQueue, State};
    matches!(error.rdkafka_error_code(), Some(InvalidDifferentRecord | PurgeInflight | PurgeQueue | State))
}

/// Whether, and how, the writer can go on after an error.
pub(super) fn passing(error: KafkaError) -> StateError {
    use Code::{Fatal, Fenced, InvalidProducerEpoch, ProducerFenced};
    let code = error.rdkafka_error_code();
    let is_fatal = matches!(&error, KafkaError::Transaction(error) if error.is_fatal());
    match code {
        Some(Fenced | ProducerFenced | InvalidProducerEpoch) => StateError::Lasting(format!(
            "another process has taken over, or the broker has ended a transaction that was open for too long: one of each of `state run`, `state backfill` and `state diff --repair` may \
             run for a group ({error})"
        )),
        Some(Code::TransactionalIdAuthorizationFailed) => StateError::Lasting(format!(
            "{error}: grant Describe and Write on the transactional id, as `attio-bridge topics` prints it"
        )),
        Some(Code::GroupAuthorizationFailed) => StateError::Lasting(format!(
            "{error}: grant Read on the group, as `attio-bridge topics` prints it"
        )),
        Some(Code::TopicAuthorizationFailed) => StateError::Lasting(format!(
            "{error}: grant Read on the events' topics, Read and Write on the states', as `attio-bridge topics` prints it"
        )),
        _ if is_fatal || code == Some(Fatal) => StateError::Lasting(error.to_string()),
        _ => StateError::Passing(error.to_string()),
    }
}
