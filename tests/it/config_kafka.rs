//! The configuration of Kafka.

use attio_bridge::bus::Kind;

use crate::setup::Setup;

fn one_problem(setup: &Setup, words: &[&str]) {
    let problems = setup.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(words.iter().all(|word| problems[0].contains(word)), "{problems:?}");
}

#[test]
fn kafka_needs_its_servers_and_a_consistent_login() {
    let kafka =
        |text: &str| Setup::good().var("ATTIO_BRIDGE__BUS__TYPE", "kafka").toml(&format!("[kafka]\n{text}"));
    let servers = "bootstrap_servers = [\"a:1\", \"b:2\"]\n";
    one_problem(&kafka(""), &["kafka.bootstrap_servers: required"]);
    let table = [
        ("sasl_username = \"u\"", "kafka.sasl_username: has no effect with security_protocol plaintext"),
        ("security_protocol = \"sasl_plaintext\"", "kafka.sasl_mechanism: required"),
        (
            "security_protocol = \"sasl_plaintext\"\nsasl_mechanism = \"PLAIN\"\nsasl_username = \"u\"",
            "kafka.sasl_password: required",
        ),
        (
            "security_protocol = \"ssl\"\nca_file = \"/no/such\"",
            "kafka.ca_file: the file /no/such cannot be read",
        ),
        (
            "security_protocol = \"sasl_ssl\"\nsasl_mechanism = \"OAUTHBEARER\"",
            "kafka.sasl_mechanism: this build has no way to fetch a token",
        ),
        ("[kafka.properties]\n\"sasl.oauthbearer.method\" = \"oidc\"", "OAuth/OIDC depends on libcurl"),
    ];
    for (text, message) in table {
        one_problem(&kafka(&format!("{servers}{text}")), &[message]);
    }
    let setup = kafka(&format!(
        "{servers}security_protocol = \"SASL_PLAINTEXT\"\nsasl_mechanism = \"plain\"\nsasl_username = \"u\"\nsasl_password = \"p\""
    ));
    let Kind::Kafka(options) = setup.config().bus.kind else { panic!("kafka") };
    assert_eq!(options.bootstrap_servers, "a:1,b:2");
    assert_eq!(options.security_protocol.as_deref(), Some("sasl_plaintext"));
    assert_eq!(options.sasl_mechanism.as_deref(), Some("PLAIN"));
}

#[test]
fn a_check_of_certificates_that_is_off_is_a_warning() {
    for (property, words) in [
        ("\"ssl.endpoint.identification.algorithm\" = \"none\"", "host name is not checked"),
        ("\"enable.ssl.certificate.verification\" = false", "certificate is not checked"),
    ] {
        let text = format!(
            "[kafka]\nbootstrap_servers = \"k:1\"\nsecurity_protocol = \"ssl\"\n[kafka.properties]\n{property}"
        );
        let kafka = Setup::good().toml(&text).var("ATTIO_BRIDGE__BUS__TYPE", "kafka");
        let warnings = kafka.warnings();
        assert!(
            warnings.len() == 1 && warnings[0].contains(words) && warnings[0].contains(":5"),
            "{warnings:?}"
        );
        assert!(Setup::good().toml(&text).warnings().is_empty(), "no matter for another bus");
    }
}
