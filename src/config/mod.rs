//! The configuration: flag > environment > file > default, checked once, at start.
//!
//! The layers are merged in a small tree of our own (`tree`) and read by `section`. The `config`
//! crate could do the layering, but it keeps neither the line nor the variable of a value, and
//! stops at the first problem; an operator wants all of them, each with its key and its origin.
//!
//! Every value keeps the type it was given: the environment is text, and the type of the key alone
//! decides whether that text is read as a number. A secret is text, whatever it looks like.

mod check;
mod env;
mod excerpt;
mod file;
mod files;
mod log;
mod parts;
mod print;
mod report;
mod secret;
mod section;
mod suggest;
mod tree;
mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use env::{Environment, Flag, variable};
pub use excerpt::Excerpt;
pub use files::Files;
pub use log::{LogFormat, LogOptions};
pub use parts::{Attio, SecretFile, admin_listen, attio, secret_file};
pub use report::{Problem, Problems, Setting};
pub use tree::Origin;

use secrecy::{ExposeSecret, SecretString};

use crate::pipeline::slugs::Slugs;
use crate::pipeline::{SourceOptions, dedup, route};
use crate::{bus, http, shutdown};
use report::Report;
use section::Section;
use tree::Table;

/// The largest configuration file or slugs file.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// The variable that names the file.
pub const FILE_VARIABLE: &str = "ATTIO_BRIDGE_CONFIG";

/// Everything that `serve` can be told. Built by [`load`], so everything in it is checked; what is
/// for the verbs that speak to Attio is checked with it, and given to them by [`attio`](fn@attio).
#[derive(Clone)]
pub struct Config {
    /// The public listener and its limits.
    pub http: http::Options,
    /// `host:port` of the admin listener.
    pub admin_listen: String,
    /// Who sends; at least one.
    pub sources: Vec<SourceOptions>,
    /// Where events go.
    pub route: route::Options,
    /// The file with the names of objects and lists.
    pub slugs_file: Option<PathBuf>,
    /// What is in it; none where there is none, or where it is not good, as a warning tells then.
    pub slugs: Option<Arc<Slugs>>,
    /// What is remembered.
    pub dedup: dedup::Options,
    /// The bus in use.
    pub bus: bus::Options,
    /// How a stop takes its time.
    pub shutdown: shutdown::Options,
    /// Threads that serve; the cores the process may use where absent.
    pub workers: Option<usize>,
    /// What is logged.
    pub log: LogOptions,
    /// What is worth saying and keeps nothing from working.
    pub warnings: Vec<Problem>,
    settings: Vec<Setting>,
    secrets: BTreeMap<String, SecretString>,
    files: Files,
    input: Input,
}

impl Config {
    /// Every key with its value and origin; secrets are `***`.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// The source of that name.
    pub fn source(&self, name: &str) -> Option<&SourceOptions> {
        self.sources.iter().find(|source| source.name.as_str() == name)
    }

    /// The names of all sources, for people.
    pub fn source_names(&self) -> String {
        self.sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The effective configuration as text, one key a line.
    pub fn to_text(&self) -> String {
        print::text(&self.settings)
    }

    /// The effective configuration as JSON, an object by key.
    pub fn to_json(&self) -> serde_json::Value {
        print::json(&self.settings)
    }

    /// The files it was read from: its own, and those of secrets.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// The keys whose values are not those of another configuration.
    pub fn changed(&self, other: &Self) -> BTreeSet<String> {
        fn values(config: &Config) -> BTreeMap<&str, (&serde_json::Value, Option<&str>)> {
            let secret = |key: &str| config.secrets.get(key).map(ExposeSecret::expose_secret);
            let settings = config.settings.iter();
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
        let entries = self.settings.iter().map(|setting| (&setting.key, &setting.value));
        f.debug_map().entries(entries).finish()
    }
}

/// Where the configuration is read from.
#[derive(Clone, Default)]
pub struct Input {
    /// The file, and what named it.
    pub file: Option<(PathBuf, Origin)>,
    /// The variables of the process.
    pub environment: Environment,
    /// What the command line says.
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

/// Reads and checks everything; on failure every problem there is.
pub fn load(input: &Input) -> Result<Config, Problems> {
    load_with(input, |_| Ok(()))
}

/// The same, and checks that a client of the bus can be created, as `serve` creates one.
pub fn load_for_serving(input: &Input) -> Result<Config, Problems> {
    load_with(input, bus::check)
}

fn load_with(
    input: &Input,
    check_bus: fn(&bus::Options) -> Result<(), bus::StartError>,
) -> Result<Config, Problems> {
    let report = Report::default();
    let mut tree = read_file(input, &report)?;
    env::overlay(&mut tree, &input.environment, &report);
    env::flags(&mut tree, &input.flags);
    let config = check::read(&mut Section::root(&report, tree), input);
    if report.problems_so_far().is_none()
        && let Err(error) = check_bus(&config.bus)
        && let Some((key, message)) = error.setting()
    {
        report.problem(&key, report.origin_of(&key).as_ref(), message);
    }
    let found = report.finish();
    if found.problems.is_empty() {
        Ok(Config {
            warnings: found.warnings,
            settings: found.settings,
            secrets: found.secrets,
            files: found.files,
            ..config
        })
    } else {
        Err(found.into())
    }
}

/// The tree of the file. One that cannot be read or parsed says nothing about any key, so its
/// problems are the whole answer.
fn read_file(input: &Input, report: &Report) -> Result<Table, Problems> {
    let Some((path, named_by)) = &input.file else { return Ok(Table::new()) };
    report.file(path);
    let tree = files::read_text(path, MAX_FILE_BYTES).map(|text| file::parse(&text, &shown(path), report));
    match tree {
        Ok(tree) => report.problems_so_far().map_or(Ok(tree), Err),
        Err(error) => {
            let message = format!("the file {} cannot be read: {error}", shown(path));
            report.problem("(file)", Some(named_by), message);
            report.problems_so_far().map_or(Ok(Table::new()), Err)
        }
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
