//! `check --connect` for Kafka: follows the path of a message step by step without publishing, and reports
//! the step at which it fails and why.

mod durability;
mod topic;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::metadata::Metadata;
use rdkafka::producer::{DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};

use super::advice::{ADVERTISED, Step};
use super::context::Statistics;
use super::diagnose::{self, ErrorNotes, Probe, first_answer};
use super::options::Options;
use super::options::{creation_error, producer_config};
use crate::bus::error::StartError;
use crate::bus::inspect::{Level, Report, Requirements};
pub(super) use durability::find_risks;
use topic::Topic;

/// An idempotent producer like the one that serves.
type Client = ThreadedProducer<Callbacks>;

/// For everything together.
const TOTAL: Duration = Duration::from_secs(10);

/// How long the network may take to answer, name resolution included.
const NETWORK: Duration = Duration::from_secs(3);

/// How long the client may take to connect.
const CONNECT: Duration = Duration::from_secs(3);

/// One request while it connects.
const TRY: Duration = Duration::from_secs(1);

/// How long a new client may take to get its producer id.
const PRODUCER_ID: Duration = Duration::from_secs(4);

/// Checks everything on the cluster that serving depends on.
pub async fn inspect(options: Options, requirements: Requirements) -> Result<Report, StartError> {
    let report = Report::new("kafka", options.bootstrap_servers.clone());
    let config = producer_config(&options, &requirements)?;
    let client = Client::from_config_and_context(&config, Callbacks::default())
        .map_err(|error| creation_error(&options, &config, error))?;
    let inspection = Inspection {
        probe: Probe::new(&options),
        deadline: Instant::now() + TOTAL,
        started: Instant::now(),
        options,
        requirements,
        config,
        client,
        report,
    };
    let inspected = tokio::task::spawn_blocking(move || inspection.run());
    Ok(inspected.await.unwrap_or_else(|error| {
        let mut report = Report::new("kafka", "");
        report.add("check", Level::Failed, format!("the check itself failed, please report a bug: {error}"));
        report
    }))
}

/// The client's callbacks.
#[derive(Default)]
struct Callbacks {
    errors: ErrorNotes,
    warm: AtomicBool,
}

impl ClientContext for Callbacks {
    fn error(&self, error: KafkaError, text: &str) {
        self.errors.add(&error, text);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let statistics = serde_json::from_slice::<Statistics>(statistics);
        if statistics.is_ok_and(|statistics| statistics.is_warm()) {
            self.warm.store(true, Ordering::Relaxed);
        }
    }

    /// The report contains everything.
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}
}

impl ProducerContext for Callbacks {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

struct Inspection {
    options: Options,
    requirements: Requirements,
    config: ClientConfig,
    client: Client,
    probe: Probe,
    report: Report,
    deadline: Instant,
    started: Instant,
}

impl Inspection {
    fn run(mut self) -> Report {
        if self.reach() {
            let mut topics = self.topics();
            topic::validate_creation(&mut topics, &self.options.topics, &self.config, self.left());
            topic::read_settings(&mut topics, &self.config, self.left());
            let answers = topic::check_write_permission(&topics, &self.config, self.left());
            topics.iter().for_each(|topic| topic.report(&self.options.topics, &mut self.report));
            topic::report_write_permission(&topics, &answers, &mut self.report);
            self.report_producer_id();
            durability::report_durability(&topics, &mut self.report);
            durability::report_sizes(&topics, &self.requirements, &self.config, &mut self.report);
        }
        self.report
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn topics(&self) -> Vec<Topic> {
        let fetch = |name: &std::sync::Arc<str>| {
            let within = self.left().min(Duration::from_secs(2));
            let metadata = self.client.client().fetch_metadata(Some(name), within);
            Topic::new(name, metadata.as_ref().map_err(ToString::to_string))
        };
        self.requirements.addresses.iter().map(fetch).collect()
    }

    /// An idempotent producer needs an id, which only a client gets that may write somewhere.
    fn report_producer_id(&mut self) {
        let deadline =
            (self.started + PRODUCER_ID).max(Instant::now() + Duration::from_secs(1)).min(self.deadline);
        let (level, detail) = loop {
            if let Some((_, fatal)) = self.client.client().fatal_error() {
                let advice =
                    "grant Write on the topics (brokers before 2.8 also need IdempotentWrite on the cluster)";
                break (Level::Failed, format!("no producer id: {fatal}: {advice}"));
            }
            if self.client.client().context().warm.load(Ordering::Relaxed) {
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
        let servers = self.probe.servers().to_vec();
        let mut closed: Vec<String> = Vec::new();
        for (server, result) in servers.iter().zip(connect_all(&servers)) {
            if let Err(error) = result {
                closed.push(format!("{server}: {}", self.probe.advise(&error).1));
            }
        }
        if closed.len() == servers.len() {
            self.report.add("reachable", Level::Failed, closed.join("; "));
            return false;
        }
        // About one topic, because a list of all can be long.
        let topic = self.requirements.addresses.first().map(|topic| &**topic);
        let client = self.client.client();
        let request = || client.fetch_metadata(topic, TRY);
        match first_answer(&self.probe, &client.context().errors, CONNECT, request) {
            Ok(metadata) => {
                self.report_reached(&metadata, closed);
                self.report_tls();
                self.report_login();
                self.reach_brokers(&metadata)
            }
            Err((step, reason)) => {
                self.report_failure(step, reason);
                false
            }
        }
    }

    fn report_reached(&mut self, metadata: &Metadata, closed: Vec<String>) {
        let count = match metadata.brokers().len() {
            1 => "1 broker".to_owned(),
            many => format!("{many} brokers"),
        };
        if closed.is_empty() {
            self.report.add("reachable", Level::Ok, format!("{count} in the cluster"));
        } else {
            let detail =
                format!("{count} in the cluster, but of kafka.bootstrap_servers: {}", closed.join("; "));
            self.report.add("reachable", Level::Warning, detail);
        }
    }

    /// Clients connect to the addresses that the cluster advertises. True if one is reached.
    fn reach_brokers(&mut self, metadata: &Metadata) -> bool {
        let address =
            |broker: &rdkafka::metadata::MetadataBroker| format!("{}:{}", broker.host(), broker.port());
        let brokers: Vec<_> = metadata.brokers().iter().map(address).collect();
        let mut lost = 0;
        for (broker, result) in brokers.iter().zip(connect_all(&brokers)) {
            if let Err(error) = result {
                let detail = format!("{error}: {ADVERTISED}");
                self.report.add(format!("broker {broker}"), Level::Failed, detail);
                lost += 1;
            }
        }
        lost < brokers.len()
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
        let (level, detail) = if !self.probe.uses_tls() {
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
                let user =
                    options.sasl_username.as_ref().map(|user| format!(" as {user}")).unwrap_or_default();
                if mechanism == "PLAIN" && !self.probe.uses_tls() {
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

/// Connects to all addresses in parallel, so that a slow name server delays only its own.
fn connect_all(servers: &[String]) -> Vec<Result<(), String>> {
    let deadline = Instant::now() + NETWORK;
    let started: Vec<_> = servers
        .iter()
        .map(|server| {
            let (sender, receiver) = sync_channel(1);
            let server = server.clone();
            let connect = move || {
                let connected = diagnose::connect(&server).map(drop).map_err(|error| error.to_string());
                // Fails if the time was over.
                let _ = sender.send(connected);
            };
            (std::thread::Builder::new().spawn(connect), receiver)
        })
        .collect();
    let wait = |receiver: Receiver<Result<(), String>>| {
        let left = deadline.saturating_duration_since(Instant::now());
        receiver.recv_timeout(left).unwrap_or_else(|error| match error {
            RecvTimeoutError::Timeout => Err(format!("timed out after {} s", NETWORK.as_secs())),
            RecvTimeoutError::Disconnected => Err("cannot start a thread to connect".into()),
        })
    };
    started.into_iter().map(|(_, receiver)| wait(receiver)).collect()
}
