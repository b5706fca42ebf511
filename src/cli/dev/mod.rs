//! `dev`: a broker, a bridge, a fake Attio and a reader in one process. It reads neither the configuration file
//! nor the bridge's variables, and stores nothing.

mod state;

use std::ffi::OsString;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::Arc;

use anstream::{AutoStream, ColorChoice};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget};
use terminal_size::terminal_size_of;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::app::logging::{self, Log};
use crate::app::{self, App};
use crate::bus::Kind;
use crate::bus::read::{Begin, Plan};
use crate::bus::stdout::Stdout;
use crate::cli::arguments::{BusAddress, rate, reachable};
use crate::cli::output::terminal_columns;
use crate::cli::{Exit, Failure, block_on, cores};
use crate::config::{self, Config, Environment, Flag, Input, LogFormat, LogOptions, Origin};
use crate::fake_attio::FakeAttio;
use crate::fake_attio::store::Store;
use crate::metrics::Metrics;
use crate::pipeline::publish::Bus;
use crate::pipeline::route::Routes;
use crate::supervise::Supervisor;
use crate::try_out::broker::{Broker, CopyingWriter, Source};
use crate::try_out::delivery::Group;
use crate::try_out::events::EventGenerator;
use crate::try_out::keyboard::Keyboard;
use crate::try_out::output::{JsonLines, Options, Output, Target};
use crate::try_out::run::{Run, Senders, create_webhook};
use crate::try_out::screen::Screen;
use crate::try_out::totals::Totals;
use crate::try_out::{self, SOURCE};
use crate::{shutdown, signing};

const DEFAULT_LISTEN: &str = "127.0.0.1:8080";

const FREE_PORT: &str = "127.0.0.1:0";

/// How long a stop waits for acks: everything was answered before, or the broker is away.
const DRAIN_TIMEOUT: &str = "1s";

/// Without a terminal the output shows every answer.
const IN_LINES: &str = "attio_bridge::http=error";

/// On the screen an outage is shown by the answers, too.
const ON_SCREEN: &str = "librdkafka=off,rdkafka=off";

/// What holds the states up is a warning; that the broker in this process is alone is none.
const ON_SCREEN_OF_STATES: &str = "librdkafka=off,rdkafka=off,attio_bridge::bus::kafka::health=error";

/// The API key of the fake Attio; not a secret.
const KEY: &str = "key-of-dev";

const RATE: f64 = 2.0;

const AFTER_HELP: &str = "\
On a terminal, keys pause the display, filter it and show an event whole; ? lists them. With --state there are none.

Example: watch the whole path at ten deliveries a second
  attio-bridge dev --rate 10
Example: events, and the states that `state run` makes of them
  attio-bridge dev --state
Example: on a Kafka of your own
  attio-bridge dev --bus kafka://localhost:9092";

/// The flags of `dev`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Send one round of everything, compare, and exit: 0 if all of it arrived as expected, else 3
    #[arg(long)]
    once: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    /// Deliveries, with --state changes, per second [default: 2; deliveries with --once as fast as they are answered]
    #[arg(long, value_name = "N", value_parser = rate(1000.0))]
    rate: Option<f64>,
    /// Change records, entries, notes, tasks and comments of the fake Attio, and show each event beside the state it
    /// led to
    #[arg(long, conflicts_with = "mix")]
    state: bool,
    /// Kinds of deliveries to send [default: all]
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    mix: Vec<Group>,
    /// Address of the public listener [default: 127.0.0.1:8080, another port if that is taken]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Publish to this bus instead of a broker in this process: kafka://HOST:PORT, nats://HOST:PORT or
    /// stdout. Missing topics or streams are created
    #[arg(long, value_name = "BUS", value_parser = BusAddress::parse)]
    bus: Option<BusAddress>,
}

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Runs everything. Of the input only `RUST_LOG` is used.
pub fn run(arguments: &Arguments, input: &Input) -> Result<Exit, Failure> {
    if let Some((_, Origin::Flag(_))) = input.file {
        return Err(Failure::usage("dev makes its own configuration and reads no file; omit --config"));
    }
    let to_stderr = arguments.bus == Some(BusAddress::STDOUT);
    if arguments.state && to_stderr {
        return Err(Failure::usage(
            "stdout keeps nothing that could be followed; omit --bus, or name a broker",
        ));
    }
    let on_terminal =
        !arguments.json && if to_stderr { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
    let footer = match (on_terminal, to_stderr) {
        (false, _) => ProgressDrawTarget::hidden(),
        (true, false) => ProgressDrawTarget::stdout(),
        (true, true) => ProgressDrawTarget::stderr(),
    };
    let footer = ProgressBar::with_draw_target(None, footer);
    let mut environment = input.environment.clone();
    // What is shown already is logged only if it is asked for.
    let shown = match on_terminal {
        true if arguments.state => ON_SCREEN_OF_STATES,
        true => ON_SCREEN,
        false => IN_LINES,
    };
    environment.entry("RUST_LOG".into()).or_insert_with(|| shown.into());
    let level = if on_terminal && !arguments.state { "error" } else { "warn" };
    let options = LogOptions { level, format: LogFormat::Text };
    let log = logging::start_on(AboveFooter(footer.clone()), options, &environment)?;
    let keys = on_terminal && !arguments.once && io::stdin().is_terminal();
    let ended = start(arguments, &log, footer.clone(), keys);
    footer.finish_and_clear();
    match ended {
        Ok(as_expected) => Ok(if arguments.once && !as_expected { Exit::Unexpected } else { Exit::Done }),
        Err(error) => {
            let failed = match error.downcast_ref() {
                Some(try_out::Error::Output(error)) => Some(error),
                _ => error.downcast_ref::<io::Error>(),
            };
            if failed.is_some_and(|failed| failed.kind() == ErrorKind::BrokenPipe) {
                return Ok(Exit::Done);
            }
            Err(error.into())
        }
    }
}

/// Standard error, whose lines do not tear the footer.
struct AboveFooter(ProgressBar);

impl Write for AboveFooter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Whether everything was as expected.
fn start(arguments: &Arguments, log: &Log, footer: ProgressBar, keys: bool) -> Result<bool, Error> {
    let bus = match &arguments.bus {
        Some(bus) => bus.clone(),
        None => {
            let broker = Broker::start()?;
            let address = broker.address();
            broker.leak();
            BusAddress::kafka(address)
        }
    };
    if arguments.state {
        let view = state::View::new(arguments.json, footer);
        return block_on(Some(cores()), state::session(arguments, &bus, view, log))?;
    }
    let mut output = output(&bus, arguments.json, footer, keys);
    let totals = block_on(Some(cores()), session(arguments, &bus, &mut *output, log, keys))?;
    totals.map(|totals| totals.is_as_expected())
}

/// Standard output; standard error if events go to standard output.
fn output(bus: &BusAddress, json: bool, footer: ProgressBar, keys: bool) -> Box<dyn Output> {
    match (*bus == BusAddress::STDOUT, json) {
        (true, true) => Box::new(JsonLines(io::stderr())),
        (false, true) => Box::new(JsonLines(io::stdout())),
        (true, false) => {
            let colour = AutoStream::choice(&io::stderr()) != ColorChoice::Never;
            let columns = || terminal_size_of(io::stderr()).map(|(width, _)| width.0.into());
            Box::new(Screen::new(anstream::stderr(), footer, colour, columns, keys))
        }
        (false, false) => {
            let colour = AutoStream::choice(&io::stdout()) != ColorChoice::Never;
            Box::new(Screen::new(anstream::stdout(), footer, colour, terminal_columns, keys))
        }
    }
}

async fn session(
    arguments: &Arguments,
    bus: &BusAddress,
    output: &mut dyn Output,
    log: &Log,
    keys: bool,
) -> Result<Totals, Error> {
    let attio = FakeAttio::start(Store::new(KEY)).await?;
    let webhook = create_webhook(&mut attio.store());
    let events = EventGenerator::new(&attio.store(), &webhook.webhook_id);
    let embedded = arguments.bus.is_none();
    let environment = settings(&webhook.secret, &events.workspace_id, bus, embedded);
    let keyboard = if keys { Keyboard::open().ok() } else { None };
    let (keyboard, mut keys) = match keyboard {
        Some((keyboard, keys)) => (Some(keyboard), keys),
        // Without a sender it never has a key.
        None => (None, mpsc::channel(1).1),
    };
    let (restore, last_words) = (keyboard.as_ref().map(Keyboard::restore), log.last_words());
    let stop = shutdown::stop_signal(move || {
        if let Some(restore) = restore {
            restore();
        }
        last_words();
    })?;
    let (app, copies, taken) = bind(&environment, arguments.listen.as_deref()).await?;
    let source = match copies {
        Some(copies) => copies,
        None => broker_source(&load(&environment, FREE_PORT)?, embedded),
    };
    let target = Target {
        http: reachable(&app.http_addr()?.to_string()).parse()?,
        taken: taken.then_some(DEFAULT_LISTEN),
        admin: app.admin_addr()?,
        bus: bus.name,
        address: bus.address.clone(),
        embedded,
        secret: webhook.secret.clone(),
        attio: attio.url(),
        key: KEY,
        program: program(),
    };
    let senders = Senders::start(&attio, webhook, target.http);
    let once = arguments.once;
    let options = Options { once, rate: arguments.rate.or((!once).then_some(RATE)) };
    let end = CancellationToken::new();
    let bridge = tokio::spawn(app.run(end.clone().cancelled_owned()));
    let run = Run::new(target, options, senders, events, &arguments.mix, output);
    let result = run.run(source, &mut keys, stop).await;
    end.cancel();
    let drained = bridge.await;
    let totals = result?;
    match drained.map_err(io::Error::other)? {
        // The broker that is away acknowledges nothing.
        Err(app::Error::Abandoned { .. } | app::Error::FlushHangs { .. }) if totals.away => {}
        drained => drained?,
    }
    Ok(totals)
}

/// What runs this program in a shell: its name if `PATH` has it, else its path.
fn program() -> String {
    let Ok(own) = std::env::current_exe() else { return env!("CARGO_PKG_NAME").to_owned() };
    let name = own.file_name().unwrap_or_default();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    let command = match found.and_then(|file| file.canonicalize().ok()) {
        Some(found) if own.canonicalize().is_ok_and(|own| own == found) => name.to_string_lossy(),
        _ => own.to_string_lossy(),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if command.chars().all(plain) { command.into_owned() } else { signing::quote(&command) }
}

/// The variables with which `serve` would run the same bridge.
fn settings(secret: &str, workspace_id: &str, bus: &BusAddress, embedded: bool) -> Environment {
    let ensure = if embedded { "verify" } else { "create" };
    let settings = [
        (&*format!("sources.{SOURCE}.workspace_id"), workspace_id),
        ("admin.listen", FREE_PORT),
        ("shutdown.drain_timeout", DRAIN_TIMEOUT),
        ("kafka.topics.ensure", ensure),
        ("nats.stream.ensure", ensure),
    ];
    let of_other = |key: &str| matches!(key.split_once('.'), Some((bus_name @ ("kafka" | "nats"), _)) if bus_name != bus.name);
    let settings = settings.into_iter().filter(|(key, _)| !of_other(key));
    let settings = settings.map(|(key, value)| (config::variable(key), OsString::from(value)));
    bus.environment(secret).into_iter().chain(settings).collect()
}

/// What to read of the bridge's broker. The embedded one is read from its first message.
fn broker_source(config: &Config, embedded: bool) -> Source {
    let mut kind = config.bus.kind.clone();
    read_at_once(&mut kind, embedded);
    let destinations = Routes::new(&config.route).destinations();
    let begin = if embedded { Begin::Beginning } else { Begin::Now };
    Source::Broker(kind, Plan { destinations, begin, follow: true })
}

/// The embedded broker answers a fetch that found nothing only after this time.
fn read_at_once(kind: &mut Kind, embedded: bool) {
    if let Kind::Kafka(options) = kind
        && embedded
    {
        options.properties.insert("fetch.wait.max.ms".to_owned(), "10".to_owned());
    }
}

/// Binds the listeners, and whether the default port was taken. A requested one may not be.
async fn bind(environment: &Environment, listen: Option<&str>) -> Result<(App, Option<Source>, bool), Error> {
    match bind_at(load(environment, listen.unwrap_or(DEFAULT_LISTEN))?).await {
        Err(app::Error::Listen { key: "http.listen", .. }) if listen.is_none() => {
            let (app, copies) = bind_at(load(environment, FREE_PORT)?).await?;
            Ok((app, copies, true))
        }
        bound => bound.map(|(app, copies)| (app, copies, false)).map_err(Error::from),
    }
}

/// A bridge, and copies of its lines if its bus is standard output.
async fn bind_at(config: Config) -> Result<(App, Option<Source>), app::Error> {
    let Kind::Stdout = config.bus.kind else { return Ok((App::bind(config).await?, None)) };
    let (writer, copies) = CopyingWriter::new(io::stdout());
    let open = |metrics: &Metrics, _: Vec<_>, supervisor: &Supervisor| {
        let bus = Stdout::with_writer(writer, metrics.bus(), supervisor)?;
        Ok(bus as Arc<dyn Bus>)
    };
    Ok((App::bind_to(config, "stdout", open).await?, Some(copies)))
}

fn load(environment: &Environment, listen: &str) -> Result<Config, config::Problems> {
    let listen = Flag { name: "--listen", key: "http.listen", value: listen.into() };
    config::load(&Input::new(None, environment.clone(), vec![listen]))
}
