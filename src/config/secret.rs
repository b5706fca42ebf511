//! Secrets: where they are read from, and what they must be. No message holds a value.

use std::path::Path;

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value as Json;

use super::env::Environment;
use super::files;
use super::report::{Given, Report};
use super::section::{HIDDEN, Section};
use super::tree::{Node, Table, Value};
use super::{SecretFile, types};
use crate::pipeline::verify::{MIN_SECRET_BYTES, Secret};

/// Below this a secret is taken with a warning; Attio's own have 64 characters.
const GOOD_SECRET_BYTES: usize = 32;

/// The largest file that a secret is read from.
const MAX_SECRET_FILE_BYTES: u64 = 64 * 1024;

/// The label of signatures that matched no secret, which no secret may have.
const RESERVED: &str = crate::metrics::NO_SECRET;

/// Whether a key is secret: its value is never shown, and it may be given as `…_FILE`.
pub fn is_secret(path: &[&str]) -> bool {
    match path {
        ["attio", "api_key"] | ["kafka", "sasl_password"] | ["nats", "token" | "password"] => true,
        ["kafka", "properties", name] => is_secret_property(name),
        _ => false,
    }
}

/// Whether a librdkafka property holds a secret.
pub fn is_secret_property(name: &str) -> bool {
    let ends = [".password", ".secret", ".passphrase", "key.pem", "oauthbearer.config"];
    ends.iter().any(|end| name.ends_with(end))
}

/// Reads a secret from a file; one line end at its end is not part of it.
pub fn read(path: impl AsRef<Path>, report: &Report) -> Result<SecretString, String> {
    let path = path.as_ref();
    report.file(path);
    let text = files::read_text(path, MAX_SECRET_FILE_BYTES)
        .map_err(|error| format!("the file {} cannot be read: {error}", path.display()))?;
    let text = text.strip_suffix('\n').map_or(&*text, |line| line.strip_suffix('\r').unwrap_or(line));
    Ok(SecretString::from(text))
}

/// Refuses an empty secret: a variable that was meant to be set.
pub fn not_empty(secret: &SecretString) -> Result<(), String> {
    if secret.expose_secret().is_empty() { Err("is empty".into()) } else { Ok(()) }
}

/// One entry of a source's `secrets`. `source` is the path of the source.
pub fn entry(mut section: Section<'_>, source: &str, environment: &Environment) -> Option<Secret> {
    let label = label(&mut section);
    let value = value(&mut section, environment)?;
    strength(&section, label.as_deref().unwrap_or("?"), &value);
    let label = label?;
    let key = format!("{source}.secrets.{label}");
    section.report().setting(&key, Json::from(HIDDEN), Some(&value.origin));
    section.report().secret(&key, value.value.clone());
    Some(Secret { label: label.into(), value: value.value })
}

/// The secrets of sources that stand in files. Nothing is read, and what is not right is not said: whoever
/// asks for these files is about to write them.
pub fn files(sources: Table) -> Vec<SecretFile> {
    fn inside(node: Node) -> Vec<Node> {
        match node.value {
            Value::List(items) => items,
            _ => Vec::new(),
        }
    }
    let mut files = Vec::new();
    for (source, node) in sources {
        let Value::Table(mut table) = node.value else { continue };
        for secret in table.remove("secrets").map(inside).unwrap_or_default() {
            let Value::Table(mut secret) = secret.value else { continue };
            let mut text = |name| secret.remove(name).and_then(Node::into_text);
            if let (Some(label), Some(path)) = (text("label"), text("file")) {
                files.push(SecretFile { source: source.clone(), label, path: path.into() });
            }
        }
    }
    files
}

fn label(section: &mut Section<'_>) -> Option<String> {
    const FORM: &str = "is 1 to 32 characters of a-z, 0-9, - and _, and not `none`";
    let Some(node) = section.take("label") else {
        let message = format!("missing: a label tells secrets apart in metrics and logs; it {FORM}");
        section.missing("label", &message);
        return None;
    };
    let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    let checked = types::text(&node).and_then(|(label, _)| {
        let good = (1..=32).contains(&label.len()) && label.bytes().all(fits) && label != RESERVED;
        if good { Ok(label) } else { Err(format!("a label {FORM}")) }
    });
    checked
        .map_err(|message| section.report().problem(&section.key("label"), Some(&node.origin), message))
        .ok()
}

/// Exactly one of `value`, `file` and `env`.
fn value(section: &mut Section<'_>, environment: &Environment) -> Option<Given<SecretString>> {
    let mut given: Vec<_> =
        ["value", "file", "env"].into_iter().filter_map(|name| Some((name, section.take(name)?))).collect();
    let Some((name, node)) = given.pop() else {
        let message = "has no value; give one of `value`, `file` and `env`";
        section.report().problem(section.path(), section.place(), message);
        return None;
    };
    if let Some((other, _)) = given.pop() {
        let message =
            format!("has both `{other}` and `{name}`; give exactly one of `value`, `file` and `env`");
        section.report().problem(section.path(), Some(&node.origin), message);
        return None;
    }
    let found = types::text(&node).and_then(|(text, _)| match name {
        "file" => read(text, section.report()),
        "env" => variable(&text, environment),
        _ => Ok(SecretString::from(text)),
    });
    match found {
        Ok(value) => Some(Given { key: section.key(name), value, origin: node.origin }),
        Err(message) => {
            section.report().problem(&section.key(name), Some(&node.origin), message);
            None
        }
    }
}

fn variable(name: &str, environment: &Environment) -> Result<SecretString, String> {
    let value = environment.get(name).ok_or_else(|| format!("the variable {name} is not set"))?;
    let text = value.to_str().ok_or_else(|| format!("the variable {name} is not UTF-8 text"))?;
    Ok(SecretString::from(text))
}

fn strength(section: &Section<'_>, label: &str, given: &Given<SecretString>) {
    let text = given.value.expose_secret();
    match text.len() {
        0 => section.report().refuse(given, format!("the secret `{label}` is empty")),
        length if length < MIN_SECRET_BYTES => {
            let message =
                format!("the secret `{label}` has {length} bytes and needs at least {MIN_SECRET_BYTES}");
            section.report().refuse(given, message);
        }
        length if length < GOOD_SECRET_BYTES => {
            let message = format!("the secret `{label}` has only {length} bytes; Attio's own have 64");
            section.report().warn(given, message);
        }
        _ => {}
    }
    if text.trim() != text {
        section.report().warn(
            given,
            format!("the secret `{label}` begins or ends with white space, which counts as part of it"),
        );
    }
}
