//! `webhooks`: what Attio sends, and where to; and `slugs`, which calls Attio too.

mod import;
mod manage;
mod plan;
mod rotate;
mod secret_output;
pub mod slugs;
mod try_webhook;

use clap::{Args, Subcommand};

use super::config::print_problems;
use super::{Exit, print, say, warn};
use crate::app::logging::{self, Log};
use crate::attio::{self, Client, filter, rotate as rotation, secret};
use crate::config::{self, Input, LogFormat, LogOptions};

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
    Import(import::Arguments),
    /// Replace the secret of a webhook without missing an event; resumes after an interruption
    Rotate(rotate::Arguments),
    /// Test the whole path once: a temporary webhook, a test record, its event on the bus
    Try(try_webhook::Arguments),
}

/// What every verb uses.
struct Session {
    client: Client,
    config: config::Attio,
    log: Log,
}

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Attio(#[from] attio::Error),
    #[error(transparent)]
    Filter(#[from] filter::Error),
    #[error(transparent)]
    Create(#[from] secret::Error),
    #[error(transparent)]
    Rotate(#[from] rotation::Error),
    #[error("{0}")]
    Configuration(config::Problems),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    Unexpected(String),
}

impl Failure {
    fn exit(&self) -> Exit {
        match self {
            Self::Configuration(_) | Self::Attio(attio::Error::NoKey | attio::Error::Setup(_)) => {
                Exit::Configuration
            }
            Self::Usage(_) | Self::Attio(attio::Error::InvalidId(_)) => Exit::Usage,
            Self::Unexpected(_) => Exit::Unexpected,
            _ => Exit::Failed,
        }
    }
}

pub fn run(input: &Input, Arguments { verb }: Arguments) -> Exit {
    with_session(input, async |session| match verb {
        Verb::List(arguments) => manage::list(session, &arguments).await,
        Verb::Get(arguments) => manage::get(session, &arguments).await,
        Verb::Create(arguments) => manage::create(session, arguments).await,
        Verb::Update(arguments) => manage::update(session, &arguments).await,
        Verb::Delete(arguments) => manage::delete(session, &arguments).await,
        Verb::Plan(arguments) => plan::plan(session, &arguments).await,
        Verb::Apply(arguments) => plan::apply(session, &arguments).await,
        Verb::Import(arguments) => import::run(session, &arguments).await,
        Verb::Rotate(arguments) => rotate::run(session, &arguments).await,
        Verb::Try(arguments) => try_webhook::run(session, input, &arguments).await,
    })
}

/// Runs a verb that calls Attio; a failure is printed.
fn with_session(input: &Input, verb: impl AsyncFnOnce(&Session) -> Result<Exit, Failure>) -> Exit {
    start(input, verb).unwrap_or_else(|failure| {
        match &failure {
            Failure::Configuration(problems) => print_problems(problems),
            failure => say(format_args!("error: {failure}")),
        }
        failure.exit()
    })
}

fn start(input: &Input, verb: impl AsyncFnOnce(&Session) -> Result<Exit, Failure>) -> Result<Exit, Failure> {
    let failed = |error| Failure::Failed(format!("cannot start a thread: {error}"));
    let log = logging::start(LogOptions { level: "warn", format: LogFormat::Text }, &input.environment);
    let log = log.map_err(failed)?;
    let config = config::attio(input).map_err(Failure::Configuration)?;
    warn(&config.warnings);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    // Dropped before the caller prints the error, so that the log's lines come first.
    let session = Session { client: Client::new(&config.options)?, config, log };
    let done = runtime.block_on(verb(&session));
    // Does not wait for a name resolution that hangs.
    runtime.shutdown_background();
    done
}

/// False unless the operator agrees, by `--yes` or on the terminal.
fn confirm(question: &str, yes: bool) -> Result<bool, Failure> {
    super::confirm(question, yes).map_err(Failure::Usage)
}

/// Parses a target URL of the command line.
fn target(url: &str) -> Result<String, String> {
    let rest = url.strip_prefix("https://").ok_or("Attio accepts only URLs that begin with https://")?;
    let good = !rest.is_empty() && !rest.contains(|c: char| c.is_whitespace() || c.is_control());
    if good { Ok(url.to_owned()) } else { Err("expected https://host/path".into()) }
}
