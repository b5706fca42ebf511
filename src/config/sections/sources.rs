//! `[sources.NAME]` with its secrets and filter: which events are accepted.

use std::collections::BTreeSet;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value as Json;

use super::DAY;
use crate::catalog::{self, EVENT_TYPES};
use crate::config::diagnostics::nearest;
use crate::config::kinds::{Case, Choice, FilePath, Form, HIDDEN, List, Pattern, Secret, Text, TimeSpan};
use crate::config::secrets::{mistake, usable_secret};
use crate::config::section::{Section, keys};
use crate::config::tree::Environment;
use crate::delivery::SourceName;
use crate::files;
use crate::metrics::NO_SECRET;
use crate::pipeline::verify::{self, MIN_SECRET_BYTES, Scheme};
use crate::pipeline::{SourceOptions, filter};

/// A shorter secret is accepted with a warning; Attio's own have 64 characters.
const GOOD_SECRET_BYTES: usize = 32;

/// The types of actors in Attio's events.
const ACTOR_TYPES: [&str; 4] = ["workspace-member", "api-token", "system", "app"];

const SCHEMES: [(&str, Scheme); 3] =
    [("auto", Scheme::Auto), ("attio", Scheme::Attio), ("timestamped", Scheme::Timestamped)];

const LABEL: Pattern = Pattern {
    expects: "1 to 32 characters of a-z, 0-9, - and _, other than `none`",
    regex: "^[a-z0-9_-]{1,32}$",
    accepts: |label| {
        let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        (1..=32).contains(&label.len()) && label.bytes().all(fits) && label != NO_SECRET
    },
};

const ID: Pattern = Pattern {
    expects: "an id: 1 to 128 characters of A-Z, a-z, 0-9, ., _, : and -",
    regex: "^[A-Za-z0-9._:-]{1,128}$",
    accepts: catalog::is_id,
};

pub const DOC: &str = "\
One table per sender; deliveries of source `attio` arrive at /webhooks/attio. A name is 1 to 63
characters of a-z, 0-9, - and _. ATTIO_WEBHOOK_SECRET is the secret `default` of source `attio`, and
wins over a secret of that label given here.";

pub const SECRETS_DOC: &str = "\
At least one secret; a delivery may be signed with any of them, so that a secret can be rotated. Each
has a label for metrics and logs, and one of: file = \"PATH\", env = \"NAME\", value = \"TEXT\". At least
16 bytes; Attio's have 64. Variables: ATTIO_BRIDGE__SOURCES__ATTIO__SECRETS__<LABEL>[_FILE]. Secrets
are read again while the bridge serves: on SIGHUP, and when this file or theirs changes.";

keys! {
    Source {
        /// "attio": HMAC over the body. "timestamped": HMAC over timestamp.body. "auto": timestamped
        /// if the header X-Attio-Timestamp is sent, otherwise attio.
        scheme: Choice<Scheme>(&SCHEMES, Case::Exact) = "auto";
        /// How far in the past or the future a signed timestamp may be.
        timestamp_tolerance: TimeSpan(Duration::from_secs(1)..=DAY) = "300s";
        /// Workspace of events that name none; it becomes part of the CloudEvents `source`.
        workspace_id: Form(&ID) like "14beef7a-99f7-4534-a87e-70b564330a4c";
    }
}

keys! {
    SecretKeys {
        /// Name of the secret in metrics and logs, unique in its source.
        label: Form(&LABEL) required "default";
        /// File that holds the secret; one line end at its end is not part of it.
        file: FilePath like "/run/secrets/attio";
        /// Environment variable that holds the secret.
        env: Text like "ATTIO_SECRET";
        /// The secret itself.
        value: Secret like "change-me";
    }
}

keys! {
    Rules => filter::Rules {
        /// Event types: "record.updated", or "record.*" for all of a category.
        types: List = "";
        /// Actor types, such as "workspace-member".
        actor_types: List = "";
        /// Object ids, or slugs if route.slugs_file is set: "people". A slug that is not in the file never
        /// causes an event to be dropped; use ids if an event must never pass.
        objects: List = "";
        /// List ids, or slugs, likewise.
        lists: List = "";
        /// Attribute ids.
        attributes: List = "";
    }
}

pub fn sources(section: &mut Section<'_>, environment: &Environment) -> Vec<SourceOptions> {
    let diagnostics = section.diagnostics();
    let entries = section.entries();
    if entries.is_empty() {
        let message = "no source is configured; set ATTIO_WEBHOOK_SECRET (or ATTIO_WEBHOOK_SECRET_FILE), \
                       or add a table [sources.NAME] with its secrets";
        diagnostics.required(section.path(), None, message);
    }
    let mut sources = Vec::new();
    for (name, node) in entries {
        let origin = node.origin.clone();
        let mut section = section.child(&name, node);
        let name = SourceName::new(&name).unwrap_or_else(|error| {
            diagnostics.problem(section.path(), Some(&origin), error.to_string());
            SourceName::new("unnamed").expect("a good name")
        });
        sources.push(source(&mut section, name, environment));
    }
    sources
}

fn source(section: &mut Section<'_>, name: SourceName, environment: &Environment) -> SourceOptions {
    let Source { scheme, timestamp_tolerance, workspace_id } = Source::read(section);
    let secrets = secrets(section, environment);
    let mut filter = section.section("filter");
    let include = rules(&mut filter.section("include"));
    let exclude = rules(&mut filter.section("exclude"));
    let verify = verify::Options { scheme, timestamp_tolerance, secrets };
    SourceOptions { name, verify, filter: filter::Options { include, exclude }, workspace_id }
}

fn secrets(section: &mut Section<'_>, environment: &Environment) -> Vec<verify::Secret> {
    let diagnostics = section.diagnostics();
    let entries = section.tables("secrets");
    if entries.is_empty() {
        let message = "the source has no secret; add one, as in \
                       secrets = [{ label = \"default\", file = \"/run/secrets/attio\" }]";
        diagnostics.required(&section.key("secrets"), None, message);
    }
    let mut labels = BTreeSet::new();
    let mut secrets = Vec::new();
    for entry in entries {
        let mut entry = entry.unlisted();
        let (names, keys) = (entry.names(), SecretKeys::read(&mut entry));
        if let Some(label) = &keys.label
            && !labels.insert(label.clone())
        {
            let message = format!("another secret of this source is called {label:?}; rename one");
            entry.refuse("label", message);
        }
        let Some((label, name, value)) = secret(&entry, &names, keys, environment) else { continue };
        let key = section.key(&format!("secrets.{label}"));
        let origin = diagnostics.origin_of(&entry.key(name));
        diagnostics.setting(&key, Json::from(HIDDEN), origin.as_ref());
        diagnostics.secret(&key, value.clone());
        secrets.push(verify::Secret { label: label.into(), value });
    }
    secrets
}

/// The label of one entry, the key with its value, and the value. `names` are the keys that it has.
fn secret(
    section: &Section<'_>,
    names: &[String],
    keys: SecretKeys,
    environment: &Environment,
) -> Option<(String, &'static str, SecretString)> {
    let diagnostics = section.diagnostics();
    const ONE: &str = "give exactly one of `file`, `env` and `value`";
    let given: Vec<_> = names.iter().filter(|name| ["file", "env", "value"].contains(&&***name)).collect();
    match given[..] {
        [] => diagnostics.required(section.path(), section.origin(), format!("has no value; {ONE}")),
        [_] => {}
        [first, second, ..] => {
            let message = format!("has both `{first}` and `{second}`; {ONE}");
            diagnostics.problem(section.path(), section.origin(), message);
            return None;
        }
    }
    let (name, value) = match keys {
        SecretKeys { value: Some(value), .. } => ("value", Ok(value)),
        SecretKeys { file: Some(file), .. } => {
            diagnostics.file(&file);
            ("file", files::read_secret(&file))
        }
        SecretKeys { env: Some(env), .. } => ("env", variable(&env, environment)),
        _ => return None,
    };
    let value = value.map_err(|message| section.refuse(name, message)).ok()?;
    check_strength(section, name, keys.label.as_deref().unwrap_or("?"), &value);
    Some((keys.label?, name, value))
}

fn variable(name: &str, environment: &Environment) -> Result<SecretString, String> {
    let value = environment.get(name).ok_or_else(|| format!("the variable {name} is not set"))?;
    let text = value.to_str().ok_or_else(|| format!("the variable {name} is not UTF-8 text"))?;
    Ok(SecretString::from(text))
}

fn check_strength(section: &Section<'_>, name: &str, label: &str, secret: &SecretString) {
    let text = secret.expose_secret();
    let refuse = |what: &str| section.refuse(name, format!("the secret `{label}` {what}"));
    let warn = |what: &str| section.warn(name, format!("the secret `{label}` {what}"));
    if let Err(message) = usable_secret(secret) {
        return refuse(&message);
    }
    if ['"', '\''].iter().any(|quote| text.len() > 1 && text.starts_with(*quote) && text.ends_with(*quote)) {
        return refuse(
            "is in quotes, which would be part of it: remove them (`docker --env-file` keeps them)",
        );
    }
    let mistake = mistake(text.trim());
    match text.len() {
        length if length < MIN_SECRET_BYTES => {
            let mistake = mistake.map(|mistake| format!("; it {mistake}")).unwrap_or_default();
            return refuse(&format!("has {length} bytes and needs at least {MIN_SECRET_BYTES}{mistake}"));
        }
        _ if let Some(mistake) = mistake => return warn(&mistake),
        length if length < GOOD_SECRET_BYTES => {
            warn(&format!("has only {length} bytes; Attio's own have 64"));
        }
        _ => {}
    }
    if text.trim() != text {
        warn("begins or ends with white space, which is part of it");
    }
}

fn rules(section: &mut Section<'_>) -> filter::Rules {
    let rules = Rules::read(section);
    let effect = |all: &[String], unknown: usize| match section.path().ends_with("include") {
        _ if unknown < all.len() => "",
        true => "; with nothing else in the list, every event is dropped",
        false => "; with nothing else in the list, no event is dropped",
    };
    // Attio adds types, so one that is not in the catalog may still be right.
    let known = |name: &str| match name.strip_suffix(".*") {
        Some(stem) => EVENT_TYPES.iter().any(|entry| entry.name.split('.').next() == Some(stem)),
        None => is_known_type(name),
    };
    let unknown: Vec<_> = rules.types.iter().filter(|name| !known(name)).collect();
    for name in &unknown {
        let effect = effect(&rules.types, unknown.len());
        let consequence = format!(", so it matches no event that Attio sends today{effect}");
        section.warn("types", unknown_type(name, &consequence));
    }
    let unknown: Vec<_> = rules.actor_types.iter().filter(|name| !ACTOR_TYPES.contains(&&***name)).collect();
    for name in &unknown {
        let (effect, meant) = (effect(&rules.actor_types, unknown.len()), nearest(name, ACTOR_TYPES));
        section
            .warn("actor_types", format!("{name:?} is no actor type that Attio sends today{effect}{meant}"));
    }
    rules
}

/// The message about a type that the catalog does not have, with what follows from it.
pub fn unknown_type(name: &str, consequence: &str) -> String {
    let meant = nearest(name, EVENT_TYPES.iter().map(|entry| entry.name));
    format!("{name:?} is no event type that this build knows{consequence}{meant}")
}

pub fn is_known_type(name: &str) -> bool {
    EVENT_TYPES.iter().any(|entry| entry.name == name)
}
