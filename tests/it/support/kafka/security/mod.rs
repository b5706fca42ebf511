//! A Kafka with one listener for each kind of TLS and login, and ACLs.
//!
//! The plain listener is the administrator's, so that the methods of [`Broker`] work as usual.
//!
//! ```ignore
//! let secured = security::shared();                 // one for the whole test process
//! let options = secured.options(Door::SaslTls, Login::scram_512());
//! secured.allow(USER, &topic);
//! ```

mod access;
pub mod msk;
pub mod tokens;
pub mod wrong;

use std::sync::{Arc, LazyLock};

use attio_bridge::bus::kafka::Options;

pub use access::{Operation, Topics};

use super::Broker;
use super::node::Layout;
use crate::support::certificates::{CLIENT, Certificates, OTHER_CLIENT};
use crate::support::ports::free_ports;

/// The default user, without permissions until [`Secured::allow`]; also the name in the client's certificate.
pub const USER: &str = CLIENT;

/// A user with permissions for a prefix only.
pub const SECOND_USER: &str = OTHER_CLIENT;

/// The user of `state`, with the permissions that `topics` prints for it.
pub const STATE_USER: &str = "state-writer";

/// A user without permissions.
pub const UNPRIVILEGED_USER: &str = "unprivileged";

/// The password of every user.
pub const PASSWORD: &str = "bridge-password";

const PLAIN_LOGIN: &str = "org.apache.kafka.common.security.plain.PlainLoginModule";

/// A listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// TLS; anonymous clients may do everything.
    Tls,
    /// TLS that requires a client certificate.
    MutualTls,
    /// PLAIN and SCRAM without TLS.
    Sasl,
    /// PLAIN and SCRAM over TLS.
    SaslTls,
    /// OAUTHBEARER with unsecured tokens.
    OauthBearer,
    /// TLS with a certificate that has expired.
    Expired,
    /// TLS with a certificate for another host.
    Elsewhere,
    /// TLS with a certificate of an unknown authority.
    Foreign,
    /// Plaintext, with an advertised address that cannot be reached.
    Lost,
}

impl Door {
    const ALL: [(Self, &'static str, &'static str); 9] = [
        (Self::Tls, "TLS", "SSL"),
        (Self::MutualTls, "MTLS", "SSL"),
        (Self::Sasl, "SASLP", "SASL_PLAINTEXT"),
        (Self::SaslTls, "SASLS", "SASL_SSL"),
        (Self::OauthBearer, "OAUTH", "SASL_PLAINTEXT"),
        (Self::Expired, "EXPIRED", "SSL"),
        (Self::Elsewhere, "ELSEWHERE", "SSL"),
        (Self::Foreign, "FOREIGN", "SSL"),
        (Self::Lost, "LOST", "PLAINTEXT"),
    ];

    fn protocol(self) -> &'static str {
        Self::ALL.iter().find(|(door, ..)| *door == self).expect("every door is listed").2
    }
}

/// A broker with secured listeners.
pub struct Secured {
    /// The broker, on the listener of the administrator.
    pub broker: Broker,
    /// The certificates of its listeners and of clients.
    pub certificates: Certificates,
    ports: [u16; 9],
}

/// The broker that all tests share; its users start without permissions.
pub fn shared() -> Arc<Secured> {
    static SHARED: LazyLock<Arc<Secured>> = LazyLock::new(|| Arc::new(Secured::start()));
    SHARED.clone()
}

impl Secured {
    /// Starts a broker of its own.
    pub fn start() -> Self {
        let certificates = Certificates::make();
        let ports = free_ports();
        let broker = Broker::start_where(|client, controller| Layout {
            properties: properties(client, controller, &ports, &certificates),
            scram: ["SCRAM-SHA-256", "SCRAM-SHA-512"]
                .map(|mechanism| format!("{mechanism}=[name={USER},password={PASSWORD}]"))
                .into(),
            ..Layout::default()
        });
        Self { broker, certificates, ports }
    }

    /// `host:port` of a listener.
    pub fn bootstrap(&self, door: Door) -> String {
        let at = Door::ALL.iter().position(|(other, ..)| *other == door).expect("every door is listed");
        format!("127.0.0.1:{}", self.ports[at])
    }

    /// The options for a listener: protocol and authority, without a login.
    pub fn options(&self, door: Door) -> Options {
        let mut options = Options::new(self.bootstrap(door));
        options.security_protocol = Some(door.protocol().to_ascii_lowercase());
        if door.protocol().ends_with("SSL") {
            options.ca_file = Some(self.certificates.path("ca.pem"));
        }
        options
    }

    /// The same, with the user's name and password.
    pub fn login(&self, door: Door, mechanism: &str, user: &str, password: &str) -> Options {
        let mut options = self.options(door);
        options.sasl_mechanism = Some(mechanism.to_owned());
        options.sasl_username = Some(user.to_owned());
        options.sasl_password = Some(password.to_owned().into());
        options
    }

    /// The same, with the client's certificate.
    pub fn with_certificate(&self) -> Options {
        let mut options = self.options(Door::MutualTls);
        options.cert_file = Some(self.certificates.path("client.crt"));
        options.key_file = Some(self.certificates.path("client.key"));
        options
    }

    /// The same, with a token that names the user.
    pub fn with_token(&self, user: &str) -> Options {
        let mut options = self.options(Door::OauthBearer);
        options.sasl_mechanism = Some("OAUTHBEARER".into());
        let properties = [
            ("enable.sasl.oauthbearer.unsecure.jwt", "true".to_owned()),
            ("sasl.oauthbearer.config", format!("principal={user}")),
        ];
        options.properties.extend(properties.map(|(name, value)| (name.to_owned(), value)));
        options
    }

    /// Changes the PLAIN password of every user, from the next start on.
    pub fn change_password(&self, password: &str) {
        let login = format!("{PLAIN_LOGIN} required{};", users(password));
        let doors = ["saslp", "sasls"];
        let names = doors.map(|door| format!("listener.name.{door}.plain.sasl.jaas.config"));
        self.broker.set(&names.each_ref().map(|name| (name.as_str(), login.as_str())));
    }

    /// Changes the password of SCRAM-SHA-512 at once. Connections that are open stay.
    pub fn change_scram(&self, user: &str, password: &str) {
        access::set_password(self.broker.bootstrap(), user, password);
    }

    /// Grants Write and Describe on the topics of a prefix.
    pub fn allow_all(&self, user: &str, prefix: &str) {
        let topics = format!("{prefix}.");
        self.grant(user, Operation::Write, Topics::Prefixed(&topics));
        self.grant(user, Operation::Describe, Topics::Prefixed(&topics));
    }

    /// Grants Write and Describe on a topic.
    pub fn allow(&self, user: &str, topic: &str) {
        self.grant(user, Operation::Write, Topics::Named(topic));
        self.grant(user, Operation::Describe, Topics::Named(topic));
    }

    /// Grants one operation.
    pub fn grant(&self, user: &str, operation: Operation, topics: Topics<'_>) {
        access::allow(self.broker.bootstrap(), user, operation, topics);
    }
}

fn properties(client: u16, controller: u16, ports: &[u16; 9], files: &Certificates) -> Vec<(String, String)> {
    let guarded = || Door::ALL.iter().zip(ports);
    let doors: String = guarded().map(|((_, name, _), port)| format!(",{name}://127.0.0.1:{port}")).collect();
    let advertised = doors.replace("LOST://127.0.0.1:", "LOST://no-such-host.invalid:");
    let protocols: String = guarded().map(|((_, name, protocol), _)| format!(",{name}:{protocol}")).collect();
    let pem = |name: &str| files.path(name).display().to_string();
    let modules = "org.apache.kafka.common.security";
    let unsecured = "oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler";
    let pairs = [
        ("listeners", format!("PLAIN://127.0.0.1:{client},CTRL://127.0.0.1:{controller}{doors}")),
        ("advertised.listeners", format!("PLAIN://127.0.0.1:{client}{advertised}")),
        ("listener.security.protocol.map", format!("PLAIN:PLAINTEXT,CTRL:PLAINTEXT{protocols}")),
        ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned()),
        ("super.users", "User:ANONYMOUS".to_owned()),
        ("ssl.keystore.type", "PEM".to_owned()),
        ("ssl.keystore.location", pem("server.pem")),
        ("listener.name.expired.ssl.keystore.location", pem("expired.pem")),
        ("listener.name.elsewhere.ssl.keystore.location", pem("elsewhere.pem")),
        ("listener.name.foreign.ssl.keystore.location", pem("foreign.pem")),
        ("ssl.truststore.type", "PEM".to_owned()),
        ("ssl.truststore.location", pem("ca.pem")),
        ("listener.name.mtls.ssl.client.auth", "required".to_owned()),
        ("ssl.principal.mapping.rules", "RULE:^CN=([^,]+).*$/$1/,DEFAULT".to_owned()),
        ("sasl.enabled.mechanisms", "SCRAM-SHA-256,SCRAM-SHA-512,PLAIN".to_owned()),
        ("listener.name.oauth.sasl.enabled.mechanisms", "OAUTHBEARER".to_owned()),
        (
            "listener.name.oauth.oauthbearer.sasl.jaas.config",
            format!("{modules}.oauthbearer.OAuthBearerLoginModule required;"),
        ),
        (
            "listener.name.oauth.oauthbearer.sasl.server.callback.handler.class",
            format!("{modules}.{unsecured}"),
        ),
    ];
    let mut pairs: Vec<_> = pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    for door in ["saslp", "sasls"] {
        let of = |mechanism: &str| format!("listener.name.{door}.{mechanism}.sasl.jaas.config");
        pairs.push((of("plain"), format!("{PLAIN_LOGIN} required{};", users(PASSWORD))));
        for scram in ["scram-sha-256", "scram-sha-512"] {
            pairs.push((of(scram), format!("{modules}.scram.ScramLoginModule required;")));
        }
    }
    pairs
}

/// The users of PLAIN in JAAS syntax.
fn users(password: &str) -> String {
    [USER, SECOND_USER, STATE_USER, UNPRIVILEGED_USER]
        .map(|user| format!(" user_{user}=\"{password}\""))
        .concat()
}
