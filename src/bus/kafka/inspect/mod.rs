//! `check --connect` for Kafka: follows the path of a message step by step without publishing, and reports
//! the step at which it fails and why.

mod topic;

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer,
};

use super::callbacks::Statistics;
use super::diagnose::{self, ErrorNotes, Probe, first_answer};
use super::errors::{ADVERTISED, PERMISSION, Step};
use super::options::{Options, Source, creation_error, producer_config};
use super::tokens::{self, Tokens};
use crate::bus::error::StartError;
use crate::bus::inspect::{Level, Report, Requirements};
pub(super) use topic::find_risks;
use topic::{REQUEST, Topic, existing, names};

/// For everything together.
const TOTAL: Duration = Duration::from_secs(10);
/// How long the network may take to answer, name resolution included.
const NETWORK: Duration = Duration::from_secs(3);
/// How long the client may take to connect, and one request meanwhile.
const CONNECT: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(1));
/// How long the token server may take to answer.
const TOKEN: Duration = Duration::from_secs(3);
/// How long a new client may take to get its producer id.
const PRODUCER_ID: Duration = Duration::from_secs(4);

/// Checks everything on the cluster that serving depends on.
pub async fn inspect(options: Options, requirements: Requirements) -> Result<Report, StartError> {
    let config = producer_config(&options, &requirements)?;
    let tokens = tokens::of_verb(options.oauth.clone())?;
    let client = ThreadedProducer::from_config_and_context(&config, Callbacks::new(tokens.clone()))
        .map_err(|error| creation_error(&options, &config, error))?;
    let inspection = Inspection {
        probe: Probe::new(&options),
        started: Instant::now(),
        report: Report::new("kafka", options.bootstrap_servers.clone()),
        options,
        requirements,
        config,
        tokens,
        client,
    };
    let inspected = tokio::task::spawn_blocking(move || inspection.run());
    Ok(inspected.await.unwrap_or_else(|error| {
        let mut report = Report::new("kafka", "");
        report.add("check", Level::Failed, format!("the check itself failed, please report a bug: {error}"));
        report
    }))
}

/// The callbacks of the clients. Their log lines are left out: the report contains everything.
#[derive(Default)]
struct Callbacks {
    errors: ErrorNotes,
    warm: AtomicBool,
    /// By number of the message, the broker's error; none where it accepted the message.
    delivered: Mutex<Vec<(usize, Option<Code>)>>,
    tokens: Option<Tokens>,
}

impl Callbacks {
    fn new(tokens: Option<Tokens>) -> Self {
        Self { tokens, ..Self::default() }
    }
}

impl ClientContext for Callbacks {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        tokens::hand_out(self.tokens.as_ref())
    }

    fn error(&self, error: KafkaError, text: &str) {
        self.errors.add(&error, text);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let statistics = serde_json::from_slice::<Statistics>(statistics);
        if statistics.is_ok_and(|statistics| statistics.is_warm()) {
            self.warm.store(true, Ordering::Relaxed);
        }
    }

    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}
}

impl ProducerContext for Callbacks {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, message: usize) {
        let code = result.as_ref().err().map(|(error, _)| error.rdkafka_error_code());
        self.delivered.lock().push((message, code.map(|code| code.unwrap_or(Code::Unknown))));
    }
}

struct Inspection {
    options: Options,
    requirements: Requirements,
    config: ClientConfig,
    tokens: Option<Tokens>,
    /// An idempotent producer like the one that serves.
    client: ThreadedProducer<Callbacks>,
    probe: Probe,
    report: Report,
    started: Instant,
}

impl Inspection {
    fn run(mut self) -> Report {
        if self.reach() {
            let fetch = |name: &Arc<str>| Topic::fetch(self.client.client(), name, self.left().min(REQUEST));
            let mut topics: Vec<_> = self.requirements.addresses.iter().map(fetch).collect();
            topic::validate_creation(&mut topics, &self.options.topics, &self.config, self.left());
            topic::read_settings(&mut topics, &self.config, self.left());
            let callbacks = Callbacks::new(self.tokens.clone());
            let answers =
                write_permission(&existing(&topics), &self.config, callbacks, self.left().min(REQUEST));
            topics.iter().for_each(|topic| topic.report(&self.options.topics, &mut self.report));
            report_write_permission(&existing(&topics), &answers, &mut self.report);
            self.report_producer_id();
            topic::report_durability(&topics, &self.config, &mut self.report);
            topic::report_sizes(&topics, &self.requirements, &self.config, &mut self.report);
        }
        self.report
    }

    fn left(&self) -> Duration {
        TOTAL.saturating_sub(self.started.elapsed())
    }

    /// An idempotent producer needs an id, which only a client gets that may write somewhere.
    fn report_producer_id(&mut self) {
        let now = Instant::now();
        let deadline =
            (self.started + PRODUCER_ID).max(now + Duration::from_secs(1)).min(self.started + TOTAL);
        let client = self.client.client();
        let (level, detail) = loop {
            if let Some((_, fatal)) = client.fatal_error() {
                break (Level::Failed, format!("no producer id: {fatal}: {PERMISSION}"));
            }
            if client.context().warm.load(Ordering::Relaxed) {
                break (Level::Ok, "the broker assigns this client a producer id".to_owned());
            }
            if Instant::now() >= deadline {
                let detail = "no producer id in time: the broker is busy, or this user may not write yet";
                break (Level::Warning, detail.to_owned());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        self.report.add("idempotence", level, detail);
    }

    /// Checks addresses, TLS, the login and the brokers behind; true if one of the brokers is reached.
    fn reach(&mut self) -> bool {
        let closed: Vec<String> = connect_all(&self.probe.servers)
            .into_iter()
            .map(|(server, error)| format!("{server}: {}", self.probe.advise(&error).1))
            .collect();
        if closed.len() == self.probe.servers.len() {
            self.report.add("reachable", Level::Failed, closed.join("; "));
            return false;
        }
        if let Some(Err(reason)) = self.tokens.as_ref().map(|tokens| tokens.first(TOKEN)) {
            self.report_failure(Step::Login, reason);
            return false;
        }
        // About one topic, because a list of all can be long.
        let topic = self.requirements.addresses.first().map(|topic| &**topic);
        let client = self.client.client();
        let ((within, request), errors) = (CONNECT, &client.context().errors);
        let answer = first_answer(&self.probe, errors, within, || client.fetch_metadata(topic, request));
        let metadata = match answer {
            Ok(metadata) => metadata,
            Err((step, reason)) => {
                self.report_failure(step, reason);
                return false;
            }
        };
        let count = metadata.brokers().len();
        let count = format!("{count} broker{} in the cluster", if count == 1 { "" } else { "s" });
        if closed.is_empty() {
            self.report.add("reachable", Level::Ok, count);
        } else {
            let detail = format!("{count}, but of kafka.bootstrap_servers: {}", closed.join("; "));
            self.report.add("reachable", Level::Warning, detail);
        }
        self.report_tls();
        self.report_login();
        // Clients connect to the addresses that the cluster advertises.
        let brokers = metadata.brokers().iter().map(|broker| format!("{}:{}", broker.host(), broker.port()));
        let brokers: Vec<_> = brokers.collect();
        let lost = connect_all(&brokers);
        for (broker, error) in &lost {
            self.report.add(format!("broker {broker}"), Level::Failed, format!("{error}: {ADVERTISED}"));
        }
        lost.len() < brokers.len()
    }

    fn report_failure(&mut self, step: Step, reason: String) {
        if step == Step::Reach {
            return self.report.add("reachable", Level::Failed, reason);
        }
        self.report.add("reachable", Level::Ok, "the port is open");
        if step == Step::Tls {
            return self.report.add("tls", Level::Failed, reason);
        }
        self.report_tls();
        self.report.add("login", Level::Failed, reason);
    }

    fn report_tls(&mut self) {
        let off = |name: &str, word: &str| {
            self.options.properties.get(name).is_some_and(|value| value.eq_ignore_ascii_case(word))
        };
        let (level, detail) = if !self.probe.tls {
            (Level::Ok, "none: the network in between must be trusted")
        } else if off("enable.ssl.certificate.verification", "false") {
            (Level::Warning, "encrypted, but the broker's certificate is not verified")
        } else if off("ssl.endpoint.identification.algorithm", "none") {
            (Level::Warning, "encrypted, but the broker's host name is not verified")
        } else {
            (Level::Ok, "encrypted; the broker's certificate and host name are valid")
        };
        self.report.add("tls", level, detail);
    }

    fn report_login(&mut self) {
        let options = &self.options;
        let protocol = options.security_protocol.as_deref().unwrap_or_default().to_ascii_lowercase();
        let (level, detail) = match (&options.sasl_mechanism, &options.cert_file) {
            (Some(mechanism), _) if protocol.starts_with("sasl") => {
                let of_tokens = options.oauth.as_ref().map(Source::user);
                let user = of_tokens.or(options.sasl_username.as_deref());
                let user = user.map(|user| format!(" as {user}")).unwrap_or_default();
                if mechanism == "PLAIN" && !self.probe.tls {
                    (Level::Warning, format!("PLAIN{user}: without TLS the password is sent in the clear"))
                } else {
                    (Level::Ok, format!("{mechanism}{user}"))
                }
            }
            (_, Some(file)) => (Level::Ok, format!("by the certificate {}", file.display())),
            _ => (Level::Ok, "none: the broker requires no login".to_owned()),
        };
        self.report.add("login", level, detail);
    }
}

/// The addresses that cannot be connected to, and why. All in parallel, so that a slow name server delays only its
/// own.
fn connect_all(servers: &[String]) -> Vec<(String, String)> {
    let deadline = Instant::now() + NETWORK;
    let start = |server: &String| {
        let ((sender, receiver), server) = (sync_channel(1), server.clone());
        let to = server.clone();
        // Without a thread the sender is dropped. Sending fails if the time was over.
        let connect = move || drop(sender.send(diagnose::connect(&to).map(drop)));
        let _ = std::thread::Builder::new().spawn(connect);
        (server, receiver)
    };
    let started: Vec<_> = servers.iter().map(start).collect();
    let wait = |(server, receiver): (String, std::sync::mpsc::Receiver<std::io::Result<()>>)| {
        let error = match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(connected) => connected.err()?.to_string(),
            Err(RecvTimeoutError::Timeout) => format!("timed out after {} s", NETWORK.as_secs()),
            Err(RecvTimeoutError::Disconnected) => "cannot start a thread to connect".into(),
        };
        Some((server, error))
    };
    started.into_iter().filter_map(wait).collect()
}

/// The broker's error for each topic; `None` where it accepted the message.
type Answers = BTreeMap<Arc<str>, Option<Code>>;

/// Checks for every existing topic whether the user may write, without writing.
///
/// Each topic gets a message that requires the acks of 2 replicas, a number that Kafka refuses since 0.9.
/// The broker checks permissions first: `TOPIC_AUTHORIZATION_FAILED` without Write, else
/// `INVALID_REQUIRED_ACKS`. Nothing is stored in either case.
fn write_permission(
    ready: &[&Topic],
    config: &ClientConfig,
    callbacks: Callbacks,
    within: Duration,
) -> Answers {
    let mut config = config.clone();
    config
        .remove("enable.idempotence")
        .remove("statistics.interval.ms")
        .set("acks", "2")
        .set("retries", "0")
        .set("linger.ms", "0")
        .set("message.timeout.ms", within.as_millis().max(1).to_string());
    let producer = BaseProducer::from_config_and_context(&config, callbacks);
    let Some(producer) = producer.ok().filter(|_| !ready.is_empty()) else { return Answers::new() };
    let delivered = &producer.context().delivered;
    for (at, topic) in ready.iter().enumerate() {
        let record: BaseRecord<'_, str, str, usize> = BaseRecord::with_opaque_to(&topic.name, at);
        let sent = producer.send(record.key("check").payload("attio-bridge check --connect"));
        if let Err((error, _)) = sent {
            delivered.lock().push((at, Some(error.rdkafka_error_code().unwrap_or(Code::Unknown))));
        }
    }
    let deadline = Instant::now() + within;
    while delivered.lock().len() < ready.len() && Instant::now() < deadline {
        producer.poll(Duration::from_millis(20));
    }
    let delivered = delivered.lock();
    delivered.iter().map(|(at, code)| (ready[*at].name.clone(), *code)).collect()
}

fn report_write_permission(ready: &[&Topic], answers: &Answers, report: &mut Report) {
    let (mut denied, mut unknown, mut error) = (Vec::new(), Vec::new(), None);
    for topic in ready {
        match answers.get(&topic.name) {
            Some(Some(Code::InvalidRequiredAcks) | None) => {}
            Some(Some(Code::TopicAuthorizationFailed)) => denied.push(*topic),
            answer => {
                error = error.or(answer.copied().flatten());
                unknown.push(*topic);
            }
        }
    }
    let mut add = |level, detail| report.add("permission to write", level, detail);
    let names = |topics: &[&Topic]| names(topics, ready.len());
    if !denied.is_empty() {
        let denied = names(&denied);
        add(Level::Failed, format!("not allowed on {denied}: grant Write to the user of this client"));
    }
    if !unknown.is_empty() {
        let error = error.map_or("no answer in time".to_owned(), |code| code.to_string());
        add(Level::Warning, format!("unknown for {}: {error}", names(&unknown)));
    }
    if denied.is_empty() && unknown.is_empty() && !ready.is_empty() {
        add(Level::Ok, format!("allowed on {}; nothing was written", names(ready)));
    }
}
