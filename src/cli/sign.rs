//! `sign`: the headers of a signed delivery; and the flags of the verbs that sign.

use std::path::PathBuf;

use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::arguments::{key, read, source, time};
use super::{Exit, Failure, load, print};
use crate::config::{self, Input};
use crate::pipeline::SourceOptions;
use crate::pipeline::verify;
use crate::signing::{self, Scheme};

const AFTER_HELP: &str = "\
In Attio's scheme each call generates a new Idempotency-Key, as Attio does for each delivery; --key \
sets one. The bytes are signed as they are: an editor that adds a line end later invalidates the \
signature.

Example: deliver a file to a bridge on this machine
  attio-bridge sign --config config.toml body.json \\
    --curl http://127.0.0.1:8080/webhooks/attio | sh
Example: the headers only, with the secret from a variable
  attio-bridge sign --secret-env ATTIO_WEBHOOK_SECRET < body.json";

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// The body, byte for byte; `-` for standard input
    #[arg(value_name = "FILE", default_value = "-")]
    body: PathBuf,
    #[command(flatten)]
    signer: Flags,
    /// The Idempotency-Key [default: a new one in Attio's scheme, else none]
    #[arg(long, value_name = "KEY", value_parser = key)]
    key: Option<String>,
    /// The time of the signature, such as 2026-11-24T10:00:00Z [default: now]
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<OffsetDateTime>,
    /// Print a curl command that posts the body to this URL
    #[arg(long, value_name = "URL")]
    curl: Option<String>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(input: &Input, arguments: &Arguments) -> Result<Exit, Failure> {
    let (scheme, secret) = arguments.signer.signer(input)?;
    let body = read(&arguments.body)?;
    let new = || (scheme == Scheme::Attio).then(|| Uuid::new_v4().to_string());
    let key = arguments.key.clone().or_else(new);
    let now = arguments.at.unwrap_or_else(OffsetDateTime::now_utc);
    let mut headers = vec![("Content-Type", "application/json".to_owned())];
    headers.extend(signing::headers(scheme, secret.expose_secret(), &body, key.as_deref(), now));
    let file = arguments.body.display().to_string();
    let command = arguments.curl.as_ref().map(|url| signing::curl(url, &headers, &file));
    match (arguments.json, command) {
        (true, command) => {
            let header = |(name, value): (&str, String)| (name.to_owned(), value.into());
            let mut json = json!({ "headers": headers.into_iter().map(header).collect::<Map<_, _>>() });
            if let Some(command) = command {
                json["curl"] = command.into();
            }
            print(format_args!("{json:#}\n"));
        }
        (false, Some(command)) => print(format_args!("{command}\n")),
        (false, None) => headers.iter().for_each(|(name, value)| print(format_args!("{name}: {value}\n"))),
    }
    Ok(Exit::Done)
}

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

const PREFIXES: [&str; 2] = ["ATTIO_BRIDGE__", "ATTIO_WEBHOOK_SECRET"];

const NO_SECRET: &str = "no secret to sign with: set ATTIO_WEBHOOK_SECRET or ATTIO_WEBHOOK_SECRET_FILE, name a file \
                         with --secret-file or a variable with --secret-env, or the bridge's configuration with \
                         --config";

impl Flags {
    /// The scheme and the secret of the flags and the configuration.
    pub fn signer(&self, input: &Input) -> Result<(Scheme, SecretString), Failure> {
        let named = match (&self.secret_file, &self.secret_env) {
            (Some(path), _) => Some(config::secret_file(path)),
            (_, Some(name)) => Some(variable(input, name)),
            _ => self.default_secret(input),
        };
        if let Some(secret) = named {
            return Ok((self.scheme.unwrap_or(Scheme::Attio), secret?));
        }
        let ours = |name: &String| PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        if input.file.is_none() && !input.environment.keys().any(ours) {
            return Err(Failure::new(Exit::Configuration, NO_SECRET));
        }
        let config = load(input)?;
        let source = source(&config, self.source.as_deref())?;
        let secret = self.secret(source)?;
        let configured = match source.verify.scheme {
            verify::Scheme::Timestamped => Scheme::Timestamped,
            verify::Scheme::Auto | verify::Scheme::Attio => Scheme::Attio,
        };
        Ok((self.scheme.unwrap_or(configured), secret))
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
