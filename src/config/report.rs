//! What is found while the configuration is read: problems, warnings, and every setting with its
//! origin. Nothing here ever holds the value of a secret.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use secrecy::SecretString;
use serde_json::Value as Json;

use super::excerpt::{self, Excerpt, Mark};
use super::files::Files;
use super::tree::Origin;

/// Something wrong with one key, or worth saying about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key's full path, such as `http.listen`.
    pub key: String,
    /// What is wrong and what to do.
    pub message: String,
    /// Where the value came from; absent where there is none.
    pub origin: Option<Origin>,
    /// What the file has there, as far as it can be shown.
    pub excerpt: Option<Excerpt>,
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
    /// At least one.
    pub problems: Vec<Problem>,
    /// What would have been worth a warning.
    pub warnings: Vec<Problem>,
}

impl Problems {
    /// How many there are, as a sentence.
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

impl From<Findings> for Problems {
    fn from(found: Findings) -> Self {
        Self { problems: found.problems, warnings: found.warnings }
    }
}

/// One key of the effective configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The key's full path.
    pub key: String,
    /// Its value; null where it has none, `***` where it is secret.
    pub value: Json,
    /// Where the value came from; absent where there is none.
    pub origin: Option<Origin>,
}

/// A value that was read, with what a message about it needs.
#[derive(Clone, Debug)]
pub struct Given<T> {
    /// The key's full path.
    pub key: String,
    /// The value.
    pub value: T,
    /// Where it came from.
    pub origin: Origin,
}

/// Collects what is found. Shared by all sections of one load.
#[derive(Default)]
pub struct Report(RefCell<Findings>);

/// What a load found.
#[derive(Default)]
pub struct Findings {
    /// What keeps the configuration from being used.
    pub problems: Vec<Problem>,
    /// What does not.
    pub warnings: Vec<Problem>,
    /// Every key that was asked for.
    pub settings: Vec<Setting>,
    /// Every secret, by the key of its setting.
    pub secrets: BTreeMap<String, SecretString>,
    /// Every file that was read.
    pub files: Files,
    known: Vec<String>,
    unknown: Vec<(String, Origin)>,
    /// The configuration file, secrets and all.
    text: String,
}

impl Findings {
    fn about(&self, key: &str, origin: Option<&Origin>, message: String, mark: Mark) -> Problem {
        let excerpt = match origin {
            Some(Origin::File { line, column, .. }) => excerpt::of(&self.text, (*line, *column), key, mark),
            _ => None,
        };
        Problem { key: key.to_owned(), message, origin: origin.cloned(), excerpt }
    }
}

impl Report {
    /// Adds a problem.
    pub fn problem(&self, key: &str, origin: Option<&Origin>, message: impl Into<String>) {
        let mut found = self.0.borrow_mut();
        let problem = found.about(key, origin, message.into(), Mark::Value);
        found.problems.push(problem);
    }

    /// Adds a problem with the name of a key, whatever its value is.
    pub fn misnamed(&self, key: &str, origin: &Origin, message: impl Into<String>) {
        let mut found = self.0.borrow_mut();
        let problem = found.about(key, Some(origin), message.into(), Mark::Key);
        found.problems.push(problem);
    }

    /// Adds a warning.
    pub fn warning(&self, key: &str, origin: Option<&Origin>, message: impl Into<String>) {
        let mut found = self.0.borrow_mut();
        let warning = found.about(key, origin, message.into(), Mark::Value);
        found.warnings.push(warning);
    }

    /// Adds a problem with a value that was read.
    pub fn refuse<T>(&self, given: &Given<T>, message: impl Into<String>) {
        self.problem(&given.key, Some(&given.origin), message);
    }

    /// Adds a warning about a value that was read.
    pub fn warn<T>(&self, given: &Given<T>, message: impl Into<String>) {
        self.warning(&given.key, Some(&given.origin), message);
    }

    /// Notes the effective value of a key.
    pub fn setting(&self, key: &str, value: Json, origin: Option<&Origin>) {
        let setting = Setting { key: key.to_owned(), value, origin: origin.cloned() };
        self.0.borrow_mut().settings.push(setting);
    }

    /// Where the value of a key that was read came from.
    pub fn origin_of(&self, key: &str) -> Option<Origin> {
        let found = self.0.borrow();
        found.settings.iter().find(|setting| setting.key == key).and_then(|setting| setting.origin.clone())
    }

    /// Notes the value of a key whose setting hides it.
    pub fn secret(&self, key: &str, value: SecretString) {
        self.0.borrow_mut().secrets.insert(key.to_owned(), value);
    }

    /// Keeps the text of the configuration file, for excerpts.
    pub fn text(&self, text: &str) {
        text.clone_into(&mut self.0.borrow_mut().text);
    }

    /// Notes a file that is about to be read.
    pub fn file(&self, path: &Path) {
        self.0.borrow_mut().files.add(path);
    }

    /// Notes that a key exists, for suggestions.
    pub fn known(&self, key: String) {
        self.0.borrow_mut().known.push(key);
    }

    /// Notes a key that nothing asked for.
    pub fn unknown(&self, key: String, origin: Origin) {
        self.0.borrow_mut().unknown.push((key, origin));
    }

    /// What was found so far, if any of it is a problem.
    pub fn problems_so_far(&self) -> Option<Problems> {
        let found = self.0.borrow();
        let some = !found.problems.is_empty();
        some.then(|| Problems { problems: found.problems.clone(), warnings: found.warnings.clone() })
    }

    /// Everything that was found; unknown keys have become problems.
    pub fn finish(self) -> Findings {
        let mut findings = self.0.into_inner();
        for (key, origin) in std::mem::take(&mut findings.unknown) {
            let message = super::suggest::unknown(&key, &origin, &findings.known);
            let problem = findings.about(&key, Some(&origin), message, Mark::Key);
            findings.problems.push(problem);
        }
        findings
    }
}
