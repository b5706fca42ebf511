//! Parts of the configuration, for verbs that cannot expect the whole of it to be good.

use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::report::Report;
use super::section::Section;
use super::tree::{Table, Value};
use super::{Input, Problem, Problems, check, env, read_file, secret};
use crate::attio::{Options, WebhookOptions};

/// Reads the address of the admin listener alone: whoever asks whether the bridge is ready need not
/// be able to read its secrets.
pub fn admin_listen(input: &Input) -> Result<String, Problems> {
    let report = Report::default();
    let mut tree = read_file(input, &report)?;
    env::overlay(&mut tree, &input.environment, &Report::default());
    let admin: Table = tree.remove_entry("admin").into_iter().collect();
    let listen = check::admin_listen(&mut Section::root(&report, admin).section("admin"));
    let found = report.finish();
    if found.problems.is_empty() { Ok(listen) } else { Err(found.into()) }
}

/// Reads a secret from a file as any `…_FILE` is read: one line end at its end is not part of it.
pub fn secret_file(path: &Path) -> Result<SecretString, String> {
    let secret = secret::read(path, &Report::default())?;
    secret::not_empty(&secret).map_err(|message| format!("the file {} {message}", path.display()))?;
    Ok(secret)
}

/// What the verbs that speak to Attio need.
#[derive(Clone, Debug)]
pub struct Attio {
    /// How to reach it.
    pub options: Options,
    /// The webhooks that should exist.
    pub webhooks: Vec<WebhookOptions>,
    /// The names of the sources.
    pub sources: Vec<String>,
    /// Those of their secrets that stand in files.
    pub secret_files: Vec<SecretFile>,
    /// Where the map of slugs is to stand.
    pub slugs_file: Option<PathBuf>,
    /// What is worth saying and keeps nothing from working.
    pub warnings: Vec<Problem>,
}

/// A secret that stands in a file, which need not be there yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFile {
    /// Of which source.
    pub source: String,
    /// Its label.
    pub label: String,
    /// The file.
    pub path: PathBuf,
}

/// Reads `[attio]` and `[[webhooks]]` alone: before the first webhook is made there is no secret for a
/// source, and so no configuration that `serve` would take. Of the sources only the names are looked at.
pub fn attio(input: &Input) -> Result<Attio, Problems> {
    let report = Report::default();
    let mut tree = read_file(input, &report)?;
    env::overlay(&mut tree, &input.environment, &Report::default());
    let sources = match tree.remove("sources").map(|node| node.value) {
        Some(Value::Table(sources)) => sources,
        _ => Table::new(),
    };
    let slugs_file = match tree.remove("route").map(|node| node.value) {
        Some(Value::Table(mut route)) => route.remove("slugs_file").and_then(|node| node.into_text()),
        _ => None,
    };
    let own: Table = ["attio", "webhooks"].into_iter().filter_map(|name| tree.remove_entry(name)).collect();
    let names: Vec<&str> = sources.keys().map(String::as_str).collect();
    let (options, webhooks) = check::attio(&mut Section::root(&report, own), &names);
    let found = report.finish();
    if !found.problems.is_empty() {
        return Err(found.into());
    }
    Ok(Attio {
        options,
        webhooks,
        sources: sources.keys().cloned().collect(),
        secret_files: secret::files(sources),
        slugs_file: slugs_file.map(PathBuf::from),
        warnings: found.warnings,
    })
}
