//! The configuration of Kafka.

use attio_bridge::bus::Kind;
use attio_bridge::bus::kafka::options::{MskIam, Source};

use crate::setup::Setup;
use crate::support::program::{run, variables};

fn one_problem(setup: &Setup, words: &[&str]) {
    let problems = setup.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(words.iter().all(|word| problems[0].contains(word)), "{problems:?}");
}

fn kafka(text: &str) -> Setup {
    Setup::good().var("ATTIO_BRIDGE__BUS__TYPE", "kafka").toml(&format!("[kafka]\n{text}"))
}

#[test]
fn kafka_requires_servers_and_a_consistent_login() {
    let servers = "bootstrap_servers = [\"a:1\", \"b:2\"]\n";
    one_problem(&kafka(""), &["kafka.bootstrap_servers: required"]);
    let table = [
        ("[kafka.topics]\nensure = \"on\"", "kafka.topics.ensure: expects one of"),
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
            "security_protocol = \"sasl_ssl\"\nsasl_mechanism = \"OAUTHBEARER\"\n[kafka.oauth]\ntoken_url = \"http://a/b\"\n\
             client_id = \"c\"\nclient_secret = \"s\"",
            "kafka.oauth.token_url: expects an https:// URL",
        ),
        (
            "security_protocol = \"sasl_ssl\"\nsasl_mechanism = \"OAUTHBEARER\"\n[kafka.oauth]\n\
             token_url = \"https://a/b\"\nclient_id = \"c\"\nclient_secret = \"s\"\n[kafka.topics]\nensure = \"create\"",
            "kafka.topics.ensure: \"create\" is not possible with a token",
        ),
        (
            "[kafka.oauth]\nprovider = \"aws-msk-iam\"",
            "kafka.oauth.provider: \"aws-msk-iam\" needs kafka.sasl_mechanism \"OAUTHBEARER\"",
        ),
        (
            "security_protocol = \"sasl_ssl\"\nsasl_mechanism = \"PLAIN\"\nsasl_username = \"u\"\nsasl_password = \"p\"\n\
             [kafka.oauth]\nprovider = \"aws-msk-iam\"",
            "kafka.oauth.provider: \"aws-msk-iam\" needs kafka.sasl_mechanism \"OAUTHBEARER\"",
        ),
        (
            "security_protocol = \"sasl_ssl\"\nsasl_mechanism = \"OAUTHBEARER\"\n[kafka.oauth]\n\
             provider = \"aws-msk-iam\"\nregion = \"Frankfurt\"",
            "kafka.oauth.region: expects the name of a region, not \"Frankfurt\"",
        ),
        (
            "security_protocol = \"sasl_ssl\"\nsasl_mechanism = \"OAUTHBEARER\"\n[kafka.oauth]\n\
             provider = \"aws-msk-iam\"\n[kafka.topics]\nensure = \"create\"",
            "kafka.topics.ensure: \"create\" is not possible with a token",
        ),
        (
            "security_protocol = \"sasl_ssl\"\nsasl_mechanism = \"OAUTHBEARER\"\n[kafka.oauth]\nregion = \"eu-central-1\"\n\
             token_url = \"https://a/b\"\nclient_id = \"c\"\nclient_secret = \"s\"",
            "kafka.oauth.region: needs kafka.oauth.provider \"aws-msk-iam\"",
        ),
        (
            "security_protocol = \"sasl_ssl\"\nsasl_mechanism = \"OAUTHBEARER\"\n[kafka.oauth]\n\
             provider = \"aws-msk-iam\"\n[kafka.properties]\n\"enable.sasl.oauthbearer.unsecure.jwt\" = true",
            "kafka.oauth.provider: is not used with the property enable.sasl.oauthbearer.unsecure.jwt",
        ),
        ("[kafka.properties]\n\"sasl.oauthbearer.method\" = \"oidc\"", "OAuth/OIDC depends on libcurl"),
    ];
    let oauth =
        kafka(&format!("{servers}security_protocol = \"sasl_ssl\"\nsasl_mechanism = \"OAUTHBEARER\""));
    let problems = oauth.problems();
    for key in ["token_url", "client_id", "client_secret"] {
        assert!(
            problems.iter().any(|it| it.contains(&format!("kafka.oauth.{key}: required"))),
            "{problems:?}"
        );
    }
    for (text, message) in table {
        one_problem(&kafka(&format!("{servers}{text}")), &[message]);
    }
    let spellings = [
        ("kafka://a:1", "without a scheme: write \"a:1\""),
        ("SASL_SSL://a:1", "write \"a:1\", and set kafka.security_protocol to \"sasl_ssl\""),
        ("http://a:1/x", "without a scheme: write \"a:1\""),
        ("nats://u:p@a:1", "without a scheme: write \"a:1\""),
        ("u:p@a:1", "without a login (that is kafka.sasl_username and kafka.sasl_password): write \"a:1\""),
        ("a:1/topic", "without a path: write \"a:1\""),
        ("a:0", "a port from 1 to 65535"),
        ("a:65536", "a port from 1 to 65535"),
        ("a:kafka", "a port from 1 to 65535"),
        (":9092", "the host is empty"),
        ("a b:1", "no host has such characters"),
        ("a;b", "servers are separated by commas"),
        ("a:1; b:2", "servers are separated by commas"),
        ("a:1 b:2", "servers are separated by commas"),
        ("a:1|[::1]:2", "servers are separated by commas"),
        ("::1:9092", "an IPv6 address needs brackets"),
    ];
    for (server, message) in spellings {
        for servers in [format!("[\"{server}\"]"), format!("[\"b:2\", \"{server}\"]")] {
            let setup = kafka(&format!("bootstrap_servers = {servers}"));
            one_problem(&setup, &["kafka.bootstrap_servers: expects host:port", message]);
            assert!(!setup.problems()[0].contains("u:p"), "a login is not repeated");
        }
    }
    for server in ["a", "a:1", "[::1]:9092", "[::1]", "kafka-1.example.com:9092", "10.0.0.1:9092"] {
        kafka(&format!("bootstrap_servers = \"{server}\"")).config();
    }
    let lost = kafka(&format!(
        "{servers}security_protocol = \"sasl_plaintext\"\nsasl_mechanism = \"PLAIN\"\nsasl_username = \"u\""
    ));
    let lost = lost.var("ATTIO_BRIDGE__KAFKA__SASL_PASSWORD_FILE", "/no/such");
    one_problem(
        &lost,
        &["kafka.sasl_password: the file /no/such cannot be read: No such file or directory ("],
    );
    let setup = kafka(&format!(
        "{servers}security_protocol = \"SASL_PLAINTEXT\"\nsasl_mechanism = \"plain\"\nsasl_username = \"u\"\nsasl_password = \"p\""
    ));
    let Kind::Kafka(options) = setup.config().bus.kind else { panic!("kafka") };
    assert_eq!(options.bootstrap_servers, "a:1,b:2");
    assert_eq!(options.security_protocol.as_deref(), Some("sasl_plaintext"));
    assert_eq!(options.sasl_mechanism.as_deref(), Some("PLAIN"));
}

#[test]
fn keys_of_a_token_server_do_not_go_with_iam() {
    let login = "security_protocol = \"sasl_ssl\"\nsasl_mechanism = \"OAUTHBEARER\"\n[kafka.oauth]\nprovider = \"aws-msk-iam\"\n";
    let wrong = "bootstrap_servers = \"a:1\"\n".to_owned()
        + login
        + "token_url = \"https://a/b\"\nclient_id = \"c\"\nclient_secret = \"s\"\nclient_auth = \"post\"\nscope = \"x\"\n\
           audience = \"y\"\nca_file = \"/dev/null\"";
    let problems = kafka(&wrong).problems();
    for key in ["token_url", "client_id", "client_secret", "client_auth", "scope", "audience", "ca_file"] {
        let message = format!("kafka.oauth.{key}: is for the provider \"oidc\"");
        assert!(problems.iter().any(|it| it.contains(&message)), "{problems:?}");
    }
    assert_eq!(problems.len(), 7, "{problems:?}");

    let of_names = "b-1.a.b.c2.kafka.eu-west-1.amazonaws.com:9098";
    let regions = [
        ("a:1", "", None),
        (of_names, "", Some("eu-west-1")),
        (of_names, "region = \"us-east-1\"", Some("us-east-1")),
    ];
    for (server, key, region) in regions {
        let setup = kafka(&format!("bootstrap_servers = [\"b:2\", \"{server}\"]\n{login}{key}"));
        let Kind::Kafka(options) = setup.config().bus.kind else { panic!("kafka") };
        let region = region.map(str::to_owned);
        assert_eq!(options.oauth, Some(Source::MskIam(MskIam { region })), "{server} {key}");
    }
}

#[test]
fn disabled_certificate_verification_is_a_warning() {
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
        let other = Setup::good().toml(&text).flag("--bus", "bus.type", "stdout").warnings();
        assert!(other.iter().all(|warning| !warning.contains(words)), "no matter for another bus: {other:?}");
    }
}

/// `check` and `serve` both end with 78 and name the key, so that systemd does not restart the unit.
fn assert_configuration_error(more: &[(&str, &str)], words: &[&str]) {
    let mut variables = variables(more);
    variables.extend([
        ("ATTIO_BRIDGE__BUS__TYPE".to_owned(), "kafka".to_owned()),
        ("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS".to_owned(), "127.0.0.1:1".to_owned()),
        ("ATTIO_BRIDGE__HTTP__LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
        ("ATTIO_BRIDGE__ADMIN__LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
    ]);
    for arguments in [&["check"][..], &["check", "--connect"], &["serve"]] {
        let output = run(arguments, &variables);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{arguments:?}: {stderr}");
        assert!(stderr.contains("the configuration has 1 problem"), "{arguments:?}: {stderr}");
        assert!(words.iter().all(|word| stderr.contains(word)), "{arguments:?}: {words:?}: {stderr}");
    }
}

#[test]
fn unusable_kafka_properties_exit_78_in_check_and_serve() {
    let table = [
        ("MAX_IN_FLIGHT", "100", "kafka.properties.max.in.flight: "),
        ("RETRIES", "0", "kafka.properties.retries: "),
        ("SSL_KEYSTORE_LOCATION", "/etc/hostname", "kafka.properties.ssl.keystore.location: "),
        ("SSL_CIPHER_SUITES", "no-such-cipher", "kafka.properties.ssl.cipher.suites: "),
    ];
    for (name, value, key) in table {
        let variable = format!("KAFKA__PROPERTIES__{name}");
        let origin = format!("(environment ATTIO_BRIDGE__{variable})");
        let tls = ("KAFKA__SECURITY_PROTOCOL", "ssl");
        assert_configuration_error(&[tls, (&variable, value)], &[key, &origin]);
    }
}

#[test]
fn kafka_numbers_that_librdkafka_would_misread_exit_78_with_the_plain_number() {
    let table = [
        ("SOCKET_TIMEOUT_MS", "60s", "write 60000"),
        ("SOCKET_TIMEOUT_MS", "1_000", "write 1000"),
        ("RECONNECT_BACKOFF_MAX_MS", "1m", "write 60000"),
        ("SOCKET_CONNECTION_SETUP_TIMEOUT_MS", "10s", "write 10000"),
        ("RETRY_BACKOFF_MS", "0100", "write 100"),
        ("BROKER_ADDRESS_TTL", "5s", "write 5000"),
        ("BATCH_SIZE", "16KB", "write 16384"),
        ("SOCKET_SEND_BUFFER_BYTES", "1 MiB", "write 1048576"),
        ("QUEUE_BUFFERING_MAX_KBYTES", "64MB", "write 65536"),
        ("QUEUE_BUFFERING_MAX_MESSAGES", "100k", "write 100000"),
        ("BATCH_NUM_MESSAGES", "10.5", "would read \"10.5\" as 10"),
        ("REQUEST_TIMEOUT_MS", "4294972296", "would read \"4294972296\" as 5000"),
    ];
    for (name, value, words) in table {
        let key = format!("kafka.properties.{}: ", name.to_lowercase().replace('_', "."));
        let variable = format!("KAFKA__PROPERTIES__{name}");
        assert_configuration_error(&[(&variable, value)], &[&key, "expects a plain number", words]);
    }
    let good = [("SOCKET_TIMEOUT_MS", " 500 "), ("CLIENT_RACK", "60s"), ("COMPRESSION_LEVEL", "-1")];
    for (name, value) in good {
        let kafka = Setup::good()
            .toml("[kafka]\nbootstrap_servers = \"k:1\"")
            .var("ATTIO_BRIDGE__BUS__TYPE", "kafka");
        kafka.var(&format!("ATTIO_BRIDGE__KAFKA__PROPERTIES__{name}"), value).config();
    }
}

#[test]
fn kafka_properties_that_stop_events_exit_78_with_the_reason() {
    let table: [(&str, &str, &[&str]); 8] = [
        ("TOPIC_BLACKLIST", "attio.*", &["the bridge owns this property", "hides topics"]),
        ("ENABLE_GAPLESS_GUARANTEE", "true", &["the bridge owns this property", "one failed message"]),
        ("API_VERSION_REQUEST", "false", &["remove it", "idempotent"]),
        ("INTERNAL_TERMINATION_SIGNAL", "15", &["the bridge owns this property", "signals"]),
        ("QUEUE_BUFFERING_MAX_MESSAGES", "9999", &["must be at least 10000", "largest delivery"]),
        ("QUEUE_BUFFERING_MAX_KBYTES", "64", &["must be at least 10687", "largest delivery"]),
        ("RECEIVE_MESSAGE_MAX_BYTES", "1000", &["must be at least 1000000", "answers"]),
        ("MESSAGE_MAX_BYTES", "1000", &["must be at least 5120", "envelope"]),
    ];
    for (name, value, words) in table {
        let key = format!("kafka.properties.{}: ", name.to_lowercase().replace('_', "."));
        let variable = format!("KAFKA__PROPERTIES__{name}");
        assert_configuration_error(&[(&variable, value)], &[&[&*key][..], words].concat());
    }
}

#[test]
fn two_unusable_kafka_properties_exit_78() {
    let properties = [("KAFKA__PROPERTIES__MAX_IN_FLIGHT", "100"), ("KAFKA__PROPERTIES__RETRIES", "0")];
    assert_configuration_error(&properties, &["kafka.properties.max.in.flight: "]);
}

#[test]
fn ca_file_without_certificates_exits_78() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "not a certificate").expect("it is written");
    let tls = ("KAFKA__SECURITY_PROTOCOL", "ssl");
    let path = file.path().to_str().expect("UTF-8");
    let words = ["kafka.ca_file: ", "(environment ATTIO_BRIDGE__KAFKA__CA_FILE)"];
    assert_configuration_error(&[tls, ("KAFKA__CA_FILE", path)], &words);
    assert_configuration_error(
        &[tls, ("KAFKA__CA_FILE", "/no/such/ca.pem")],
        &["kafka.ca_file: ", "cannot be read"],
    );
}

#[test]
fn mismatched_certificate_and_key_exit_78() {
    let certificates = crate::support::certificates::Certificates::make();
    let path = |name: &str| certificates.path(name).to_str().expect("UTF-8").to_owned();
    let variables = [
        ("KAFKA__SECURITY_PROTOCOL", "ssl"),
        ("KAFKA__CERT_FILE", &path("client.crt")),
        ("KAFKA__KEY_FILE", &path("server.key")),
    ];
    assert_configuration_error(&variables, &["kafka.key_file: "]);
}
