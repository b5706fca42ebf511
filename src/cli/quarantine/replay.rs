//! `quarantine replay`: after a fix the same pipeline again.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use serde_json::json;
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Exit, Selection, Session};
use crate::app;
use crate::bus::Kind;
use crate::cli::given::{key, read};
use crate::cli::{fail, print, reading, say};
use crate::consumer::line::safe;
use crate::consumer::noting::Noting;
use crate::consumer::quarantined::{Origin, Quarantined, Unplaced};
use crate::consumer::replay::{Ending, Replayed, Replayer};
use crate::pipeline::publish::{Bus, BusState};

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

/// One thing to replay.
struct Load {
    /// What to call it.
    name: String,
    reason: String,
    raw: Bytes,
    received_at: OffsetDateTime,
    origin: Result<Origin, Unplaced>,
}

/// Replays what is wanted.
pub async fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Exit> {
    let config = &session.config;
    let loads = loads(session, arguments).await?;
    if let Some(name) = &arguments.source
        && !config.sources.iter().any(|source| source.name.as_str() == name)
    {
        let names: Vec<_> = config.sources.iter().map(|source| source.name.as_str()).collect();
        say(format_args!("error: no source {name} is configured; there is: {}", names.join(", ")));
        return Err(Exit::Usage);
    }
    let replayer = replayer(session, arguments.dry_run).await?;
    replay(&replayer, &loads, arguments, &session.stop).await
}

async fn loads(session: &Session, arguments: &Arguments) -> Result<Vec<Load>, Exit> {
    let source = arguments.source.as_deref();
    let Some(file) = &arguments.file else {
        let pieces = arguments.selection.read_named(session, &arguments.ids).await?;
        return Ok(pieces.into_iter().map(|piece| load(piece, source)).collect());
    };
    let bytes = read(file).map_err(fail)?;
    // Raw bytes may look like anything: what they are is for the operator to say.
    match (source, Quarantined::read_all(&bytes)) {
        (None, Some(pieces)) => Ok(pieces.into_iter().map(|piece| load(piece, None)).collect()),
        (None, None) => {
            say(format_args!(
                "error: {}: nothing that `export` wrote as JSON; for the raw bytes of a delivery add --source NAME",
                file.display()
            ));
            Err(Exit::Usage)
        }
        (Some(source), _) => Ok(vec![Load {
            name: file.display().to_string(),
            reason: "file".into(),
            raw: bytes,
            received_at: OffsetDateTime::now_utc(),
            origin: Ok(Origin { source: source.to_owned(), key: arguments.key.clone(), alone: None }),
        }]),
    }
}

fn load(piece: Quarantined, source: Option<&str>) -> Load {
    let origin = piece.origin(source);
    let Quarantined { id, received_at, reason, raw, .. } = piece;
    Load { name: id, reason, raw, received_at, origin }
}

/// How long the bus may take to be ready.
const READY: Duration = Duration::from_secs(20);

/// Beyond the client's own time-out.
const MORE: Duration = Duration::from_secs(5);

async fn replayer(session: &Session, dry_run: bool) -> Result<Replayer, Exit> {
    let Session { config, stop } = session;
    let (subjects, timeout) = match &config.bus.kind {
        Kind::Kafka(options) => (false, options.publish_timeout),
        Kind::Nats(options) => (true, options.publish_timeout),
        Kind::Stdout => (false, Duration::ZERO),
    };
    let patience = timeout + MORE;
    if dry_run {
        let bus = Noting::new(None, subjects);
        let port: Arc<dyn Bus> = Arc::<Noting>::clone(&bus);
        return Ok(Replayer { pipeline: app::pipeline(config, port), bus, patience });
    }
    let mut noting = None;
    let pipeline = app::publisher(config, |inner| {
        let bus = Noting::new(Some(inner), subjects);
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
    Ok(Replayer { pipeline, bus, patience })
}

async fn replay(
    replayer: &Replayer,
    loads: &[Load],
    arguments: &Arguments,
    stop: &CancellationToken,
) -> Result<Exit, Exit> {
    let mut sums: BTreeMap<Ending, usize> = BTreeMap::new();
    let progress = io::stderr().is_terminal() && !io::stdout().is_terminal();
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
        show(load, &replayed, arguments);
        *sums.entry(replayed.ending).or_default() += 1;
        without_identity += usize::from(replayed.without_identity);
        if progress {
            // A terminal that is gone needs no progress.
            let _ = write!(io::stderr(), "\r{} of {}", done + 1, loads.len());
        }
        if replayed.ending == Ending::Failed {
            break;
        }
    }
    if progress && !loads.is_empty() {
        say("");
    }
    Ok(conclude(&sums, loads.len(), without_identity, arguments.dry_run))
}

fn show(load: &Load, replayed: &Replayed, arguments: &Arguments) {
    if arguments.json {
        let mut value = json!(replayed);
        value["id"] = json!(load.name);
        value["reason"] = json!(load.reason);
        value["dry_run"] = json!(arguments.dry_run);
        return print(format_args!("{value}\n"));
    }
    let paint = reading::paint();
    let word = replayed.ending.word();
    let word = match replayed.ending {
        Ending::Failed | Ending::Refused | Ending::Unplaced => paint.bad(word),
        Ending::Published if arguments.dry_run => paint.good("would be published"),
        Ending::Published => paint.good(word),
        Ending::Duplicate | Ending::Filtered | Ending::Empty => paint.known(word),
    };
    let why = replayed.why.as_deref().map(|why| format!(": {}", safe(why))).unwrap_or_default();
    print(format_args!("{} {} {word}{why}\n", safe(&load.name), paint.dim(&safe(&load.reason))));
    if matches!(replayed.ending, Ending::Published) {
        for event in &replayed.events {
            print(format_args!("  {} {} {}\n", safe(&event.address), event.kind, event.id));
        }
    }
}

fn conclude(sums: &BTreeMap<Ending, usize>, of: usize, without_identity: usize, dry_run: bool) -> Exit {
    let words: Vec<_> = sums.iter().map(|(ending, count)| format!("{} {count}", ending.word())).collect();
    let dry = if dry_run { " (dry run: nothing was published)" } else { "" };
    say(format_args!("{} of {of} tried{dry}: {}", sums.values().sum::<usize>(), words.join(", ")));
    if without_identity > 0 {
        say(format_args!(
            "{without_identity} came without an Idempotency-Key, so their ids are random: the next replay publishes them again"
        ));
    }
    let some = |endings: &[Ending]| endings.iter().any(|ending| sums.contains_key(ending));
    if some(&[Ending::Failed]) {
        Exit::Failed
    } else if some(&[Ending::Refused, Ending::Unplaced]) {
        say("what was refused stays in quarantine");
        Exit::Unexpected
    } else {
        Exit::Done
    }
}
