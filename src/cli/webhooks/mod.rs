//! `webhooks`: what Attio sends, and where to. One file per verb; here what they share.

mod apply;
mod attempt;
mod create;
mod delete;
mod get;
mod import;
mod keep;
mod list;
mod plan;
mod rotate;
mod show;
mod subscriptions;
mod update;

use std::io::{self, BufRead, IsTerminal, Write};

use clap::{Args, Subcommand};

use super::{Exit, print, problems, say, warn};
use crate::app::logging::{self, Log};
use crate::attio::{self, Client, create as creation, filter, rotate as rotation, secret_file};
use crate::config::{self, Input, LogFormat, LogOptions};

/// What an operator types.
const AFTER_HELP: &str = "\
Example: as code, what would be changed and then to change it
  attio-bridge webhooks plan --config bridge.toml
  attio-bridge webhooks apply --config bridge.toml
Example: what Attio delivers to, and how well
  attio-bridge webhooks list";

/// The verbs of `webhooks`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// List all webhooks of the workspace
    List(list::Arguments),
    /// Show one webhook
    Get(get::Arguments),
    /// Create a webhook and keep its secret, which Attio tells this one time
    Create(create::Arguments),
    /// Change where a webhook sends, or what; its secret stays
    Update(update::Arguments),
    /// Delete webhooks
    Delete(delete::Arguments),
    /// Show what is between the webhooks of the configuration and those of the workspace
    Plan(plan::Arguments),
    /// Create and change webhooks so that they are as configured; others are left alone
    Apply(apply::Arguments),
    /// Print the webhooks of the workspace as tables for the configuration file
    Import(import::Arguments),
    /// Give a webhook a new secret while it goes on sending; goes on where it was interrupted
    Rotate(rotate::Arguments),
    /// Try the whole way once: a temporary webhook, a test record, its event on the bus
    Try(attempt::Arguments),
}

/// What a verb works with.
struct Session {
    client: Client,
    config: config::Attio,
    /// Its last lines come before the verb's own last words.
    log: Log,
}

/// Why a verb ends early.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Attio(#[from] attio::Error),
    #[error(transparent)]
    Filter(#[from] filter::Error),
    #[error(transparent)]
    SecretFile(#[from] secret_file::Error),
    #[error(transparent)]
    Create(#[from] creation::Error),
    #[error(transparent)]
    Rotate(#[from] rotation::Error),
    #[error("{0}")]
    Configuration(config::Problems),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Refused(String),
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

/// Runs a verb of `webhooks`.
pub fn run(input: &Input, arguments: Arguments) -> Exit {
    let log = match logging::start(LogOptions { level: "warn", format: LogFormat::Text }, &input.environment)
    {
        Ok(log) => log,
        Err(error) => {
            say(format_args!("error: the thread that logs cannot be started: {error}"));
            return Exit::Failed;
        }
    };
    let config = match config::attio(input) {
        Ok(config) => config,
        Err(problems) => {
            problems::tell(&problems);
            return Exit::Configuration;
        }
    };
    warn(&config.warnings);
    match start(input, config, log, arguments.verb) {
        Ok(exit) => exit,
        Err(failure) => {
            match &failure {
                Failure::Configuration(problems) => problems::tell(problems),
                failure => say(format_args!("error: {failure}")),
            }
            failure.exit()
        }
    }
}

fn start(input: &Input, config: config::Attio, log: Log, verb: Verb) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::Refused(format!("the verb cannot be started: {error}")))?;
    let session = Session { client: Client::new(&config.options)?, config, log };
    let done = runtime.block_on(async {
        match verb {
            Verb::List(arguments) => list::run(&session, &arguments).await,
            Verb::Get(arguments) => get::run(&session, &arguments).await,
            Verb::Create(arguments) => create::run(&session, arguments).await,
            Verb::Update(arguments) => update::run(&session, &arguments).await,
            Verb::Delete(arguments) => delete::run(&session, &arguments).await,
            Verb::Plan(arguments) => plan::run(&session, &arguments).await,
            Verb::Apply(arguments) => apply::run(&session, &arguments).await,
            Verb::Import(arguments) => import::run(&session, &arguments).await,
            Verb::Try(arguments) => attempt::run(&session, input, &arguments).await,
            Verb::Rotate(arguments) => rotate::run(&session, &arguments).await,
        }
    });
    // A name that is still being looked up is left behind.
    runtime.shutdown_background();
    done
}

/// Goes on only if it was said so: by `--yes`, or on the terminal.
fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage(format!("{question} Nobody can be asked here; say --yes")));
    }
    let _ = write!(io::stderr().lock(), "{question} [y/N] ");
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    let agreed = read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes");
    if agreed { Ok(()) } else { Err(Failure::Refused("nothing was changed".into())) }
}

/// A target URL of the command line.
fn target(url: &str) -> Result<String, String> {
    let rest = url.strip_prefix("https://").ok_or("Attio takes addresses that begin with https://")?;
    let good = !rest.is_empty() && !rest.contains(|c: char| c.is_whitespace() || c.is_control());
    if good { Ok(url.to_owned()) } else { Err("expects https://host/path".into()) }
}
