//! The options of Kafka as environment variables of the program.

use attio_bridge::bus::kafka::Options;
use attio_bridge::bus::kafka::options::{Ensure, Source};
use secrecy::ExposeSecret;

/// What `attio-bridge` is started with to get these options, a source and the addresses of a prefix.
pub fn variables(options: &Options, prefix: &str) -> Vec<(String, String)> {
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let password = options.sasl_password.as_ref().map(|password| password.expose_secret().to_owned());
    let ensure = match options.topics.ensure {
        Ensure::Off => Some("off"),
        Ensure::Verify => None,
        Ensure::Create => Some("create"),
    };
    let replication = options.topics.replication_factor;
    let keys = [
        ("BUS__TYPE", Some("kafka".to_owned())),
        ("ROUTE__PREFIX", Some(prefix.to_owned())),
        ("KAFKA__BOOTSTRAP_SERVERS", Some(options.bootstrap_servers.clone())),
        ("KAFKA__SECURITY_PROTOCOL", options.security_protocol.clone()),
        ("KAFKA__SASL_MECHANISM", options.sasl_mechanism.clone()),
        ("KAFKA__SASL_USERNAME", options.sasl_username.clone()),
        ("KAFKA__SASL_PASSWORD", password),
        ("KAFKA__CA_FILE", path(&options.ca_file)),
        ("KAFKA__CERT_FILE", path(&options.cert_file)),
        ("KAFKA__KEY_FILE", path(&options.key_file)),
        ("KAFKA__TOPICS__ENSURE", ensure.map(str::to_owned)),
        ("KAFKA__TOPICS__REPLICATION_FACTOR", replication.map(|factor| factor.to_string())),
    ];
    let of_login = match &options.oauth {
        None => vec![],
        Some(Source::Oidc(login)) => vec![
            ("TOKEN_URL", Some(login.token_url.clone())),
            ("CLIENT_ID", Some(login.client_id.clone())),
            ("CLIENT_SECRET", Some(login.client_secret.expose_secret().to_owned())),
            ("SCOPE", login.scope.clone()),
            ("CA_FILE", path(&login.ca_file)),
        ],
        Some(Source::MskIam(login)) => {
            vec![("PROVIDER", Some("aws-msk-iam".to_owned())), ("REGION", login.region.clone())]
        }
    };
    let of_login = of_login
        .into_iter()
        .filter_map(|(key, value)| Some((format!("ATTIO_BRIDGE__KAFKA__OAUTH__{key}"), value?)));
    let named = |(key, value): (&str, Option<String>)| Some((format!("ATTIO_BRIDGE__{key}"), value?));
    let property = |(name, value): (&String, &String)| {
        let name = name.replace('.', "_").to_uppercase();
        (format!("ATTIO_BRIDGE__KAFKA__PROPERTIES__{name}"), value.clone())
    };
    keys.into_iter()
        .filter_map(named)
        .chain(of_login)
        .chain(options.properties.iter().map(property))
        .collect()
}
