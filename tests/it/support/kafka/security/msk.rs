//! A Kafka that takes the tokens that Amazon MSK takes (`tests/msk/MskValidator.java`).

use std::fs;

use attio_bridge::bus::kafka::Options;
use attio_bridge::bus::kafka::options::{MskIam, Source};

use super::tokens::{MODULES, listeners, of};
use crate::support::kafka::{Broker, Layout};
use crate::support::ports::free_ports;
use crate::support::watched::kit;

/// The key that does not expire.
pub const KEY: &str = "AKIDTEST";
/// The secret of every key.
pub const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
/// The region of the cluster.
pub const REGION: &str = "eu-central-1";

/// A broker with a listener for tokens.
pub struct Msk {
    /// The broker, on a listener without a login.
    pub broker: Broker,
    /// The port of the listener for tokens.
    pub port: u16,
    folder: tempfile::TempDir,
}

impl Msk {
    /// Starts a broker that ends a login when its credentials expire.
    pub fn start() -> Self {
        let [port] = free_ports();
        let folder = tempfile::tempdir().expect("a folder for the tokens");
        let broker = Broker::start_where(|client, controller| {
            let log = folder.path().join("tokens");
            let mut properties = listeners(client, controller, port);
            properties.extend([
                of("sasl.jaas.config", &format!("{MODULES}.OAuthBearerLoginModule required;")),
                of("sasl.server.callback.handler.class", "MskValidator"),
                of("connections.max.reauth.ms", "3600000"),
            ]);
            let classes = vec![kit("msk/validator.jar").join("msk/validator.jar")];
            let flags = vec![format!("-Dmsk.secret={SECRET}"), format!("-Dmsk.log={}", log.display())];
            Layout { properties, classes, flags, ..Layout::default() }
        });
        Self { broker, port, folder }
    }

    /// The options that log in by IAM.
    pub fn options(&self) -> Options {
        let mut options = Options::new(format!("127.0.0.1:{}", self.port));
        options.security_protocol = Some("sasl_plaintext".into());
        options.sasl_mechanism = Some("OAUTHBEARER".into());
        options.oauth = Some(Source::MskIam(MskIam { region: Some(REGION.into()) }));
        options
    }

    /// The tokens that it has taken.
    pub fn tokens(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join("tokens")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}
