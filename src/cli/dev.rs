//! `dev`: a broker, a bridge, a sender and a reader in one process, for a first look. It reads neither
//! the configuration file nor any variable of the bridge, and keeps nothing.

use std::ffi::OsString;
use std::io::{self, ErrorKind, IsTerminal};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::logging::{self, Log};
use super::{Exit, say};
use crate::app::{self, App};
use crate::config::{self, Config, Environment, Flag, Input, LogFormat, LogOptions, Origin};
use crate::dev::broker::Broker;
use crate::dev::lines::Lines;
use crate::dev::output::{Options, Output, Target};
use crate::dev::paint::Paint;
use crate::dev::planned::Group;
use crate::dev::screen::{Screen, Surface, USUAL_COLUMNS};
use crate::dev::session::Session;
use crate::dev::tally::Tally;
use crate::dev::world::World;
use crate::dev::{self, SOURCE};
use crate::shutdown;

/// The public address where nothing else is asked for, if its port is free.
const USUAL: &str = "127.0.0.1:8080";

/// A port that the system chooses.
const ANY: &str = "127.0.0.1:0";

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
    /// Publish to this broker instead of one in this process; topics that are missing are created
    #[arg(long, value_name = "kafka://HOST:PORT", value_parser = kafka)]
    bus: Option<String>,
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

fn kafka(text: &str) -> Result<String, String> {
    match text.strip_prefix("kafka://") {
        Some(servers) if servers.contains(':') => Ok(servers.to_owned()),
        _ => Err("expects kafka://HOST:PORT".into()),
    }
}

/// Why the verb ends early.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Dev(#[from] dev::Error),
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
        Err(Error::Dev(dev::Error::Output(error))) if error.kind() == ErrorKind::BrokenPipe => Exit::Done,
        Err(error) => {
            say(format_args!("error: {error}"));
            Exit::Failed
        }
    }
}

fn start(arguments: &Arguments, environment: &Environment, log: &Log) -> Result<Tally, Error> {
    let broker = match &arguments.bus {
        Some(_) => None,
        None => Some(Broker::start()?),
    };
    let bootstrap = broker.as_ref().map(Broker::address).or(arguments.bus.clone()).unwrap_or_default();
    if let Some(broker) = broker {
        broker.outlive_its_clients();
    }
    let terminal = io::stdout().is_terminal();
    let colour = terminal && environment.get("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut output: Box<dyn Output> = match arguments.json {
        true => Box::new(Lines(io::stdout())),
        false => {
            let surface = if terminal { Surface::Terminal(columns) } else { Surface::Plain };
            Box::new(Screen::new(io::stdout(), surface, Paint(colour)))
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(session(arguments, &bootstrap, &mut *output, log))
}

/// The width of the terminal behind stdout.
fn columns() -> usize {
    terminal_size::terminal_size_of(io::stdout()).map_or(USUAL_COLUMNS, |(width, _)| width.0.into())
}

async fn session(
    arguments: &Arguments,
    bootstrap: &str,
    output: &mut dyn Output,
    log: &Log,
) -> Result<Tally, Error> {
    let world = World::new();
    let secret = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let environment = settings(&secret, &world.workspace_id, bootstrap, arguments.bus.is_some());
    let stop = shutdown::stop_signal(log.last_words())?;
    let app = bind(environment, arguments.listen.as_deref()).await?;
    let target = Target {
        http: reachable(app.http_addr()?),
        admin: app.admin_addr()?,
        bootstrap: bootstrap.to_owned(),
        embedded: arguments.bus.is_none(),
        secret,
    };
    let once = arguments.once;
    let options = Options { once, rate: arguments.rate.or((!once).then_some(RATE)) };
    let end = CancellationToken::new();
    let bridge = tokio::spawn(app.run(end.clone().cancelled_owned()));
    let result = Session::new(target, options, world, &arguments.mix, output).run(stop).await;
    end.cancel();
    let drained = bridge.await;
    let tally = result?;
    drained.map_err(io::Error::other)??;
    Ok(tally)
}

/// The variables that would make `serve` run the same bridge.
fn settings(secret: &str, workspace_id: &str, bootstrap: &str, create: bool) -> Environment {
    let source = |key: &str| config::variable(&format!("sources.{SOURCE}.{key}"));
    let variables = [
        ("ATTIO_WEBHOOK_SECRET".to_owned(), secret),
        (source("workspace_id"), workspace_id),
        (config::variable("bus.type"), "kafka"),
        (config::variable("kafka.bootstrap_servers"), bootstrap),
        (config::variable("kafka.topics.ensure"), if create { "create" } else { "verify" }),
        (config::variable("admin.listen"), ANY),
    ];
    variables.map(|(name, value)| (name, OsString::from(value))).into()
}

/// The usual port may be taken; one that was asked for may not.
async fn bind(environment: Environment, listen: Option<&str>) -> Result<App, Error> {
    match App::bind(load(&environment, listen.unwrap_or(USUAL))?).await {
        Err(app::Error::Listen { key: "http.listen", .. }) if listen.is_none() => {
            Ok(App::bind(load(&environment, ANY)?).await?)
        }
        bound => Ok(bound?),
    }
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
