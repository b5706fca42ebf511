//! Why the client cannot connect, and what to do about it.
//!
//! librdkafka's text comes first, then advice. Where the text is too vague (a certificate "could not be
//! verified", a connection closed without an error) the listener is probed. That can take seconds, so it
//! runs on its own thread.

mod tls;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};

pub(super) use tls::connect;

use super::health::{ConnectionError, Failure, Health};
use super::options::Options;
use tls::TlsInfo;

/// The step at which a connection fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Reach,
    Tls,
    Login,
}

/// Parts of librdkafka's error texts, the step at which they occur, and what to do.
const ADVICE: [(&str, Step, &str); 15] = [
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
    ("Failed to resolve", Step::Reach, NAME),
    ("failed to lookup address", Step::Reach, NAME),
    (
        "Connection refused",
        Step::Reach,
        "check the address in kafka.bootstrap_servers, and that the broker runs",
    ),
    ("timed out", Step::Reach, "check the address in kafka.bootstrap_servers, and the firewalls on the way"),
];

const NAME: &str = "check the names in kafka.bootstrap_servers";
const NO_TLS: &str = "the listener does not use TLS: use the port of one that does; only in a network you trust, \
                      set kafka.security_protocol to \"plaintext\" or \"sasl_plaintext\"";
const TLS: &str = "the listener uses TLS: set kafka.security_protocol to \"ssl\" or \"sasl_ssl\"";
const CERTIFICATE: &str = "the broker requires a client certificate, or rejects the one it got: check \
                           kafka.cert_file and kafka.key_file";
const CLOSED: &str = "the broker closes the connection without an error: its listener may require a login, check \
                      kafka.security_protocol";

/// The step at which the client failed, and its error text with advice.
pub(super) fn advise(error: &str) -> (Step, String) {
    match ADVICE.iter().find(|(part, ..)| error.contains(part)) {
        Some((_, step, "")) => (*step, error.to_owned()),
        Some((_, step, advice)) => (*step, format!("{error}: {advice}")),
        None => (Step::Reach, error.to_owned()),
    }
}

/// The listener to probe, if the error text is too vague.
fn listener_to_probe(error: &str) -> Option<&str> {
    let (broker, text) = error.split_once(": ")?;
    let broker = broker.split_once("://").map_or(broker, |(_, broker)| broker);
    let (server, _) = broker.split_once('/')?;
    ["certificate verify failed", "Send failed"].iter().any(|part| text.contains(part)).then_some(server)
}

/// Probes listeners with one client's TLS settings.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    tls: bool,
    authorities: Option<PathBuf>,
    servers: Vec<String>,
}

impl Probe {
    pub(super) fn new(options: &Options) -> Self {
        let protocol = options.security_protocol.as_deref().unwrap_or("plaintext").to_ascii_lowercase();
        Self {
            tls: protocol.ends_with("ssl"),
            authorities: options.ca_file.clone(),
            servers: servers(&options.bootstrap_servers),
        }
    }

    /// `host:port` of every bootstrap server.
    pub(super) fn servers(&self) -> &[String] {
        &self.servers
    }

    /// Whether the client uses TLS.
    pub(super) const fn uses_tls(&self) -> bool {
        self.tls
    }

    /// Why this client cannot connect to a listener, by default the first; none if it should be able to.
    pub(super) fn explain(&self, server: Option<&str>) -> Option<(Step, String)> {
        let server = server.or(self.servers.first().map(String::as_str))?;
        let (step, reason) = match (tls::probe(server, self.authorities.as_deref()), self.tls) {
            (TlsInfo::Unreachable(error), _) => (Step::Reach, advise(&error).1),
            (TlsInfo::Plaintext, true) => (Step::Tls, NO_TLS.into()),
            (TlsInfo::Plaintext, false) => (Step::Login, CLOSED.into()),
            (TlsInfo::Tls(_), false) => (Step::Tls, TLS.into()),
            (TlsInfo::Tls(Some(problem)), true) => {
                (Step::Tls, format!("the broker's certificate is not accepted: {problem}"))
            }
            (TlsInfo::Tls(None), true) => return None,
        };
        Some((step, format!("{server}: {reason}")))
    }
}

/// The entries of `kafka.bootstrap_servers` as librdkafka reads them.
fn servers(list: &str) -> Vec<String> {
    let entry = |entry: &str| {
        let plain = entry.split_once("://").map_or(entry, |(_, plain)| plain);
        let has_port = plain.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        if has_port { plain.to_owned() } else { format!("{plain}:9092") }
    };
    list.split(',').map(str::trim).filter(|text| !text.is_empty()).map(entry).collect()
}

/// The errors of a client that only inspects or reads.
#[derive(Default)]
pub(super) struct ErrorNotes(Mutex<Vec<String>>);

/// More errors explain nothing more.
const MAX_NOTES: usize = 32;

impl ErrorNotes {
    /// Notes an error that can explain why the client cannot connect.
    pub(super) fn add(&self, error: &KafkaError, text: &str) {
        // The reader joins no group, so it needs no right to.
        let beside = [Code::AllBrokersDown, Code::Fatal, Code::GroupAuthorizationFailed];
        if error.rdkafka_error_code().is_some_and(|code| beside.contains(&code)) {
            return;
        }
        let text = without_suffix(text).to_owned();
        let mut notes = self.0.lock();
        if notes.len() < MAX_NOTES && !notes.contains(&text) {
            notes.push(text);
        }
    }

    /// The error of the attempt that failed at the last step.
    fn farthest(&self) -> Option<String> {
        self.0.lock().iter().max_by_key(|text| advise(text).0).cloned()
    }
}

/// Repeats a request until it succeeds, its failure can be explained, or the time is over.
pub(super) fn first_answer<T>(
    probe: &Probe,
    notes: &ErrorNotes,
    within: Duration,
    mut request: impl FnMut() -> KafkaResult<T>,
) -> Result<T, (Step, String)> {
    let deadline = Instant::now() + within;
    loop {
        let error = match request() {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        if let Some(text) = notes.farthest() {
            let explained = listener_to_probe(&text).and_then(|server| probe.explain(Some(server)));
            return Err(explained.unwrap_or_else(|| advise(&text)));
        }
        if Instant::now() >= deadline {
            let silent = || (Step::Reach, format!("no answer within {} s: {error}", within.as_secs()));
            return Err(probe.explain(None).unwrap_or_else(silent));
        }
    }
}

/// Diagnoses connection failures until the bus is dropped. `explain` may take seconds: it probes a
/// listener, by default the first.
pub(super) fn run(
    failures: &Receiver<Failure>,
    health: &Health,
    explain: impl Fn(Option<&str>) -> Option<String>,
) {
    let mut diagnosis =
        Diagnosis { health, explain, contacts: 0, logged: HashMap::new(), explained: HashMap::new() };
    while let Ok(failure) = failures.recv() {
        diagnosis.handle(failure);
    }
}

/// An error of the same kind is logged again, and a listener probed again, after this.
const REPEAT: Duration = Duration::from_secs(60);

struct Diagnosis<'h, F> {
    health: &'h Health,
    explain: F,
    /// The contact with a broker since which the errors below occurred.
    contacts: u64,
    logged: HashMap<String, Instant>,
    explained: HashMap<String, (Instant, Arc<str>)>,
}

impl<F: Fn(Option<&str>) -> Option<String>> Diagnosis<'_, F> {
    fn handle(&mut self, failure: Failure) {
        if failure.contacts != self.contacts {
            self.contacts = failure.contacts;
            self.logged.clear();
            self.explained.clear();
        }
        match failure.error {
            Some(ConnectionError { code, text }) => {
                let text = without_suffix(&text);
                match listener_to_probe(text) {
                    Some(server) => self.probe(&code, Some(server), text),
                    None => self.advise(&code, text),
                }
            }
            // An error that came meanwhile says more.
            None if self.health.cause().is_some() => {}
            None => self.probe("AllBrokersDown", None, "all brokers are down"),
        }
    }

    fn advise(&mut self, code: &str, text: &str) {
        let reason: Arc<str> = advise(text).1.into();
        self.health.explain(self.contacts, Arc::clone(&reason));
        self.logged.retain(|_, at| at.elapsed() < REPEAT);
        if self.logged.insert(kind(text), Instant::now()).is_none() {
            tracing::warn!(code, %reason, "kafka: cannot connect to a broker");
        }
    }

    fn probe(&mut self, code: &str, server: Option<&str>, text: &str) {
        self.explained.retain(|_, (at, _)| at.elapsed() < REPEAT);
        if let Some((_, reason)) = self.explained.get(&kind(text)) {
            return self.health.explain(self.contacts, Arc::clone(reason));
        }
        let reason: Arc<str> = (self.explain)(server).unwrap_or_else(|| text.to_owned()).into();
        self.explained.insert(kind(text), (Instant::now(), Arc::clone(&reason)));
        if server.is_some() || self.health.cause().is_none() {
            self.health.explain(self.contacts, Arc::clone(&reason));
        }
        tracing::warn!(code, %reason, "kafka: cannot connect to a broker");
    }
}

/// The text without what differs on every attempt.
fn without_suffix(text: &str) -> &str {
    text.split(" (after ").next().unwrap_or(text)
}

/// What errors that differ only by numbers have in common.
fn kind(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::bus::kafka::tests::bus_metrics;

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
            let (found, text) = advise(error);
            assert_eq!(found, step, "{error}");
            assert!(text.starts_with(error) && text.contains(part), "{text}");
        }
    }

    #[test]
    fn vague_errors_name_the_listener_to_probe() {
        let error = "ssl://k:9/bootstrap: SSL handshake failed: x::certificate verify failed: y";
        assert_eq!(listener_to_probe(error), Some("k:9"));
        assert_eq!(listener_to_probe("k:9/bootstrap: Send failed: Broken pipe"), Some("k:9"));
        assert_eq!(listener_to_probe("ssl://k:9/bootstrap: SSL handshake failed"), None);
    }

    #[test]
    fn servers_get_the_default_port() {
        assert_eq!(servers("a, SSL://b:1,,[::1]:2"), ["a:9092", "b:1", "[::1]:2"]);
    }

    const CERTIFICATE: &str = "ssl://k:9/bootstrap: SSL handshake failed: certificate verify failed: why";

    /// Diagnoses what the health has reported by then; returns how often a listener was probed.
    fn diagnose(health: &Health, failures: &Receiver<Failure>, explanation: &str) -> usize {
        let probes = Cell::new(0);
        let explain = |_: Option<&str>| {
            probes.set(probes.get() + 1);
            Some(explanation.to_owned())
        };
        health.stop();
        run(failures, health, explain);
        probes.get()
    }

    #[test]
    fn a_vague_error_is_probed_once_and_its_explanation_is_the_cause() {
        let (health, failures) = Health::new("k:9".into(), bus_metrics());
        health.lost();
        for attempt in 0..3 {
            let text = format!("{CERTIFICATE} (after {attempt}ms in state CONNECT)");
            health.connection_error("SSL".into(), &text);
        }
        health.connection_error("SSL".into(), CERTIFICATE);
        assert_eq!(diagnose(&health, &failures, "it has expired"), 1);
        assert_eq!(health.cause().as_deref(), Some("it has expired"));
        assert!(health.down().unwrap().ends_with(": it has expired"));
    }

    #[test]
    fn a_silent_loss_is_probed_unless_an_error_explains_it() {
        let (health, failures) = Health::new("k:9".into(), bus_metrics());
        health.lost();
        assert_eq!(diagnose(&health, &failures, "closed"), 1);
        assert_eq!(health.cause().as_deref(), Some("closed"));

        let (health, failures) = Health::new("k:9".into(), bus_metrics());
        health.lost();
        health.connection_error("Authentication".into(), "SASL authentication error: no");
        assert_eq!(diagnose(&health, &failures, "closed"), 0);
        assert!(health.cause().unwrap().starts_with("SASL authentication error: no: check"));
    }
}
