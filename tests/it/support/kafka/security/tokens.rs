//! A Kafka that takes the tokens of a token server, and nothing else from clients that log in.

use attio_bridge::bus::kafka::Options;
use attio_bridge::bus::kafka::options::{ClientAuth, Oidc as Login, Source};

use crate::support::kafka::{Broker, Layout};
use crate::support::oidc::{CLIENT, Oidc, SECRET};
use crate::support::ports::free_ports;

/// Where Kafka's classes for tokens are.
pub const MODULES: &str = "org.apache.kafka.common.security.oauthbearer";

/// A property of the listener for tokens.
pub fn of(name: &str, value: &str) -> (String, String) {
    (format!("listener.name.tokens.oauthbearer.{name}"), value.to_owned())
}

/// The properties by which a broker has a listener for tokens, beside one without a login.
pub fn listeners(client: u16, controller: u16, tokens: u16) -> Vec<(String, String)> {
    let (plain, tokens) = (format!("PLAIN://127.0.0.1:{client}"), format!("TOKENS://127.0.0.1:{tokens}"));
    let protocols = "PLAIN:PLAINTEXT,CTRL:PLAINTEXT,TOKENS:SASL_PLAINTEXT".to_owned();
    let properties = [
        ("listeners", format!("{plain},CTRL://127.0.0.1:{controller},{tokens}")),
        ("advertised.listeners", format!("{plain},{tokens}")),
        ("listener.security.protocol.map", protocols),
        ("listener.name.tokens.sasl.enabled.mechanisms", "OAUTHBEARER".to_owned()),
    ];
    properties.map(|(name, value)| (name.to_owned(), value)).into()
}

/// A broker with a listener for tokens.
pub struct Tokens {
    /// The broker, on a listener without a login.
    pub broker: Broker,
    bootstrap: String,
}

impl Tokens {
    /// Starts a broker that ends a login after `max_reauth_ms`, or with its token.
    pub fn start(server: &Oidc, max_reauth_ms: u32) -> Self {
        let [port] = free_ports();
        let broker = Broker::start_where(|client, controller| {
            let mut properties = listeners(client, controller, port);
            properties.extend([
                of(
                    "sasl.server.callback.handler.class",
                    &format!("{MODULES}.OAuthBearerValidatorCallbackHandler"),
                ),
                of("sasl.jaas.config", &format!("{MODULES}.OAuthBearerLoginModule required;")),
                of("sasl.oauthbearer.jwks.endpoint.url", &server.jwks_url()),
                of("sasl.oauthbearer.expected.audience", "kafka"),
                of("sasl.oauthbearer.expected.issuer", &server.issuer()),
                of("sasl.oauthbearer.clock.skew.seconds", "0"),
                of("connections.max.reauth.ms", &max_reauth_ms.to_string()),
            ]);
            let allowed = format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={}", server.jwks_url());
            Layout { properties, flags: vec![allowed], ..Layout::default() }
        });
        Self { broker, bootstrap: format!("127.0.0.1:{port}") }
    }

    /// The options that log in with the server's tokens.
    pub fn options(&self, server: &Oidc) -> Options {
        let mut options = Options::new(&self.bootstrap);
        options.security_protocol = Some("sasl_plaintext".into());
        options.sasl_mechanism = Some("OAUTHBEARER".into());
        options.oauth = Some(Source::Oidc(Login {
            token_url: server.token_url(),
            client_id: CLIENT.into(),
            client_secret: SECRET.to_owned().into(),
            client_auth: ClientAuth::Basic,
            scope: Some("kafka".into()),
            audience: None,
            ca_file: None,
        }));
        options
    }
}
