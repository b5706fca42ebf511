//! How problems of a configuration are printed, on a terminal and elsewhere.

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

/// What the program prints, with a terminal or without one.
fn printed(setup: &Setup, environment: &[(&str, &str)], terminal: bool) -> String {
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
fn terminal_shows_place_and_line_of_each_problem() {
    let setup = Setup::empty().toml(&wrong());
    let text = printed(&setup, &[("NO_COLOR", "1")], true);
    let shown = [
        "error: http.listn: unknown key; did you mean `http.listen`?
 --> config.toml:2:1
  |
2 | listn = …
  | ^^^^^
",
        "error: http.max_body_bytes: expects a whole number, not text
 --> config.toml:3:18
  |
3 | max_body_bytes = \"many\"
  |                  ^^^^^^
",
        "not \"kafak\"; did you mean \"kafka\"?
 --> config.toml:5:8
  |
5 | type = \"kafak\"
  |        ^^^^^^^
",
        " --> config.toml:7:27
  |
7 | …                         value = …
  |                           ^^^^^
",
        "did you mean \"record.created\"?
 --> config.toml:8:24
  |
8 | …              types = [\"reccord.created\"]
  |                        ^^^^^^^^^^^^^^^^^^^
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
    let styled = printed(&setup, &[], true);
    assert!(styled.contains("\u{1b}[1m\u{1b}[91merror"), "{styled}");
}

#[test]
fn pipe_gets_one_line_for_each_problem() {
    let text = printed(&Setup::empty().toml(&wrong()), &[], false);
    assert!(
        text.contains("\n  http.max_body_bytes: expects a whole number, not text (file config.toml:3)\n"),
        "{text}"
    );
    assert!(!text.contains('^') && !text.contains("-->") && !text.contains('\u{1b}'), "{text}");
    let count = text.lines().filter(|line| line.starts_with("  ")).count();
    assert!(text.contains(&format!("the configuration has {count} problems")), "{text}");
}

#[test]
fn syntax_error_shows_its_place_and_no_text() {
    let setup = Setup::empty().toml(&format!("[sources.attio]\nsecrets = [{{ value = \"{CANARY} }}]\n"));
    let text = printed(&setup, &[("NO_COLOR", "1")], true);
    assert!(text.contains("--> config.toml:2:") && !text.contains('|'), "{text}");
}

#[test]
fn problem_with_a_variable_names_it() {
    let setup = Setup::empty().toml("");
    let variables = [("NO_COLOR", "1"), ("ATTIO_BRIDGE__HTTP__LISTN", "x"), ("ATTIO_WEBHOOK_SECRET", CANARY)];
    let text = printed(&setup, &variables, true);
    assert!(text.contains("unknown variable; did you mean `ATTIO_BRIDGE__HTTP__LISTEN`?"), "{text}");
    assert!(text.contains("--> environment ATTIO_BRIDGE__HTTP__LISTN"), "{text}");
    assert!(text.contains("bus.type: required") && text.contains("--> not set"), "{text}");
}

#[test]
fn similar_words_are_suggested() {
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
fn missing_key_in_a_list_of_tables_is_reported_with_place_and_example() {
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
    let text = printed(&setup, &[], false);
    let lines = [
        "sources.attio.secrets[0].label: required, as in label = \"default\"; expects 1 to 32 characters",
        "sources.attio.secrets[1]: has no value; give exactly one of `file`, `env` and `value` (file \
         config.toml:4)",
        "webhooks[0].subscriptions[1].event_type: required, as in event_type = \"record.created\" (file \
         config.toml:10)",
        "webhooks[1].source: required, as in source = \"attio\" (file config.toml:11)",
        "webhooks[1].target_url: required, as in target_url = \"https://hooks.example.com/webhooks/attio\"; \
         expects an address that begins with https:// (file config.toml:11)",
        "webhooks[1].subscriptions: required, as in subscriptions = [{ event_type = \"record.created\" }] (file \
         config.toml:11)",
    ];
    for line in lines {
        assert!(text.contains(line), "{line}\n\n{text}");
    }
    assert_eq!(Setup::good().toml("[sources.b]\nsecrets = [\"text\"]\n").problems().len(), 1);
    let shown = printed(&setup, &[("NO_COLOR", "1")], true);
    assert!(shown.contains("--> config.toml:11:"), "{shown}");
}
