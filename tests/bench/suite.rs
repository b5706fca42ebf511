//! The whole run: every server asked to do everything, in alternation, so that what the machine does
//! meanwhile falls on all of them alike.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use crate::body::Deliveries;
use crate::direct::{self, Done, Task, To};
use crate::load::closed::{self, Until};
use crate::others::{Others, Snapshot};
use crate::peer::Peer;
use crate::row::{BATCH, Phase, Row, Sum, Traffics};
use crate::server::Server;
use crate::stage::Stage;
use crate::support::redis::{self, Redis};
use crate::support::{kafka, nats, unique};

/// How long, and what of it.
#[derive(Default)]
pub struct Options {
    /// Coarser and quicker.
    pub quick: bool,
    /// Servers beside the floor; all where it is empty.
    pub only: Vec<String>,
    /// Other builds of the bridge to compare this one with: a name and the program.
    pub builds: Vec<(String, PathBuf)>,
    /// Foreign programs to compare it with.
    pub peers: Vec<Peer>,
    /// Print no figures if others use the machine.
    pub quiet_check: bool,
}

/// The bridge of this build.
pub const BRIDGE: &str = env!("CARGO_BIN_EXE_attio-bridge");

impl Options {
    /// Whether a server takes part.
    pub fn wants(&self, name: &str) -> bool {
        name == "floor"
            || self.only.is_empty()
            || self.only.iter().any(|only| name.starts_with(only.as_str()))
    }

    /// Times that everything is measured.
    fn rounds(&self) -> usize {
        if self.quick { 1 } else { 3 }
    }

    /// One stretch of a phase.
    fn time(&self, phase: Phase) -> Duration {
        let seconds = match phase {
            Phase::Rate(25) => 3.0,
            Phase::Rate(_) => 2.0,
            _ => 1.5,
        };
        Duration::from_secs_f64(if self.quick { seconds / 2.0 } else { seconds })
    }
}

/// Real brokers, started for this run alone.
pub struct Brokers {
    kafka: kafka::Broker,
    nats: nats::Server,
    redis: Redis,
}

/// Who is measured.
enum Subject {
    Server(Server),
    /// Its requests are signed anew for each stretch: some schemes sign the time.
    Peer(Server, Peer),
    Direct(String, To),
}

impl Subject {
    fn name(&self) -> &str {
        match self {
            Self::Server(server) | Self::Peer(server, _) => &server.name,
            Self::Direct(name, _) => name,
        }
    }

    fn can(&self, phase: Phase) -> bool {
        match self {
            Self::Server(_) | Self::Peer(..) => true,
            Self::Direct(..) => !matches!(phase, Phase::Batches | Phase::Saturated(1)),
        }
    }
}

/// Measures everything that is asked for. Also returns what others used of the machine in the busiest round.
pub fn run(options: &Options) -> (Vec<Row>, Others) {
    let (kafka, nats) = (kafka::Broker::start(), nats::Server::start());
    let brokers = Brokers { kafka, nats, redis: Redis::start(redis::Kind::Redis) };
    let subjects = subjects(options, &brokers);
    let traffics =
        Traffics { single: Arc::new(Deliveries::new(1)), batches: Arc::new(Deliveries::new(BATCH)) };
    for subject in &subjects {
        warm_up(subject, &traffics);
    }
    let mut sums: BTreeMap<(usize, usize), Sum> = BTreeMap::new();
    let mut others = Others { cores: 0.0, top: Vec::new() };
    for round in 1..=options.rounds() {
        let before = Snapshot::take();
        for (p, phase) in Phase::ALL.into_iter().enumerate() {
            eprintln!("round {round} of {}: {}", options.rounds(), phase.title());
            for (s, subject) in subjects.iter().enumerate().filter(|(_, subject)| subject.can(phase)) {
                measure(sums.entry((p, s)).or_default(), subject, phase, &traffics, options.time(phase));
            }
        }
        let seen = before.since();
        if seen.cores > others.cores {
            others = seen;
        }
    }
    let mut rows: Vec<Row> = sums
        .into_iter()
        .map(|((phase, subject), sum)| sum.row(subjects[subject].name(), Phase::ALL[phase]))
        .collect();
    relate(&mut rows);
    (rows, others)
}

fn subjects(options: &Options, brokers: &Brokers) -> Vec<Subject> {
    let mut subjects = Vec::new();
    let mut add = |name: &str, make: &dyn Fn() -> Subject| {
        if options.wants(name) {
            eprintln!("starting {name}");
            subjects.push(make());
        }
    };
    for stage in Stage::ALL {
        add(stage.name(), &|| Subject::Server(Server::stage(stage)));
    }
    let this = (String::new(), PathBuf::from(BRIDGE));
    let others = options.builds.iter().map(|(name, program)| (format!("@{name}"), program.clone()));
    let builds: Vec<(String, PathBuf)> = std::iter::once(this).chain(others).collect();
    // Side by side, so that what the machine does meanwhile falls on all builds alike.
    for (suffix, program) in &builds {
        let name = format!("stdout{suffix}");
        let bus = ("ATTIO_BRIDGE__BUS__TYPE", "stdout".into());
        add(&name, &|| Subject::Server(Server::bridge(&name, program, slice::from_ref(&bus))));
        let name = format!("stdout-redis{suffix}");
        let store = ("ATTIO_BRIDGE__DEDUP__STORE", "redis".into());
        let url = ("ATTIO_BRIDGE__DEDUP__REDIS__URL", brokers.redis.url());
        let variables = [bus.clone(), store, url];
        add(&name, &|| Subject::Server(Server::bridge(&name, program, &variables)));
    }
    for (stem, linger, partitions) in
        [("kafka", "0ms", 1), ("kafka-linger", "1ms", 1), ("kafka-4", "0ms", 4), ("kafka-60", "0ms", 60)]
    {
        for (suffix, program) in &builds {
            let name = format!("{stem}{suffix}");
            let bridge = || kafka_bridge(&name, program, &brokers.kafka, linger, partitions);
            add(&name, &|| Subject::Server(bridge()));
        }
    }
    for (suffix, program) in &builds {
        let name = format!("nats{suffix}");
        add(&name, &|| Subject::Server(nats_bridge(&name, program, &brokers.nats)));
    }
    let bootstrap = brokers.kafka.bootstrap();
    let topic = |stem: &str| brokers.kafka.topic(stem, 1);
    add("node", &|| Subject::Server(Server::node(bootstrap, &topic("node"))));
    add("python", &|| Subject::Server(Server::python(bootstrap, &topic("python"))));
    for (name, linger) in [("direct-kafka", "0"), ("direct-kafka-linger", "1")] {
        let to = || To::Kafka { bootstrap: bootstrap.into(), topic: topic("direct"), linger: linger.into() };
        add(name, &|| Subject::Direct(name.into(), to()));
    }
    add("direct-nats", &|| {
        brokers.nats.create_stream("DIRECT", &["direct"], |_| {});
        Subject::Direct("direct-nats".into(), To::Nats { url: brokers.nats.url(), subject: "direct".into() })
    });
    for peer in &options.peers {
        eprintln!("starting {}", peer.row());
        let server = peer.start(bootstrap, &topic("peer"), &brokers.nats.url());
        subjects.push(Subject::Peer(server, peer.clone()));
    }
    subjects
}

/// The bridge on a Kafka whose topics it makes.
fn kafka_bridge(name: &str, program: &Path, broker: &kafka::Broker, linger: &str, partitions: i32) -> Server {
    let variables = [
        ("ATTIO_BRIDGE__BUS__TYPE", "kafka".to_owned()),
        ("ATTIO_BRIDGE__ROUTE__PREFIX", unique("bench")),
        ("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS", broker.bootstrap().into()),
        ("ATTIO_BRIDGE__KAFKA__TOPICS__ENSURE", "create".into()),
        ("ATTIO_BRIDGE__KAFKA__TOPICS__PARTITIONS", partitions.to_string()),
        ("ATTIO_BRIDGE__KAFKA__LINGER", linger.into()),
    ];
    Server::bridge(name, program, &variables)
}

/// The bridge on a JetStream whose stream it makes.
fn nats_bridge(name: &str, program: &Path, server: &nats::Server) -> Server {
    let prefix = unique("bench");
    let variables = [
        ("ATTIO_BRIDGE__BUS__TYPE", "nats".to_owned()),
        ("ATTIO_BRIDGE__NATS__STREAM__NAME", prefix.replace('.', "-")),
        ("ATTIO_BRIDGE__ROUTE__PREFIX", prefix),
        ("ATTIO_BRIDGE__NATS__SERVERS", server.url()),
        ("ATTIO_BRIDGE__NATS__STREAM__ENSURE", "create".into()),
    ];
    Server::bridge(name, program, &variables)
}

/// What is compiled, connected and looked up once is not what a delivery costs.
fn warm_up(subject: &Subject, traffics: &Traffics) {
    let (Subject::Server(server) | Subject::Peer(server, _)) = subject else { return };
    eprintln!("warming up {}", server.name);
    let traffics = traffics_of(subject, traffics);
    closed::run(server.address, &traffics.single, 16, Until::Time(Duration::from_millis(700)));
}

/// The deliveries that a server is sent.
fn traffics_of(subject: &Subject, traffics: &Traffics) -> Traffics {
    match subject {
        Subject::Peer(_, peer) => {
            let signed = |events| Arc::new(Deliveries::signed(events, peer.scheme, &peer.path));
            Traffics { single: signed(1), batches: signed(BATCH) }
        }
        _ => traffics.clone(),
    }
}

fn measure(sum: &mut Sum, subject: &Subject, phase: Phase, traffics: &Traffics, time: Duration) {
    match subject {
        Subject::Server(server) | Subject::Peer(server, _) => {
            sum.add(server, phase, &traffics_of(subject, traffics), time);
        }
        Subject::Direct(_, to) => {
            let Done { traffic, used, peak_kib } = direct::ask(&Task { to: to.clone(), phase, time });
            sum.count(traffic, used, peak_kib);
        }
    }
}

/// Sets every ratio: to the floor of the same phase.
fn relate(rows: &mut [Row]) {
    let floors: Vec<(Phase, f64)> =
        rows.iter().filter(|row| row.server == "floor").map(|row| (row.phase, row.cpu_us)).collect();
    for row in rows {
        let floor = floors.iter().find(|(phase, _)| *phase == row.phase);
        row.ratio = floor.map_or(0.0, |(_, cpu)| row.cpu_us / cpu);
    }
}
