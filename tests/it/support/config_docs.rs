//! What is generated from the declared keys: the example and the reference.

use std::fmt::Write as _;

use attio_bridge::config::{Declaration, Description, Example, Key, TABLES, variable};

/// The keys that the example sets: a first run needs them.
const SET: [&str; 2] = ["bus.type", "kafka.bootstrap_servers"];

/// How to write the generated files again; a test compares them.
const GENERATED: &str =
    "Generated from src/config/sections by `ATTIO_BRIDGE_TEST_RENEW=1 cargo test --test it example::`.";

const HEAD: &str = "\
# attio-bridge: every key, with its default.
#
# Live lines are what a first run needs. A line `# key = value` shows a default, or, where it says
# \"No default\", an example. As it stands this file is complete once ATTIO_WEBHOOK_SECRET (or
# ATTIO_WEBHOOK_SECRET_FILE) is set and Kafka answers at the address below. Try it:
#
#     attio-bridge check --config config.toml
#     attio-bridge check --connect --config config.toml
#
# Precedence: flag > environment > this file > default. Every key is also a variable: http.listen is
# ATTIO_BRIDGE__HTTP__LISTEN, kafka.topics.ensure is ATTIO_BRIDGE__KAFKA__TOPICS__ENSURE; lists are
# comma separated there, `-` in a name is `_`, and every `_` in a librdkafka property is a `.`.
# Every secret is also a variable …_FILE that names the file which holds it.
# Durations have a unit: \"250ms\", \"5s\", \"96h\". Sizes are bytes. Unknown keys are errors.
# An editor checks this file with the schema that `attio-bridge config --schema` prints.
#
";

const INTRODUCTION: &str = include_str!("config_docs.md");

/// `deploy/config.example.toml`.
pub fn example() -> String {
    let mut out = format!("{HEAD}# {GENERATED}\n");
    for table in TABLES.iter().filter(|table| !matches!(table.example, Example::Inline(_))) {
        example_table(&mut out, table);
    }
    out
}

// Writing to a string cannot fail.
fn example_table(out: &mut String, table: &Declaration) {
    let path = table.path.replace('*', "attio");
    out.push('\n');
    comment(out, table.doc.lines());
    let _ = match table.example {
        Example::Comment => writeln!(out, "# [[{}]]", path.trim_end_matches("[]")),
        _ => writeln!(out, "[{path}]"),
    };
    for (index, key) in table.keys.iter().enumerate() {
        if table.example != Example::Brief {
            if index > 0 {
                out.push('\n');
            }
            comment(out, key_doc(key));
        }
        let set = SET.contains(&&*format!("{path}.{}", key.name()));
        let _ = writeln!(out, "{}{} = {}", if set { "" } else { "# " }, key.name(), key.shown());
    }
    if let Some(entries) = &table.entries {
        let _ = writeln!(out, "# {}", entries.example);
    }
    for list in lists(table) {
        let Example::Inline(value) = list.example else { continue };
        out.push('\n');
        comment(out, list.doc.lines());
        let _ = writeln!(out, "# {} = {value}", last(list).trim_end_matches("[]"));
    }
}

fn comment(out: &mut String, lines: impl IntoIterator<Item = impl AsRef<str>>) {
    for line in lines {
        let _ = writeln!(out, "# {}", line.as_ref());
    }
}

/// What a key does, and that it has no default.
fn key_doc(key: &Key) -> Vec<String> {
    const WIDTH: usize = 100;
    const NONE: &str = "No default.";
    let mut lines: Vec<String> = key.doc().map(String::from).collect();
    if key.default.is_none() && !key.required && !lines.iter().any(|line| line.contains("Required")) {
        match lines.last_mut() {
            Some(line) if line.len() + 3 + NONE.len() <= WIDTH => *line = format!("{line} {NONE}"),
            _ => lines.push(NONE.to_owned()),
        }
    }
    lines
}

/// The lists of tables right below a table.
fn lists(table: &Declaration) -> impl Iterator<Item = &'static Declaration> {
    let path = table.path;
    let below = move |other: &&Declaration| {
        let rest = other.path.strip_prefix(path).and_then(|rest| rest.strip_prefix('.'));
        rest.is_some_and(|rest| rest.ends_with("[]") && !rest.contains('.'))
    };
    TABLES.iter().filter(below)
}

fn last(table: &Declaration) -> &'static str {
    table.path.rsplit('.').next().unwrap_or(table.path)
}

/// `deploy/docs/configuration.md`.
pub fn reference() -> String {
    let mut out = format!("<!-- {GENERATED} -->\n\n# Configuration\n\n{INTRODUCTION}");
    for table in &TABLES {
        let path = table.path.replace('*', "NAME");
        let heading = match path.strip_suffix("[]") {
            Some(path) => format!("[[{}]]", path.replace("[]", "")),
            None => format!("[{path}]"),
        };
        let doc = markdown(&table.doc.lines().collect::<Vec<_>>().join(" "));
        let _ = writeln!(out, "\n## `{heading}`\n\n{doc}");
        if table.keys.is_empty() {
            continue;
        }
        out.push_str(
            "\n| key | type | default | range | variable | what it does |\n|---|---|---|---|---|---|\n",
        );
        for key in table.keys {
            reference_row(&mut out, &path, key);
        }
    }
    out
}

fn reference_row(out: &mut String, path: &str, key: &Key) {
    let Description { name: kind, range, secret, .. } = key.description();
    let default = match key.default {
        Some(_) => format!("`{}`", key.shown()),
        None if key.required => "required".into(),
        None => String::new(),
    };
    let variable = match path {
        // The variable of a secret is that of its label.
        "sources.NAME.secrets[]" if key.name() == "value" => {
            format!("`{}`, `…_FILE`", variable("sources.NAME.secrets.LABEL"))
        }
        "sources.NAME.secrets[]" => String::new(),
        _ => {
            let path = path.replace("[]", ".0");
            let file = if secret { ", `…_FILE`" } else { "" };
            format!("`{}`{file}", variable(&format!("{path}.{}", key.name())))
        }
    };
    let doc = key.doc().collect::<Vec<_>>().join(" ");
    let (range, doc) = (markdown(&range), markdown(&doc));
    let _ = writeln!(out, "| `{}` | {kind} | {default} | {range} | {variable} | {doc} |", key.name());
}

fn markdown(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace('*', "\\*")
}
