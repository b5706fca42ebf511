//! What is wrong with a configuration, as a person at a terminal sees it, and as a log does.

use std::process::{Command, Stdio};

use crate::setup::Setup;

const CANARY: &str = "canary-0123456789-do-not-print";

/// A file with a mistake of every kind; its lines are counted below.
fn wrong() -> String {
    format!(
        "[http]
listn = \"0.0.0.0:80\"
max_body_bytes = \"many\"   # {CANARY}
[bus]
type = \"kafak\"
[sources.attio]
secrets = [{{ label = \"a\", value = \"short\" }}, {{ lable = \"{CANARY}\", value = \"{CANARY}\" }}]
filter.include.types = [\"reccord.created\"]
[route.categories]
nots = \"x\"
[kafka]
sasl_pasword = \"{CANARY}\"
sasl_password = [\"{CANARY}\"]
[kafka.properties]
\"ssl.key.pasword\" = \"{CANARY}\"
[nats]
servers = \"http://me:{CANARY}@nats\"
"
    )
}

/// What the program says, with a terminal or without one.
fn said(setup: &Setup, environment: &[(&str, &str)], terminal: bool) -> String {
    let (program, file) = (env!("CARGO_BIN_EXE_attio-bridge"), setup.folder().join("config.toml"));
    let line = format!("'{program}' check --config '{}'", file.display());
    let mut command = match terminal {
        // It runs the line on a terminal of its own, and copies what is shown there.
        true => Command::new("script"),
        false => Command::new("sh"),
    };
    command.args(if terminal { vec!["-qec", &line, "/dev/null"] } else { vec!["-c", &line] });
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).envs(environment.iter().copied());
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(!text.contains(CANARY), "{text}");
    text.replace("\r\n", "\n").replace(&format!("{}/", setup.folder().display()), "")
}

#[test]
fn on_a_terminal_each_has_its_place_and_its_line() {
    let setup = Setup::empty().toml(&wrong());
    let text = said(&setup, &[("NO_COLOR", "1")], true);
    let shown = [
        "error: http.listn: unknown key; did you mean `http.listen`?
 --> config.toml:2:1
  |
2 | listn = …
  | ^^^^^
",
        "error: http.max_body_bytes: expects a whole number, not text
 --> config.toml:3:1
  |
3 | max_body_bytes = \"many\"
  |                  ^^^^^^
",
        "not \"kafak\"; did you mean \"kafka\"?
 --> config.toml:5:1
  |
5 | type = \"kafak\"
  |        ^^^^^^^
",
        " --> config.toml:7:27
  |
7 | … value = …
  |   ^^^^^
",
        "did you mean \"record.created\"?
 --> config.toml:8:16
  |
8 | … types = [\"reccord.created\"]
  |           ^^^^^^^^^^^^^^^^^^^
",
        "did you mean \"note\"?
  --> config.toml:10:1
   |
10 | nots = …
   | ^^^^
",
        "error: kafka.sasl_pasword: unknown key; did you mean `kafka.sasl_password`?
  --> config.toml:12:1
   |
12 | sasl_pasword = …
   | ^^^^^^^^^^^^
",
        "13 | sasl_password = …
   | ^^^^^^^^^^^^^
",
    ];
    for part in shown {
        assert!(text.contains(part), "{part}\nin\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "{text}");
    assert!(said(&setup, &[], true).contains("\u{1b}[31merror"));
}

#[test]
fn elsewhere_each_is_a_line() {
    let text = said(&Setup::empty().toml(&wrong()), &[], false);
    assert!(
        text.contains("\n  http.max_body_bytes: expects a whole number, not text (file config.toml:3)\n"),
        "{text}"
    );
    assert!(!text.contains('^') && !text.contains("-->") && !text.contains('\u{1b}'), "{text}");
    let count = text.lines().filter(|line| line.starts_with("  ")).count();
    assert!(text.contains(&format!("the configuration has {count} problems")), "{text}");
}

#[test]
fn what_is_no_toml_has_its_place_and_none_of_its_text() {
    let setup = Setup::empty().toml(&format!("[sources.attio]\nsecrets = [{{ value = \"{CANARY} }}]\n"));
    let text = said(&setup, &[("NO_COLOR", "1")], true);
    assert!(text.contains(" --> config.toml:2:") && !text.contains('|'), "{text}");
}

#[test]
fn what_comes_from_a_variable_names_it() {
    let setup = Setup::empty().toml("");
    let variables = [("NO_COLOR", "1"), ("ATTIO_BRIDGE__HTTP__LISTN", "x"), ("ATTIO_WEBHOOK_SECRET", CANARY)];
    let text = said(&setup, &variables, true);
    assert!(text.contains("unknown variable; did you mean `ATTIO_BRIDGE__HTTP__LISTEN`?"), "{text}");
    assert!(text.contains("--> environment ATTIO_BRIDGE__HTTP__LISTN"), "{text}");
    assert!(text.contains("bus.type: required") && text.contains("--> not set"), "{text}");
}

#[test]
fn near_words_are_told() {
    let table = [
        ("[bus]\ntype = \"NATS\"\n", "; did you mean \"nats\"?"),
        ("[log]\nlevel = \"warning\"\n", "; did you mean \"warn\"?"),
        ("[kafka]\nsasl_mechanism = \"SCRAM-SHA512\"\n", "; did you mean \"SCRAM-SHA-512\"?"),
        ("[kafka]\nsecurity_protocol = \"sasl-ssl\"\n", "; did you mean \"sasl_ssl\"?"),
        ("[route.categories]\nlist_entry = \"x\"\n", "; did you mean \"list-entry\"?"),
        (
            "[[webhooks]]\nname = \"a\"\nsource = \"atio\"\ntarget_url = \"https://c\"\n\
             subscriptions = [{ event_type = \"note.created\" }]",
            "; did you mean \"attio\"?",
        ),
    ];
    for (text, words) in table {
        let problems = Setup::good().toml(text);
        let problems = if text.contains("[bus]") { Setup::empty().toml(text) } else { problems }.problems();
        assert!(problems.iter().any(|problem| problem.contains(words)), "{words}: {problems:#?}");
    }
    let setup = Setup::good().toml("[sources.attio]\nfilter.exclude.types = [\"record.create\"]\n");
    assert!(setup.warnings()[0].contains("did you mean \"record.created\"?"), "{:?}", setup.warnings());
}

#[test]
fn what_is_missing_in_one_table_of_many_is_told_with_its_place_and_its_form() {
    let setup = Setup::empty().toml(
        "[bus]
type = \"stdout\"
[sources.attio]
secrets = [{ value = \"0123456789abcdef0123456789abcdef\" }, { label = \"b\" }]
[[webhooks]]
name = \"good\"
source = \"attio\"
target_url = \"https://a\"
subscriptions = [{ event_type = \"note.created\" },
  { filter = { \"$and\" = [] } }]
[[webhooks]]
name = \"bad\"
",
    );
    let text = said(&setup, &[], false);
    let lines = [
        "sources.attio.secrets[0].label: missing: a label tells secrets apart",
        "sources.attio.secrets[1]: has no value; give one of `value`, `file` and `env` (file config.toml:4)",
        "webhooks[0].subscriptions[1].event_type: required for a subscription: as in event_type = \
         \"record.created\" (file config.toml:10)",
        "webhooks[1].source: required for a webhook: on which source its deliveries come in, as in source = \
         \"attio\" (file config.toml:11)",
        "webhooks[1].target_url: required for a webhook: where Attio sends to, as in target_url = \
         \"https://hooks.example.com/webhooks/attio\" (file config.toml:11)",
        "webhooks[1].subscriptions: required for a webhook: what Attio sends, as in subscriptions = \
         [{ event_type = \"record.created\" }] (file config.toml:11)",
    ];
    for line in lines {
        assert!(text.contains(line), "{line}\n\n{text}");
    }
    let shown = said(&setup, &[("NO_COLOR", "1")], true);
    assert!(shown.contains(" --> config.toml:11:"), "{shown}");
}
