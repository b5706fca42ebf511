//! `webhooks`: what Attio sends, and where to; and `slugs`: the slugs of objects and lists, for `route.slugs_file`.

mod manage;
mod plan;
mod rotate;
mod try_webhook;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use secrecy::ExposeSecret;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Exit, Failure, LOG, block_on, invalid_configuration, print, say, stop_token, warn};
use crate::app::logging::{self, Log};
use crate::attio::secret::{self, SecretFile};
use crate::attio::{Client, Created, Subscription, slugs};
use crate::config::{self, Input};
use crate::printable::{line, lines};
pub use manage::SecretFormat;

#[derive(Args)]
#[command(after_help = "\
Example: show how the webhooks differ from the configuration, then change them
  attio-bridge webhooks plan --config bridge.toml
  attio-bridge webhooks apply --config bridge.toml
Example: the existing webhooks and their status
  attio-bridge webhooks list")]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// List all webhooks of the workspace
    List(manage::List),
    /// Show one webhook
    Get(manage::Get),
    /// Create a webhook and store its secret, which Attio shows only once
    Create(manage::Create),
    /// Change the URL or the events of a webhook; its secret stays
    Update(manage::Update),
    /// Delete webhooks
    Delete(manage::Delete),
    /// Show how the webhooks of the workspace differ from the configuration
    Plan(plan::PlanArguments),
    /// Create and change webhooks as configured; others are not touched
    Apply(plan::ApplyArguments),
    /// Print the webhooks of the workspace as tables for the configuration file
    Import(plan::ImportArguments),
    /// Replace the secret of a webhook without missing an event; resumes after an interruption
    Rotate(rotate::Arguments),
    /// Test the whole path once: a temporary webhook, a test record, its event on the bus
    Try(try_webhook::Arguments),
}

struct Session {
    client: Client,
    config: config::Attio,
    log: Log,
}

pub fn run(input: &Input, Arguments { verb }: Arguments) -> Result<Exit, Failure> {
    with_session(input, async |session| match verb {
        Verb::List(arguments) => manage::list(session, &arguments).await,
        Verb::Get(arguments) => manage::get(session, &arguments).await,
        Verb::Create(arguments) => manage::create(session, arguments).await,
        Verb::Update(arguments) => manage::update(session, &arguments).await,
        Verb::Delete(arguments) => manage::delete(session, &arguments).await,
        Verb::Plan(arguments) => plan::plan(session, &arguments).await,
        Verb::Apply(arguments) => plan::apply(session, &arguments).await,
        Verb::Import(arguments) => plan::import(session, &arguments).await,
        Verb::Rotate(arguments) => rotate::run(session, &arguments).await,
        Verb::Try(arguments) => try_webhook::run(session, input, &arguments).await,
    })
}

impl Session {
    /// From now on the first Ctrl-C only cancels the token, so that a secret in progress is stored. The second
    /// ends the process at once.
    fn delay_interrupt(&self) -> Result<CancellationToken, Failure> {
        stop_token(&self.log, Some("Finishing, to keep the secrets. Press Ctrl-C again to abort."))
    }
}

fn with_session(
    input: &Input,
    verb: impl AsyncFnOnce(&Session) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let unstarted = |error| format!("cannot start a thread: {error}");
    let log = logging::start(LOG, &input.environment).map_err(unstarted)?;
    let config = config::attio(input).map_err(invalid_configuration)?;
    warn(&config.warnings);
    let session = Session { client: Client::new(&config.options)?, config, log };
    block_on(None, verb(&session)).map_err(unstarted)?
}

/// False unless the operator agrees, by `--yes` or on the terminal.
fn confirm(question: &str, yes: bool) -> Result<bool, Failure> {
    super::confirm(question, yes).map_err(Failure::usage)
}

fn target(url: &str) -> Result<String, String> {
    let rest = url.strip_prefix("https://").ok_or("Attio accepts only URLs that begin with https://")?;
    let good = !rest.is_empty() && !rest.contains(|c: char| c.is_whitespace() || c.is_control());
    if good { Ok(url.to_owned()) } else { Err("expected https://host/path".into()) }
}

/// The last segment of a URL's path: the name of a source.
fn last_segment(url: &str) -> &str {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    path.rsplit('/').next().unwrap_or(path)
}

/// Where the secret of a new webhook goes.
enum SecretOutput {
    /// A file.
    File(SecretFile),
    /// Standard output, as the manifest of a Kubernetes Secret of this name.
    Manifest(String),
    /// Standard output, with the webhook, as JSON.
    Json,
    /// Standard output, after this prefix.
    Text(String),
}

impl SecretOutput {
    /// A file; checked now, written later.
    fn file(path: &Path, overwrite: bool) -> Result<Self, Failure> {
        Ok(Self::File(SecretFile::reserve(path, overwrite)?))
    }

    fn write(self, created: &Created) -> io::Result<()> {
        let secret = created.secret.expose_secret();
        match self {
            Self::File(file) => file.write(&created.secret),
            Self::Manifest(name) => print_secret(&secret::manifest(&name, created)),
            Self::Json => {
                let mut json = json!(created.webhook);
                json["secret"] = secret.into();
                print_secret(&lines(&format!("{json:#}\n")))
            }
            Self::Text(prefix) => print_secret(&format!("{prefix}{secret}\n")),
        }
    }
}

/// Creates a webhook and stores its secret. If it can be neither stored nor its webhook deleted, it is printed, unless
/// standard output is a document without secrets.
async fn create_webhook(
    client: &Client,
    url: &str,
    subscriptions: &[Subscription],
    output: SecretOutput,
    is_document: bool,
) -> Result<Created, Failure> {
    let created = secret::create(client, url, subscriptions, |created| output.write(created)).await;
    if let Err(secret::Error::Orphaned { created, .. }) = &created {
        // It may be lost because it is no usable secret: then it has characters that no secret has.
        let secret = line(created.secret.expose_secret());
        let printed = !is_document && print_secret(&format!("{secret}\n")).is_ok();
        let result = if printed { "is on standard output, only this once" } else { "is lost" };
        say(format_args!("warning: the secret of webhook {} {result}", created.webhook.shown_id()));
    }
    let created = created?;
    if !created.webhook.is_at(url) {
        say(format_args!(
            "warning: Attio shows the URL as {}: configure it so, or the webhook will not be recognised",
            line(&created.webhook.target_url)
        ));
    }
    Ok(created)
}

/// Unlike other output, a failure to print a secret is an error.
fn print_secret(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

const SLUGS_HELP: &str = "\
Example:
  attio-bridge slugs pull --to slugs.json";

#[derive(Args)]
#[command(after_help = SLUGS_HELP)]
pub struct SlugsArguments {
    #[command(subcommand)]
    verb: SlugsVerb,
}

#[derive(Subcommand)]
enum SlugsVerb {
    /// Read the slugs of objects and lists from Attio, and write the file that the bridge reads
    Pull(Pull),
}

#[derive(Args)]
#[command(after_help = SLUGS_HELP)]
struct Pull {
    /// The file [default: route.slugs_file; without either, standard output]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

pub fn slugs(
    input: &Input,
    SlugsArguments { verb: SlugsVerb::Pull(Pull { to }) }: SlugsArguments,
) -> Result<Exit, Failure> {
    with_session(input, async |session| {
        let slugs = slugs::pull(&session.client).await?;
        let Some(path) = to.as_ref().or(session.config.slugs_file.as_ref()) else {
            print(slugs::text(&slugs));
            return Ok(Exit::Done);
        };
        let file = path.display();
        let changed = slugs::write(path, &slugs).map_err(|error| format!("cannot write {file}: {error}"))?;
        let (objects, lists) = (slugs.objects.len(), slugs.lists.len());
        let result = if changed { "written" } else { "unchanged" };
        say(format_args!("{file}: {objects} objects and {lists} lists, {result}"));
        Ok(Exit::Done)
    })
}
