//! The examples of single buses: each is good as it stands, once its files and passwords are there.

use std::fs;
use std::path::PathBuf;

use attio_bridge::bus::Kind;

use crate::setup::{SECRET, Setup};
use crate::support::certificates::Certificates;

fn examples() -> Vec<(String, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy/examples");
    let entry = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, fs::read_to_string(path).expect("text"))
    };
    let mut examples: Vec<_> = fs::read_dir(folder).expect("the folder is there").map(entry).collect();
    examples.sort();
    examples
}

/// A credentials file of NATS.
fn credentials() -> String {
    let seed = nkeys::KeyPair::new_user().seed().expect("a new key has its seed");
    format!(
        "-----BEGIN NATS USER JWT-----\na.b.c\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}

/// What belongs into a file of that name.
fn content(name: &str, certificates: &Certificates) -> String {
    let pem = |name| fs::read_to_string(certificates.path(name)).expect("openssl wrote it");
    match name.rsplit('_').next() {
        Some("attio-bridge.creds") => credentials(),
        Some("ca.pem") => pem("ca.pem"),
        Some("client.pem") => pem("client.crt"),
        Some("client.key") => pem("client.key"),
        _ => SECRET.into(),
    }
}

/// An example with its files made.
fn setup(text: &str, certificates: &Certificates) -> Setup {
    let setup = Setup::empty();
    let mut text = text.to_owned();
    for folder in ["\"/run/secrets/", "\"/etc/attio-bridge/"] {
        while let Some(at) = text.find(folder) {
            let end = at + 1 + text[at + 1..].find('"').expect("a quoted path");
            let name = text[at + 1..end].replace('/', "_");
            let path = setup.write(&name, content(&name, certificates));
            text.replace_range(at + 1..end, &path.display().to_string());
        }
    }
    let setup = setup.toml(&text);
    if text.contains("ATTIO_BRIDGE__KAFKA__SASL_PASSWORD") {
        return setup.var("ATTIO_BRIDGE__KAFKA__SASL_PASSWORD", "a password");
    }
    setup
}

#[test]
fn bus_examples_are_valid_without_warnings() {
    let examples = examples();
    assert_eq!(examples.len(), 6);
    let certificates = Certificates::make();
    for (name, text) in &examples {
        let setup = setup(text, &certificates);
        if let Err(problems) = setup.load() {
            panic!("{name}: {problems}");
        }
        assert_eq!(setup.warnings(), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn kafka_client_can_be_created_from_every_example() {
    let certificates = Certificates::make();
    for (name, text) in examples().iter().filter(|(name, _)| name.starts_with("kafka")) {
        let setup = setup(text, &certificates);
        let config = setup.config();
        let Kind::Kafka(options) = &config.bus.kind else { panic!("{name} is of Kafka") };
        attio_bridge::bus::kafka::check(options, &config.requirements())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
