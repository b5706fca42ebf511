//! Why the client cannot connect, and what to do about it. Where librdkafka's text is too vague (a certificate "could
//! not be verified", a connection closed without an error) the listener is probed. That can take seconds, so it runs on
//! its own thread.

mod tls;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};

pub(super) use tls::connect;

use super::errors::{
    ADVERTISED, CLOSED, NO_TLS, PERMISSION, Step, TLS, advise, after_contact, broker, name_stranger, servers,
    without_suffix,
};
use super::health::{Health, Task};
use super::options::Options;
use super::repeats::{REPEAT, Repeats, kind};
use tls::TlsInfo;

/// The listener to probe, if the error text is too vague.
fn listener_to_probe(error: &str) -> Option<&str> {
    let vague = [
        "certificate verify failed",
        "Send failed",
        "connecting to a PLAINTEXT broker listener",
        "ApiVersionRequest failed",
        "timed out, verify that security.protocol",
    ];
    let (server, _) = broker(error)?;
    vague.iter().any(|part| error.contains(part)).then_some(server)
}

/// Probes listeners with one client's TLS settings.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    pub tls: bool,
    authorities: Option<PathBuf>,
    bootstrap: String,
    /// `host:port` of every bootstrap server.
    pub servers: Vec<String>,
}

impl Probe {
    pub(super) fn new(options: &Options) -> Self {
        let protocol = options.security_protocol.as_deref().unwrap_or("plaintext").to_ascii_lowercase();
        Self {
            tls: protocol.ends_with("ssl"),
            authorities: options.ca_file.clone(),
            servers: servers(&options.bootstrap_servers),
            bootstrap: options.bootstrap_servers.clone(),
        }
    }

    pub(super) fn advise(&self, error: &str) -> (Step, String) {
        advise(error, &self.bootstrap)
    }

    /// Why this client cannot connect to a listener, by default the first; none if it should be able to.
    pub(super) fn explain(&self, server: Option<&str>) -> Option<(Step, String)> {
        let server = server.or(self.servers.first().map(String::as_str))?;
        let found = tls::probe(server, self.authorities.as_deref());
        // What speaks neither TLS nor Kafka may speak something else.
        let silent = matches!(&found, TlsInfo::Unreachable(error) if error == tls::SILENCE);
        if (silent || found == TlsInfo::Plaintext)
            && let Some(stranger) = tls::first_words(server, self.tls).as_deref().and_then(name_stranger)
        {
            return Some((Step::Reach, format!("{server}: {stranger}")));
        }
        let (step, reason) = match (found, self.tls) {
            (TlsInfo::Unreachable(error), _) if self.servers.iter().any(|known| known == server) => {
                (Step::Reach, self.advise(&error).1)
            }
            (TlsInfo::Unreachable(error), _) => (Step::Reach, format!("{error}: {ADVERTISED}")),
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

/// The errors of a client that only inspects or reads. More than 32 explain nothing more.
#[derive(Default)]
pub(super) struct ErrorNotes(Mutex<Vec<String>>);

impl ErrorNotes {
    /// Notes an error that can explain why the client cannot connect.
    pub(super) fn add(&self, error: &KafkaError, text: &str) {
        // The reader joins no group, so it needs no right to.
        let beside = [Code::AllBrokersDown, Code::Fatal, Code::GroupAuthorizationFailed];
        let text = without_suffix(text).to_owned();
        let mut notes = self.0.lock();
        let is_new = notes.len() < 32 && !notes.contains(&text);
        if is_new && !error.rdkafka_error_code().is_some_and(|code| beside.contains(&code)) {
            notes.push(text);
        }
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
        // The error of the attempt that failed at the last step.
        let farthest = notes.0.lock().iter().max_by_key(|text| probe.advise(text).0).cloned();
        if let Some(text) = farthest {
            let explained = listener_to_probe(&text).and_then(|server| probe.explain(Some(server)));
            return Err(explained.unwrap_or_else(|| probe.advise(&text)));
        }
        if Instant::now() >= deadline {
            let silent = || (Step::Reach, format!("no answer within {} s: {error}", within.as_secs()));
            return Err(probe.explain(None).unwrap_or_else(silent));
        }
    }
}

/// Diagnoses connection failures until the bus is dropped. `explain` may take seconds: it probes a
/// listener, by default the first. `risks` looks at the topics' settings.
pub(super) fn run(
    tasks: &Receiver<Task>,
    health: &Health,
    explain: impl Fn(Option<&str>) -> Option<String>,
    risks: impl Fn() -> Option<Vec<String>>,
) {
    let (logged, explained) = (Repeats::default(), HashMap::new());
    let mut diagnosis = Diagnosis { health, explain, contacts: 0, logged, explained };
    while let Ok(task) = tasks.recv() {
        match task {
            Task::Failure { contacts, error } => diagnosis.handle(contacts, error),
            Task::Settings => risks().into_iter().for_each(|risks| health.set_risks(risks)),
        }
    }
}

struct Diagnosis<'h, F> {
    health: &'h Health,
    explain: F,
    /// The contact with a broker since which the errors below occurred.
    contacts: u64,
    logged: Repeats,
    /// By kind of the error; a listener is probed again after [`REPEAT`].
    explained: HashMap<String, (Instant, Arc<str>)>,
}

impl<F: Fn(Option<&str>) -> Option<String>> Diagnosis<'_, F> {
    fn handle(&mut self, contacts: u64, error: Option<(String, String)>) {
        if contacts != self.contacts {
            self.contacts = contacts;
            self.logged.clear();
            self.explained.clear();
        }
        match error {
            Some((code, text)) => {
                let text = without_suffix(&text);
                match listener_to_probe(text) {
                    Some(server) => self.probe(&code, Some(server), text),
                    None => {
                        self.found(&code, self.advised(advise(text, &self.health.bootstrap).1).into(), true)
                    }
                }
            }
            // An error that came meanwhile says more.
            None if self.health.cause().is_some() => {}
            None => self.probe("AllBrokersDown", None, "all brokers are down"),
        }
    }

    /// The error text with advice that holds for a broker that was reached before, if one was.
    fn advised(&self, text: String) -> String {
        if self.contacts > 0 { after_contact(&text) } else { text }
    }

    fn probe(&mut self, code: &str, server: Option<&str>, text: &str) {
        self.explained.retain(|_, (at, _)| at.elapsed() < REPEAT);
        if let Some((_, reason)) = self.explained.get(&kind(text)) {
            return self.found(code, Arc::clone(reason), true);
        }
        if server.is_some() {
            // Until the listener is probed.
            let reason = self.advised(advise(text, &self.health.bootstrap).1);
            self.health.explain(self.contacts, reason.into());
        }
        let reason = (self.explain)(server).unwrap_or_else(|| text.to_owned());
        let reason: Arc<str> = self.advised(reason).into();
        self.explained.insert(kind(text), (Instant::now(), Arc::clone(&reason)));
        self.found(code, reason, server.is_some() || self.health.cause().is_none());
    }

    /// Logs one line a minute for each reason, and replaces the cause that is known.
    fn found(&self, code: &str, reason: Arc<str>, is_cause: bool) {
        if let Some(repeated) = self.logged.pass(&kind(&reason)) {
            let reason = &*reason;
            if reason.ends_with(PERMISSION) {
                tracing::error!(
                    code,
                    reason,
                    repeated,
                    "kafka: the broker does not allow what the bridge needs"
                );
            } else {
                tracing::warn!(code, reason, repeated, "kafka: cannot connect to a broker");
            }
        }
        if is_cause {
            self.health.explain(self.contacts, reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::bus::kafka::tests::bus_metrics;

    #[test]
    fn vague_errors_name_the_listener_to_probe() {
        let error = "ssl://k:9/bootstrap: SSL handshake failed: x::certificate verify failed: y";
        assert_eq!(listener_to_probe(error), Some("k:9"));
        assert_eq!(listener_to_probe("k:9/bootstrap: Send failed: Broken pipe"), Some("k:9"));
        assert_eq!(listener_to_probe("ssl://k:9/bootstrap: SSL handshake failed"), None);
    }

    const CERTIFICATE: &str = "ssl://k:9/bootstrap: SSL handshake failed: certificate verify failed: why";

    /// Diagnoses what the health has reported by then; returns how often a listener was probed.
    fn diagnose(health: &Health, failures: &Receiver<Task>, explanation: &str) -> usize {
        let probes = Cell::new(0);
        let explain = |_: Option<&str>| {
            probes.set(probes.get() + 1);
            Some(explanation.to_owned())
        };
        health.stop();
        run(failures, health, explain, || None);
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

    const CLOSED_BY_BROKER: &str = "k:9/1: Disconnected: verify that security.protocol is correctly configured, \
                                    broker might require SASL authentication";

    #[test]
    fn a_login_is_blamed_only_before_a_broker_was_reached() {
        for (reached, told) in [(false, "may require a login"), (true, "it may be restarting")] {
            for silent in [false, true] {
                let (health, failures) = Health::new("k:9".into(), bus_metrics());
                if reached {
                    health.reached(health.disconnects());
                }
                health.lost();
                if !silent {
                    health.connection_error("BrokerTransportFailure".into(), CLOSED_BY_BROKER);
                }
                diagnose(&health, &failures, CLOSED);
                let cause = health.cause().unwrap();
                assert!(cause.contains(told), "reached: {reached}, silent: {silent}: {cause}");
                assert_eq!(cause.contains("a login"), !reached, "{cause}");
            }
        }
    }

    #[test]
    fn a_missing_permission_has_its_advice() {
        let (health, failures) = Health::new("k:9".into(), bus_metrics());
        let text =
            "k:9/1: Failed to acquire idempotence PID from broker: Broker: Cluster authorization failed";
        health.connection_error("ClusterAuthorizationFailed".into(), text);
        diagnose(&health, &failures, "none");
        assert!(health.cause().unwrap().contains("grant Write on the topics"), "{:?}", health.cause());
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
