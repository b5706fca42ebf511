//! What is generated from the declared keys: the example and the reference are those of the code, and the
//! example is valid by the JSON Schema too.
//!
//! `ATTIO_BRIDGE_TEST_RENEW=1 cargo test --test it example::` writes the committed files again.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use attio_bridge::config::{self, Config, Origin};
use serde_json::Value as Json;

use crate::setup::{SECRET, Setup};
use crate::support::watched::kit;
use crate::support::{config_docs, snapshot};

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

/// A committed file.
fn committed(path: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn example_is_generated_from_the_declared_keys() {
    assert_eq!(snapshot::compare(&committed("deploy/config.example.toml"), &config_docs::example()), None);
}

#[test]
fn reference_is_generated_from_the_declared_keys() {
    assert_eq!(
        snapshot::compare(&committed("deploy/docs/configuration.md"), &config_docs::reference()),
        None
    );
}

/// The chart's schema of its values has the bridge's own schema as the one of `config`.
#[test]
fn schema_of_the_chart_holds_that_of_the_configuration() {
    let path = committed("deploy/chart/values.schema.json");
    let mut schema: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).expect("it is JSON");
    let mut config = config::schema();
    config.as_object_mut().expect("an object").remove("$schema");
    schema["$defs"]["config"] = config;
    let printed = serde_json::to_string_pretty(&schema).expect("it can be printed") + "\n";
    assert_eq!(snapshot::compare(&path, &printed), None);
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
    let setup = setup.toml(&text).flag("--bus", "bus.type", "kafka");
    let warnings = setup.warnings();
    assert!(warnings.len() == 1 && warnings[0].starts_with("nats.servers: has no effect"), "{warnings:#?}");
    assert_eq!(setup.attio().webhooks.len(), 1);
}

#[test]
fn example_has_every_key_with_its_default() {
    let setup = Setup::empty();
    let text = uncommented(&setup);
    let written = values(&setup.toml(&text).flag("--bus", "bus.type", "stdout").config());
    let mut known = values(&Setup::good().config());
    // A flag sets it here, so that the sections of both buses may be there.
    known.remove("bus.type");
    assert!(text.contains("[bus]\n# The broker") && text.contains("\ntype = \"kafka\"\n"), "{text}");
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

/// What a JSON Schema validator finds in each document, by the schema that `config --schema` prints.
fn schema_errors(documents: &[&str]) -> Vec<Vec<String>> {
    let program =
        Command::new(env!("CARGO_BIN_EXE_attio-bridge")).args(["config", "--schema"]).output().unwrap();
    assert_eq!(program.status.code(), Some(0), "{program:?}");
    let schema: Json = serde_json::from_slice(&program.stdout).expect("the schema is JSON");
    assert_eq!(schema, config::schema());
    let mut child = Command::new(kit("python/installed.txt").join("python/bin/python"))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/check_toml.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python is missing: run tests/install.sh once");
    let given = serde_json::json!({ "schema": schema, "documents": documents }).to_string();
    child.stdin.take().expect("stdin is a pipe").write_all(given.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "the validator failed; see its standard error");
    serde_json::from_slice(&output.stdout).expect("it writes JSON")
}

#[test]
fn schema_accepts_the_examples_and_refuses_what_the_bridge_refuses() {
    let every_key = uncommented(&Setup::empty());
    let good = [
        EXAMPLE,
        &every_key,
        "kafka.security_protocol = \"SASL_SSL\"\nkafka.bootstrap_servers = \"a:1, b:2\"",
        "kafka.properties.socket.keepalive.enable = true\nkafka.properties.\"socket.timeout.ms\" = 5",
        "[http]\nlisten = \"[::1]:80\"\nidle_timeout = \"1m 30s\"",
    ];
    for (document, errors) in good.iter().zip(schema_errors(&good)) {
        assert!(errors.is_empty(), "{errors:#?} in\n{document}");
        toml::from_str::<toml::Table>(document).expect("TOML");
    }
    let bad = [
        ("[http]\nlistn = \"a:1\"", "http"),
        ("[htttp]", ""),
        ("[http]\nlisten = \"8080\"", "http.listen"),
        ("[http]\nmax_in_flight = 0", "http.max_in_flight"),
        ("[http]\nmax_in_flight = \"9\"", "http.max_in_flight"),
        ("[dedup]\nwindow = 5", "dedup.window"),
        ("[dedup]\nwindow = \"5\"", "dedup.window"),
        ("[bus]\ntype = \"kafak\"", "bus.type"),
        ("[route.categories]\nnots = \"x\"", "route.categories"),
        ("[sources.a]\nsecrets = [{ value = \"x\" }]", "sources.a.secrets.0"),
        ("[sources.a.filter.include]\ntypes = [1]", "sources.a.filter.include.types.0"),
        ("[[webhooks]]\nname = \"a\"\nsource = \"a\"\ntarget_url = \"http://a\"", "webhooks.0.target_url"),
    ];
    let found = schema_errors(&bad.map(|(document, _)| document));
    for ((document, path), errors) in bad.iter().zip(found) {
        assert!(
            errors.len() == 1 && errors[0].starts_with(&format!("{path}: ")),
            "{errors:#?} in\n{document}"
        );
    }
}
