//! Options that cannot connect, and what must be reported of each.

use attio_bridge::bus::kafka::Options;

use super::{Door, PASSWORD, Secured, USER};

/// Options that cannot connect.
pub struct Wrong {
    pub options: Options,
    /// The step at which they fail, as `check --connect` names it.
    pub step: &'static str,
    /// Words of the report: the cause and the advice.
    pub words: [&'static str; 2],
}

/// All of them.
pub fn ways(secured: &Secured) -> Vec<Wrong> {
    let wrong = |step, options, words| Wrong { options, step, words };
    let password = |door, mechanism| {
        let options = secured.login(door, mechanism, USER, "wrong-password");
        wrong("login", options, ["uthentication failed", "kafka.sasl_password"])
    };
    let mut other_ca = secured.options(Door::Tls);
    other_ca.ca_file = Some(secured.certificates.path("other-ca.pem"));
    let mut no_certificate = secured.options(Door::MutualTls);
    no_certificate.bootstrap_servers = secured.bootstrap(Door::MutualTls);
    let mut no_tls = Options::new(secured.bootstrap(Door::Tls));
    no_tls.security_protocol = Some("plaintext".into());
    let mut no_login = secured.options(Door::Sasl);
    no_login.security_protocol = None;
    let mut tls = secured.options(Door::Tls);
    tls.bootstrap_servers = secured.broker.bootstrap().to_owned();
    vec![
        password(Door::Sasl, "PLAIN"),
        password(Door::SaslTls, "PLAIN"),
        password(Door::Sasl, "SCRAM-SHA-256"),
        password(Door::SaslTls, "SCRAM-SHA-256"),
        password(Door::Sasl, "SCRAM-SHA-512"),
        password(Door::SaslTls, "SCRAM-SHA-512"),
        wrong(
            "login",
            secured.login(Door::OauthBearer, "PLAIN", USER, PASSWORD),
            ["supported mechanisms: OAUTHBEARER", "kafka.sasl_mechanism"],
        ),
        wrong("tls", other_ca, ["its authority is unknown here", "kafka.ca_file"]),
        wrong("tls", secured.options(Door::Expired), ["it expired on", "renew"]),
        wrong(
            "tls",
            secured.options(Door::Elsewhere),
            ["it is for elsewhere.test, not for 127.0.0.1", "advertised.listeners"],
        ),
        wrong("login", no_certificate, ["certificate", "kafka.cert_file"]),
        wrong("tls", no_tls, ["uses TLS", "kafka.security_protocol"]),
        wrong("login", no_login, ["may require a login", "kafka.security_protocol"]),
        wrong("tls", tls, ["does not use TLS", "kafka.security_protocol"]),
    ]
}
