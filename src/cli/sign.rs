//! `sign`: the headers that make a body genuine.

use std::path::PathBuf;

use clap::Args;
use secrecy::ExposeSecret;
use serde_json::{Map, Value as Json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::given::{key, read, time};
use super::signer::{Flags, Signer};
use super::{Exit, fail, print};
use crate::config::Input;
use crate::signing::{self, Scheme};

const AFTER_HELP: &str = "\
In Attio's scheme each call makes a new Idempotency-Key, as Attio does for a new delivery; --key repeats one.
The bytes are signed as they are: an editor that adds a line end afterwards makes another body.

Example: deliver a file to a bridge on this machine
  attio-bridge sign --config config.toml body.json --curl http://127.0.0.1:8080/webhooks/attio | sh
Example: the headers alone, with the secret of a variable
  attio-bridge sign --secret-env ATTIO_WEBHOOK_SECRET < body.json";

/// The flags of `sign`.
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
    /// When it is signed, such as 2026-11-24T10:00:00Z [default: now]
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<OffsetDateTime>,
    /// Print a curl line that posts the body to this address
    #[arg(long, value_name = "URL")]
    curl: Option<String>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Prints the headers, or the line.
pub fn run(input: &Input, arguments: &Arguments) -> Result<Exit, Exit> {
    let Signer { scheme, secret } = arguments.signer.signer(input)?;
    let body = read(&arguments.body).map_err(fail)?;
    let new = (scheme == Scheme::Attio).then(|| Uuid::new_v4().to_string());
    let key = arguments.key.clone().or(new);
    let now = arguments.at.unwrap_or_else(OffsetDateTime::now_utc);
    let mut headers = vec![("Content-Type", "application/json".to_owned())];
    headers.extend(signing::headers(scheme, secret.expose_secret(), &body, key.as_deref(), now));
    let file = arguments.body.display().to_string();
    let line = arguments.curl.as_ref().map(|url| signing::curl(url, &headers, &file));
    match (arguments.json, line) {
        (true, line) => print(format_args!("{:#}\n", json(&headers, line))),
        (false, Some(line)) => print(format_args!("{line}\n")),
        (false, None) => headers.iter().for_each(|(name, value)| print(format_args!("{name}: {value}\n"))),
    }
    Ok(Exit::Done)
}

fn json(headers: &[(&str, String)], line: Option<String>) -> Json {
    let headers: Map<String, Json> =
        headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into())).collect();
    let mut whole = Map::from_iter([("headers".to_owned(), Json::Object(headers))]);
    whole.extend(line.map(|line| ("curl".to_owned(), line.into())));
    Json::Object(whole)
}
