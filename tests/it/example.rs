//! What is generated from the declared keys: the example and the reference are those of the code, and the
//! example is valid by the JSON Schema too.
//!
//! `ATTIO_BRIDGE_TEST_REWRITE=1 cargo test --test it example::` writes the committed files again.

use std::collections::BTreeMap;
use std::path::Path;

use attio_bridge::config::{self, Config, Origin};
use serde_json::Value as Json;

use crate::setup::{SECRET, Setup};

const EXAMPLE: &str = include_str!("../../deploy/config.example.toml");

const SLUGS: &str = r#"{"version":1,"workspace_id":"w","objects":{},"lists":{}}"#;

/// The example with its commented-out keys and tables set, and its files created.
fn uncommented(setup: &Setup) -> String {
    let live = |line: &str| {
        let rest = line.strip_prefix("# ")?;
        let key = rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
        (key || rest.starts_with("[[")).then(|| rest.to_owned())
    };
    let lines = EXAMPLE.lines().map(|line| live(line).unwrap_or_else(|| line.to_owned()));
    lines.map(|line| with_files(setup, line) + "\n").collect()
}

fn with_files(setup: &Setup, line: String) -> String {
    let mut line = line;
    for folder in ["/run/secrets/", "/etc/attio-bridge/"] {
        while let Some(at) = line.find(folder) {
            let end = at + line[at..].find('"').expect("a quoted path");
            let text = if line[at..end].ends_with("slugs.json") { SLUGS } else { SECRET };
            let path = setup.write(&line[at..end].replace('/', "_"), text);
            line.replace_range(at..end, &path.display().to_string());
        }
    }
    line
}

/// Compares a committed file with what the code generates, or writes it again.
fn compare(path: &str, committed: &str, generated: &str) {
    if std::env::var_os("ATTIO_BRIDGE_TEST_REWRITE").is_some() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(path), generated).expect("a written file");
        return;
    }
    let differs =
        committed.lines().zip(generated.lines()).find(|(committed, generated)| committed != generated);
    assert!(
        committed == generated,
        "{path} is not what the declared keys give, first {differs:?}: run \
         `ATTIO_BRIDGE_TEST_REWRITE=1 cargo test --test it example::`"
    );
}

#[test]
fn example_is_generated_from_the_declared_keys() {
    compare("deploy/config.example.toml", EXAMPLE, &config::example());
}

#[test]
fn reference_is_generated_from_the_declared_keys() {
    let committed = include_str!("../../deploy/docs/configuration.md");
    compare("deploy/docs/configuration.md", committed, &config::reference());
}

fn values(config: &Config) -> BTreeMap<String, (Json, Option<Origin>)> {
    config.settings().iter().cloned().map(|setting| (setting.key, (setting.value, setting.origin))).collect()
}

#[test]
fn example_is_valid_as_it_stands() {
    let setup = Setup::empty().toml(EXAMPLE).var("ATTIO_WEBHOOK_SECRET", SECRET);
    assert!(setup.warnings().is_empty());
    let setup = Setup::empty().toml(EXAMPLE);
    let path = setup.write("secret", SECRET);
    setup.var("ATTIO_WEBHOOK_SECRET_FILE", path).config();
}

#[test]
fn example_is_valid_with_every_key_set() {
    let setup = Setup::empty();
    let text = uncommented(&setup);
    let setup = setup.toml(&text);
    assert_eq!(setup.warnings(), [""; 0]);
    assert_eq!(setup.attio().webhooks.len(), 1);
}

#[test]
fn example_has_every_key_with_its_default() {
    let setup = Setup::empty();
    let text = uncommented(&setup);
    let written = values(&setup.toml(&text).config());
    let known = values(&Setup::good().config());
    for (key, (value, origin)) in &known {
        let Some((shown, Some(Origin::File { .. }))) = written.get(key) else {
            // The variable of `Setup::good` names a secret that the example calls `default` as well.
            panic!("{key} is not in the example");
        };
        if origin == &Some(Origin::Default) {
            assert_eq!(shown, value, "the default of {key}");
        }
    }
}
