//! What a load finds: problems, warnings, settings with their origins, files. Nothing here holds the value
//! of a secret but [`Findings::secrets`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use secrecy::SecretString;
use serde_json::Value as Json;

use super::tree::{Origin, variable};
use crate::files::Files;

/// Below this similarity (1 is equal) a suggestion confuses more than it helps.
pub const SIMILAR: f64 = 0.85;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key's full path, such as `http.listen`.
    pub key: String,
    pub message: String,
    /// Where the value came from; absent if it is not set.
    pub origin: Option<Origin>,
    /// Whether the key is missing: no problem of its own if another one is its misspelling.
    missing: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (", self.key, self.message)?;
        match &self.origin {
            Some(origin) => write!(f, "{origin})"),
            None => f.write_str("not set)"),
        }
    }
}

/// Why there is no configuration: every problem, in the order in which the keys are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
}

impl Problems {
    pub fn count(&self) -> String {
        let count = self.problems.len();
        format!("the configuration has {count} problem{}", if count == 1 { "" } else { "s" })
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.count())?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for Problems {}

#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    pub key: String,
    /// Its value; null if it has none, `***` if it is secret.
    pub value: Json,
    /// Where the value came from; absent if it is not set.
    pub origin: Option<Origin>,
}

/// Collects what is found. Shared by all sections of one load.
#[derive(Default)]
pub struct Diagnostics(RefCell<Findings>);

#[derive(Clone, Default)]
pub struct Findings {
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
    pub settings: Vec<Setting>,
    pub secrets: BTreeMap<String, SecretString>,
    pub files: Files,
    known: Vec<String>,
    /// Origins of the keys that are no settings.
    unlisted: Vec<(String, Origin)>,
    unknown: Vec<(String, Origin)>,
}

impl Findings {
    /// The value, if there is no problem.
    pub fn result<T>(self, value: impl FnOnce(Self) -> T) -> Result<T, Problems> {
        if self.problems.is_empty() { Ok(value(self)) } else { Err(self.into()) }
    }
}

impl From<Findings> for Problems {
    fn from(found: Findings) -> Self {
        Self { problems: found.problems, warnings: found.warnings }
    }
}

impl Diagnostics {
    pub fn problem(&self, key: &str, origin: Option<&Origin>, message: impl Into<String>) {
        self.0.borrow_mut().problems.push(problem(key, origin, message.into()));
    }

    /// Adds a problem with a key that is missing, unless its value was refused.
    pub fn required(&self, key: &str, origin: Option<&Origin>, message: impl Into<String>) {
        let item = format!("{key}[");
        let refused = |problem: &Problem| problem.key == key || problem.key.starts_with(&item);
        if !self.0.borrow().problems.iter().any(refused) {
            let problem = Problem { missing: true, ..problem(key, origin, message.into()) };
            self.0.borrow_mut().problems.push(problem);
        }
    }

    pub fn warning(&self, key: &str, origin: Option<&Origin>, message: impl Into<String>) {
        self.0.borrow_mut().warnings.push(problem(key, origin, message.into()));
    }

    /// A problem with a key that was read.
    pub fn refuse(&self, key: &str, message: impl Into<String>) {
        self.problem(key, self.origin_of(key).as_ref(), message);
    }

    /// A warning about a key that was read.
    pub fn warn(&self, key: &str, message: impl Into<String>) {
        self.warning(key, self.origin_of(key).as_ref(), message);
    }

    pub fn setting(&self, key: &str, value: Json, origin: Option<&Origin>) {
        let setting = Setting { key: key.to_owned(), value, origin: origin.cloned() };
        self.0.borrow_mut().settings.push(setting);
    }

    /// Records the origin of a key that is no setting of its own.
    pub fn read_from(&self, key: &str, origin: &Origin) {
        self.0.borrow_mut().unlisted.push((key.to_owned(), origin.clone()));
    }

    /// The keys of a table that are set, and not by default.
    pub fn set_below(&self, table: &str) -> Vec<(String, Origin)> {
        let found = self.0.borrow();
        let set = found.settings.iter().filter(|setting| is_below(&setting.key, table));
        let given = |setting: &Setting| Some((setting.key.clone(), setting.origin.clone()?));
        set.filter_map(given).filter(|(_, origin)| *origin != Origin::Default).collect()
    }

    /// Where the value of a key came from, also of one that was refused.
    pub fn origin_of(&self, key: &str) -> Option<Origin> {
        let found = self.0.borrow();
        let settings = found.settings.iter().map(|setting| (&setting.key, setting.origin.as_ref()));
        let unlisted = found.unlisted.iter().map(|(key, origin)| (key, Some(origin)));
        let refused = found.problems.iter().map(|problem| (&problem.key, problem.origin.as_ref()));
        let mut all = settings.chain(unlisted).chain(refused);
        all.find(|(read, _)| *read == key).and_then(|(_, origin)| origin.cloned())
    }

    /// Records the value of a key whose setting hides it.
    pub fn secret(&self, key: &str, value: SecretString) {
        self.0.borrow_mut().secrets.insert(key.to_owned(), value);
    }

    pub fn file(&self, path: &Path) {
        self.0.borrow_mut().files.add(path);
    }

    pub fn known(&self, key: String) {
        self.0.borrow_mut().known.push(key);
    }

    /// Records a key that no section reads.
    pub fn unknown(&self, key: String, origin: Origin) {
        self.0.borrow_mut().unknown.push((key, origin));
    }

    pub fn is_good(&self) -> bool {
        self.0.borrow().problems.is_empty()
    }

    /// Everything that was found; unknown keys have become problems.
    pub fn finish(self) -> Findings {
        let mut found = self.0.into_inner();
        for (key, origin) in std::mem::take(&mut found.unknown) {
            let meant = closest(&key, &found.known);
            let message = unknown(&origin, meant);
            if let Some(meant) = meant {
                let is_meant = |key: &str| key == meant || is_below(key, meant) || is_below(meant, key);
                found.problems.retain(|problem| !problem.missing || !is_meant(&problem.key));
            }
            found.problems.push(problem(&key, Some(&origin), message));
        }
        found
    }
}

fn problem(key: &str, origin: Option<&Origin>, message: String) -> Problem {
    Problem { key: key.to_owned(), message, origin: origin.cloned(), missing: false }
}

fn is_below(key: &str, table: &str) -> bool {
    key.strip_prefix(table).is_some_and(|rest| rest.starts_with(['.', '[']))
}

/// The message for an unknown key, with a suggestion where one is close.
fn unknown(origin: &Origin, meant: Option<&str>) -> String {
    let environment = matches!(origin, Origin::Environment(_));
    let what = if environment { "unknown variable" } else { "unknown key" };
    match meant {
        Some(meant) if environment => format!("{what}; did you mean `{}`?", variable(meant)),
        Some(meant) => format!("{what}; did you mean `{meant}`?"),
        None => format!("{what}; remove it, or run `attio-bridge config --schema` for every key"),
    }
}

/// The end of a message about a word that is not in a set: the nearest one that is, if any is near.
pub fn nearest<'w>(word: &str, set: impl IntoIterator<Item = &'w str>) -> String {
    let similarity = |candidate: &str| strsim::jaro_winkler(&word.to_lowercase(), &candidate.to_lowercase());
    set.into_iter()
        .map(|candidate| (similarity(candidate), candidate))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or_else(String::new, |(_, meant)| format!("; did you mean \"{meant}\"?"))
}

/// A key of the same table with a similar name, else one of that name in another table.
fn closest<'k>(key: &str, known: &'k [String]) -> Option<&'k str> {
    let (table, name) = split(key);
    let similarity = |candidate: &str| strsim::jaro_winkler(name, split(candidate).1);
    known
        .iter()
        .filter(|candidate| split(candidate).0 == table && similarity(candidate) >= SIMILAR)
        .max_by(|a, b| similarity(a).total_cmp(&similarity(b)))
        .or_else(|| known.iter().find(|candidate| split(candidate).1 == name))
        .map(String::as_str)
}

fn split(key: &str) -> (&str, &str) {
    key.rsplit_once('.').unwrap_or(("", key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_word_is_suggested() {
        let set = ["kafka", "nats", "stdout"];
        let table = [("kafak", "kafka"), ("Kafka", "kafka"), ("stout", "stdout")];
        for (word, meant) in table {
            assert_eq!(nearest(word, set), format!("; did you mean \"{meant}\"?"));
        }
        assert_eq!(nearest("zebra", set), "");
    }

    #[test]
    fn closest_key_is_suggested() {
        let known: Vec<String> =
            ["http", "http.listen", "http.max_body_bytes", "shutdown.delay", "kafka.bootstrap_servers"]
                .map(String::from)
                .into();
        let table = [
            ("http.listn", Some("http.listen")),
            ("http.max_body", Some("http.max_body_bytes")),
            ("http.delay", Some("shutdown.delay")),
            ("kafka.bootstrap-servers", Some("kafka.bootstrap_servers")),
            ("htttp", Some("http")),
            ("listen", Some("http.listen")),
            ("http.zebra", None),
        ];
        for (key, meant) in table {
            assert_eq!(closest(key, &known), meant, "{key}");
        }
    }
}
