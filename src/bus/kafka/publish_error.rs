//! From librdkafka's error of a message to the port's [`PublishError`].

use std::sync::Arc;

use rdkafka::error::RDKafkaErrorCode as Code;

use crate::pipeline::publish::PublishError;

/// The state of the client when a message fails.
#[derive(Clone, Copy)]
pub(super) struct Circumstances<'a> {
    /// The topic of the message.
    pub topic: &'a str,
    /// Whether all brokers are down.
    pub down: bool,
    /// What last kept the client from a broker, for example a wrong password.
    pub cause: Option<&'a str>,
    /// The fatal error of this client.
    pub fatal: Option<Code>,
}

/// The port's error for a failed message.
pub(super) fn classify(code: Code, at: Circumstances<'_>) -> PublishError {
    let topic = at.topic;
    // A dead client fails every message with "fatal"; the fatal error decides how it is classified.
    let code = match (code, at.fatal) {
        (Code::Fatal | Code::PurgeQueue | Code::PurgeInflight, Some(fatal)) if is_refusal(fatal) => fatal,
        _ => code,
    };
    if let Some(detail) = refusal(code, topic) {
        return PublishError::Refused { detail: detail.into() };
    }
    match code {
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => {
            let detail = format!(
                "too large for topic {topic} ({code}): see its max.message.bytes, and \
                 kafka.properties.message.max.bytes where that is set"
            );
            PublishError::Rejected { detail: detail.into() }
        }
        Code::InvalidRecord => {
            PublishError::Rejected { detail: format!("topic {topic} refuses this record ({code})").into() }
        }
        Code::QueueFull => PublishError::Busy { detail: "the queue of the Kafka client is full".into() },
        Code::MessageTimedOut | Code::TimedOutQueue | Code::RequestTimedOut | Code::OperationTimedOut
            if !at.down =>
        {
            PublishError::Timeout { detail: detail(code, topic, at.cause) }
        }
        // Purged with a dead client, brokers down, replicas missing, and codes of a later librdkafka: the
        // sender retries.
        _ => PublishError::Unavailable { detail: detail(code, topic, at.cause) },
    }
}

/// Whether a broker fails every message of a batch with this code because of one of them.
pub(super) fn may_be_the_batch(code: Code) -> bool {
    matches!(
        code,
        Code::MessageSizeTooLarge
            | Code::MessageBatchTooLarge
            | Code::InvalidMessageSize
            | Code::InvalidRecord
            | Code::InvalidDifferentRecord
            | Code::InvalidMessage
            | Code::InvalidTimestamp
    )
}

fn is_refusal(code: Code) -> bool {
    refusal(code, "").is_some()
}

/// What the operator must do, after which the same message is accepted; none if that is not the cause.
fn refusal(code: Code, topic: &str) -> Option<String> {
    Some(match code {
        Code::UnknownTopic
        | Code::UnknownTopicOrPartition
        | Code::UnknownTopicId
        | Code::UnknownPartition => {
            format!(
                "topic {topic} does not exist ({code}): create it, or set kafka.topics.ensure to \"create\""
            )
        }
        Code::TopicAuthorizationFailed => format!(
            "not authorised on topic {topic}: grant Write and Describe on it to the user of this client"
        ),
        Code::ClusterAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::DelegationTokenAuthorizationFailed => format!(
            "not authorised ({code}) while publishing to topic {topic}: grant Write and Describe on the \
             topics to the user of this client"
        ),
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::SecurityDisabled => format!(
            "the broker does not accept this client ({code}), topic {topic}: check kafka.sasl_* and \
             kafka.security_protocol"
        ),
        Code::InvalidTopic => {
            format!("{topic} is not a valid topic name: check route.prefix and route.categories")
        }
        Code::InvalidRequiredAcks
        | Code::InvalidConfig
        | Code::InvalidTimestamp
        | Code::PolicyViolation
        | Code::UnsupportedVersion
        | Code::UnsupportedFeature
        | Code::UnsupportedForMessageFormat
        | Code::UnsupportedCompressionType => format!(
            "topic {topic} refuses what this client sends ({code}): check the topic's and the client's settings"
        ),
        _ => return None,
    })
}

fn detail(code: Code, topic: &str, cause: Option<&str>) -> Arc<str> {
    match cause {
        Some(cause) => format!("topic {topic}: {code}; last connection error: {cause}").into(),
        None => format!("topic {topic}: {code}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Circumstances<'_> =
        Circumstances { topic: "attio.record", down: false, cause: None, fatal: None };

    #[test]
    fn every_code_has_its_class() {
        let table = [
            (Code::UnknownTopic, "refused"),
            (Code::UnknownTopicOrPartition, "refused"),
            (Code::UnknownTopicId, "refused"),
            (Code::UnknownPartition, "refused"),
            (Code::TopicAuthorizationFailed, "refused"),
            (Code::ClusterAuthorizationFailed, "refused"),
            (Code::GroupAuthorizationFailed, "refused"),
            (Code::TransactionalIdAuthorizationFailed, "refused"),
            (Code::DelegationTokenAuthorizationFailed, "refused"),
            (Code::Authentication, "refused"),
            (Code::SaslAuthenticationFailed, "refused"),
            (Code::UnsupportedSASLMechanism, "refused"),
            (Code::IllegalSASLState, "refused"),
            (Code::SecurityDisabled, "refused"),
            (Code::InvalidTopic, "refused"),
            (Code::InvalidRequiredAcks, "refused"),
            (Code::InvalidConfig, "refused"),
            (Code::InvalidTimestamp, "refused"),
            (Code::PolicyViolation, "refused"),
            (Code::UnsupportedVersion, "refused"),
            (Code::UnsupportedFeature, "refused"),
            (Code::UnsupportedForMessageFormat, "refused"),
            (Code::UnsupportedCompressionType, "refused"),
            (Code::MessageSizeTooLarge, "rejected"),
            (Code::MessageBatchTooLarge, "rejected"),
            (Code::InvalidMessageSize, "rejected"),
            (Code::InvalidRecord, "rejected"),
            (Code::QueueFull, "busy"),
            (Code::MessageTimedOut, "timeout"),
            (Code::TimedOutQueue, "timeout"),
            (Code::RequestTimedOut, "timeout"),
            (Code::OperationTimedOut, "timeout"),
            (Code::AllBrokersDown, "unavailable"),
            (Code::BrokerTransportFailure, "unavailable"),
            (Code::SSL, "unavailable"),
            (Code::NotEnoughReplicas, "unavailable"),
            (Code::NotEnoughReplicasAfterAppend, "unavailable"),
            (Code::NotLeaderForPartition, "unavailable"),
            (Code::KafkaStorageError, "unavailable"),
            (Code::ThrottlingQuotaExceeded, "unavailable"),
            (Code::InvalidMessage, "unavailable"),
            (Code::OutOfOrderSequenceNumber, "unavailable"),
            (Code::ProducerFenced, "unavailable"),
            (Code::Fatal, "unavailable"),
            (Code::PurgeQueue, "unavailable"),
            (Code::PurgeInflight, "unavailable"),
            (Code::DestroyBroker, "unavailable"),
            (Code::Unknown, "unavailable"),
        ];
        for (code, label) in table {
            assert_eq!(classify(code, AT).label(), label, "{code:?}");
            assert_eq!(is_refusal(code), label == "refused", "{code:?}");
        }
    }

    #[test]
    fn a_timeout_while_all_brokers_are_down_is_unavailable() {
        let down = Circumstances { down: true, cause: Some("wrong password"), ..AT };
        let error = classify(Code::MessageTimedOut, down);
        assert_eq!(error.label(), "unavailable");
        assert!(error.to_string().contains("wrong password"), "{error}");
        let slow = classify(Code::MessageTimedOut, Circumstances { cause: Some("reset"), ..AT });
        assert!(slow.to_string().contains("reset"), "{slow}");
    }

    #[test]
    fn a_client_that_died_of_a_missing_permission_is_refused() {
        let unauthorised = Circumstances { fatal: Some(Code::ClusterAuthorizationFailed), ..AT };
        assert_eq!(classify(Code::Fatal, unauthorised).label(), "refused");
        assert_eq!(classify(Code::PurgeQueue, unauthorised).label(), "refused");
        assert_eq!(classify(Code::MessageTimedOut, unauthorised).label(), "timeout");
        let order = Circumstances { fatal: Some(Code::OutOfOrderSequenceNumber), ..AT };
        assert_eq!(classify(Code::Fatal, order).label(), "unavailable");
    }

    #[test]
    fn refusals_name_the_topic() {
        for code in [Code::UnknownTopicOrPartition, Code::TopicAuthorizationFailed, Code::InvalidTopic] {
            assert!(classify(code, AT).to_string().contains("attio.record"), "{code:?}");
        }
    }
}
