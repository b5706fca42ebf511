//! The command line: a file or folder for each verb, or for a few alike. It parses arguments, calls the library
//! and prints the result. Shared: `arguments`, `output`.

mod about;
mod arguments;
mod config;
mod contract;
mod dev;
mod explain;
mod healthcheck;
mod output;
mod quarantine;
mod send;
mod serve;
mod sign;
mod state;
mod tail;
mod topics;
mod watch;
mod webhooks;

use std::any::Any;
use std::ffi::OsString;
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::thread;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use crate::app::logging::{self, Log};
use crate::attio;
use crate::bus::ReadError;
use crate::config::{Environment, Input, LogFormat, LogOptions};
use crate::consumer::quarantine::QuarantineError;
use crate::printable::Paint;
use crate::shutdown;
use config::warn;
use output::{confirm, print, say};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    /// Failed while running, or the drain was abandoned.
    Failed = 1,
    Usage = 2,
    /// The result is not as expected.
    Unexpected = 3,
    Configuration = 78,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a verb ends early: the exit code, and the error that is left to print.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    error: Option<String>,
}

impl Failure {
    fn new(exit: Exit, error: impl Display) -> Self {
        Self { exit, error: Some(error.to_string()) }
    }

    fn usage(error: impl Display) -> Self {
        Self::new(Exit::Usage, error)
    }

    /// Writes the error to the log instead.
    fn logged(mut self) -> Self {
        if let Some(error) = self.error.take() {
            tracing::error!("{error}");
        }
        self
    }
}

/// A verb whose errors have been printed.
impl From<Exit> for Failure {
    fn from(exit: Exit) -> Self {
        Self { exit, error: None }
    }
}

impl<E: Display + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(exit_code(&error), error)
    }
}

fn exit_code(error: &dyn Any) -> Exit {
    match (error.downcast_ref(), error.downcast_ref(), error.downcast_ref()) {
        (Some(attio::Error::NoKey | attio::Error::Setup(_)), ..) => Exit::Configuration,
        (Some(attio::Error::InvalidId(_)), ..)
        | (_, Some(ReadError::Stdout), _)
        | (.., Some(QuarantineError::Read(ReadError::Stdout))) => Exit::Usage,
        _ => Exit::Failed,
    }
}

const AFTER_HELP: &str = "\
Configuration sources, later ones win: default, file (TOML), environment, flag.
  ATTIO_BRIDGE__<SECTION>__<KEY>         any key: HTTP__LISTEN is http.listen
  ATTIO_BRIDGE__<SECTION>__<KEY>_FILE    any secret, from a file
  ATTIO_WEBHOOK_SECRET[_FILE]            secret of source `attio`
  ATTIO_WEBHOOK_SECRET_PREVIOUS[_FILE]   its previous secret, in rotation
  ATTIO_API_KEY[_FILE]                   the API key for Attio
  ATTIO_BRIDGE_CONFIG                    the file, as --config
  RUST_LOG, NO_COLOR                     as usual

Example: see it work, without a broker, an account or a configuration
  attio-bridge dev
Example: check a configuration, then serve
  attio-bridge check --config config.toml
  attio-bridge serve --config config.toml

Exit codes: 0 done, 1 runtime failure, 2 usage, 3 not as expected, 78 configuration.

Data goes to stdout, messages and logs go to stderr.";

/// Receives Attio's webhooks and publishes each event to Kafka or NATS as a CloudEvent. A 200 means
/// that every event of the delivery has been acknowledged by the broker.
#[derive(Parser)]
#[command(name = "attio-bridge", after_help = AFTER_HELP)]
#[command(subcommand_required = true, arg_required_else_help = true)]
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
    Check(config::CheckArguments),
    /// Print the effective configuration: each key with its value and where the value comes from
    Config(config::Arguments),
    /// Print the topics or stream to create and the permissions to grant, as commands or manifests
    Topics(topics::Arguments),
    /// Print what consumers can rely on: event types, JSON Schemas, an AsyncAPI document, a page
    Contract(contract::Arguments),
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
    /// Keep topics with the newest state of each record, list entry, note, task and comment
    State(state::Arguments),
    /// Fetch the names of Attio's objects and lists, for events and filters
    Slugs(webhooks::SlugsArguments),
    /// Print the version
    Version(about::Version),
    /// Print a shell completion script
    Completions(about::Completions),
    /// Print the manual page, or write one for every verb
    Man(about::Man),
}

/// Every verb and flag, for help, completions and manual pages.
pub fn command() -> clap::Command {
    /// Narrower, an example could not be copied.
    const WIDTHS: std::ops::RangeInclusive<usize> = 80..=100;
    let told = || std::env::var("COLUMNS").ok()?.parse().ok();
    let width = output::terminal_columns().or_else(told).unwrap_or(*WIDTHS.end());
    let width = width.clamp(*WIDTHS.start(), *WIDTHS.end());
    Arguments::command().term_width(width)
}

/// Adds the verb that was meant to the error about an unknown one, where clap finds none: it compares words letter by
/// letter, and `dve` is unlike `dev`.
fn with_suggestion(mut error: clap::Error, arguments: &[OsString]) -> clap::Error {
    let unknown = error.get(ContextKind::InvalidSubcommand).cloned();
    let Some(ContextValue::String(unknown)) = unknown else { return error };
    if error.get(ContextKind::SuggestedSubcommand).is_some() {
        return error;
    }
    let mut parent = command();
    for word in arguments.iter().skip(1).take_while(|word| *word != unknown.as_str()) {
        if let Some(verb) = parent.find_subcommand(word) {
            parent = verb.clone();
        }
    }
    let distance = |verb: &str| match verb.starts_with(unknown.as_str()) {
        true => 0,
        false => strsim::osa_distance(verb, &unknown.to_lowercase()),
    };
    let verbs = parent.get_subcommands().map(clap::Command::get_name);
    let nearest = verbs.map(|verb| (distance(verb), verb.to_owned())).min();
    if let Some((_, verb)) = nearest.filter(|(distance, _)| *distance <= 2.min(unknown.len() / 2)) {
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(vec![verb]));
    }
    error
}

/// Prints the help or the version that was asked for, or what is wrong with the arguments.
fn print_answer(answer: &clap::Error) -> Exit {
    if answer.use_stderr() {
        let _ = answer.print();
        return Exit::Usage;
    }
    let text = answer.render();
    match output::paint() {
        Paint(true) => print(text.ansi()),
        Paint(false) => print(text),
    }
    Exit::Done
}

pub fn run(arguments: impl IntoIterator<Item = OsString>, environment: Environment) -> Exit {
    // Without it, a verb whose output is limited ends as before: by the signal.
    let _ = shutdown::survive([shutdown::file_too_large()]);
    let words: Vec<_> = arguments.into_iter().collect();
    let parsed = command().try_get_matches_from(&words);
    let exit = match parsed.and_then(|matches| Arguments::from_arg_matches(&matches)) {
        Ok(arguments) => run_verb(arguments, environment),
        Err(answer) => print_answer(&with_suggestion(answer, &words)),
    };
    output::finish(exit)
}

fn run_verb(Arguments { config, verb }: Arguments, environment: Environment) -> Exit {
    let flags = if let Verb::Serve(arguments) = &verb { arguments.flags() } else { Vec::new() };
    let input = &Input::new(config, environment, flags);
    let ended = match verb {
        Verb::Serve(_) => serve::run(input),
        Verb::Check(arguments) => config::check(input, &arguments),
        Verb::Config(arguments) => config::config(input, &arguments),
        Verb::Topics(arguments) => topics::run(input, &arguments),
        Verb::Contract(arguments) => contract::run(input, arguments),
        Verb::Dev(arguments) => dev::run(&arguments, input),
        Verb::Sign(arguments) => sign::run(input, &arguments),
        Verb::Send(arguments) => send::run(input, &arguments),
        Verb::Explain(arguments) => explain::run(input, &arguments),
        Verb::Tail(arguments) => tail::run(input, &arguments),
        Verb::Quarantine(arguments) => quarantine::run(input, &arguments),
        Verb::Healthcheck(arguments) => healthcheck::run(input, arguments),
        Verb::Webhooks(arguments) => webhooks::run(input, arguments),
        Verb::Watch(arguments) => watch::run(input, arguments),
        Verb::State(arguments) => state::run(input, arguments),
        Verb::Slugs(arguments) => webhooks::slugs(input, arguments),
        Verb::Version(arguments) => Ok(about::version(&arguments)),
        Verb::Completions(arguments) => Ok(about::completions(&arguments)),
        Verb::Man(arguments) => about::man(&arguments),
    };
    ended.unwrap_or_else(|Failure { exit, error }| {
        if let Some(error) = error {
            say(format_args!("error: {error}"));
        }
        exit
    })
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Threads that a verb starts besides its workers: for signals, the bus client, name resolution, the stop.
const SPARE_THREADS: usize = 8;

/// Runs async work on so many workers, or on this thread alone. What then still waits for the network, such as a name
/// resolution, is left behind.
fn block_on<T>(workers: Option<usize>, work: impl Future<Output = T>) -> io::Result<T> {
    let runtime = match workers {
        Some(workers) => runtime(workers)?,
        None => Builder::new_current_thread().enable_all().build()?,
    };
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    Ok(done)
}

/// tokio panics if the system cannot start a worker, and then waits for it for ever, so this starts as many threads
/// first.
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

/// Cancelled by the first stop signal, after this notice; a second one ends the process at once.
fn stop_token(log: &Log, notice: Option<&'static str>) -> Result<CancellationToken, Failure> {
    let signal = shutdown::stop_signal(log.last_words())
        .map_err(|error| format!("cannot listen for signals: {error}"))?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        signal.await;
        if let Some(notice) = notice {
            say(notice);
        }
        stop.cancel();
    });
    Ok(token)
}

/// The environment of this process, without names that are not UTF-8.
pub fn environment() -> Environment {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect()
}

/// These verbs print their own messages; the log has warnings only, as text.
const LOG: LogOptions = LogOptions { level: "warn", format: LogFormat::Text };

/// What the verbs that read the bus work with.
struct BusSession {
    config: crate::config::Config,
    /// Cancelled by the first stop signal. A second one ends the process.
    stop: CancellationToken,
}

fn with_bus(
    input: &Input,
    verb: impl AsyncFnOnce(&BusSession) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let config = load(input)?;
    let log = logging::start(LOG, &input.environment)?;
    block_on(Some(1), async { verb(&BusSession { config, stop: stop_token(&log, None)? }).await })?
}

/// Loads the configuration, or prints every problem with it; else prints its warnings.
fn load(input: &Input) -> Result<crate::config::Config, Failure> {
    let config = crate::config::load(input).map_err(invalid_configuration)?;
    warn(&config.warnings);
    Ok(config)
}

fn invalid_configuration(problems: crate::config::Problems) -> Failure {
    config::print_problems(&problems);
    Exit::Configuration.into()
}
