//! The examples of single buses: each is good as it stands, once its files and passwords are there.

use std::fs;
use std::path::PathBuf;

use attio_bridge::bus::Kind;

use crate::setup::{SECRET, Setup};

/// Until the build has that bus.
const NO_NATS: &str = "this build does not have the NATS bus yet";

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

/// An example with its files made.
fn setup(text: &str) -> Setup {
    let setup = Setup::empty();
    let mut text = text.to_owned();
    for folder in ["\"/run/secrets/", "\"/etc/attio-bridge/"] {
        while let Some(at) = text.find(folder) {
            let end = at + 1 + text[at + 1..].find('"').expect("a quoted path");
            let path = setup.write(&text[at + 1..end].replace('/', "_"), SECRET);
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
fn every_example_is_good_and_warns_of_nothing() {
    let examples = examples();
    assert_eq!(examples.len(), 6);
    for (name, text) in &examples {
        let problems = setup(text).load().err().map(|problems| problems.problems).unwrap_or_default();
        let real: Vec<_> = problems.iter().filter(|problem| !problem.message.contains(NO_NATS)).collect();
        assert!(real.is_empty(), "{name}: {real:#?}");
        if problems.is_empty() {
            assert_eq!(setup(text).warnings(), Vec::<String>::new(), "{name}");
        }
    }
}

#[test]
fn a_client_can_be_made_of_every_login_of_kafka() {
    for (name, text) in examples().iter().filter(|(name, _)| name.starts_with("kafka")) {
        let Kind::Kafka(mut options) = setup(text).config().bus.kind else { panic!("{name} is of Kafka") };
        // The files of the test hold no certificates.
        (options.ca_file, options.cert_file, options.key_file) = (None, None, None);
        attio_bridge::bus::kafka::check(&options).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
