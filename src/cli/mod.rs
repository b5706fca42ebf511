//! The command line: one file per verb, each short; the work is in the library.

mod check;
mod completions;
mod config;
mod dev;
mod explain;
mod given;
mod healthcheck;
mod man;
mod problems;
mod progress;
mod quarantine;
mod reading;
mod send;
mod serve;
mod sign;
mod signer;
mod slugs;
mod table;
mod tail;
mod topics;
mod version;
mod watch;
mod webhooks;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{Environment, Flag, Input};
use problems::warn;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed while running, or gave up a drain.
    Failed = 1,
    /// Called the wrong way.
    Usage = 2,
    /// What was found is not what was expected.
    Unexpected = 3,
    /// The configuration is not good.
    Configuration = 78,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

const AFTER_HELP: &str = "\
Configuration, later ones win: default, file (TOML), environment, flag.
  ATTIO_BRIDGE__<SECTION>__<KEY>         any key, e.g. ATTIO_BRIDGE__HTTP__LISTEN is http.listen
  ATTIO_BRIDGE__<SECTION>__<KEY>_FILE    any secret, from a file
  ATTIO_WEBHOOK_SECRET[_FILE]            the webhook's secret (source `attio`)
  ATTIO_WEBHOOK_SECRET_PREVIOUS[_FILE]   the one before it, while it is rotated
  ATTIO_API_KEY[_FILE]                   the key for Attio's API
  ATTIO_BRIDGE_CONFIG                    the file, as --config
  RUST_LOG, NO_COLOR                     as usual

Exit codes: 0 done, 1 runtime failure, 2 usage, 3 not as expected, 78 configuration.
Data goes to stdout, messages and logs go to stderr.";

/// Receives Attio's webhooks and publishes each event to Kafka or NATS as a CloudEvent. A 200 means
/// that every event of the delivery has been acknowledged by the broker.
#[derive(Parser)]
#[command(name = "attio-bridge", after_help = AFTER_HELP, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
#[command(version = crate::version::VERSION)]
struct Arguments {
    /// Configuration file; none is searched for [env: ATTIO_BRIDGE_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Receive webhooks and publish their events until told to stop
    Serve(serve::Arguments),
    /// Check the configuration, with --connect also the broker; print every problem
    Check(check::Arguments),
    /// Print the effective configuration: each key, its value, where it came from
    Config(config::Arguments),
    /// Print what to create on the broker and the least to grant, as commands or manifests
    Topics(topics::Arguments),
    /// Try it out: broker, bridge, sender and reader in one process; nothing to install or configure
    Dev(dev::Arguments),
    /// Print the headers that make a body genuine, or a curl line that sends it
    Sign(sign::Arguments),
    /// Sign and post deliveries to an address, from files or made up, and count the answers
    Send(send::Arguments),
    /// Say why a captured request is refused, or what becomes of its events
    Explain(explain::Arguments),
    /// Print the events of the bus as they come
    Tail(tail::Arguments),
    /// See what lies in quarantine, and after a fix replay it
    Quarantine(quarantine::Arguments),
    /// Ask a running bridge whether it is ready: exit 0 if it is, else 1
    Healthcheck(healthcheck::Arguments),
    /// What Attio sends and where to: list, create, change and delete webhooks, or keep them as configured
    Webhooks(webhooks::Arguments),
    /// Watch the configured webhooks: tell when Attio stops sending, and make lost ones again
    Watch(watch::Arguments),
    /// What Attio's objects and lists are called, for events and filters
    Slugs(slugs::Arguments),
    /// Print the version
    Version(version::Arguments),
    /// Print what makes a shell complete verbs and flags
    Completions(completions::Arguments),
    /// Print the manual page, or write one for every verb
    Man(man::Arguments),
}

/// Every verb and flag, as help, completions and manual pages are made of them.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Parses the command line and runs the verb.
pub fn run(arguments: impl IntoIterator<Item = OsString>, environment: Environment) -> Exit {
    let Arguments { config, verb } = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(answer) => {
            // The answer to --help is data; a closed pipe is nobody's problem.
            let _ = answer.print();
            return if answer.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    let input = |flags: Vec<Flag>| Input::new(config, environment, flags);
    let ended = match verb {
        Verb::Serve(arguments) => serve::run(input(arguments.flags())),
        Verb::Check(arguments) => check::run(&input(Vec::new()), &arguments),
        Verb::Config(arguments) => config::run(&input(Vec::new()), &arguments),
        Verb::Topics(arguments) => topics::run(&input(Vec::new()), &arguments),
        Verb::Dev(arguments) => Ok(dev::run(&arguments, &input(Vec::new()))),
        Verb::Sign(arguments) => sign::run(&input(Vec::new()), &arguments),
        Verb::Send(arguments) => Ok(send::run(&input(Vec::new()), &arguments)),
        Verb::Explain(arguments) => explain::run(&input(Vec::new()), &arguments),
        Verb::Tail(arguments) => tail::run(&input(Vec::new()), &arguments),
        Verb::Quarantine(arguments) => quarantine::run(&input(Vec::new()), &arguments),
        Verb::Healthcheck(arguments) => healthcheck::run(&input(Vec::new()), arguments),
        Verb::Webhooks(arguments) => Ok(webhooks::run(&input(Vec::new()), arguments)),
        Verb::Watch(arguments) => watch::run(&input(Vec::new()), arguments),
        Verb::Slugs(arguments) => slugs::run(&input(Vec::new()), arguments),
        Verb::Version(arguments) => Ok(version::run(&arguments)),
        Verb::Completions(arguments) => Ok(completions::run(&arguments)),
        Verb::Man(arguments) => man::run(&arguments),
    };
    // A verb that could not go on has said why.
    ended.unwrap_or_else(|exit| exit)
}

/// The environment of this process. Names that are not text cannot be ours.
pub fn environment() -> Environment {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect()
}

/// Whether people want no colours.
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Writes data. A reader that has gone away ends the output, not the verb.
fn print(data: impl Display) {
    let _ = write!(std::io::stdout().lock(), "{data}");
}

/// Writes a message.
fn say(message: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{message}");
}

/// Says what went wrong on this side.
fn fail(error: impl Display) -> Exit {
    say(format_args!("error: {error}"));
    Exit::Failed
}

/// Loads the configuration, or says everything that is wrong with it.
fn load(input: &Input) -> Result<crate::config::Config, Exit> {
    crate::config::load(input).map_err(not_good)
}

/// Loads the configuration as [`load`] does, and checks that a client of its bus can be created.
fn load_for_serving(input: &Input) -> Result<crate::config::Config, Exit> {
    crate::config::load_for_serving(input).map_err(not_good)
}

/// Loads what is for the verbs that speak to Attio, or says everything that is wrong with it.
fn load_attio(input: &Input) -> Result<crate::config::Attio, Exit> {
    crate::config::attio(input).map_err(not_good)
}

fn not_good(problems: crate::config::Problems) -> Exit {
    problems::tell(&problems);
    Exit::Configuration
}
