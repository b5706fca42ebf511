//! `dev --state`: a workspace that changes, its events, and the states they lead to.

use std::ffi::OsString;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use time::OffsetDateTime;
use tokio::task::JoinError;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{Arguments, Error, KEY, RATE, bind, program, settings};
use crate::app::{self, logging::Log};
use crate::attio::entities::EntityReader;
use crate::bus::read::{Begin, Item, Plan, Reader};
use crate::bus::state::Role;
use crate::bus::{self, states};
use crate::cli::arguments::{BusAddress, reachable};
use crate::cli::output::terminal_columns;
use crate::config::{self, Environment, Input};
use crate::fake_attio::FakeAttio;
use crate::fake_attio::post::Poster;
use crate::fake_attio::store::Store;
use crate::pipeline::route::Routes;
use crate::printable::{DIM, STRONG};
use crate::shutdown;
use crate::state::metrics::StateMetrics;
use crate::state::names::Names;
use crate::state::run::Run;
use crate::state::stored;
use crate::try_out::run::{Senders, create_webhook};
use crate::try_out::states::{Columns, Pair, Pairs};
use crate::try_out::workspace::{ROUND, Workspace};

/// How long the changes of one entity are collected, and how old an answer of the fake Attio can be.
const SETTLE: &str = "1s";
const LAG: Duration = Duration::from_millis(500);

/// How long the record that a merge makes cannot be read.
const MERGE: Duration = Duration::from_millis(500);

/// How long the bridge and its broker may take to be ready, and the last states to come.
const PATIENCE: Duration = Duration::from_secs(30);

const TICK: Duration = Duration::from_millis(250);

/// Where it is shown: lines for people, with a footer below them, or JSON Lines.
pub struct View {
    out: Box<dyn Write>,
    footer: ProgressBar,
    json: bool,
}

impl View {
    pub fn new(json: bool, footer: ProgressBar) -> Self {
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            footer.set_style(style);
        }
        let out: Box<dyn Write> = if json { Box::new(io::stdout()) } else { Box::new(anstream::stdout()) };
        Self { out, footer, json }
    }

    fn pair(&mut self, pair: &Pair<'_>) -> io::Result<()> {
        let (out, json) = (&mut self.out, self.json);
        let width = terminal_columns().unwrap_or(PLAIN_COLUMNS);
        self.footer.suspend(|| {
            if json { pair.write_json(out) } else { pair.write_lines(out, width) }.and_then(|()| out.flush())
        })
    }

    /// Text for people.
    fn say(&mut self, text: &str) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        self.footer.suspend(|| self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()))
    }

    /// Says where everything is.
    fn start(
        &mut self,
        once: bool,
        bus: &BusAddress,
        attio: &FakeAttio,
        http: &str,
        embedded: bool,
    ) -> io::Result<()> {
        self.say(&heading(once, bus, attio, http, embedded))?;
        self.line(&serde_json::json!({
            "kind": "start", (bus.name): bus.address, "embedded": embedded, "attio": attio.url(), "attio_key": KEY,
            "once": once,
        }))
    }

    fn line(&mut self, line: &serde_json::Value) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        writeln!(self.out, "{line}").and_then(|()| self.out.flush())
    }
}

/// The width without a terminal.
const PLAIN_COLUMNS: usize = 80;

/// Runs until the round is over or it is told to stop. False if a round was wanted, and did not end with the states that the
/// workspace holds.
pub async fn session(
    arguments: &Arguments,
    bus: &BusAddress,
    mut view: View,
    log: &Log,
) -> Result<bool, Error> {
    let embedded = arguments.bus.is_none();
    let attio = FakeAttio::start(Store::new(KEY)).await?;
    let (webhook, workspace) = {
        let mut store = attio.store();
        (store.lag, store.merge_time) = (LAG, MERGE);
        (create_webhook(&mut store), store.workspace_id.clone())
    };
    let mut environment = settings(&webhook.secret, &workspace, bus, embedded);
    environment.extend(of_states(&attio.url(), embedded));
    let stop = shutdown::stop_signal(log.last_words())?;
    let (app, _, _) = bind(&environment, arguments.listen.as_deref()).await?;
    let (http, admin) = (reachable(&app.http_addr()?.to_string()), app.admin_addr()?);
    let end = CancellationToken::new();
    let mut bridge = tokio::spawn(app.run(end.clone().cancelled_owned()));
    let mut scene = Scene {
        attio: &attio,
        pairs: Pairs::new(&workspace, prefix(embedded)),
        reads: Arc::default(),
        steps: 0,
    };
    let shown = async {
        ready(admin).await?;
        let (run, told, kept) = scene.follow(environment, embedded).await?;
        view.start(arguments.once, bus, &attio, &http, embedded)?;
        let _senders = Senders::start(&attio, webhook, http.parse()?);
        tokio::select! {
            shown = scene.show(arguments, &mut view, told, kept) => shown,
            ended = run.run(end.clone()) => Err(match ended {
                Ok(()) => "the states are not followed any more".into(),
                Err(error) => error.into(),
            }),
        }
    };
    let (ended, running) = tokio::select! {
        ended = shown => (ended, true),
        () = stop => (Ok(()), true),
        ended = &mut bridge => (of_bridge(ended).and(Err("the bridge has ended".into())), false),
    };
    end.cancel();
    view.footer.finish_and_clear();
    ended?;
    if running {
        of_bridge(bridge.await)?;
    }
    let differing = scene.pairs.differing(&attio.store());
    let as_expected = scene.steps >= ROUND && scene.pairs.waiting() == 0 && differing.is_empty();
    view.line(&serde_json::json!({
        "kind": "summary", "changes": scene.steps, "events": scene.pairs.events, "states": scene.pairs.published,
        "reads": scene.reads.load(Ordering::Relaxed), "differing": differing, "as_expected": as_expected,
    }))?;
    if arguments.once && as_expected {
        view.say("\nThe states are exactly what the workspace holds.\n")?;
    } else if arguments.once {
        view.say(&format!("\nThe round is not over, or these differ: {}\n", differing.join(", ")))?;
    }
    Ok(as_expected || !arguments.once)
}

/// How the bridge ended. A broker that is away at the end acknowledges nothing.
fn of_bridge(ended: Result<Result<(), app::Error>, JoinError>) -> Result<(), Error> {
    match ended? {
        Err(app::Error::Abandoned { .. } | app::Error::FlushHangs { .. }) => Ok(()),
        ended => Ok(ended?),
    }
}

/// What happens, and what is read of it.
struct Scene<'a> {
    attio: &'a FakeAttio,
    pairs: Pairs,
    reads: Arc<AtomicU64>,
    steps: usize,
}

impl Scene<'_> {
    /// What `state run` runs, and readers of the events and of the states.
    async fn follow(&self, environment: Environment, embedded: bool) -> Result<(Run, Reader, Reader), Error> {
        let mut config = config::state(&Input::new(None, environment, Vec::new()))?;
        super::read_at_once(&mut config.bus.kind, embedded);
        let (kind, options, now) = (config.bus.kind.clone(), config.options, OffsetDateTime::now_utc);
        let reads = Arc::clone(&self.reads);
        let reader = EntityReader::new(&config.attio, options.reads_per_second, move |_, _| {
            reads.fetch_add(1, Ordering::Relaxed);
        })?;
        let names = Arc::new(Names::read(&reader).await?);
        let publisher = states::writer(&config.bus, options.writer(Role::Run), now).await?;
        let events = options.needs(&Routes::new(&config.route)).events;
        let follower = states::follow(&config.bus, &publisher, &options.group, events.clone()).await?;
        let begin = if embedded { Begin::Beginning } else { Begin::Now };
        let plan = |destinations| Plan { destinations, begin, follow: true };
        let kept = options.kinds().map(|kind| stored::destinations(&options, kind, None).into()).collect();
        let told = bus::read(&kind, plan(events)).await?;
        let kept = bus::read(&stored::bus_of(&options, &kind), plan(kept)).await?;
        let metrics = Arc::new(StateMetrics::new());
        Ok((Run { options, reader, publisher, follower, names, metrics, now }, told, kept))
    }

    /// Changes the workspace and shows what comes of it; one round, if no more are wanted.
    async fn show(
        &mut self,
        arguments: &Arguments,
        view: &mut View,
        mut told: Reader,
        mut kept: Reader,
    ) -> Result<(), Error> {
        let mut pace = interval(Duration::from_secs_f64(1.0 / arguments.rate.unwrap_or(RATE)));
        let (mut tick, mut workspace) = (interval(TICK), Workspace::default());
        let mut over = None::<Instant>;
        loop {
            tokio::select! {
                event = told.next() => {
                    for id in self.pairs.told(&taken(event)?) {
                        self.show_one(&id, view)?;
                    }
                }
                state = kept.next() => {
                    if let Some(id) = self.pairs.stored(&taken(state)?) {
                        self.show_one(&id, view)?;
                    }
                }
                _ = pace.tick(), if over.is_none() => {
                    let step = workspace.step(&mut self.attio.store());
                    // Whoever uses the API may have deleted what it changes.
                    if let (true, Err(error)) = (arguments.once, step) {
                        return Err(error.to_string().into());
                    }
                    self.steps += 1;
                    over = (arguments.once && self.steps == ROUND).then(Instant::now);
                }
                _ = tick.tick() => view.footer.set_message(self.footer()),
            }
            if let Some(since) = over {
                let is_done =
                    self.pairs.waiting() == 0 && self.pairs.differing(&self.attio.store()).is_empty();
                if is_done || since.elapsed() > PATIENCE {
                    return Ok(());
                }
            }
        }
    }

    fn show_one(&mut self, id: &str, view: &mut View) -> io::Result<()> {
        self.pairs.pair(id).map_or(Ok(()), |pair| view.pair(&pair))
    }

    fn footer(&self) -> String {
        let (events, states, waiting) = (self.pairs.events, self.pairs.published, self.pairs.waiting());
        let reads = self.reads.load(Ordering::Relaxed);
        format!("{events} events  {states} states  {reads} reads of Attio  {waiting} waiting")
    }
}

fn taken(item: Option<Result<Item, bus::ReadError>>) -> Result<Item, Error> {
    Ok(item.ok_or("reading back has ended")??)
}

fn interval(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// The variables of `state run`. On a bus that others use it has topics of its own.
fn of_states(attio: &str, embedded: bool) -> Environment {
    let own =
        [("state.prefix", prefix(embedded)), ("state.group", "attio-dev-state"), ("state.stream", STREAM)];
    let all = [("attio.api_url", attio), ("state.settle", SETTLE)];
    let all = all.into_iter().chain(["notes", "tasks", "comments"].map(|kind| (kind, "true")));
    let named = |(key, value): (&str, &str)| {
        let key = if key.contains('.') { key.to_owned() } else { format!("state.{key}") };
        (config::variable(&key), OsString::from(value))
    };
    let mut environment: Environment = all.chain(own.into_iter().filter(|_| !embedded)).map(named).collect();
    environment.insert("ATTIO_API_KEY".to_owned(), KEY.into());
    environment
}

/// What the addresses of the states begin with.
const fn prefix(embedded: bool) -> &'static str {
    if embedded { "attio-state" } else { "attio-dev-state" }
}

/// The stream of the states on a NATS that others use.
const STREAM: &str = "ATTIO_DEV_STATE";

async fn ready(admin: std::net::SocketAddr) -> Result<(), Error> {
    let (poster, begun) = (Poster::plain("attio-bridge dev"), Instant::now());
    loop {
        let answer = poster.get(&format!("http://{admin}/readyz")).await;
        match answer {
            Ok(reply) if reply.status == 200 => return Ok(()),
            _ if begun.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(50)).await,
            Ok(reply) => return Err(format!("not ready: {}", String::from_utf8_lossy(&reply.body)).into()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What is shown, and how to join in.
fn heading(once: bool, bus: &BusAddress, attio: &FakeAttio, http: &str, embedded: bool) -> String {
    let (address, attio, program) = (&bus.address, attio.url(), program());
    let end = if once { "one round, then the result" } else { "until Ctrl-C" };
    let prefix = prefix(embedded);
    let mut text = format!(
        "{STRONG}attio-bridge dev --state{STRONG:#}, {end}

  webhooks  http://{http}/webhooks/attio
  {:<9} {address}: events on attio.*, states on {prefix}.*
  attio     {attio} (a fake of its API; key: {KEY})
",
        bus.name
    );
    if embedded && !once {
        let bus = format!("kafka://{address}");
        text += &format!(
            "
{STRONG}Read the states, and change the workspace yourself:{STRONG:#}
  {program} tail --state --from beginning --bus {bus}
  curl -sS -H \"Authorization: Bearer {KEY}\" \\
    --json '{{\"data\":{{\"values\":{{\"name\":\"Me\"}}}}}}' \\
    {attio}/v2/objects/people/records
"
        );
    }
    let columns = Columns::of(terminal_columns().unwrap_or(PLAIN_COLUMNS));
    text + &format!("\n{DIM}{:<1$}    state{DIM:#}\n", "event, when it was received", columns.left)
}
