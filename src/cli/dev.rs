//! `dev`: a broker, a bridge, a fake Attio and a reader in one process, for a first look. It reads neither
//! the configuration file nor any variable of the bridge, and keeps nothing.

use std::ffi::OsString;
use std::future::ready;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::Arc;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::{Exit, say};
use crate::app::logging::{self, Log};
use crate::app::{self, App};
use crate::bus::Kind;
use crate::bus::stdout::Stdout;
use crate::config::{self, Config, Environment, Flag, Input, LogFormat, LogOptions, Origin};
use crate::fake_attio::FakeAttio;
use crate::fake_attio::store::Store;
use crate::metrics::Metrics;
use crate::paint::Paint;
use crate::pipeline::publish::Bus;
use crate::pipeline::route::Routes;
use crate::shutdown;
use crate::supervise::Supervisor;
use crate::try_out::broker::Broker;
use crate::try_out::bus_reader;
use crate::try_out::lines::Lines;
use crate::try_out::output::{Options, Output, Target};
use crate::try_out::planned::Group;
use crate::try_out::readback::{Open, Opening, Readback};
use crate::try_out::reader::Begin;
use crate::try_out::screen::{Screen, Surface, USUAL_COLUMNS};
use crate::try_out::senders::{self, Senders};
use crate::try_out::session::Session;
use crate::try_out::tally::Tally;
use crate::try_out::tee::tee;
use crate::try_out::world::World;
use crate::try_out::{self, SOURCE};

/// The public address where nothing else is asked for, if its port is free.
const USUAL: &str = "127.0.0.1:8080";

/// A port that the system chooses.
const ANY: &str = "127.0.0.1:0";

/// The key of the fake Attio, which is nobody's secret.
const KEY: &str = "key-of-dev";

/// Deliveries per second.
const RATE: f64 = 2.0;

const AFTER_HELP: &str = "\
Example: watch the whole path at ten deliveries a second
  attio-bridge dev --rate 10
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
    /// Deliveries per second [default: 2; with --once as fast as they are answered]
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Kinds of deliveries to send [default: all]
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = kind())]
    mix: Vec<Group>,
    /// Address of the public listener [default: 127.0.0.1:8080, another port where that is taken]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Publish there instead of to a broker in this process: kafka://HOST:PORT, nats://HOST:PORT or
    /// stdout. Topics or a stream that are missing are created
    #[arg(long, value_name = "BUS", value_parser = place)]
    bus: Option<Place>,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().map_err(|_| "expects a number".to_owned())?;
    if (0.01..=1000.0).contains(&rate) { Ok(rate) } else { Err("expects 0.01 to 1000".into()) }
}

/// A kind of delivery by its word; all of them are listed where it is none of them.
fn kind() -> impl TypedValueParser<Value = Group> {
    PossibleValuesParser::new(Group::ALL.map(Group::slug)).map(|word| {
        let group = Group::ALL.into_iter().find(|group| group.slug() == word);
        group.expect("the parser lets only the words of groups through")
    })
}

/// Where events go.
#[derive(Clone, Debug)]
enum Place {
    /// `host:port`.
    Kafka(String),
    /// A URL.
    Nats(String),
    Stdout,
}

fn place(text: &str) -> Result<Place, String> {
    let host = |rest: &str| rest.contains(':');
    match text.split_once("://") {
        None if text == "stdout" => Ok(Place::Stdout),
        Some(("kafka", rest)) if host(rest) => Ok(Place::Kafka(rest.to_owned())),
        Some(("nats", rest)) if host(rest) => Ok(Place::Nats(text.to_owned())),
        _ => Err("expects kafka://HOST:PORT, nats://HOST:PORT or stdout".into()),
    }
}

impl Place {
    const fn name(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "kafka",
            Self::Nats(_) => "nats",
            Self::Stdout => "stdout",
        }
    }

    fn address(&self) -> &str {
        match self {
            Self::Kafka(address) | Self::Nats(address) => address,
            Self::Stdout => "",
        }
    }
}

/// Why the verb ends early.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Dev(#[from] try_out::Error),
    #[error(transparent)]
    App(#[from] app::Error),
    #[error(transparent)]
    Config(#[from] config::Problems),
    #[error("{0}")]
    System(#[from] io::Error),
}

/// Runs everything. Of the input only `RUST_LOG` and `NO_COLOR` have a meaning here.
pub fn run(arguments: &Arguments, input: &Input) -> Exit {
    if let Some((_, Origin::Flag(_))) = input.file {
        say("error: dev makes its own configuration and reads no file; leave out --config");
        return Exit::Usage;
    }
    let environment = &input.environment;
    let log = match logging::start(LogOptions { level: "warn", format: LogFormat::Text }, environment) {
        Ok(log) => log,
        Err(error) => {
            say(format_args!("error: {error}"));
            return Exit::Failed;
        }
    };
    match start(arguments, environment, &log) {
        Ok(tally) if arguments.once && !tally.is_as_expected() => Exit::Unexpected,
        Ok(_) => Exit::Done,
        Err(Error::Dev(try_out::Error::Output(error))) if error.kind() == ErrorKind::BrokenPipe => Exit::Done,
        Err(error) => {
            say(format_args!("error: {error}"));
            Exit::Failed
        }
    }
}

fn start(arguments: &Arguments, environment: &Environment, log: &Log) -> Result<Tally, Error> {
    let place = match &arguments.bus {
        Some(place) => place.clone(),
        None => {
            let broker = Broker::start()?;
            let address = broker.address();
            broker.outlive_its_clients();
            Place::Kafka(address)
        }
    };
    let plain = environment.get("NO_COLOR").is_some_and(|value| !value.is_empty());
    // Where events are data on standard output, what is said of them is not.
    let mut output = match place {
        Place::Stdout => output(io::stderr(), columns_of_stderr, arguments.json, plain),
        Place::Kafka(_) | Place::Nats(_) => output(io::stdout(), columns, arguments.json, plain),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(session(arguments, &place, &mut *output, log))
}

fn output(
    out: impl Write + IsTerminal + 'static,
    columns: fn() -> usize,
    json: bool,
    plain: bool,
) -> Box<dyn Output> {
    let terminal = out.is_terminal();
    if json {
        return Box::new(Lines(out));
    }
    let surface = if terminal { Surface::Terminal(columns) } else { Surface::Plain };
    Box::new(Screen::new(out, surface, Paint(terminal && !plain)))
}

/// The width of the terminal behind standard output.
fn columns() -> usize {
    width(io::stdout())
}

fn columns_of_stderr() -> usize {
    width(io::stderr())
}

fn width(out: impl std::os::fd::AsFd) -> usize {
    terminal_size::terminal_size_of(out).map_or(USUAL_COLUMNS, |(width, _)| width.0.into())
}

async fn session(
    arguments: &Arguments,
    place: &Place,
    output: &mut dyn Output,
    log: &Log,
) -> Result<Tally, Error> {
    let attio = FakeAttio::start(Store::new(KEY)).await?;
    let webhook = senders::webhook(&mut attio.store());
    let world = World::of(&attio.store(), &webhook.webhook_id);
    let embedded = arguments.bus.is_none();
    let environment = settings(&webhook.secret, &world.workspace_id, place, embedded);
    let stop = shutdown::stop_signal(log.last_words())?;
    let (app, copies) = bind(&environment, arguments.listen.as_deref()).await?;
    let open = match copies {
        Some(copies) => Box::new(|| -> Opening { Box::pin(ready(Ok(copies))) }) as Open,
        None => reader(place, &load(&environment, ANY)?, embedded),
    };
    let target = Target {
        http: reachable(app.http_addr()?),
        admin: app.admin_addr()?,
        bus: place.name(),
        address: place.address().to_owned(),
        embedded,
        secret: webhook.secret.clone(),
        attio: attio.url(),
        key: KEY,
    };
    let senders = Senders::start(&attio, webhook, target.http);
    let once = arguments.once;
    let options = Options { once, rate: arguments.rate.or((!once).then_some(RATE)) };
    let end = CancellationToken::new();
    let bridge = tokio::spawn(app.run(end.clone().cancelled_owned()));
    let result = Session::new(target, options, senders, world, &arguments.mix, output).run(open, stop).await;
    end.cancel();
    let drained = bridge.await;
    let tally = result?;
    drained.map_err(io::Error::other)??;
    Ok(tally)
}

/// The variables that would make `serve` run the same bridge.
fn settings(secret: &str, workspace_id: &str, place: &Place, embedded: bool) -> Environment {
    let source = |key: &str| config::variable(&format!("sources.{SOURCE}.{key}"));
    let mut variables = vec![
        ("ATTIO_WEBHOOK_SECRET".to_owned(), secret),
        (source("workspace_id"), workspace_id),
        (config::variable("bus.type"), place.name()),
        (config::variable("admin.listen"), ANY),
    ];
    match place {
        Place::Kafka(address) => variables.extend([
            (config::variable("kafka.bootstrap_servers"), address.as_str()),
            (config::variable("kafka.topics.ensure"), if embedded { "verify" } else { "create" }),
        ]),
        Place::Nats(url) => variables.extend([
            (config::variable("nats.servers"), url.as_str()),
            (config::variable("nats.stream.ensure"), "create"),
        ]),
        Place::Stdout => {}
    }
    variables.into_iter().map(|(name, value)| (name, OsString::from(value))).collect()
}

/// What reads back. The broker in this process is ours alone, and read from its first message on.
fn reader(place: &Place, config: &Config, embedded: bool) -> Open {
    match place {
        Place::Kafka(address) => {
            let address = address.clone();
            let begin = if embedded { Begin::First } else { Begin::Next };
            Box::new(move || Box::pin(async move { try_out::reader::start(&address, begin) }))
        }
        Place::Nats(_) | Place::Stdout => {
            let (kind, destinations) = (config.bus.kind.clone(), Routes::new(&config.route).destinations());
            Box::new(move || {
                Box::pin(async move {
                    let begin = crate::bus::read::Begin::At(OffsetDateTime::now_utc());
                    let opened = bus_reader::open(kind, destinations, begin).await;
                    opened.map_err(|error| try_out::Error::Readback(error.to_string()))
                })
            })
        }
    }
}

/// The usual port may be taken; one that was asked for may not.
async fn bind(environment: &Environment, listen: Option<&str>) -> Result<(App, Option<Readback>), Error> {
    match bind_at(load(environment, listen.unwrap_or(USUAL))?).await {
        Err(app::Error::Listen { key: "http.listen", .. }) if listen.is_none() => {
            Ok(bind_at(load(environment, ANY)?).await?)
        }
        bound => Ok(bound?),
    }
}

/// A bridge, and copies of its lines where its bus is standard output.
async fn bind_at(config: Config) -> Result<(App, Option<Readback>), app::Error> {
    let Kind::Stdout = config.bus.kind else { return Ok((App::bind(config).await?, None)) };
    let (tee, copies) = tee(io::stdout());
    let open = |metrics: &Metrics, _: Vec<_>, supervisor: &Supervisor| {
        let bus = Stdout::with_writer(tee, metrics.bus(), supervisor)?;
        Ok(bus as Arc<dyn Bus>)
    };
    Ok((App::bind_to(config, "stdout", open).await?, Some(copies)))
}

fn load(environment: &Environment, listen: &str) -> Result<Config, config::Problems> {
    let listen = Flag { name: "--listen", key: "http.listen", value: listen.into() };
    config::load(&Input::new(None, environment.clone(), vec![listen]))
}

/// Where a listener on every address can be reached from here.
fn reachable(mut address: std::net::SocketAddr) -> std::net::SocketAddr {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}
