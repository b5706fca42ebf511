//! A configuration from a file, variables and flags of the test.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use attio_bridge::config::{self, Config, Environment, Flag, Input, Problems};
use tempfile::TempDir;

/// A secret as long as those of Attio.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Files and variables of one test.
pub struct Setup {
    folder: TempDir,
    file: Option<PathBuf>,
    environment: Environment,
    flags: Vec<Flag>,
}

impl Setup {
    /// An empty configuration.
    pub fn empty() -> Self {
        let folder = TempDir::new().expect("a folder");
        Self { folder, file: None, environment: Environment::new(), flags: Vec::new() }
    }

    /// A minimal valid configuration.
    pub fn good() -> Self {
        Self::empty().var("ATTIO_WEBHOOK_SECRET", SECRET).var("ATTIO_BRIDGE__BUS__TYPE", "stdout")
    }

    /// Sets a variable.
    pub fn var(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Sets a key by a flag.
    pub fn flag(mut self, name: &'static str, key: &'static str, value: &str) -> Self {
        self.flags.push(Flag { name, key, value: value.into() });
        self
    }

    /// Writes the configuration file.
    pub fn toml(mut self, text: &str) -> Self {
        self.file = Some(self.write("config.toml", text));
        self
    }

    /// Writes a file and returns its path.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("a written file");
        path
    }

    /// The folder that its files are in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn input(&self) -> Input {
        Input::new(self.file.clone(), self.environment.clone(), self.flags.clone())
    }

    /// Loads it.
    pub fn load(&self) -> Result<Config, Problems> {
        config::load(&self.input())
    }

    /// Loads the configuration of the verbs that use the API of Attio; panics if it is invalid.
    pub fn attio(&self) -> config::Attio {
        config::attio(&self.input()).unwrap_or_else(|problems| panic!("{problems}"))
    }

    /// Loads the configuration; panics if it is invalid.
    pub fn config(&self) -> Config {
        self.load().unwrap_or_else(|problems| panic!("{problems}"))
    }

    /// The problems of an invalid configuration as they are printed, without the folder.
    pub fn problems(&self) -> Vec<String> {
        let Err(problems) = self.load() else { panic!("this configuration is valid") };
        let folder = format!("{}/", self.folder.path().display());
        problems.problems.iter().map(|problem| problem.to_string().replace(&folder, "")).collect()
    }

    /// A key of the effective configuration: its value and origin.
    pub fn effective(&self, key: &str) -> (String, String) {
        let config = self.config();
        let found = config.settings().iter().find(|setting| setting.key == key);
        let setting = found.unwrap_or_else(|| panic!("no setting {key}"));
        let folder = format!("{}/", self.folder.path().display());
        let origin = setting.origin.as_ref().map_or("not set".into(), ToString::to_string);
        (setting.value.to_string(), origin.replace(&folder, ""))
    }

    /// Warnings as they are printed.
    pub fn warnings(&self) -> Vec<String> {
        self.config().warnings.iter().map(ToString::to_string).collect()
    }
}
