//! `quarantine replay`: processes records again, from the quarantine or from a file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use futures_util::stream::{self, LocalBoxStream};
use futures_util::{StreamExt, TryStreamExt};
use serde_json::json;
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{NOTHING, Selection};
use crate::app;
use crate::bus::Kind;
use crate::bus::recording::RecordingBus;
use crate::cli::arguments::{key, rate, read, source, unreadable};
use crate::cli::output::{Progress, paint};
use crate::cli::{BusSession, Exit, Failure, confirm, say};
use crate::consumer::quarantine::{self, Entry, Origin, Quarantined, UnknownOrigin};
use crate::consumer::replay::{Ending, Replayed, Replayer};
use crate::pipeline::publish::{Bus, BusState};
use crate::printable::{BAD, DIM, GOOD, KNOWN, line as escaped};
use crate::supervise::Supervisor;

const AFTER_HELP: &str = "\
What to replay is given by ids, --reason, --from, --until, --all or --file. Except for ids and \
files it is confirmed on the terminal; elsewhere add --yes.

Events keep their ids, keys and times. Quarantine is a log: a replay removes nothing from it, and \
what still cannot be published is reported and not quarantined again. NATS drops a duplicate id \
within the stream's duplicate window. Kafka does not deduplicate by id: what is replayed twice is \
stored twice with the same id, so consumers can deduplicate.

Example: what would be published, after a topic accepts larger messages
  attio-bridge quarantine replay --reason rejected_by_broker --dry-run
Example: a raw delivery from a file
  attio-bridge quarantine replay --file raw.json --source attio --key 7f1c

Exit codes: 0 everything was published, a duplicate or filtered, 1 the bus failed, 3 some still \
cannot be published.";

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Only these records, each by its id or the beginning of it
    #[arg(value_name = "ID", conflicts_with = "file")]
    ids: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// Every record
    #[arg(long, conflicts_with_all = ["ids", "file"])]
    all: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print what would be published, and publish nothing
    #[arg(long)]
    dry_run: bool,
    /// Replay at most this many records per second
    #[arg(long, value_name = "N", value_parser = rate(10_000.0))]
    rate: Option<f64>,
    /// Replay a file of `quarantine export`, or with --source the raw body of a whole delivery
    #[arg(long, value_name = "FILE", conflicts_with_all = ["reason", "from", "until"])]
    file: Option<PathBuf>,
    /// The source of a raw file, or of records that an older bridge wrote without it
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// The Idempotency-Key of a raw file's delivery; without it the ids are random
    #[arg(long, value_name = "KEY", requires = "file", requires = "source", value_parser = key)]
    key: Option<String>,
    /// Print a JSON object for each record
    #[arg(long)]
    json: bool,
}

pub async fn run(session: &BusSession, arguments: &Arguments) -> Result<Exit, Failure> {
    let config = &session.config;
    let Arguments { ids, selection, all, file, .. } = arguments;
    let is_named = !ids.is_empty() || file.is_some();
    if !is_named && selection.is_all() && !all {
        return Err(Failure::usage(
            "name what to replay: ids, --reason, --from, --until, or --all for every record; `quarantine list` \
             shows them",
        ));
    }
    if let Some(name) = &arguments.source {
        source(config, Some(name)).map_err(Failure::usage)?;
    }
    let (mut bodies, count) = bodies(session, arguments).await?;
    if count == 0 {
        say(format_args!("{NOTHING} to replay"));
        return Ok(Exit::Done);
    }
    if !is_named && !arguments.dry_run {
        let (question, yes) = (format!("Replay {count} of the quarantined events?"), arguments.yes);
        // On another thread: while this one waits for a key, Ctrl-C would not end the verb.
        let asked = tokio::task::spawn_blocking(move || confirm(&question, yes));
        let Some(agreed) = session.stop.run_until_cancelled(asked).await else {
            say("\nCancelled, nothing was changed.");
            return Ok(Exit::Failed);
        };
        if !agreed?.map_err(Failure::usage)? {
            return Ok(Exit::Failed);
        }
    }
    let (supervisor, mut ends) = Supervisor::new();
    let work = async {
        let replayer = replayer(session, arguments.dry_run, &supervisor).await?;
        replay(&replayer, &mut bodies, count, arguments, &session.stop).await
    };
    tokio::select! {
        done = work => done,
        ended = ends.next() => Err(ended.into()),
    }
}

struct Item {
    /// The record's id, or the file.
    name: String,
    reason: String,
    raw: Bytes,
    received_at: OffsetDateTime,
    origin: Result<Origin, UnknownOrigin>,
}

impl Item {
    fn new(record: Quarantined, source: Option<&str>) -> Self {
        let origin = record.origin(source);
        let Quarantined { entry: Entry { id, reason, received_at, .. }, raw, .. } = record;
        Self { name: id, reason, raw, received_at, origin }
    }
}

/// The bodies, each read when it is needed, and how many there are.
type Bodies<'a> = (LocalBoxStream<'a, Result<Item, Failure>>, usize);

type Lines = Box<dyn Iterator<Item = Result<Option<Quarantined>, String>>>;

async fn bodies<'a>(session: &BusSession, arguments: &'a Arguments) -> Result<Bodies<'a>, Failure> {
    match (&arguments.file, &arguments.source) {
        (None, source) => {
            let (bodies, count) = arguments.selection.bodies(session, &arguments.ids).await?;
            let source = source.as_deref();
            let next = move |mut bodies: quarantine::Bodies| async move {
                let record = bodies.next().await?;
                Ok(record.map(|record| (Item::new(record, source), bodies)))
            };
            Ok((stream::try_unfold(bodies, next).boxed_local(), count))
        }
        // A raw body can resemble an export, so the operator states which it is.
        (Some(file), Some(source)) => {
            let item = Item {
                name: file.display().to_string(),
                reason: "file".into(),
                raw: read(file)?,
                received_at: OffsetDateTime::now_utc(),
                origin: Ok(Origin { source: source.clone(), key: arguments.key.clone(), alone: None }),
            };
            Ok((stream::iter([Ok(item)]).boxed_local(), 1))
        }
        (Some(file), None) => {
            let stdin = if file == Path::new("-") { Some(read(file)?) } else { None };
            let (mut count, mut is_export) = (0, true);
            for line in lines(file, stdin.clone())? {
                count += 1;
                is_export &= line?.is_some();
            }
            if count == 0 || !is_export {
                let file = file.display();
                return Err(Failure::usage(format_args!(
                    "{file}: not a file that `quarantine export` wrote as JSON; for the raw body of a delivery \
                     add --source NAME"
                )));
            }
            let records = lines(file, stdin)?.filter_map(Result::transpose);
            let items = records.map(|record| Ok(Item::new(record?, None)));
            Ok((stream::iter(items).boxed_local(), count))
        }
    }
}

/// The longest line of an exported file: far more than the largest delivery.
const MAX_LINE_BYTES: u64 = 256 << 20;

/// The lines of an exported file that are not empty; `stdin` is what standard input had.
fn lines(file: &Path, stdin: Option<Bytes>) -> Result<Lines, String> {
    let path = file.to_owned();
    let mut reader: Box<dyn BufRead> = match stdin {
        Some(bytes) => Box::new(Cursor::new(bytes)),
        None => Box::new(BufReader::new(File::open(file).map_err(|error| unreadable(file, error))?)),
    };
    let is_empty = |line: &io::Result<Vec<u8>>| line.as_ref().is_ok_and(|line| line.trim_ascii().is_empty());
    let line = move || {
        let mut line = Vec::new();
        match (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(read) if read as u64 == MAX_LINE_BYTES => Some(Err(io::ErrorKind::FileTooLarge.into())),
            read => Some(read.map(|_| line)),
        }
    };
    let lines = std::iter::from_fn(line).filter(move |line| !is_empty(line));
    let record = move |line: io::Result<Vec<u8>>| match line {
        Ok(line) => Ok(Quarantined::from_line(line.trim_ascii())),
        Err(error) => Err(unreadable(&path, error)),
    };
    Ok(Box::new(lines.map(record)))
}

const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// In addition to the client's own timeout.
const MARGIN: Duration = Duration::from_secs(5);

async fn replayer(session: &BusSession, dry_run: bool, supervisor: &Supervisor) -> Result<Replayer, Failure> {
    let BusSession { config, stop } = session;
    let (subjects, timeout) = match &config.bus.kind {
        Kind::Kafka(options) => (false, options.publish_timeout),
        Kind::Nats(options) => (true, options.publish_timeout),
        Kind::Stdout => (false, Duration::ZERO),
    };
    let timeout = timeout + MARGIN;
    if dry_run {
        let bus = RecordingBus::new(None);
        let port: Arc<dyn Bus> = Arc::<RecordingBus>::clone(&bus);
        return Ok(Replayer { pipeline: app::pipeline(config, port), bus, subjects, timeout });
    }
    let mut recording = None;
    let pipeline = app::publisher(config, supervisor, |inner| {
        let bus = RecordingBus::new(Some(inner));
        recording = Some(Arc::clone(&bus));
        bus
    });
    let pipeline = pipeline?;
    let bus = recording.ok_or("the bus was not created")?;
    let deadline = Instant::now() + READY_TIMEOUT;
    while bus.state() != BusState::Up {
        if Instant::now() >= deadline {
            let (bus, seconds) = (config.bus.kind.name(), READY_TIMEOUT.as_secs());
            return Err(format!(
                "{bus} did not become ready within {seconds} s; run `attio-bridge check --connect` for the cause"
            )
            .into());
        }
        tokio::select! {
            () = stop.cancelled() => return Err("interrupted before anything was replayed".into()),
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
    Ok(Replayer { pipeline, bus, subjects, timeout })
}

async fn replay(
    replayer: &Replayer,
    bodies: &mut LocalBoxStream<'_, Result<Item, Failure>>,
    count: usize,
    arguments: &Arguments,
    stop: &CancellationToken,
) -> Result<Exit, Failure> {
    let mut endings: BTreeMap<Ending, usize> = BTreeMap::new();
    let progress = Progress::new(count);
    let mut pace = arguments.rate.map(|rate| tokio::time::interval(Duration::from_secs_f64(1.0 / rate)));
    let (mut done, mut without_identity) = (0, 0);
    while let Some(item) = bodies.try_next().await? {
        let replayed = async {
            if let Some(pace) = &mut pace {
                pace.tick().await;
            }
            match &item.origin {
                Err(why) => Replayed::unplaced(why.to_string()),
                Ok(origin) => replayer.replay(item.raw.clone(), item.received_at, origin.clone()).await,
            }
        };
        let replayed = tokio::select! {
            replayed = replayed => replayed,
            // The last one may be published all the same.
            () = stop.cancelled() => return Err(format!("interrupted after {done} of {count}").into()),
        };
        progress.print(report(&item, &replayed, arguments));
        *endings.entry(replayed.ending).or_default() += 1;
        without_identity += usize::from(replayed.without_identity);
        done += 1;
        progress.set(done, "");
        if replayed.ending == Ending::Failed {
            break;
        }
    }
    drop(progress);
    Ok(conclude(&endings, count, without_identity, arguments.dry_run))
}

fn report(item: &Item, replayed: &Replayed, arguments: &Arguments) -> String {
    if arguments.json {
        let mut value = json!(replayed);
        value["id"] = json!(item.name);
        value["reason"] = json!(item.reason);
        value["dry_run"] = json!(arguments.dry_run);
        return format!("{value}\n");
    }
    let paint = paint();
    let word = replayed.ending.word();
    let word = match replayed.ending {
        Ending::Failed | Ending::Refused | Ending::Unplaced => paint.with(BAD, word),
        Ending::Published if arguments.dry_run => paint.with(GOOD, "would be published"),
        Ending::Published => paint.with(GOOD, word),
        Ending::Duplicate | Ending::Filtered | Ending::Empty => paint.with(KNOWN, word),
    };
    let why = replayed.why.as_deref().map(|why| format!(": {}", escaped(why))).unwrap_or_default();
    let mut out =
        format!("{} {} {word}{why}\n", escaped(&item.name), paint.with(DIM, &escaped(&item.reason)));
    if replayed.ending == Ending::Published {
        for event in &replayed.events {
            out +=
                &format!("  {} {} {}\n", escaped(&event.address), escaped(&event.kind), escaped(&event.id));
        }
    }
    out
}

/// Prints the totals; the exit code follows from them.
fn conclude(endings: &BTreeMap<Ending, usize>, count: usize, without_identity: usize, dry_run: bool) -> Exit {
    let word = |ending: Ending| Some(format!("{} {}", ending.word(), endings.get(&ending)?));
    let words: Vec<_> = Ending::ALL.into_iter().filter_map(word).collect();
    let dry = if dry_run { " (dry run: nothing was published)" } else { "" };
    say(format_args!("{} of {count} tried{dry}: {}", endings.values().sum::<usize>(), words.join(", ")));
    if without_identity > 0 {
        say(format_args!(
            "{without_identity} had no Idempotency-Key, so their ids are random: another replay publishes them again"
        ));
    }
    let has = |ending| endings.contains_key(&ending);
    if has(Ending::Duplicate) {
        say("duplicate: the broker has the event already and stored nothing");
    }
    if has(Ending::Failed) {
        Exit::Failed
    } else if has(Ending::Refused) || has(Ending::Unplaced) {
        say("what was refused stays in quarantine");
        Exit::Unexpected
    } else {
        Exit::Done
    }
}
