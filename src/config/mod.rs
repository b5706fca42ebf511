//! The configuration: flag > environment > file > default, checked once, at start.
//!
//! A key is declared once, with `keys!` in the file of its section: name, type with range, default,
//! documentation. Reading it, its errors, its variable, the example, the reference and the JSON Schema
//! follow from that.
//!
//! The layers are merged by hand (`tree`, `file`, `env`): no crate reports all problems, each with its line or
//! variable, and hides secrets.
//!
//! Values are never guessed: the environment is text, and the type of the key alone decides whether that text
//! is read as a number. A secret is always text, even if it is all digits.

mod diagnostics;
mod env;
mod file;
mod kinds;
mod secrets;
mod section;
mod sections;
mod tree;
mod verbs;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value as Json, json};

pub use crate::files::Files;
pub use diagnostics::{Problem, Problems, Setting, nearest};
pub use env::Flag;
pub use kinds::Description;
pub use section::Key;
pub use sections::{Declaration, Example, LogFormat, LogOptions, TABLES, schema};
pub use tree::{Environment, Excerpt, Origin, variable};
pub use verbs::{Contract, State, contract, state};

use crate::attio::{Options, WebhookOptions};
use crate::bus::inspect::Requirements;
use crate::http::{self, admin};
use crate::pipeline::route::Routes;
use crate::pipeline::slugs::Slugs;
use crate::pipeline::{SourceOptions, dedup, route};
use crate::{bus, files, open_files, shutdown, state as states, store};
use diagnostics::{Diagnostics, Findings};
use secrets::usable_secret;
use section::Section;
use tree::{Node, Table, Value};

/// The variable that names the file.
pub const FILE_VARIABLE: &str = "ATTIO_BRIDGE_CONFIG";

/// The configuration of `serve`. Built by [`load`], so everything in it is checked; what only the verbs that
/// call Attio use is checked with it, and given to them by [`attio`](fn@attio).
#[derive(Clone)]
pub struct Config {
    pub http: http::Options,
    pub admin: admin::Options,
    pub sources: Vec<SourceOptions>,
    pub route: route::Options,
    /// Where the schemas of events are published, without a slash at its end.
    pub schema_base_url: Option<String>,
    pub slugs_file: Option<PathBuf>,
    /// What it holds; none without the file, or with a warning if it is malformed.
    pub slugs: Option<Arc<Slugs>>,
    pub dedup: dedup::Options,
    /// The memory that replicas share; none for their own alone.
    pub store: Option<store::Options>,
    pub bus: bus::Options,
    pub state: states::Options,
    /// Whether `[state]` is there at all.
    pub uses_state: bool,
    pub shutdown: shutdown::Options,
    /// Threads that serve; where absent, as many as the cores that the process may use.
    pub workers: Option<usize>,
    pub log: LogOptions,
    pub warnings: Vec<Problem>,
    found: Findings,
    input: Input,
}

impl Config {
    /// Every key with its value and origin; secrets are `***`.
    pub fn settings(&self) -> &[Setting] {
        &self.found.settings
    }

    /// What serving needs of the broker.
    pub fn requirements(&self) -> Requirements {
        let routes = Routes::new(&self.route);
        Requirements {
            destinations: routes.destinations(),
            addresses: routes.addresses(),
            quarantine: Arc::clone(&routes.quarantine().address),
            max_body_bytes: self.http.max_body_bytes,
        }
    }

    pub fn source(&self, name: &str) -> Option<&SourceOptions> {
        self.sources.iter().find(|source| source.name.as_str() == name)
    }

    pub fn source_names(&self) -> String {
        self.sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The effective configuration in the notation of the file, one key a line, each with its origin.
    pub fn to_text(&self) -> String {
        /// The column at which origins begin, unless a line is longer.
        const COLUMN: usize = 56;
        self.found.settings.iter().fold(String::new(), |mut out, setting| {
            // Writing to a string cannot fail.
            let _ = match &setting.origin {
                Some(origin) => {
                    let line = format!("{} = {}", setting.key, setting.value);
                    writeln!(out, "{line:<COLUMN$} # {origin}")
                }
                None => writeln!(out, "{:<COLUMN$} # not set", format!("# {} =", setting.key)),
            };
            out
        })
    }

    /// The effective configuration as JSON, an object by key.
    pub fn to_json(&self) -> Json {
        let entry = |setting: &Setting| {
            let origin = setting.origin.as_ref().map_or("not set".to_owned(), ToString::to_string);
            (setting.key.clone(), json!({ "value": setting.value, "from": origin }))
        };
        self.found.settings.iter().map(entry).collect::<Map<_, _>>().into()
    }

    pub fn file(&self) -> Option<&Path> {
        self.input.file.as_ref().map(|(path, _)| path.as_path())
    }

    /// The files that it was read from, and those that it names.
    pub fn files(&self) -> &Files {
        &self.found.files
    }

    /// The keys whose values are not those of another configuration.
    pub fn changed(&self, other: &Self) -> BTreeSet<String> {
        fn values(config: &Config) -> BTreeMap<&str, (&Json, Option<&str>)> {
            let secret = |key: &str| config.found.secrets.get(key).map(ExposeSecret::expose_secret);
            let settings = config.found.settings.iter();
            settings.map(|setting| (&*setting.key, (&setting.value, secret(&setting.key)))).collect()
        }
        let (ours, theirs) = (values(self), values(other));
        let keys = ours.keys().chain(theirs.keys());
        keys.filter(|key| ours.get(*key) != theirs.get(*key)).map(|key| (*key).to_owned()).collect()
    }

    /// Loads again from the same file, environment and flags: what SIGHUP asks for.
    pub fn reload(&self) -> Result<Self, Problems> {
        load(&self.input)
    }
}

impl fmt::Debug for Config {
    /// Shows the settings, in which secrets are hidden already.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.found.settings.iter().map(|setting| (&setting.key, &setting.value));
        f.debug_map().entries(entries).finish()
    }
}

#[derive(Clone, Default)]
pub struct Input {
    /// The file, and what named it.
    pub file: Option<(PathBuf, Origin)>,
    pub environment: Environment,
    pub flags: Vec<Flag>,
}

impl Input {
    /// The file is the one that `--config` names, else the one of [`FILE_VARIABLE`], else none.
    pub fn new(config: Option<PathBuf>, environment: Environment, flags: Vec<Flag>) -> Self {
        let named = || environment.get(FILE_VARIABLE).filter(|name| !name.is_empty()).map(OsString::from);
        let file = match config {
            Some(path) => Some((path, Origin::Flag("--config"))),
            None => named().map(|name| (PathBuf::from(name), Origin::Environment(FILE_VARIABLE.into()))),
        };
        Self { file, environment, flags }
    }
}

impl fmt::Debug for Input {
    /// Leaves out the environment, which holds secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("file", &self.file).field("flags", &self.flags).finish_non_exhaustive()
    }
}

/// Reads and checks everything; on failure returns every problem.
pub fn load(input: &Input) -> Result<Config, Problems> {
    load_with(input, false)
}

/// The same, and checks what `serve` needs of this process: that it can create a client of the bus, and open enough
/// files.
pub fn load_for_serving(input: &Input) -> Result<Config, Problems> {
    load_with(input, true)
}

fn load_with(input: &Input, for_serving: bool) -> Result<Config, Problems> {
    let (mut tree, diagnostics) = read_file(input)?;
    env::warn_unknown(&tree, &input.environment, &diagnostics);
    env::overlay(&mut tree, &input.environment, &diagnostics);
    env::flags(&mut tree, &input.flags);
    let secret_files = secret_files(&tree);
    let config = read(&mut Section::root(&diagnostics, tree), input, &secret_files);
    if for_serving && let Err((_, message)) = open_files::connections(config.http.max_connections) {
        diagnostics.warn("http.max_connections", message);
    }
    if for_serving
        && diagnostics.is_good()
        && let Err(error) = bus::check(&config.bus, &config.requirements())
        && let Some((key, message)) = error.setting()
    {
        diagnostics.refuse(&key, message);
    }
    diagnostics.finish().result(|found| Config { warnings: found.warnings.clone(), found, ..config })
}

/// Reads every section. The result is good only if the diagnostics hold no problem.
fn read(root: &mut Section<'_>, input: &Input, secret_files: &[SecretFile]) -> Config {
    let http = sections::http::http(&mut root.section("http"));
    let admin = sections::http::admin(&mut root.section("admin"), Some(&http.listen));
    let sources = sections::sources::sources(&mut root.section("sources"), &input.environment);
    let route = sections::route::route(&mut root.section("route"));
    sections::route::check_slugs(root.diagnostics(), &sources, &route);
    let dedup = sections::dedup::read(&mut root.section("dedup"));
    let (bus, nats) = sections::bus(root, Some(dedup.is_on_nats()));
    let mut of_state = root.section("state");
    let uses_state = of_state.origin().is_some();
    let state = sections::state::state(&mut of_state, &Routes::new(&route.options));
    drop(of_state);
    let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
    // For their problems: `serve` never calls Attio.
    sections::attio::options(&mut root.section("attio"));
    let webhooks = sections::attio::webhooks(root.tables("webhooks"), &names);
    sections::attio::check_secret_files(root.diagnostics(), &webhooks, secret_files);
    Config {
        http,
        admin,
        sources,
        route: route.options,
        schema_base_url: sections::contract::base_url(&mut root.section("contract")),
        slugs_file: route.slugs_file,
        slugs: route.slugs,
        dedup: dedup.memory,
        store: dedup.store(&bus, nats),
        bus,
        state,
        uses_state,
        shutdown: sections::http::Shutdown::read(&mut root.section("shutdown")),
        workers: sections::http::workers(&mut root.section("runtime")),
        log: sections::Log::read(&mut root.section("log")),
        warnings: Vec::new(),
        found: Findings::default(),
        input: input.clone(),
    }
}

/// The tree of the file. If it cannot be read or parsed, nothing is known of any key, so that is the only
/// problem.
fn read_file(input: &Input) -> Result<(Table, Diagnostics), Problems> {
    let diagnostics = Diagnostics::default();
    let Some((path, named_by)) = &input.file else { return Ok((Table::new(), diagnostics)) };
    diagnostics.file(path);
    let tree = match files::read_text(path, files::MAX_BYTES) {
        Ok(text) => file::parse(&text, &path.display().to_string(), &diagnostics),
        Err(error) => {
            diagnostics.problem(file::FILE, Some(named_by), files::unreadable(path, &error));
            Table::new()
        }
    };
    if diagnostics.is_good() { Ok((tree, diagnostics)) } else { Err(diagnostics.finish().into()) }
}

/// The file and the environment, of which only some sections are then read: problems with the others are not
/// reported.
fn read_some(input: &Input) -> Result<(Table, Diagnostics), Problems> {
    let (mut tree, diagnostics) = read_file(input)?;
    env::warn_unknown(&tree, &input.environment, &diagnostics);
    env::overlay(&mut tree, &input.environment, &Diagnostics::default());
    Ok((tree, diagnostics))
}

/// Reads the address of the admin listener alone: a health check need not be able to read secrets.
pub fn admin_listen(input: &Input) -> Result<String, Problems> {
    let (mut tree, diagnostics) = read_some(input)?;
    let admin: Table = tree.remove_entry("admin").into_iter().collect();
    let options = sections::http::admin(&mut Section::root(&diagnostics, admin).section("admin"), None);
    diagnostics.finish().result(|_| options.listen)
}

/// Reads a secret from a file as any `…_FILE` is read: one line end at its end is not part of it.
pub fn secret_file(path: &Path) -> Result<SecretString, String> {
    let secret = files::read_secret(path)?;
    usable_secret(&secret).map_err(|message| format!("the file {} {message}", path.display()))?;
    Ok(secret)
}

/// What the verbs that call Attio need.
#[derive(Clone, Debug)]
pub struct Attio {
    pub options: Options,
    pub webhooks: Vec<WebhookOptions>,
    pub sources: Vec<String>,
    /// Those of their secrets that are in files.
    pub secret_files: Vec<SecretFile>,
    /// Where the slugs are to be written.
    pub slugs_file: Option<PathBuf>,
    pub warnings: Vec<Problem>,
}

impl Attio {
    /// Whether a source verifies with the secret in a file.
    pub fn is_secret_of(&self, source: &str, path: &Path) -> bool {
        self.secret_files.iter().any(|secret| secret.is(source, path))
    }
}

/// A secret in a file, which need not exist yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFile {
    pub source: String,
    pub label: String,
    pub path: PathBuf,
}

impl SecretFile {
    /// Whether it is this file of this source, however its path is written.
    pub fn is(&self, source: &str, path: &Path) -> bool {
        let absolute = |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path)).ok();
        self.source == source && (self.path == path || absolute(&self.path) == absolute(path))
    }
}

/// Reads `[attio]` and `[[webhooks]]` alone: before the first webhook is created there is no secret for a
/// source, and so no configuration that `serve` would accept. Of the sources only names and secret files are
/// read, and `route.slugs_file`.
pub fn attio(input: &Input) -> Result<Attio, Problems> {
    let (mut tree, diagnostics) = read_some(input)?;
    let secret_files = secret_files(&tree);
    let sources = tree.remove("sources").and_then(Node::into_table).unwrap_or_default();
    let route = tree.remove("route").and_then(Node::into_table);
    let slugs_file = route.and_then(|mut route| route.remove("slugs_file")?.into_text());
    tree.retain(|name, _| ["attio", "webhooks"].contains(&&**name));
    let names: Vec<&str> = sources.keys().map(String::as_str).collect();
    let mut root = Section::root(&diagnostics, tree);
    let options = sections::attio::options(&mut root.section("attio"));
    let webhooks = sections::attio::webhooks(root.tables("webhooks"), &names);
    drop(root);
    diagnostics.finish().result(|found| Attio {
        options,
        webhooks,
        sources: sources.keys().cloned().collect(),
        secret_files,
        slugs_file: slugs_file.map(PathBuf::from),
        warnings: found.warnings,
    })
}

/// The files of the secrets of all sources. Malformed entries are left out: these files may be about to be written.
fn secret_files(tree: &Table) -> Vec<SecretFile> {
    fn text(table: &Table, name: &str) -> Option<String> {
        if let Value::Text(text) = &table.get(name)?.value { Some(text.clone()) } else { None }
    }
    let mut files = Vec::new();
    let sources = tree.get("sources").and_then(|node| node.value.as_table());
    for (source, node) in sources.into_iter().flatten() {
        let secrets = node.value.as_table().and_then(|source| source.get("secrets"));
        let Some(Node { value: Value::List(items), .. }) = secrets else { continue };
        files.extend(items.iter().filter_map(|item| {
            let secret = item.value.as_table()?;
            let (label, path) = (text(secret, "label")?, text(secret, "file")?.into());
            Some(SecretFile { source: source.clone(), label, path })
        }));
    }
    files
}
