//! The checker of `state`: a workspace changes, everything that takes part is killed again and again, a backfill runs in
//! the middle and a second `state run` beside the first; at the end the topics equal the workspace.
//!
//! `tests/state` runs it in full: 200,000 changes over 20,000 entities and 50 kills. It prints its seed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use attio_bridge::catalog::{Category, EVENT_TYPES};
use attio_bridge::fake_attio::deliver::Timing;
use attio_bridge::fake_attio::store::Store;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::scene::{Bus, Scene};
use super::walks::{CATEGORIES, diff, states};
use super::witness::Witness;
use crate::support::attio::KEY;
use crate::support::faults::Fault;
use crate::support::kafka::{Broker, Layout};
use crate::support::nats::Server;
use crate::support::ports::free_address;
use crate::support::program::{Program, lent, variables};
use crate::support::served::Served;

/// Three days in about four minutes: attempts that fail are repeated after half a second, then a whole one.
const FAST: Timing = Timing { time_scale: 1000.0, per_second: 2000 };

/// How long Attio takes for an answer.
const LATE: Duration = Duration::from_millis(200);

/// The end of everything that is awaited, in seconds; less where a planted bug lets it never come.
const PATIENCE: usize = 300;

#[derive(Clone, Copy, Debug)]
struct Plan {
    changes: usize,
    entities: usize,
    kills: usize,
    per_second: usize,
    /// How many of a hundred changes are of list entries, notes, tasks and comments. The last three are read one by one.
    others: usize,
    /// Requests a second of `state run`, of a second one, and of the backfill.
    reads: [usize; 3],
    /// In seconds.
    settle: usize,
    seed: u64,
}

impl Plan {
    /// A small one, or what the environment asks for.
    fn read() -> Self {
        let seed = number("SEED", fastrand::u32(..) as usize) as u64;
        Self {
            changes: number("CHANGES", 400),
            entities: number("ENTITIES", 60),
            kills: number("KILLS", 3),
            per_second: number("PER_SECOND", 80),
            others: number("OTHERS", 24),
            reads: [number("READS", 25), number("READS_OF_SECOND", 25), number("READS_OF_BACKFILL", 25)],
            settle: number("SETTLE", 1),
            seed,
        }
    }
}

/// A number that the environment sets.
pub fn number(name: &str, default: usize) -> usize {
    let text = std::env::var(format!("ATTIO_BRIDGE_STATE_{name}"));
    text.map_or(default, |text| text.parse().expect("a number"))
}

/// Who changes the workspace.
struct Driver {
    random: fastrand::Rng,
    /// What exists, by category.
    ids: BTreeMap<Category, Vec<String>>,
    entities: usize,
    others: usize,
    /// Changes so far.
    count: usize,
}

impl Driver {
    /// One of those that are no records, as often as it is wanted.
    fn category(&mut self) -> Category {
        match self.random.usize(..100) < self.others {
            true => CATEGORIES[self.random.usize(1..CATEGORIES.len())],
            false => Category::Record,
        }
    }

    fn any(&mut self, category: Category) -> Option<String> {
        let ids = self.ids.entry(category).or_default();
        (!ids.is_empty()).then(|| ids[self.random.usize(..ids.len())].clone())
    }

    fn add(&mut self, category: Category, id: String) {
        self.ids.entry(category).or_default().push(id);
    }

    fn forget(&mut self, id: &str) {
        self.ids.values_mut().for_each(|ids| ids.retain(|known| known != id));
    }

    /// One change, or a burst of updates of one entity.
    fn change(&mut self, store: &mut Store) {
        let (all, dice) = (self.ids.values().map(Vec::len).sum::<usize>(), self.random.u8(..100));
        store.silent = self.random.u8(..100) < 5;
        let burst = if self.random.u8(..10) == 0 { 10 } else { 1 };
        match (self.any(Category::Record), dice) {
            (None, _) => self.create(store),
            (_, 0..40) if all < self.entities => self.create(store),
            (Some(record), 0..6) => self.delete(store, Category::Record, record),
            (Some(first), 6..9) => {
                let second = self.any(Category::Record).expect("there is one");
                if let Ok(merged) = store.merge(&first, &second) {
                    self.forget(&first);
                    self.forget(&second);
                    self.add(Category::Record, merged);
                    self.follow(store);
                    self.count += 1;
                }
            }
            (Some(_), 9..14) => {
                let category = CATEGORIES[self.random.usize(1..CATEGORIES.len())];
                if let Some(id) = self.any(category) {
                    self.delete(store, category, id);
                }
            }
            (Some(record), _) => {
                let category = self.category();
                let id = if category == Category::Record { Some(record) } else { self.any(category) };
                let Some(id) = id else { return };
                for _ in 0..burst {
                    self.count += 1;
                    let (name, value) = match category {
                        Category::Record => ("name", json!(format!("name {}", self.count))),
                        Category::ListEntry => ("status", json!(format!("status {}", self.count))),
                        Category::Comment => ("is_resolved", json!(self.count.is_multiple_of(2))),
                        Category::Note => {
                            (["title", "content"][self.count % 2], json!(format!("text {}", self.count)))
                        }
                        _ => ("content", json!(format!("task {}", self.count))),
                    };
                    store.set(&id, name, value).expect("it exists");
                }
            }
        }
    }

    fn create(&mut self, store: &mut Store) {
        let (record, category) = (self.any(Category::Record), self.category());
        let values = BTreeMap::from([("name".to_owned(), json!(format!("name {}", self.count)))]);
        let (category, id) = match (record, category) {
            (Some(record), Category::ListEntry) => {
                (Category::ListEntry, store.add_entry("recruiting", &record, BTreeMap::new()))
            }
            (Some(record), Category::Note) => (Category::Note, store.add_note(&record, "a title", "a text")),
            (Some(record), Category::Task) => (Category::Task, store.add_task(&record, "a task")),
            (Some(record), Category::Comment) => {
                (Category::Comment, store.add_comment(&record, None, "a comment"))
            }
            _ => {
                let object = if self.random.bool() { "people" } else { "companies" };
                (Category::Record, store.create_record(object, values))
            }
        };
        self.add(category, id.expect("its parent exists"));
        self.count += 1;
    }

    fn delete(&mut self, store: &mut Store, category: Category, id: String) {
        if store.remove(&id).is_ok() {
            self.forget(&id);
            self.count += 1;
        }
        if category == Category::Record || category == Category::Comment {
            self.follow(store);
        }
    }

    /// Forgets what went with something else.
    fn follow(&mut self, store: &Store) {
        let exists = |id: &String| store.world.get(id).is_some_and(|item| item.is_there());
        self.ids.values_mut().for_each(|ids| ids.retain(exists));
    }
}

/// Those that read, in the order of their limits in the plan.
const READERS: [&str; 3] = ["run", "second", "backfill"];

/// A verb that is started again whenever it has ended. Each start adds another name to the key.
struct Kept<'a> {
    reader: &'a str,
    arguments: Vec<&'a str>,
    variables: Vec<(String, String)>,
    program: Program,
    starts: usize,
    /// How often it was ended by a signal that the checker did not send.
    crashes: usize,
    /// What it said before it was started again.
    said: Vec<String>,
}

impl<'a> Kept<'a> {
    fn start(reader: &'a str, arguments: &[&'a str], variables: &[(String, String)]) -> Self {
        let (arguments, variables) = (arguments.to_vec(), variables.to_vec());
        let program = Self::begin(&format!("{reader}-1"), &arguments, &variables);
        Self { reader, arguments, variables, program, starts: 1, crashes: 0, said: Vec::new() }
    }

    fn begin(sender: &str, arguments: &[&str], variables: &[(String, String)]) -> Program {
        let key = ("ATTIO_API_KEY".to_owned(), format!("{KEY}~{sender}"));
        Program::start(arguments, &[variables, &[key]].concat())
    }

    fn keep(&mut self) {
        if self.program.has_ended() {
            self.again();
        }
    }

    /// Whether it has ended with 0. Started again if it has ended otherwise.
    fn is_done(&mut self) -> bool {
        self.program.has_ended() && (self.program.end().0 == Some(0) || self.again())
    }

    fn again(&mut self) -> bool {
        self.crashes += usize::from(self.program.has_crashed());
        self.said.push(self.program.end().1);
        self.starts += 1;
        let sender = format!("{}-{}", self.reader, self.starts);
        self.program = Self::begin(&sender, &self.arguments, &self.variables);
        false
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            if !self.program.has_ended() {
                self.program.signal("KILL");
            }
            self.said.push(self.program.end().1);
            println!("{:?} said:\n{}", self.arguments, self.said.join("--- started again\n"));
        }
    }
}

fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let (begun, patience) = (Instant::now(), Duration::from_secs(number("PATIENCE", PATIENCE) as u64));
    while !holds() {
        assert!(begun.elapsed() < patience, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn with_reads(scene: &Scene, reads: usize) -> Vec<(String, String)> {
    [&scene.variables[..], &variables(&[("STATE__READS_PER_SECOND", &reads.to_string())])[..]].concat()
}

/// Runs a plan on a bus of its own.
fn soak(mut scene: Scene, plan: Plan, kill_broker: impl Fn(bool)) {
    println!("{plan:?}");
    let begun = Instant::now();
    for (name, value) in [
        ("STATE__NOTES", "true"),
        ("STATE__TASKS", "true"),
        ("STATE__COMMENTS", "true"),
        ("STATE__READS_PER_SECOND", &*plan.reads[0].to_string()),
        ("STATE__SETTLE", &*format!("{}s", plan.settle)),
    ] {
        scene.set(name, value);
    }
    {
        let mut store = scene.attio.store();
        (store.lag, store.merge_time) = (Duration::from_secs(2), Duration::from_millis(500));
    }
    // Changes come while an answer that does not have them is under way.
    scene.attio.always("", Fault::Late(LATE));
    let subscribed: Vec<_> = EVENT_TYPES
        .iter()
        .filter(|known| {
            CATEGORIES.contains(&known.category) && scene.attio.store().event_types.contains(known.name)
        })
        .map(|known| (known.name, Value::Null))
        .collect();
    scene.attio.add("https://hooks.example.com/webhooks/attio", &subscribed);
    let secret = scene.attio.only().secret;
    let bridge = [lent(&scene.variables), vec![("ATTIO_WEBHOOK_SECRET", &*secret)]].concat();
    let served = Served::start(&bridge);
    let deliveries = scene.attio.deliverer(served.http, FAST);
    scene.attio.block_on(async { deliveries.follow_api() });

    let folder = TempDir::new().unwrap();
    let journal = folder.path().join("journal").to_str().unwrap().to_owned();
    let mut running = Kept::start(READERS[0], &["state", "run"], &scene.variables);
    wait("state run is ready", || scene.get("/readyz").starts_with("HTTP/1.1 200"));
    let witness = Witness::start(&scene);
    let (mut second, mut backfill) = (None::<Kept<'_>>, None::<Kept<'_>>);
    let mut driver = Driver {
        random: fastrand::Rng::with_seed(plan.seed),
        ids: BTreeMap::new(),
        entities: plan.entities,
        others: plan.others,
        count: 0,
    };
    let (mut killed, mut kills, mut next) = (0, BTreeMap::<&str, usize>::new(), Instant::now());
    while driver.count < plan.changes {
        let done = driver.count as f64 / plan.changes as f64;
        let is_kill_due = killed < plan.kills && done >= (killed + 1) as f64 / (plan.kills + 1) as f64;
        if !is_kill_due && Instant::now() >= next {
            let before = driver.count;
            driver.change(&mut scene.attio.store());
            next += Duration::from_secs(1) * (driver.count - before) as u32 / plan.per_second as u32;
        } else if !is_kill_due || deliveries.retrying() > 0 {
            // Nothing changes before a kill until the last one is over for every delivery: none is to be given up.
            std::thread::sleep(Duration::from_millis(5));
        } else {
            killed += 1;
            let at = if plan.kills <= 3 { killed } else { driver.random.usize(..3) };
            let what = ["state run", "broker", "attio"][at % 3];
            *kills.entry(what).or_default() += 1;
            match what {
                "state run" => running.program.signal("KILL"),
                "broker" => {
                    kill_broker(true);
                    kill_broker(false);
                }
                _ => {
                    scene.attio.kill();
                    std::thread::sleep(Duration::from_millis(500));
                    scene.attio.restart();
                }
            }
            next = Instant::now();
        }
        running.keep();
        second.iter_mut().for_each(Kept::keep);
        match done {
            0.4.. if backfill.is_none() => {
                let arguments = ["state", "backfill", "--journal", &journal];
                backfill = Some(Kept::start(READERS[2], &arguments, &with_reads(&scene, plan.reads[2])));
            }
            0.5..0.7 if second.is_none() => {
                let mut other = with_reads(&scene, plan.reads[1]);
                other.push(("ATTIO_BRIDGE__STATE__LISTEN".into(), free_address()));
                second = Some(Kept::start(READERS[1], &["state", "run"], &other));
            }
            0.7.. => second = None,
            _ => {}
        }
    }
    scene.attio.store().silent = false;
    drop(second);
    scene.attio.block_on(deliveries.idle());
    assert_eq!(deliveries.counts().failed, 0, "an event did not reach the bridge");
    {
        let is_done = done_with_events(&scene);
        wait("every event is done", || {
            running.keep();
            is_done()
        });
    }
    if let Some(backfill) = &mut backfill {
        wait("the backfill is done", || backfill.is_done());
    }

    // From here on it is the only one that reads.
    scene.set("STATE__READS_PER_SECOND", "90");
    let expected: BTreeSet<String> =
        CATEGORIES.into_iter().flat_map(|category| differing(&scene, category)).collect();
    let untold = scene.attio.store().untold.clone();
    let lost: BTreeSet<_> = expected.difference(&untold).collect();
    if !lost.is_empty() {
        let kept = CATEGORIES.into_iter().flat_map(|category| scene.kept_of(category));
        let wrong: Vec<_> = kept.filter(|kept| lost.contains(&kept.key)).collect();
        let (seed, count) = (plan.seed, lost.len());
        panic!("seed {seed}: {count} states are wrong that events told of\n{lost:?}\n{wrong:#?}");
    }
    let found = diff(&scene, &[], if expected.is_empty() { 0 } else { 3 });
    assert_eq!(
        found.into_keys().collect::<BTreeSet<_>>(),
        expected,
        "diff names what differs, seed {}",
        plan.seed
    );
    diff(&scene, &["--repair"], 0);
    for category in CATEGORIES {
        let left = differing(&scene, category);
        let kept: Vec<_> =
            scene.kept_of(category).into_iter().filter(|kept| left.contains(&kept.key)).collect();
        let seed = plan.seed;
        assert!(left.is_empty(), "{category}: {left:?} differ after the repair, seed {seed}: {kept:?}");
    }
    let states = witness.end(&scene, plan.seed);
    let rate = scene.attio.store().rate.clone();
    assert_eq!(rate.refused, 0, "more reads than Attio allows: {} in a second", rate.most_reads);
    let senders = scene.attio.most_in_a_second();
    for (reader, limit) in READERS.into_iter().zip(plan.reads) {
        let most = senders.iter().filter(|(name, _)| name.starts_with(reader)).map(|(_, most)| *most).max();
        let seed = plan.seed;
        // The second one may have been killed before it has asked for anything.
        assert!(
            most.is_none_or(|most| most <= limit) && (most.is_some() || reader == READERS[1]),
            "{reader}: more than {limit}: {senders:?}, seed {seed}"
        );
    }
    println!(
        "{} changes, {} deliveries, {states} states, {} reads (at most {} in a second), kills {kills:?}, {} starts and {} \
         crashes of state run, {} differences repaired, {:.0} s",
        driver.count,
        deliveries.counts().delivered,
        rate.all_reads,
        rate.most_reads,
        running.starts,
        running.crashes,
        expected.len(),
        begun.elapsed().as_secs_f64()
    );
}

/// Asks whether every event is done. From here on the broker is not killed.
fn done_with_events(scene: &Scene) -> Box<dyn Fn() -> bool + '_> {
    let group = format!("{}-state", scene.prefix);
    match &scene.bus {
        Bus::Kafka(broker) => {
            let topics = CATEGORIES.iter().map(|category| format!("{}.{category}", scene.prefix));
            let topics: Vec<_> = topics.filter(|topic| broker.partitions(topic).is_some()).collect();
            let progress = broker.progress(&group, &topics);
            Box::new(move || progress.is_done())
        }
        Bus::Nats(server) => {
            let stream =
                scene.variables.iter().find(|(name, _)| name.ends_with("NATS__STREAM__NAME")).unwrap();
            Box::new(move || {
                let info = server.consumer(&stream.1, &group);
                info.is_some_and(|info| info.num_pending == 0 && info.num_ack_pending == 0)
            })
        }
    }
}

/// The entities of which the topic does not hold what the workspace does.
fn differing(scene: &Scene, category: Category) -> BTreeSet<String> {
    let (kept, world) = (states(scene, category), scene.attio.store().everything(category));
    let ids: BTreeSet<&String> = kept.keys().chain(world.keys()).collect();
    ids.into_iter().filter(|id| kept.get(*id) != world.get(*id)).cloned().collect()
}

#[test]
fn topics_on_kafka_equal_the_workspace_whatever_is_killed() {
    // What the broker needs for the changes of the long form.
    let layout = |_, _| Layout { flags: vec!["-Xmx512m".to_owned()], ..Layout::default() };
    let broker = std::sync::Arc::new(Broker::start_where(layout));
    let scene = Scene::on_kafka(std::sync::Arc::clone(&broker));
    soak(scene, Plan::read(), |kill| if kill { broker.kill() } else { broker.restart() });
}

#[test]
fn stream_on_nats_equals_the_workspace_whatever_is_killed() {
    let server = std::sync::Arc::new(Server::start());
    let scene = Scene::on_nats(std::sync::Arc::clone(&server));
    soak(scene, Plan::read(), |kill| if kill { server.kill() } else { server.restart() });
}
