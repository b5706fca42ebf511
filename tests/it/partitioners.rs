//! Where the partitioners of other Kafka clients put the bridge's keys: `deploy/docs/partitioners.md` has the table.
//!
//! `tests/interop/partitioners/run` installs every client and prints it. Each client really produces the keys.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::util::get_rdkafka_version;
use uuid::Uuid;

use crate::support::bus::{Awaited, label, message};
use crate::support::kafka::bench::Bench;
use crate::support::kafka::{Broker, shared};
use crate::support::snapshot::renewing;
use crate::support::wait::PATIENCE;
use crate::support::watched::kit;

const PARTITIONS: [i32; 3] = [6, 8, 12];

struct Client {
    /// Its name for the program that produces with it.
    name: &'static str,
    /// Where its version stands, and the text in front of it.
    version: (&'static str, &'static str),
    language: Language,
    /// Its partitioners, each with whether it puts every key where the bridge does.
    partitioners: &'static [(&'static str, bool)],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Language {
    Rust,
    Java,
    Python,
    Node,
    Go,
}

const LIBRDKAFKA: &[(&str, bool)] = &[("default", false), ("murmur2_random", true)];
const PYTHON: &str = include_str!("../interop/partitioners/python/requirements.txt");
const NODE: &str = include_str!("../interop/partitioners/node/package.json");
const GO: &str = include_str!("../interop/partitioners/go/go.mod");

const CLIENTS: [Client; 9] = [
    Client {
        name: "kafka-clients",
        version: (include_str!("../install.sh"), "\nKAFKA="),
        language: Language::Java,
        partitioners: &[("default", true)],
    },
    Client {
        name: "rdkafka",
        version: (include_str!("../../Cargo.lock"), "name = \"rdkafka\"\nversion = \""),
        language: Language::Rust,
        partitioners: LIBRDKAFKA,
    },
    Client {
        name: "confluent-kafka",
        version: (PYTHON, "\nconfluent-kafka=="),
        language: Language::Python,
        partitioners: LIBRDKAFKA,
    },
    Client {
        name: "aiokafka",
        version: (PYTHON, "\naiokafka=="),
        language: Language::Python,
        partitioners: &[("default", true)],
    },
    Client {
        name: "kafkajs",
        version: (NODE, "\"kafkajs\": \""),
        language: Language::Node,
        partitioners: &[("default", true), ("LegacyPartitioner", false)],
    },
    Client {
        name: "@platformatic/kafka",
        version: (NODE, "\"@platformatic/kafka\": \""),
        language: Language::Node,
        partitioners: &[("default", false), ("compatibilityPartitioner", true)],
    },
    Client {
        name: "franz-go",
        version: (GO, "franz-go v"),
        language: Language::Go,
        partitioners: &[("default", true)],
    },
    Client {
        name: "sarama",
        version: (GO, "sarama v"),
        language: Language::Go,
        partitioners: &[
            ("default", false),
            ("NewReferenceHashPartitioner", false),
            ("NewMurmur2Partitioner", true),
        ],
    },
    Client {
        name: "kafka-go",
        version: (GO, "kafka-go v"),
        language: Language::Go,
        partitioners: &[("default", false), ("Murmur2Balancer", true)],
    },
];

/// Entities' ids as Attio writes them: UUIDs in lower case.
fn keys() -> Vec<String> {
    let key = |number: u32| Uuid::new_v5(&Uuid::NAMESPACE_URL, number.to_string().as_bytes()).to_string();
    (0..1000).map(key).collect()
}

impl Client {
    fn version(&self) -> &'static str {
        let (text, before) = self.version;
        let (_, after) = text.split_once(before).unwrap_or_else(|| panic!("no {before} for {}", self.name));
        after.split(['"', '\n']).next().expect("a split has a first part")
    }

    /// Produces a record for each key.
    fn produce(&self, partitioner: &str, broker: &Broker, topic: &str, keys: &[String]) {
        let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/partitioners");
        let mut command = match self.language {
            Language::Rust => return produce(partitioner, broker, topic, keys),
            Language::Java => {
                let mut java = Command::new("java");
                java.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"]);
                java.arg(kit("kafka.jsa").join("jars/*")).arg(programs.join("java/Produce.java"));
                java
            }
            Language::Python => {
                let kit = kit("partitioners/python/installed.txt");
                let mut python = Command::new(kit.join("partitioners/python/bin/python"));
                python.arg(programs.join("python/produce.py"));
                python
            }
            Language::Node => {
                let mut node = Command::new(kit("node.version").join("node/bin/node"));
                // kafkajs sets a timer in the past.
                node.arg("--disable-warning=TimeoutNegativeWarning");
                node.arg(kit("partitioners/node/installed.json").join("partitioners/node/produce.mjs"));
                node
            }
            Language::Go => Command::new(kit("partitioners/go").join("partitioners/go")),
        };
        command.args([self.name, partitioner, broker.bootstrap(), topic]);
        let mut child = command.stdin(Stdio::piped()).spawn().expect("the program starts");
        let mut input = child.stdin.take().expect("piped");
        input.write_all(keys.join("\n").as_bytes()).expect("it reads");
        drop(input);
        let status = child.wait().expect("it ends");
        assert!(status.success(), "{} {partitioner} fails; its words are on standard error", self.name);
    }
}

fn produce(partitioner: &str, broker: &Broker, topic: &str, keys: &[String]) {
    let mut config = broker.client();
    if partitioner != "default" {
        config.set("partitioner", partitioner);
    }
    let producer: BaseProducer = config.create().unwrap();
    for key in keys {
        assert!(producer.send(BaseRecord::to(topic).key(key).payload("")).is_ok());
    }
    producer.flush(PATIENCE).unwrap();
}

fn placed(broker: &Broker, topic: &str) -> BTreeMap<String, i32> {
    let records = broker.read_all(topic).into_iter();
    records.map(|record| (record.key().to_owned(), record.partition)).collect()
}

/// The rows of the table for the clients of some languages, from a run.
fn rows(languages: &[Language]) -> Vec<String> {
    let (broker, keys) = (shared(), keys());
    let own = PARTITIONS.map(|partitions| {
        let topic = broker.topic("bridge", partitions);
        let bench = Bench::up(&broker, &[&topic]);
        let published: Vec<Awaited> =
            keys.iter().map(|key| bench.publish(message(&topic, key, "{}"))).collect();
        assert!(published.into_iter().all(|result| label(&result.wait()) == "acknowledged"));
        placed(&broker, &topic)
    });
    let mut rows = Vec::new();
    for client in CLIENTS.iter().filter(|client| languages.contains(&client.language)) {
        for (partitioner, agrees) in client.partitioners {
            let same = [0, 1, 2].map(|at| {
                let topic = broker.topic("client", PARTITIONS[at]);
                client.produce(partitioner, &broker, &topic, &keys);
                let theirs = placed(&broker, &topic);
                assert_eq!(theirs.len(), keys.len(), "{}", client.name);
                theirs.iter().filter(|(key, partition)| own[at].get(*key) == Some(partition)).count()
            });
            assert_eq!(same == [keys.len(); 3], *agrees, "{} {partitioner}: {same:?}", client.name);
            let partitioner = match *partitioner {
                "default" => "default".to_owned(),
                name => format!("`{name}`"),
            };
            let (name, version, [six, eight, twelve]) = (client.name, client.version(), same);
            rows.push(format!("| {name} {version} | {partitioner} | {six} | {eight} | {twelve} |"));
        }
    }
    rows
}

fn document() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/docs/partitioners.md")
}

/// The text before the rows, the rows, and the text after them.
fn parts(text: &str) -> (String, Vec<String>, String) {
    let (before, rest) = text.split_once("|---|---|---|---|---|\n").expect("the document has the table");
    let (table, after) = rest.split_once("\n\n").expect("text follows the table");
    let rows = table.lines().map(str::to_owned).collect();
    (format!("{before}|---|---|---|---|---|\n"), rows, format!("\n\n{after}"))
}

#[test]
fn clients_of_java_rust_python_and_node_place_keys_as_documented() {
    let (_, documented, _) = parts(&std::fs::read_to_string(document()).unwrap());
    for row in rows(&[Language::Java, Language::Rust, Language::Python, Language::Node]) {
        assert!(documented.contains(&row), "not in deploy/docs/partitioners.md: {row}");
    }
}

#[test]
#[ignore = "needs the clients of Go: tests/interop/partitioners/run"]
fn every_client_places_keys_as_documented() {
    use Language::{Go, Java, Node, Python, Rust};
    let rows = rows(&[Java, Rust, Python, Node, Go]);
    println!("librdkafka {}, of 1,000 keys:\n{}", get_rdkafka_version().1, rows.join("\n"));
    let (before, documented, after) = parts(&std::fs::read_to_string(document()).unwrap());
    if renewing() {
        std::fs::write(document(), before + &rows.join("\n") + &after).unwrap();
    } else {
        assert_eq!(documented, rows);
    }
}
