//! `sign`: the headers of a signed delivery.

use std::path::PathBuf;

use clap::Args;
use secrecy::ExposeSecret;
use serde_json::{Map, Value as Json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::parsers::{key, read, time};
use super::signer::{Flags, Signer};
use super::{Exit, fail, print};
use crate::config::Input;
use crate::signing::{self, Scheme};

const AFTER_HELP: &str = "\
In Attio's scheme each call generates a new Idempotency-Key, as Attio does for each delivery; --key
sets one. The bytes are signed as they are: an editor that adds a line end later invalidates the
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

pub fn run(input: &Input, arguments: &Arguments) -> Result<Exit, Exit> {
    let Signer { scheme, secret } = arguments.signer.signer(input)?;
    let body = read(&arguments.body).map_err(fail)?;
    let new = || (scheme == Scheme::Attio).then(|| Uuid::new_v4().to_string());
    let key = arguments.key.clone().or_else(new);
    let now = arguments.at.unwrap_or_else(OffsetDateTime::now_utc);
    let mut headers = vec![("Content-Type", "application/json".to_owned())];
    headers.extend(signing::headers(scheme, secret.expose_secret(), &body, key.as_deref(), now));
    let file = arguments.body.display().to_string();
    let command = arguments.curl.as_ref().map(|url| signing::curl(url, &headers, &file));
    match (arguments.json, command) {
        (true, command) => print(format_args!("{:#}\n", json(&headers, command))),
        (false, Some(command)) => print(format_args!("{command}\n")),
        (false, None) => headers.iter().for_each(|(name, value)| print(format_args!("{name}: {value}\n"))),
    }
    Ok(Exit::Done)
}

fn json(headers: &[(&str, String)], command: Option<String>) -> Json {
    let header = |(name, value): &(&str, String)| ((*name).to_owned(), value.as_str().into());
    let headers: Map<String, Json> = headers.iter().map(header).collect();
    let command = command.map(|command| ("curl".to_owned(), Json::from(command)));
    [("headers".to_owned(), Json::from(headers))].into_iter().chain(command).collect()
}
