//! A Kafka that takes the tokens of a token server, and nothing else from clients that log in.

use attio_bridge::bus::kafka::Options;
use attio_bridge::bus::kafka::options::{ClientAuth, Oidc as Login};

use crate::support::kafka::{Broker, Layout};
use crate::support::oidc::{CLIENT, Oidc, SECRET};
use crate::support::ports::free_ports;

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
            let modules = "org.apache.kafka.common.security.oauthbearer";
            let of = |name: &str| format!("listener.name.tokens.oauthbearer.{name}");
            let properties = [
                (
                    "listeners".to_owned(),
                    format!(
                        "PLAIN://127.0.0.1:{client},CTRL://127.0.0.1:{controller},TOKENS://127.0.0.1:{port}"
                    ),
                ),
                (
                    "advertised.listeners".to_owned(),
                    format!("PLAIN://127.0.0.1:{client},TOKENS://127.0.0.1:{port}"),
                ),
                (
                    "listener.security.protocol.map".to_owned(),
                    "PLAIN:PLAINTEXT,CTRL:PLAINTEXT,TOKENS:SASL_PLAINTEXT".to_owned(),
                ),
                ("listener.name.tokens.sasl.enabled.mechanisms".to_owned(), "OAUTHBEARER".to_owned()),
                (of("sasl.jaas.config"), format!("{modules}.OAuthBearerLoginModule required;")),
                (
                    of("sasl.server.callback.handler.class"),
                    format!("{modules}.OAuthBearerValidatorCallbackHandler"),
                ),
                (of("sasl.oauthbearer.jwks.endpoint.url"), server.jwks_url()),
                (of("sasl.oauthbearer.expected.audience"), "kafka".to_owned()),
                (of("sasl.oauthbearer.expected.issuer"), server.issuer()),
                (of("sasl.oauthbearer.clock.skew.seconds"), "0".to_owned()),
                (of("connections.max.reauth.ms"), max_reauth_ms.to_string()),
            ];
            let allowed = format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={}", server.jwks_url());
            Layout { properties: properties.into(), flags: vec![allowed], ..Layout::default() }
        });
        Self { broker, bootstrap: format!("127.0.0.1:{port}") }
    }

    /// The options that log in with the server's tokens.
    pub fn options(&self, server: &Oidc) -> Options {
        let mut options = Options::new(&self.bootstrap);
        options.security_protocol = Some("sasl_plaintext".into());
        options.sasl_mechanism = Some("OAUTHBEARER".into());
        options.oauth = Some(Login {
            token_url: server.token_url(),
            client_id: CLIENT.into(),
            client_secret: SECRET.to_owned().into(),
            client_auth: ClientAuth::Basic,
            scope: Some("kafka".into()),
            audience: None,
            ca_file: None,
        });
        options
    }
}
