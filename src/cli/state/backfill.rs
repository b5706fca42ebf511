//! `state backfill`: publishes every entity that exists now.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::future::ready;
use futures_util::{StreamExt as _, stream};
use indicatif::HumanDuration;
use parking_lot::Mutex;

use super::writer::{self, Which, begin, write};
use crate::attio::entities::EntityReader;
use crate::bus::{self, state::Role};
use crate::cli::output::{Progress, say};
use crate::cli::{Exit, Failure};
use crate::config::{self, Input};
use crate::state::backfill::{self, Counts, Journal};
use crate::state::targets::Target;
use crate::state::writing::Failures;

const AFTER_HELP: &str = "\
`state run` may go on meanwhile: what it has published is never replaced by something older. Interrupted, for example with \
Ctrl-C, the same command goes on where it was; the journal that it needs for this is removed at the end. It uses \
state.reads_per_second beside those of `state run`.

Example: everything that is kept
  attio-bridge state backfill --config config.toml
Example: records of people, after they were added to state.objects
  attio-bridge state backfill --object people";

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Where to note how far it is
    #[arg(long, value_name = "FILE", default_value = "attio-bridge-backfill.json")]
    journal: PathBuf,
    /// Begin anew
    #[arg(long)]
    restart: bool,
}

/// Targets whose rows are counted at a time.
const COUNTED: usize = 4;

/// Without a terminal a line says so often how far it is.
const EVERY: Duration = Duration::from_secs(10);

pub fn run(input: &Input, arguments: &Arguments) -> Result<Exit, Failure> {
    writer::run(input, "interrupted; the same command goes on where it was", async |config| {
        backfill(config, arguments).await
    })
}

async fn backfill(config: &config::State, arguments: &Arguments) -> Result<Exit, Failure> {
    let (reading, targets) = begin(config, &arguments.which.scope()).await?;
    let writing = write(config, Role::Backfill, reading).await?;
    let workspace = &writing.reading.names.workspace;
    let brokers = match &config.bus.kind {
        bus::Kind::Kafka(kafka) => kafka.bootstrap_servers.clone(),
        bus::Kind::Nats(nats) => format!("{} {}", nats.servers.join(","), config.options.stream),
        bus::Kind::Stdout => String::new(),
    };
    let of =
        [&config.attio.api_url, workspace, &brokers, &config.options.prefix].map(String::as_str).join(" ");
    if arguments.restart {
        // It may not exist.
        let _ = std::fs::remove_file(&arguments.journal);
    }
    let mut journal = Journal::open(&arguments.journal, of);
    if !journal.is_empty() {
        say(format_args!("going on where {} says; --restart begins anew", arguments.journal.display()));
    }
    let shown = Shown::new(&writing.reading.reader, &targets, &journal).await;
    let counts =
        backfill::run(&writing, &targets, &mut journal, u32::MAX, |counts| shown.seen(counts)).await?;
    drop(shown);
    for (target, published) in &counts.published {
        say(format_args!("{target}: {published} published"));
    }
    let published: u64 = counts.published.values().sum();
    say(format_args!("{} entities read, {published} states published", counts.rows));
    let failed = counts.failed.count();
    let Failures { named, more } = counts.failed;
    if failed == 0 {
        return Ok(Exit::Done);
    }
    for name in named {
        say(format_args!("not published: {name}"));
    }
    if more > 0 {
        say(format_args!("not published: {more} more, which the log names"));
    }
    Err(format!("{failed} states are not published, see above; then `state diff --repair` does").into())
}

/// How far it is: a progress bar on a terminal, a line now and then elsewhere.
struct Shown {
    /// Rows to go through, as they were counted before.
    total: usize,
    begun: Instant,
    bar: Option<Progress>,
    last: Mutex<Instant>,
}

impl Shown {
    async fn new(reader: &EntityReader, targets: &[Target], journal: &Journal) -> Self {
        // Without it the time that is left is wrong, and the backfill says why Attio cannot be read.
        let left = async |target| journal.left(target, target.count(reader).await.unwrap_or_default());
        let open = stream::iter(targets).filter(|target| ready(!journal.is_done(target)));
        let total = open.map(left).buffer_unordered(COUNTED).fold(0, async |all, left| all + left).await;
        let bar = std::io::stderr().is_terminal().then(|| Progress::new(total));
        Self { total, begun: Instant::now(), bar, last: Mutex::new(Instant::now()) }
    }

    fn seen(&self, counts: &Counts) {
        let published: u64 = counts.published.values().sum();
        let rows = usize::try_from(counts.rows).unwrap_or(usize::MAX);
        if let Some(bar) = &self.bar {
            return bar.set(rows, format_args!("{published} published"));
        }
        let mut last = self.last.lock();
        if last.elapsed() >= EVERY {
            *last = Instant::now();
            let (total, rate) = (self.total.max(rows), rows as f64 / self.begun.elapsed().as_secs_f64());
            let left = Duration::try_from_secs_f64((total - rows) as f64 / rate).unwrap_or(Duration::MAX);
            say(format_args!(
                "{rows} of about {total} entities read, {published} states published, {rate:.0}/s, {} left",
                HumanDuration(left)
            ));
        }
    }
}
