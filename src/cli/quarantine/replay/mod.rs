//! `quarantine replay`: after a fix the same pipeline again.

mod load;
mod tell;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Exit, Selection, Session};
use crate::app;
use crate::bus::Kind;
use crate::bus::recording::RecordingBus;
use crate::cli::given::key;
use crate::cli::progress::Progress;
use crate::cli::{fail, say};
use crate::consumer::replay::{Ending, Replayed, Replayer};
use crate::pipeline::publish::{Bus, BusState};
use crate::supervise::Supervisor;
use load::{Load, loads};
use tell::{conclude, show};

const AFTER_HELP: &str = "\
Ids, keys and times are what they would have been. Quarantine is a log: nothing is taken out of it,
and what can still not be published is told and not added again. NATS drops what it was given under
the same id within the stream's duplicate window. Kafka does not know ids: what is replayed twice
is there twice, under one id by which consumers can tell.

Example: what would be published, after a topic takes larger messages
  attio-bridge quarantine replay --reason rejected_by_broker --dry-run
Example: a raw delivery out of a file
  attio-bridge quarantine replay --file raw.json --source attio --key 7f1c

Exit codes: 0 all was published, known or filtered, 1 the bus failed, 3 some can still not be.";

/// The flags of `quarantine replay`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Only these, each by its id or the beginning of it
    #[arg(value_name = "ID", conflicts_with = "file")]
    ids: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// Say what would be published, and publish nothing
    #[arg(long)]
    dry_run: bool,
    /// Replay no more than so many a second
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Replay a file of `export`, or with --source the raw bytes of a whole delivery
    #[arg(long, value_name = "FILE", conflicts_with_all = ["reason", "from", "until"])]
    file: Option<PathBuf>,
    /// The source of a raw file, or of what an older bridge put aside without noting it
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// The Idempotency-Key of a raw file's delivery; without it its ids are random
    #[arg(long, value_name = "KEY", requires = "file", requires = "source", value_parser = key)]
    key: Option<String>,
    /// Print a JSON object for each
    #[arg(long)]
    json: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().map_err(|_| "expects a number".to_owned())?;
    if (0.01..=10_000.0).contains(&rate) { Ok(rate) } else { Err("expects 0.01 to 10000".into()) }
}

/// Replays what is wanted.
pub async fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Exit> {
    let config = &session.config;
    let loads = loads(session, arguments).await?;
    if let Some(name) = &arguments.source
        && config.source(name).is_none()
    {
        let names = config.source_names();
        say(format_args!("error: no source {name} is configured; there is: {names}"));
        return Err(Exit::Usage);
    }
    let (supervisor, mut ends) = Supervisor::new();
    let work = async {
        let replayer = replayer(session, arguments.dry_run, &supervisor).await?;
        replay(&replayer, &loads, arguments, &session.stop).await
    };
    tokio::select! {
        done = work => done,
        ended = ends.next() => Err(fail(ended)),
    }
}

/// How long the bus may take to be ready.
const READY: Duration = Duration::from_secs(20);

/// Beyond the client's own time-out.
const MORE: Duration = Duration::from_secs(5);

async fn replayer(session: &Session, dry_run: bool, supervisor: &Supervisor) -> Result<Replayer, Exit> {
    let Session { config, stop } = session;
    let (subjects, timeout) = match &config.bus.kind {
        Kind::Kafka(options) => (false, options.publish_timeout),
        Kind::Nats(options) => (true, options.publish_timeout),
        Kind::Stdout => (false, Duration::ZERO),
    };
    let patience = timeout + MORE;
    if dry_run {
        let bus = RecordingBus::new(None);
        let port: Arc<dyn Bus> = Arc::<RecordingBus>::clone(&bus);
        return Ok(Replayer { pipeline: app::pipeline(config, port), bus, subjects, patience });
    }
    let mut noting = None;
    let pipeline = app::publisher(config, supervisor, |inner| {
        let bus = RecordingBus::new(Some(inner));
        noting = Some(Arc::clone(&bus));
        bus
    });
    let pipeline = pipeline.map_err(fail)?;
    let Some(bus) = noting else { return Err(fail("the bus was not made")) };
    let deadline = Instant::now() + READY;
    while bus.state() != BusState::Up {
        if Instant::now() >= deadline {
            return Err(fail(format_args!(
                "{} is not ready to publish to within {} s; `attio-bridge check --connect` says why",
                config.bus.kind.name(),
                READY.as_secs()
            )));
        }
        tokio::select! {
            () = stop.cancelled() => return Err(fail("interrupted before anything was replayed")),
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
    Ok(Replayer { pipeline, bus, subjects, patience })
}

async fn replay(
    replayer: &Replayer,
    loads: &[Load],
    arguments: &Arguments,
    stop: &CancellationToken,
) -> Result<Exit, Exit> {
    let mut sums: BTreeMap<Ending, usize> = BTreeMap::new();
    let progress = Progress::new(loads.len());
    let mut pace = arguments.rate.map(|rate| tokio::time::interval(Duration::from_secs_f64(1.0 / rate)));
    let mut without_identity = 0;
    for (done, load) in loads.iter().enumerate() {
        let one = async {
            if let Some(pace) = &mut pace {
                pace.tick().await;
            }
            match &load.origin {
                Err(why) => Replayed::unplaced(why.to_string()),
                Ok(origin) => replayer.replay(load.raw.clone(), load.received_at, origin.clone()).await,
            }
        };
        let replayed = tokio::select! {
            replayed = one => replayed,
            // What was handed over last may arrive all the same.
            () = stop.cancelled() => {
                return Err(fail(format_args!("interrupted after {done} of {}", loads.len())));
            }
        };
        progress.print(show(load, &replayed, arguments));
        *sums.entry(replayed.ending).or_default() += 1;
        without_identity += usize::from(replayed.without_identity);
        progress.set(done + 1, "");
        if replayed.ending == Ending::Failed {
            break;
        }
    }
    drop(progress);
    Ok(conclude(&sums, loads.len(), without_identity, arguments.dry_run))
}
