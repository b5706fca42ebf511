//! The flags of verbs that sign: the secret and the scheme.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use secrecy::SecretString;

use super::{Exit, fail, load, say, warn};
use crate::config::{self, Config, Input};
use crate::pipeline::SourceOptions;
use crate::pipeline::verify;
use crate::signing;

/// How to sign, and with which secret. A secret is never an argument itself: every process of the machine can
/// read those.
#[derive(Args)]
pub struct Flags {
    /// The signature scheme [default: that of the source, else attio]
    #[arg(long, value_name = "SCHEME")]
    scheme: Option<Scheme>,
    /// The source whose secret signs [default: the only one]
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// The label of its secret [default: the first one]
    #[arg(long, value_name = "LABEL")]
    label: Option<String>,
    /// A file with the secret; no configuration is read
    #[arg(long, value_name = "FILE", conflicts_with_all = ["source", "label", "secret_env"])]
    secret_file: Option<PathBuf>,
    /// A variable with the secret; no configuration is read
    #[arg(long, value_name = "VARIABLE", conflicts_with_all = ["source", "label"])]
    secret_env: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Scheme {
    /// Over the body, as Attio does
    Attio,
    /// Over a timestamp and the body, with X-Attio-Timestamp
    Timestamped,
}

/// Prefixes of variables that configure a source.
const PREFIXES: [&str; 2] = ["ATTIO_BRIDGE__", "ATTIO_WEBHOOK_SECRET"];

const NO_SECRET: &str = "error: no secret to sign with: set ATTIO_WEBHOOK_SECRET or \
                         ATTIO_WEBHOOK_SECRET_FILE, name a file with --secret-file or a variable with --secret-env, or \
                         the bridge's configuration with --config";

pub struct Signer {
    pub scheme: signing::Scheme,
    pub secret: SecretString,
}

impl Flags {
    /// The secret and the scheme of the flags and the configuration, or how the verb ends.
    pub fn signer(&self, input: &Input) -> Result<Signer, Exit> {
        let asked = self.scheme.map(|scheme| match scheme {
            Scheme::Attio => signing::Scheme::Attio,
            Scheme::Timestamped => signing::Scheme::Timestamped,
        });
        let named = match (&self.secret_file, &self.secret_env) {
            (Some(path), _) => Some(config::secret_file(path)),
            (_, Some(name)) => Some(variable(input, name)),
            _ => self.default_secret(input),
        };
        if let Some(secret) = named {
            let scheme = asked.unwrap_or(signing::Scheme::Attio);
            return Ok(Signer { scheme, secret: secret.map_err(fail)? });
        }
        let ours = |name: &String| PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        if input.file.is_none() && !input.environment.keys().any(ours) {
            say(NO_SECRET);
            return Err(Exit::Configuration);
        }
        let config = load(input)?;
        warn(&config.warnings);
        let source = self.source(&config).map_err(fail)?;
        let secret = self.secret(source).map_err(fail)?;
        let configured = match source.verify.scheme {
            verify::Scheme::Timestamped => signing::Scheme::Timestamped,
            verify::Scheme::Auto | verify::Scheme::Attio => signing::Scheme::Attio,
        };
        Ok(Signer { scheme: asked.unwrap_or(configured), secret })
    }

    /// The secret of the usual variables, if there is no configuration file: a sender needs no bus, and so no complete
    /// configuration.
    fn default_secret(&self, input: &Input) -> Option<Result<SecretString, String>> {
        const NAME: &str = "ATTIO_WEBHOOK_SECRET";
        if input.file.is_some() || self.source.is_some() || self.label.is_some() {
            return None;
        }
        if input.environment.contains_key(NAME) {
            return Some(variable(input, NAME));
        }
        let path = input.environment.get(&format!("{NAME}_FILE"))?;
        Some(config::secret_file(std::path::Path::new(path)))
    }

    fn source<'a>(&self, config: &'a Config) -> Result<&'a SourceOptions, String> {
        let names = || config.source_names();
        match (&self.source, &config.sources[..]) {
            (None, [only]) => Ok(only),
            (None, _) => {
                Err(format!("several sources are configured; add --source with one of: {}", names()))
            }
            (Some(name), _) => config
                .source(name)
                .ok_or_else(|| format!("no source {name} is configured; there is: {}", names())),
        }
    }

    fn secret(&self, source: &SourceOptions) -> Result<SecretString, String> {
        let secrets = &source.verify.secrets;
        let found = match &self.label {
            None => secrets.first(),
            Some(label) => secrets.iter().find(|secret| *secret.label == **label),
        };
        let found = found.map(|secret| secret.value.clone());
        found.ok_or_else(|| {
            let labels: Vec<_> = secrets.iter().map(|secret| &*secret.label).collect();
            format!("source {} has no secret with that label; there is: {}", source.name, labels.join(", "))
        })
    }
}

fn variable(input: &Input, name: &str) -> Result<SecretString, String> {
    let value = input.environment.get(name).filter(|value| !value.is_empty());
    let value = value.ok_or_else(|| format!("the variable {name} is not set, or is empty"))?;
    let text = value.to_str().ok_or_else(|| format!("the variable {name} is not UTF-8 text"))?;
    Ok(SecretString::from(text))
}
