//! `webhooks create`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::keep::{self, Keep, Told};
use super::{Exit, Failure, Session, print, say, subscriptions, target};

/// What an operator types.
const AFTER_HELP: &str = "\
Examples: the secret in a file, or in a Kubernetes Secret
  attio-bridge webhooks create --target-url https://hooks.example.com/webhooks/attio \\
    --event record.created --event note.created --secret-file attio.secret
  attio-bridge webhooks create --target-url https://hooks.example.com/webhooks/attio \\
    --event record.updated --filter '{\"object\":\"deals\",\"attribute\":\"stage\"}' \\
    --secret-format kubernetes --secret-name attio-bridge | kubectl apply -f -";

/// The flags of `webhooks create`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Where to send: the bridge's public address, /webhooks/SOURCE at its end
    #[arg(long, value_name = "URL", value_parser = target)]
    target_url: String,
    #[command(flatten)]
    subscriptions: subscriptions::Subscribing,
    /// The source that its deliveries come in on [default: the end of the URL's path]
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Write the secret to this file, with mode 0600
    #[arg(long, value_name = "PATH", conflicts_with = "secret_format")]
    secret_file: Option<PathBuf>,
    /// Write over the file of --secret-file if it exists
    #[arg(long, requires = "secret_file")]
    overwrite_secret: bool,
    /// Print the secret as a manifest for kubectl apply -f -
    #[arg(long, value_enum, requires = "secret_name")]
    secret_format: Option<Format>,
    /// Name of the Kubernetes Secret
    #[arg(long, value_name = "NAME", requires = "secret_format", value_parser = secret_name)]
    secret_name: Option<String>,
    /// Print a JSON object; without --secret-file the secret is in it
    #[arg(long, conflicts_with = "secret_format")]
    json: bool,
}

/// How a secret is printed.
#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// The manifest of a Secret
    Kubernetes,
}

fn secret_name(name: &str) -> Result<String, String> {
    let inside = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    let good = (1..=253).contains(&name.len())
        && name.bytes().all(inside)
        && !name.starts_with(['-', '.'])
        && !name.ends_with(['-', '.']);
    if good { Ok(name.to_owned()) } else { Err("expects a DNS name: a-z, 0-9, - and .".into()) }
}

pub async fn run(session: &Session, arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { target_url, subscriptions, source, secret_file, overwrite_secret, .. } = arguments;
    let subscriptions = subscriptions.resolve(&session.client).await?;
    let keep = match (&secret_file, arguments.secret_name) {
        (Some(path), _) => Keep::file(path, overwrite_secret)?,
        (None, Some(name)) => Keep::Manifest(name),
        (None, None) if arguments.json => Keep::Json,
        (None, None) => Keep::Show(String::new()),
    };
    let shown = matches!(keep, Keep::Show(_));
    keep::undisturbed(&session.log)?;
    let created = keep::create(&session.client, &target_url, &subscriptions, keep, Told::Aloud).await?;
    let id = &created.webhook.id.webhook_id;
    say(format_args!("created webhook {id}: Attio sends to {target_url}"));
    match &secret_file {
        Some(path) => {
            say(format_args!("its secret is in {} (mode 0600)", path.display()));
            if arguments.json {
                let mut json = json!(created.webhook);
                json["secret_file"] = path.display().to_string().into();
                print(format_args!("{json:#}\n"));
            } else {
                print(format_args!("{id}\n"));
            }
        }
        None if shown => say("its secret is the line on standard output; Attio does not tell it again"),
        None => say("its secret is in what is on standard output; Attio does not tell it again"),
    }
    let end = target_url.split(['?', '#']).next().and_then(|path| path.rsplit('/').next());
    let source = source.as_deref().or(end).filter(|name| !name.is_empty()).unwrap_or("attio");
    say(format_args!("next: give the secret to the bridge as one of sources.{source}.secrets"));
    Ok(Exit::Done)
}
