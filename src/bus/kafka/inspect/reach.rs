//! The way in: the address, TLS, the login, and the brokers behind.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use rdkafka::metadata::Metadata;
use rdkafka::producer::Producer;

use super::Inspection;
use crate::bus::inspect::Level;
use crate::bus::kafka::tls;
use crate::bus::kafka::trouble::{self, Step};

/// How long the network may take to answer, names included.
const NETWORK: Duration = Duration::from_secs(3);

/// How long the client may take to get in.
const GET_IN: Duration = Duration::from_secs(3);

/// One try of the client.
const TRY: Duration = Duration::from_secs(1);

impl Inspection {
    /// True once the client is in.
    pub(super) fn reach(&mut self) -> bool {
        let servers = self.looker.servers().to_vec();
        let mut closed: Vec<String> = Vec::new();
        let results = connect_all(&servers);
        for (server, result) in servers.iter().zip(&results) {
            if let Err(error) = result {
                closed.push(format!("{server}: {}", trouble::words(error).1));
            }
        }
        if closed.len() == servers.len() {
            self.report.add("reachable", Level::Failed, closed.join("; "));
            return false;
        }
        match self.get_in() {
            Ok(metadata) => {
                self.tell_reached(&metadata, closed);
                self.tell_tls();
                self.tell_login();
                self.reach_brokers(&metadata)
            }
            Err((step, why)) => {
                self.tell_refused(step, why);
                false
            }
        }
    }

    /// Asks for the brokers until there is an answer or a reason why there is none.
    fn get_in(&self) -> Result<Metadata, (Step, String)> {
        let deadline = Instant::now() + GET_IN;
        loop {
            // About one topic, because a list of all can be long.
            let topic = self.requirements.addresses.first().map(|topic| &**topic);
            let error = match self.client.client().fetch_metadata(topic, TRY) {
                Ok(metadata) => return Ok(metadata),
                Err(error) => error,
            };
            let complaints = self.client.client().context().complaints();
            let farthest =
                complaints.iter().map(|text| (trouble::words(text), text)).max_by_key(|((step, _), _)| *step);
            if let Some(((step, words), complaint)) = farthest {
                let explained =
                    trouble::puzzle(complaint).and_then(|server| self.looker.explain(Some(server)));
                return Err(explained.unwrap_or((step, words)));
            }
            if Instant::now() >= deadline {
                let silent = || (Step::Reach, format!("no answer within {} s: {error}", GET_IN.as_secs()));
                return Err(self.looker.explain(None).unwrap_or_else(silent));
            }
        }
    }

    fn tell_reached(&mut self, metadata: &Metadata, closed: Vec<String>) {
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

    /// Clients are sent on to these addresses, whatever address they came by. True if one is reached.
    fn reach_brokers(&mut self, metadata: &Metadata) -> bool {
        let brokers = addresses(metadata);
        let mut lost = 0;
        for (broker, result) in brokers.iter().zip(connect_all(&brokers)) {
            if let Err(error) = result {
                let detail = format!(
                    "{error}: the cluster sends clients to this address, check the broker's advertised.listeners"
                );
                self.report.add(format!("broker {broker}"), Level::Failed, detail);
                lost += 1;
            }
        }
        lost < brokers.len()
    }

    fn tell_refused(&mut self, step: Step, why: String) {
        if step == Step::Reach {
            return self.report.add("reachable", Level::Failed, why);
        }
        self.report.add("reachable", Level::Ok, "the port is open");
        if step == Step::Tls {
            return self.report.add("tls", Level::Failed, why);
        }
        self.tell_tls();
        self.report.add("login", Level::Failed, why);
    }

    fn tell_tls(&mut self) {
        let off = |name: &str, word: &str| {
            self.options.properties.get(name).is_some_and(|value| value.eq_ignore_ascii_case(word))
        };
        let (level, detail) = if !self.looker.wants_tls() {
            (Level::Ok, "none: the network between must be trusted")
        } else if off("enable.ssl.certificate.verification", "false") {
            (Level::Warning, "encrypted, but the broker's certificate is not checked")
        } else if off("ssl.endpoint.identification.algorithm", "none") {
            (Level::Warning, "encrypted, but the broker's host name is not checked")
        } else {
            (Level::Ok, "encrypted; the broker's certificate and host name are good")
        };
        self.report.add("tls", level, detail);
    }

    fn tell_login(&mut self) {
        let options = &self.options;
        let sasl =
            options.security_protocol.as_deref().is_some_and(|p| p.to_ascii_lowercase().starts_with("sasl"));
        let (level, detail) = match (&options.sasl_mechanism, &options.cert_file) {
            (Some(mechanism), _) if sasl => {
                let user =
                    options.sasl_username.as_ref().map(|user| format!(" as {user}")).unwrap_or_default();
                if mechanism == "PLAIN" && !self.looker.wants_tls() {
                    (Level::Warning, format!("PLAIN{user}: without TLS the password travels in the clear"))
                } else {
                    (Level::Ok, format!("{mechanism}{user}"))
                }
            }
            (_, Some(file)) => (Level::Ok, format!("by the certificate {}", file.display())),
            _ => (Level::Ok, "none: the broker does not ask who is there".to_owned()),
        };
        self.report.add("login", level, detail);
    }
}

/// `host:port` of every broker.
fn addresses(metadata: &Metadata) -> Vec<String> {
    metadata.brokers().iter().map(|broker| format!("{}:{}", broker.host(), broker.port())).collect()
}

/// Tries every address at once; a name server that hangs does not hold the others up.
fn connect_all(servers: &[String]) -> Vec<Result<(), String>> {
    let deadline = Instant::now() + NETWORK;
    let begun: Vec<_> = servers
        .iter()
        .map(|server| {
            let (tell, told) = sync_channel(1);
            let server = server.clone();
            let connect =
                move || drop(tell.send(tls::connect(&server).map(drop).map_err(|error| error.to_string())));
            (std::thread::Builder::new().spawn(connect), told)
        })
        .collect();
    let wait = |told: std::sync::mpsc::Receiver<Result<(), String>>| {
        let left = deadline.saturating_duration_since(Instant::now());
        told.recv_timeout(left).unwrap_or_else(|error| match error {
            RecvTimeoutError::Timeout => Err(format!("timed out after {} s", NETWORK.as_secs())),
            RecvTimeoutError::Disconnected => Err("cannot be tried: no thread".into()),
        })
    };
    begun.into_iter().map(|(_, told)| wait(told)).collect()
}
