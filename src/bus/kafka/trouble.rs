//! Why the client does not get in, in words that an operator can act on.
//!
//! librdkafka's own words come first and what to do after them. Where it has too few words (a
//! certificate "could not be verified", a connection closed without one) the listener is looked at.

use std::path::PathBuf;

use super::options::Options;
use super::tls::{self, Shown};

/// How far the client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// Not to the broker.
    Reach,
    /// Not to an understanding on TLS.
    Tls,
    /// Not past the question who it is.
    Login,
}

/// Parts of librdkafka's texts, how far the client got, and what to do.
const KNOWN: [(&str, Step, &str); 15] = [
    ("connecting to a PLAINTEXT broker listener", Step::Tls, NO_TLS),
    ("connecting to a SSL broker listener", Step::Tls, TLS),
    ("certificate verify failed", Step::Tls, ""),
    ("alert bad certificate", Step::Login, CERTIFICATE),
    ("alert certificate", Step::Login, CERTIFICATE),
    ("certificate required", Step::Login, CERTIFICATE),
    ("alert unknown ca", Step::Login, CERTIFICATE),
    ("SSL handshake failed", Step::Tls, ""),
    ("mechanism handshake failed", Step::Login, "set kafka.sasl_mechanism to one that the listener takes"),
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
const NO_TLS: &str = "the listener speaks no TLS: use the port of one that does; only in a network you trust, \
                      set kafka.security_protocol to \"plaintext\" or \"sasl_plaintext\"";
const TLS: &str = "the listener speaks TLS: set kafka.security_protocol to \"ssl\" or \"sasl_ssl\"";
const CERTIFICATE: &str = "the broker asks for a certificate of this client, or does not accept the one it \
                           has: check kafka.cert_file and kafka.key_file";
const SILENT: &str = "the broker closes the connection without a word: its listener may ask for a login, check \
                      kafka.security_protocol";

/// How far the client got, and its complaint with what to do added.
pub(super) fn words(complaint: &str) -> (Step, String) {
    match KNOWN.iter().find(|(part, ..)| complaint.contains(part)) {
        Some((_, step, "")) => (*step, complaint.to_owned()),
        Some((_, step, advice)) => (*step, format!("{complaint}: {advice}")),
        None => (Step::Reach, complaint.to_owned()),
    }
}

/// Where a look at the listener tells more than the complaint: its address.
pub(super) fn puzzle(complaint: &str) -> Option<&str> {
    let (broker, text) = complaint.split_once(": ")?;
    let broker = broker.split_once("://").map_or(broker, |(_, broker)| broker);
    let (server, _) = broker.split_once('/')?;
    ["certificate verify failed", "Send failed"].iter().any(|part| text.contains(part)).then_some(server)
}

/// Looks at listeners with the eyes of one client.
#[derive(Clone, Debug)]
pub(super) struct Looker {
    tls: bool,
    authorities: Option<PathBuf>,
    servers: Vec<String>,
}

impl Looker {
    pub(super) fn new(options: &Options) -> Self {
        let protocol = options.security_protocol.as_deref().unwrap_or("plaintext").to_ascii_lowercase();
        Self {
            tls: protocol.ends_with("ssl"),
            authorities: options.ca_file.clone(),
            servers: servers(&options.bootstrap_servers),
        }
    }

    /// `host:port` of every server to begin with.
    pub(super) fn servers(&self) -> &[String] {
        &self.servers
    }

    /// True where the client speaks TLS.
    pub(super) const fn wants_tls(&self) -> bool {
        self.tls
    }

    /// Why this client does not get in at a listener, or at the first one; nothing where it should.
    pub(super) fn explain(&self, server: Option<&str>) -> Option<(Step, String)> {
        let server = server.or(self.servers.first().map(String::as_str))?;
        let (step, why) = match (tls::look(server, self.authorities.as_deref()), self.tls) {
            (Shown::Nothing(error), _) => (Step::Reach, words(&error).1),
            (Shown::Plaintext, true) => (Step::Tls, NO_TLS.into()),
            (Shown::Plaintext, false) => (Step::Login, SILENT.into()),
            (Shown::Tls(_), false) => (Step::Tls, TLS.into()),
            (Shown::Tls(Some(problem)), true) => {
                (Step::Tls, format!("the broker's certificate is not accepted: {problem}"))
            }
            (Shown::Tls(None), true) => return None,
        };
        Some((step, format!("{server}: {why}")))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_sorted_and_say_what_to_do() {
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
        for (complaint, step, part) in table {
            let (found, text) = words(complaint);
            assert_eq!(found, step, "{complaint}");
            assert!(text.starts_with(complaint) && text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_certificate_is_a_puzzle() {
        let complaint = "ssl://k:9/bootstrap: SSL handshake failed: x::certificate verify failed: y";
        assert_eq!(puzzle(complaint), Some("k:9"));
        assert_eq!(puzzle("k:9/bootstrap: Send failed: Broken pipe"), Some("k:9"));
        assert_eq!(puzzle("ssl://k:9/bootstrap: SSL handshake failed"), None);
    }

    #[test]
    fn servers_have_ports() {
        assert_eq!(servers("a, SSL://b:1,,[::1]:2"), ["a:9092", "b:1", "[::1]:2"]);
    }
}
