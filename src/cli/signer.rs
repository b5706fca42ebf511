//! The flags of the verbs that sign, and the secret and scheme they choose.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use secrecy::SecretString;

use super::{Exit, load, say, warn};
use crate::config::{self, Config, Input};
use crate::pipeline::SourceOptions;
use crate::pipeline::verify;
use crate::signing;

/// How to sign, and with which secret. A secret is never given as a word of the command line, where
/// every process of the machine could read it.
#[derive(Args)]
pub struct Flags {
    /// How to sign [default: as the source is configured, else attio]
    #[arg(long, value_name = "SCHEME")]
    scheme: Option<Scheme>,
    /// The source whose secret signs [default: the only one]
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// The label of its secret [default: the first one]
    #[arg(long, value_name = "LABEL")]
    label: Option<String>,
    /// Sign with what is in this file; no configuration is read
    #[arg(long, value_name = "FILE", conflicts_with_all = ["source", "label", "secret_env"])]
    secret_file: Option<PathBuf>,
    /// Sign with what is in this variable; no configuration is read
    #[arg(long, value_name = "VARIABLE", conflicts_with_all = ["source", "label"])]
    secret_env: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Scheme {
    /// Over the body, as Attio does
    Attio,
    /// Over a time and the body, with X-Attio-Timestamp
    Timestamped,
}

/// How the variables begin that a source can be configured by.
const CONFIGURES: [&str; 2] = ["ATTIO_BRIDGE__", "ATTIO_WEBHOOK_SECRET"];

/// A whole configuration would be too much to ask for.
const NO_SECRET: &str = "error: there is no secret to sign with: set ATTIO_WEBHOOK_SECRET or \
                         ATTIO_WEBHOOK_SECRET_FILE, name a file with --secret-file or a variable with --secret-env, or \
                         the bridge's configuration with --config";

/// What signs.
pub struct Signer {
    /// How.
    pub scheme: signing::Scheme,
    /// With what.
    pub secret: SecretString,
}

impl Flags {
    /// The secret and the scheme that the flags and the configuration choose, or how the verb ends.
    pub fn signer(&self, input: &Input) -> Result<Signer, Exit> {
        let failed = |message: String| {
            say(format_args!("error: {message}"));
            Exit::Failed
        };
        let asked = self.scheme.map(|scheme| match scheme {
            Scheme::Attio => signing::Scheme::Attio,
            Scheme::Timestamped => signing::Scheme::Timestamped,
        });
        let named = match (&self.secret_file, &self.secret_env) {
            (Some(path), _) => Some(config::secret_file(path)),
            (_, Some(name)) => Some(variable(input, name)),
            _ => self.usual(input),
        };
        if let Some(secret) = named {
            let scheme = asked.unwrap_or(signing::Scheme::Attio);
            return Ok(Signer { scheme, secret: secret.map_err(failed)? });
        }
        let ours = |name: &String| CONFIGURES.iter().any(|beginning| name.starts_with(beginning));
        if input.file.is_none() && !input.environment.keys().any(ours) {
            say(NO_SECRET);
            return Err(Exit::Configuration);
        }
        let config = load(input)?;
        warn(&config.warnings);
        let source = self.source(&config).map_err(failed)?;
        let secret = self.secret(source).map_err(failed)?;
        let configured = match source.verify.scheme {
            verify::Scheme::Timestamped => signing::Scheme::Timestamped,
            verify::Scheme::Auto | verify::Scheme::Attio => signing::Scheme::Attio,
        };
        Ok(Signer { scheme: asked.unwrap_or(configured), secret })
    }

    /// The secret of the usual variables, where there is no configuration file: a sender needs no bus, and so
    /// no whole configuration.
    fn usual(&self, input: &Input) -> Option<Result<SecretString, String>> {
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
            format!("source {} has no secret of that label; there is: {}", source.name, labels.join(", "))
        })
    }
}

fn variable(input: &Input, name: &str) -> Result<SecretString, String> {
    let value = input.environment.get(name).filter(|value| !value.is_empty());
    let value = value.ok_or_else(|| format!("the variable {name} is not set, or is empty"))?;
    let text = value.to_str().ok_or_else(|| format!("the variable {name} is not UTF-8 text"))?;
    Ok(SecretString::from(text))
}
