//! The command line: one file or folder for each verb. It parses arguments, calls the library and prints
//! the result. Shared: `parsers` (arguments), `bus_session` (verbs that read the bus), `table`, `progress`,
//! `event_line` (text for terminals).

mod about;
mod bus_session;
mod check;
mod config;
mod dev;
mod event_line;
mod explain;
mod healthcheck;
mod parsers;
mod problems;
mod progress;
mod quarantine;
mod send;
mod serve;
mod sign;
mod signer;
mod table;
mod tail;
mod topics;
mod watch;
mod webhooks;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::thread;

use clap::{CommandFactory, Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};

use crate::config::{Environment, Flag, Input};
use crate::{printable, shutdown};
use problems::warn;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed while running, or the drain was abandoned.
    Failed = 1,
    /// Wrong usage.
    Usage = 2,
    /// The result is not as expected.
    Unexpected = 3,
    /// The configuration is invalid.
    Configuration = 78,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

const AFTER_HELP: &str = "\
Configuration sources, later ones win: default, file (TOML), environment, flag.
  ATTIO_BRIDGE__<SECTION>__<KEY>         any key, e.g. ATTIO_BRIDGE__HTTP__LISTEN is http.listen
  ATTIO_BRIDGE__<SECTION>__<KEY>_FILE    any secret, from a file
  ATTIO_WEBHOOK_SECRET[_FILE]            the webhook's secret (source `attio`)
  ATTIO_WEBHOOK_SECRET_PREVIOUS[_FILE]   the previous secret, during rotation
  ATTIO_API_KEY[_FILE]                   the API key for Attio
  ATTIO_BRIDGE_CONFIG                    the configuration file, as --config
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
    /// Configuration file; there is no default [env: ATTIO_BRIDGE_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Receive webhooks and publish their events until stopped
    Serve(serve::Arguments),
    /// Check the configuration, with --connect also the broker, and print every problem
    Check(check::Arguments),
    /// Print the effective configuration: each key with its value and where the value comes from
    Config(config::Arguments),
    /// Print the topics or stream to create and the permissions to grant, as commands or manifests
    Topics(topics::Arguments),
    /// Try it out: broker, bridge, sender and reader in one process, without any configuration
    Dev(dev::Arguments),
    /// Sign a body: print its headers, or a curl command that sends it
    Sign(sign::Arguments),
    /// Sign and post deliveries, from files or generated, and count the answers
    Send(send::Arguments),
    /// Explain why a captured request is refused, or what happens to its events
    Explain(explain::Arguments),
    /// Print events from the bus as they arrive
    Tail(tail::Arguments),
    /// List, show, export and replay what is in quarantine
    Quarantine(quarantine::Arguments),
    /// Check whether a running bridge is ready: exit 0 if it is, else 1
    Healthcheck(healthcheck::Arguments),
    /// Manage Attio's webhooks: list, create, change and delete them, or apply the configuration
    Webhooks(webhooks::Arguments),
    /// Watch the configured webhooks: report when Attio stops sending, and recreate lost ones
    Watch(watch::Arguments),
    /// Fetch the names of Attio's objects and lists, for events and filters
    Slugs(webhooks::slugs::Arguments),
    /// Print the version
    Version(about::Version),
    /// Print a shell completion script
    Completions(about::Completions),
    /// Print the manual page, or write one for every verb
    Man(about::Man),
}

/// Every verb and flag, for help, completions and manual pages.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Parses the command line and runs the verb.
pub fn run(arguments: impl IntoIterator<Item = OsString>, environment: Environment) -> Exit {
    let Arguments { config, verb } = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(answer) => {
            // Help is data: a closed pipe is not an error.
            let _ = answer.print();
            return if answer.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    // Without it, a verb whose output is limited ends as before: by the signal.
    let _ = shutdown::survive([shutdown::file_too_large()]);
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
        Verb::Slugs(arguments) => Ok(webhooks::slugs::run(&input(Vec::new()), arguments)),
        Verb::Version(arguments) => Ok(about::version(&arguments)),
        Verb::Completions(arguments) => Ok(about::completions(&arguments)),
        Verb::Man(arguments) => about::man(&arguments),
    };
    // A verb that fails has printed why.
    ended.unwrap_or_else(|exit| exit)
}

/// The cores that the process may use.
fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Threads that a verb starts besides its workers: for signals, the bus client, name resolution, the stop.
const SPARE_THREADS: usize = 8;

/// Starts so many workers. tokio panics if the system cannot start one, and then waits for it for ever, so this starts
/// as many threads first.
fn runtime(workers: usize) -> io::Result<Runtime> {
    let threads = workers + SPARE_THREADS;
    let tried: io::Result<Vec<_>> =
        (0..threads).map(|_| thread::Builder::new().spawn(thread::park)).collect();
    let limit = "raise the limit of processes (ulimit -u, TasksMax=, pids.max)";
    for thread in tried
        .map_err(|error| io::Error::other(format!("cannot start {threads} threads: {error}; {limit}")))?
    {
        thread.thread().unpark();
        // It cannot have panicked.
        let _ = thread.join();
    }
    Builder::new_multi_thread().worker_threads(workers).enable_all().build()
}

/// The environment of this process, without names that are not UTF-8.
pub fn environment() -> Environment {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect()
}

/// Whether `NO_COLOR` is set.
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Prints data to standard output. A closed pipe is not an error.
fn print(data: impl Display) {
    let _ = write!(std::io::stdout().lock(), "{}", printable::styled(&data.to_string()));
}

/// Prints a message to standard error.
fn say(message: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{}", printable::lines(&message.to_string()));
}

/// Prints a message with its colours to standard error.
fn say_styled(message: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", printable::styled(message));
}

/// Prints an error; the verb ends with [`Exit::Failed`].
fn fail(error: impl Display) -> Exit {
    say(format_args!("error: {error}"));
    Exit::Failed
}

/// Asks on the terminal, unless `yes`. False if the operator declines; an error if there is no terminal.
fn confirm(question: &str, yes: bool) -> Result<bool, String> {
    if yes {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        return Err(format!("{question} Not a terminal, so nobody can be asked: pass --yes"));
    }
    let _ = write!(std::io::stderr().lock(), "{} [y/N] ", printable::line(question));
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    let agreed = read.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes");
    if !agreed {
        say("Cancelled, nothing was changed.");
    }
    Ok(agreed)
}

/// Loads the configuration, or prints every problem with it.
fn load(input: &Input) -> Result<crate::config::Config, Exit> {
    crate::config::load(input).map_err(invalid_configuration)
}

/// Loads the configuration as [`load`] does, and checks that a client of its bus can be created.
fn load_for_serving(input: &Input) -> Result<crate::config::Config, Exit> {
    crate::config::load_for_serving(input).map_err(invalid_configuration)
}

/// Loads the configuration of the verbs that call Attio's API, or prints every problem with it.
fn load_attio(input: &Input) -> Result<crate::config::Attio, Exit> {
    crate::config::attio(input).map_err(invalid_configuration)
}

fn invalid_configuration(problems: crate::config::Problems) -> Exit {
    problems::print(&problems);
    Exit::Configuration
}
