//! `check --connect` for Kafka: goes the way of a message step by step, publishes nothing, and says
//! at which step it ends and why.

mod make;
mod reach;
mod safety;
mod settings;
mod topic;
mod watch;
mod write;

use std::time::{Duration, Instant};

use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::producer::{Producer, ThreadedProducer};

use super::client_config::{client_config, creation_error};
use super::options::{Ensure, Options};
use super::trouble::Looker;
use crate::bus::error::StartError;
use crate::bus::inspect::{Level, Report, Requirements};
use topic::Topic;
use watch::Watch;

/// The client that asks; an idempotent producer like the one that serves.
type Client = ThreadedProducer<Watch>;

/// For everything together.
const IN_ALL: Duration = Duration::from_secs(10);

/// How long a new client may take for its producer id.
const PRODUCER_ID: Duration = Duration::from_secs(4);

/// Asks a cluster everything that serving depends on.
pub async fn inspect(options: Options, requirements: Requirements) -> Result<Report, StartError> {
    let report = Report::new("kafka", options.bootstrap_servers.clone());
    let config = client_config(&options)?;
    let client = Client::from_config_and_context(&config, Watch::default())
        .map_err(|error| creation_error(&options, &config, error))?;
    let inspection = Inspection {
        looker: Looker::new(&options),
        deadline: Instant::now() + IN_ALL,
        born: Instant::now(),
        options,
        requirements,
        config,
        client,
        report,
    };
    let asking = tokio::task::spawn_blocking(move || inspection.run());
    Ok(asking.await.unwrap_or_else(|error| {
        let mut report = Report::new("kafka", "");
        report.add("check", Level::Failed, format!("the check itself failed, report a bug: {error}"));
        report
    }))
}

struct Inspection {
    options: Options,
    requirements: Requirements,
    config: ClientConfig,
    client: Client,
    looker: Looker,
    report: Report,
    deadline: Instant,
    born: Instant,
}

impl Inspection {
    fn run(mut self) -> Report {
        if self.reach() {
            let mut topics = self.look_at_topics();
            make::ask(&mut topics, &self.options.topics, &self.config, self.left());
            settings::read(&mut topics, &self.config, self.left());
            let write = write::probe(&topics, &self.config, self.left());
            topics.iter().for_each(|topic| topic.tell(&self.options.topics, &mut self.report));
            write::tell(&topics, &write, &mut self.report);
            self.producer_id();
            safety::tell_durability(&topics, &mut self.report);
            safety::tell_sizes(&topics, &self.requirements, &mut self.report);
        }
        self.report
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn look_at_topics(&self) -> Vec<Topic> {
        let ask = |name: &std::sync::Arc<str>| {
            let patience = self.left().min(Duration::from_secs(2));
            let metadata = self.client.client().fetch_metadata(Some(name), patience);
            Topic::new(name, metadata.as_ref().map_err(ToString::to_string))
        };
        self.requirements.addresses.iter().map(ask).collect()
    }

    /// An idempotent producer needs an id, which only a client gets that may write somewhere.
    fn producer_id(&mut self) {
        let deadline =
            (self.born + PRODUCER_ID).max(Instant::now() + Duration::from_secs(1)).min(self.deadline);
        let (level, detail) = loop {
            let watch = self.client.client().context();
            if let Some((_, fatal)) = self.client.client().fatal_error() {
                let advice =
                    "grant Write on the topics (brokers before 2.8 also need IdempotentWrite on the cluster)";
                break (Level::Failed, format!("no producer id: {fatal}: {advice}"));
            }
            if watch.is_warm() {
                break (Level::Ok, "the broker gives this client a producer id".to_owned());
            }
            if Instant::now() >= deadline {
                break (
                    Level::Warning,
                    "no producer id in time: a busy broker, or none may write yet".to_owned(),
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        self.report.add("idempotence", level, detail);
    }
}

/// Whether the bridge would make a topic that is missing.
fn makes(ensure: Ensure) -> bool {
    ensure == Ensure::Create
}
