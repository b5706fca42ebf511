//! Whether the user may write, found out without writing.
//!
//! Each topic is sent one message that asks for the acks of 2 replicas, a number that Kafka refuses
//! since 0.9. The broker looks at the rights first: `TOPIC_AUTHORIZATION_FAILED` without Write,
//! `INVALID_REQUIRED_ACKS` with it. In neither case is anything stored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

use super::topic::{Topic, names};
use crate::bus::inspect::{Level, Report};
use crate::bus::kafka::topics::Found;

/// How long the broker may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the broker said of each topic; `None` where it took the message.
pub(super) type Answers = BTreeMap<Arc<str>, Option<Code>>;

#[derive(Default)]
struct Notes(Mutex<Vec<(usize, Option<Code>)>>);

impl ClientContext for Notes {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, _: KafkaError, _: &str) {}
}

impl ProducerContext for Notes {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, topic: usize) {
        let code =
            result.as_ref().err().map(|(error, _)| error.rdkafka_error_code().unwrap_or(Code::Unknown));
        self.0.lock().push((topic, code));
    }
}

/// Asks about every topic that is there.
pub(super) fn probe(topics: &[Topic], config: &ClientConfig, left: Duration) -> Answers {
    let there: Vec<_> = topics.iter().filter(|topic| topic.found == Found::There).collect();
    let patience = left.min(PATIENCE);
    let Some(producer) = producer(config, patience).filter(|_| !there.is_empty()) else {
        return Answers::new();
    };
    for (at, topic) in there.iter().enumerate() {
        let record: BaseRecord<'_, str, str, usize> = BaseRecord::with_opaque_to(&topic.name, at);
        let sent = producer.send(record.key("check").payload("attio-bridge check --connect"));
        if let Err((error, _)) = sent {
            let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
            producer.context().0.lock().push((at, Some(code)));
        }
    }
    let deadline = Instant::now() + patience;
    while producer.context().0.lock().len() < there.len() && Instant::now() < deadline {
        producer.poll(Duration::from_millis(20));
    }
    let notes = producer.context().0.lock();
    notes.iter().map(|(at, code)| (there[*at].name.clone(), *code)).collect()
}

fn producer(config: &ClientConfig, patience: Duration) -> Option<BaseProducer<Notes>> {
    let mut config = config.clone();
    config
        .remove("enable.idempotence")
        .remove("statistics.interval.ms")
        .set("acks", "2")
        .set("retries", "0")
        .set("linger.ms", "0")
        .set("message.timeout.ms", patience.as_millis().max(1).to_string());
    BaseProducer::from_config_and_context(&config, Notes::default()).ok()
}

/// The row about rights.
pub(super) fn tell(topics: &[Topic], answers: &Answers, report: &mut Report) {
    let there: Vec<_> = topics.iter().filter(|topic| topic.found == Found::There).collect();
    if there.is_empty() {
        return;
    }
    let with = |wanted: fn(Option<&Option<Code>>) -> bool| -> Vec<&Topic> {
        there.iter().copied().filter(|topic| wanted(answers.get(&topic.name))).collect()
    };
    let denied = with(|answer| matches!(answer, Some(Some(Code::TopicAuthorizationFailed))));
    let allowed = with(|answer| matches!(answer, Some(Some(Code::InvalidRequiredAcks) | None)));
    if !denied.is_empty() {
        let detail =
            format!("not allowed on {}: grant Write to the user of this client", names(&denied, there.len()));
        report.add("permission to write", Level::Failed, detail);
    }
    let unknown: Vec<_> = there
        .iter()
        .copied()
        .filter(|topic| {
            ![&denied, &allowed].iter().any(|list| list.iter().any(|other| other.name == topic.name))
        })
        .collect();
    if !unknown.is_empty() {
        let said = unknown.iter().find_map(|topic| answers.get(&topic.name).copied().flatten());
        let said = said.map_or("no answer in time".to_owned(), |code| code.to_string());
        let detail = format!("not known for {}: {said}", names(&unknown, there.len()));
        report.add("permission to write", Level::Warning, detail);
    }
    if allowed.len() == there.len() {
        let detail = format!("allowed on {}; nothing was written", names(&allowed, there.len()));
        report.add("permission to write", Level::Ok, detail);
    }
}
