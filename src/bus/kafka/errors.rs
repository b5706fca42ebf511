//! What librdkafka's errors mean: the port's error of a message, and what to do when a client cannot connect.

use std::sync::Arc;

use rdkafka::error::RDKafkaErrorCode as Code;

use crate::pipeline::publish::PublishError;

#[derive(Clone, Copy)]
pub(super) struct Circumstances<'a> {
    pub topic: &'a str,
    pub down: bool,
    /// What last kept the client from a broker, for example a wrong password.
    pub cause: Option<&'a str>,
    /// The fatal error of this client.
    pub fatal: Option<Code>,
}

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
            let advice =
                "see its max.message.bytes, and kafka.properties.message.max.bytes where that is set";
            let detail = format!("too large for topic {topic} ({code}): {advice}").into();
            PublishError::Rejected { detail }
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Reach,
    Tls,
    Login,
}

/// Parts of librdkafka's error texts, the step at which they occur, and what to do.
const ADVICE: [(&str, Step, &str); 20] = [
    ("invalid_token", Step::Login, TOKEN),
    // After librdkafka's words and an id of the attempt.
    (": Access denied", Step::Login, MSK),
    ("Cannot change principals", Step::Login, PRINCIPAL),
    ("connecting to a PLAINTEXT broker listener", Step::Tls, NO_TLS),
    ("connecting to a SSL broker listener", Step::Tls, TLS),
    ("certificate verify failed", Step::Tls, ""),
    ("alert bad certificate", Step::Login, CERTIFICATE),
    ("alert certificate", Step::Login, CERTIFICATE),
    ("certificate required", Step::Login, CERTIFICATE),
    ("alert unknown ca", Step::Login, CERTIFICATE),
    ("SSL handshake failed", Step::Tls, ""),
    ("mechanism handshake failed", Step::Login, "set kafka.sasl_mechanism to one that the listener supports"),
    ("SASL authentication error", Step::Login, "check kafka.sasl_username and kafka.sasl_password"),
    ("SASL", Step::Login, "check kafka.security_protocol and kafka.sasl_*"),
    ("Cluster authorization failed", Step::Login, PERMISSION),
    ("Topic authorization failed", Step::Login, PERMISSION),
    ("Failed to resolve", Step::Reach, NAME),
    ("failed to lookup address", Step::Reach, NAME),
    (
        "Connection refused",
        Step::Reach,
        "check the address in kafka.bootstrap_servers, and that the broker runs",
    ),
    ("timed out", Step::Reach, SILENT),
];

/// Before the reason why librdkafka got no token.
const NO_TOKEN: &str = "Failed to acquire SASL OAUTHBEARER token";
/// Before the reason why there is no new token.
pub(super) const NO_NEW_TOKEN: &str = "there is no new token";
const TOKEN: &str = "the broker does not accept the token: check kafka.oauth.scope, and which issuer and audience the \
                     broker expects";
/// What Amazon MSK answers to whom IAM gives no permission.
const MSK: &str = "Amazon MSK does not accept these AWS credentials: check that the policy of their role or user allows \
                   kafka-cluster:Connect on the cluster, kafka.oauth.region, and this machine's clock";
/// The broker ends a connection whose renewed login is another one.
const PRINCIPAL: &str =
    "the renewed credentials have another identity or session name; the client connects anew with them";
const SILENT: &str = "check the address in kafka.bootstrap_servers, and the firewalls on the way";
/// In place of [`SILENT`] once a broker was reached.
const SILENT_AGAIN: &str =
    "it has answered before: it may hang or be overloaded, or the network may drop its packets";
const NAME: &str = "check the names in kafka.bootstrap_servers";
pub(super) const NO_TLS: &str = "the listener does not use TLS: use the port of one that does; only in a network you trust, \
                      set kafka.security_protocol to \"plaintext\" or \"sasl_plaintext\"";
pub(super) const TLS: &str = "the listener uses TLS: set kafka.security_protocol to \"ssl\" or \"sasl_ssl\"";
const CERTIFICATE: &str = "the broker requires a client certificate, or rejects the one it got: check \
                           kafka.cert_file and kafka.key_file";
pub(super) const CLOSED: &str = "the broker closes the connection without an error: its listener may require a login, check \
                      kafka.security_protocol";
/// In place of [`CLOSED`] once a broker was reached: its listener has accepted this client.
const CLOSED_AGAIN: &str = "the broker closes the connection without an error: it may be restarting";
/// What a user lacks who may log in and not publish.
pub(super) const PERMISSION: &str =
    "grant Write on the topics (brokers before 2.8 also need IdempotentWrite on the cluster)";
const NO_LOGIN: &str = "the listener has no login: use the port of one that has, or set kafka.security_protocol to \
                        \"plaintext\" or \"ssl\"";
const PORT: &str = "check the host and the port in kafka.bootstrap_servers";
/// The address was told by a broker, not by the configuration.
pub(super) const ADVERTISED: &str = "the cluster advertises this address to clients: set the broker's \
                                     advertised.listeners to one that this machine can resolve and reach";

/// An idempotent producer gets no id there. librdkafka's advice is to use a newer broker.
const CONTROLLER: &str = "what answers there gives no producer ids: it is a KRaft controller, or a broker before Kafka \
                          0.11; set kafka.bootstrap_servers to the listener of a broker";

/// The step at which the client failed, and its error text with advice. `servers` is `kafka.bootstrap_servers`.
pub(super) fn advise(error: &str, servers: &str) -> (Step, String) {
    if let Some(found) = stranger(error) {
        return found;
    }
    // The token server's failure says what to do.
    if [NO_TOKEN, NO_NEW_TOKEN].iter().any(|part| error.contains(part)) {
        return (Step::Login, error.to_owned());
    }
    if let Some((text, mechanisms)) = error.split_once(": broker's supported mechanisms:")
        && mechanisms.trim().is_empty()
    {
        return (Step::Login, format!("{text}: {NO_LOGIN}"));
    }
    if error.contains("requires Apache Kafka broker version") {
        return (Step::Reach, format!("{servers}: {CONTROLLER}"));
    }
    if let Some((text, _)) = error.split_once(": verify that security.protocol is correctly configured") {
        return (Step::Login, format!("{text}: {CLOSED}"));
    }
    match ADVICE.iter().find(|(part, ..)| error.contains(part)) {
        Some((_, step, "")) => (*step, error.to_owned()),
        Some((_, Step::Reach, _)) if is_advertised(error, servers) => {
            (Step::Reach, format!("{error}: {ADVERTISED}"))
        }
        Some((_, step, advice)) => (*step, format!("{error}: {advice}")),
        None => (Step::Reach, error.to_owned()),
    }
}

/// The text of [`advise`] once a broker was reached.
pub(super) fn after_contact(text: &str) -> String {
    text.replace(CLOSED, CLOSED_AGAIN).replace(SILENT, SILENT_AGAIN)
}

/// `host:port` and node id (`bootstrap` for a configured server) of the broker that an error is about.
pub(super) fn broker(error: &str) -> Option<(&str, &str)> {
    let (broker, _) = error.split_once(": ")?;
    broker.split_once("://").map_or(broker, |(_, broker)| broker).rsplit_once('/')
}

/// Whether the error is about an address that only a broker has named.
fn is_advertised(error: &str, servers: &str) -> bool {
    broker(error).is_some_and(|(address, node)| {
        node.parse::<i32>().is_ok() && !self::servers(servers).iter().any(|server| server == address)
    })
}

const STRANGERS: [(&[u8], &str); 12] = [
    (b"HTTP", "an HTTP server"),
    (b"<htm", "an HTTP server"),
    (b"<HTM", "an HTTP server"),
    (b"<!DO", "an HTTP server"),
    (b"INFO", "a NATS server"),
    (b"-ERR", "a Redis or NATS server"),
    (b"+OK", "a NATS or mail server"),
    (b"SSH-", "an SSH server"),
    (b"AMQP", "an AMQP broker"),
    (b"220", "a mail or FTP server"),
    (b"RFB ", "a VNC server"),
    (b"\x4a\0\0\0", "a MySQL server"),
];

/// What answers at a port, if it is no Kafka broker. `begin`: its first bytes.
pub(super) fn name_stranger(begin: &[u8]) -> Option<String> {
    if let [0x15 | 0x16, 3, ..] = begin {
        return Some(TLS.into());
    }
    let known = STRANGERS.iter().find(|(prefix, _)| begin.starts_with(prefix));
    let shown: String = begin.iter().take(4).map(|byte| char::from(*byte)).collect();
    let readable = begin.len() >= 4 && shown.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    match known {
        Some((_, who)) => Some(format!("{who} answers there, no Kafka broker: {PORT}")),
        None if readable => {
            Some(format!("what answers there is no Kafka broker, its answer begins with {shown:?}: {PORT}"))
        }
        None => None,
    }
}

/// An answer that is not Kafka's, of which librdkafka took the first four bytes for a length.
fn stranger(error: &str) -> Option<(Step, String)> {
    let (text, size) = error.split_once("Invalid response size ")?;
    let size: i32 = size.split(' ').next()?.parse().ok()?;
    let who = name_stranger(&size.to_be_bytes());
    let step = if who.as_deref() == Some(TLS) { Step::Tls } else { Step::Reach };
    let text = text.trim_end_matches("Receive failed: ");
    let who = who.unwrap_or_else(|| format!("what answers there is no Kafka broker: {PORT}"));
    Some((step, format!("{text}{who}")))
}

/// The entries of `kafka.bootstrap_servers` as librdkafka reads them.
pub(super) fn servers(list: &str) -> Vec<String> {
    let entry = |entry: &str| {
        let plain = entry.split_once("://").map_or(entry, |(_, plain)| plain);
        let has_port = plain.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        if has_port { plain.to_owned() } else { format!("{plain}:9092") }
    };
    list.split(',').map(str::trim).filter(|text| !text.is_empty()).map(entry).collect()
}

/// Without what differs on every attempt.
pub(super) fn without_suffix(text: &str) -> &str {
    text.split(" (after ").next().unwrap_or(text)
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

    #[test]
    fn errors_are_sorted_by_step_and_get_advice() {
        let table = [
            ("sasl_ssl://a:1/bootstrap: SASL authentication error: no", Step::Login, "kafka.sasl_password"),
            (
                "ssl://a:1/1: SSL handshake failed: x: connecting to a PLAINTEXT broker listener?",
                Step::Tls,
                "plain",
            ),
            ("ssl://a:1/1: Receive failed: sslv3 alert bad certificate: 42", Step::Login, "kafka.cert_file"),
            ("a:1/1: Connect to ipv4#1 failed: Connection refused", Step::Reach, "runs"),
            ("a:1/1: Failed to resolve 'a:1'", Step::Reach, "kafka.bootstrap_servers"),
            ("something new", Step::Reach, "something new"),
        ];
        for (error, step, part) in table {
            let (found, text) = advise(error, "a:1");
            assert_eq!(found, step, "{error}");
            assert!(text.starts_with(error) && text.contains(part), "{text}");
        }
    }

    #[test]
    fn addresses_that_only_a_broker_has_named_are_advertised_listeners() {
        for (error, advice) in [
            (
                "inside:9092/1: Failed to resolve 'inside:9092': Name or service not known",
                "advertised.listeners",
            ),
            (
                "ssl://inside:9092/3: Connect to ipv4#10.0.0.1:9092 failed: Connection refused",
                "advertised.listeners",
            ),
            ("b:9092/2: Connect to ipv4#10.0.0.1:9092 failed: Connection refused", "kafka.bootstrap_servers"),
            ("a:1/bootstrap: Failed to resolve 'a:1'", "kafka.bootstrap_servers"),
        ] {
            let (_, text) = advise(error, "a:1,b");
            assert!(text.starts_with(error) && text.contains(advice), "{text}");
            assert_eq!(text.contains("advertised.listeners"), advice == "advertised.listeners", "{text}");
        }
    }

    #[test]
    fn servers_that_are_no_kafka_broker_are_named() {
        for (begin, words) in [
            (*b"HTTP", "an HTTP server answers there, no Kafka broker"),
            (*b"INFO", "a NATS server"),
            (*b"SSH-", "an SSH server"),
            (*b"220 ", "a mail or FTP server"),
            (*b"abcd", "its answer begins with \"abcd\""),
            ([0x15, 3, 3, 0], "the listener uses TLS"),
            ([0xff, 0, 0, 1], "what answers there is no Kafka broker"),
        ] {
            let size = i32::from_be_bytes(begin);
            let error = format!(
                "k:1/bootstrap: Receive failed: Invalid response size {size} (0..100000000): increase \
                 receive.message.max.bytes"
            );
            let (_, text) = advise(&error, "k:1");
            assert!(text.starts_with("k:1/bootstrap: ") && text.contains(words), "{text}");
            assert!(!text.contains("increase") && !text.contains("Invalid"), "{text}");
        }
    }

    #[test]
    fn wrong_advice_of_the_client_is_replaced() {
        let table = [
            (
                "Fatal error: Local: Required feature not supported by broker: Idempotent producer not supported by \
                 any of the 1 broker(s) in state UP: requires Apache Kafka broker version >= 0.11.0",
                "KRaft controller",
                "requires Apache",
            ),
            (
                "sasl_plaintext://k:1/bootstrap: SASL PLAIN mechanism handshake failed: Broker: Unsupported SASL \
                 mechanism: broker's supported mechanisms: ",
                "the listener has no login",
                "supported mechanisms",
            ),
        ];
        for (error, words, wrong) in table {
            let (_, text) = advise(error, "k:1");
            assert!(text.contains(words) && !text.contains(wrong), "{text}");
        }
        let (_, text) =
            advise("k:1/1: x mechanism handshake failed: y: broker's supported mechanisms: PLAIN", "k:1");
        assert!(text.contains("supported mechanisms: PLAIN: set kafka.sasl_mechanism"), "{text}");
    }

    #[test]
    fn servers_get_the_default_port() {
        assert_eq!(servers("a, SSL://b:1,,[::1]:2"), ["a:9092", "b:1", "[::1]:2"]);
    }
}
