//! The examples: how each is started, and what of an event does not come through.

use std::fs;
use std::path::{Path, PathBuf};

use super::bus::Kind;
use super::message::Mode;

/// One folder of `examples/`, with a README whose first block is three commands; the first one installs.
///
/// Its programs take what they consume from the variables that its README names, and know a killed predecessor as
/// dead within about 10 seconds: a session timeout of 6 s on Kafka, an ack wait of 10 s on NATS.
pub struct Language {
    pub name: &'static str,
    /// Below `examples/`; also the name of its consumer group and durable consumer.
    pub folder: &'static str,
    pub kafka: &'static [&'static str],
    pub nats: &'static [&'static str],
    pub kafka_client: &'static str,
    pub nats_client: &'static str,
    pub sdk: &'static str,
    /// The file that pins their versions.
    pub lock: &'static str,
    /// What is lost, in the words of [`super::compare`].
    pub lost: fn(Kind, Mode) -> &'static [&'static str],
    /// What a consumer in this language should know, for the page.
    pub note: &'static str,
}

const PYTHON: Language = Language {
    name: "Python",
    folder: "python",
    kafka: &[".venv/bin/python", "kafka_consumer.py"],
    nats: &[".venv/bin/python", "nats_consumer.py"],
    kafka_client: "confluent-kafka",
    nats_client: "nats-py",
    sdk: "cloudevents",
    lock: "requirements.txt",
    lost: |_, mode| match mode {
        Mode::Structured => &[
            "`-0` becomes `0`",
            "`0.1234567890123456789012345` becomes `0.12345678901234568`",
            "`12.340` becomes `12.34`",
            "`1E400` becomes `Infinity`, which is no JSON",
            "`1e2` becomes `100.0`",
            "all but the last of members with one name",
            "the form of `time`, which is the same instant",
            "white space and escapes of `data`",
        ],
        Mode::Binary => &["the form of `time`, which is the same instant"],
    },
    note: "The SDK parses `data` in both modes; the example keeps the payload in binary mode, and in structured mode \
           writes what the SDK parsed. `time` is a `datetime`. An event without `id` gets a random one and the time of \
           reading, unless the event factory refuses it. In binary mode of Kafka the SDK decodes headers as UTF-8 text.",
};

const TYPESCRIPT: Language = Language {
    name: "TypeScript",
    folder: "typescript",
    kafka: &["node", "kafka.ts"],
    nats: &["node", "nats.ts"],
    kafka_client: "kafkajs",
    nats_client: "@nats-io/jetstream",
    sdk: "cloudevents",
    lock: "package-lock.json",
    lost: |_, mode| match mode {
        Mode::Structured => &[
            "`-0` becomes `0`",
            "`0.1234567890123456789012345` becomes `0.12345678901234568`",
            "`12.340` becomes `12.34`",
            "`123456789012345678901234567890` becomes `1.2345678901234568e+29`",
            "`18446744073709551615` becomes `18446744073709552000`",
            "`1E400` becomes `null`",
            "`1e2` becomes `100`",
            "`9007199254740993` becomes `9007199254740992`",
            "all but the last of members with one name",
            "the order of members",
            "white space and escapes of `data`",
        ],
        Mode::Binary => &[],
    },
    note: "The order of members is lost only where names are whole numbers, which JavaScript puts first. `Kafka.toEvent` \
           expects headers and value as texts, where the client has bytes; for NATS, `HTTP.toEvent` reads both modes. Header \
           names are case-sensitive in the NATS client. A structured event without `id` gets a random one.",
};

const GO: Language = Language {
    name: "Go",
    folder: "go",
    kafka: &["bin/kafka"],
    nats: &["bin/nats"],
    kafka_client: "github.com/twmb/franz-go",
    nats_client: "github.com/nats-io/nats.go",
    sdk: "github.com/cloudevents/sdk-go/v2",
    lock: "go.mod",
    lost: |_, _| &["the form of `time`, which is the same instant"],
    note: "The example gives the SDK the attributes alone and keeps the bytes of `data` itself: the SDK cuts `data` at a \
           number beyond 64 bits, such as `1E400`. The SDK writes `time` without trailing zeros.",
};

const JAVA: Language = Language {
    name: "Java",
    folder: "java",
    kafka: &["java", "-cp", "target/classes:target/lib/*", "example.Kafka"],
    nats: &["java", "-cp", "target/classes:target/lib/*", "example.Nats"],
    kafka_client: "kafka-clients",
    nats_client: "jnats",
    sdk: "cloudevents-kafka",
    lock: "pom.xml",
    lost: |_, _| &["the form of `time`, which is the same instant"],
    note: "In structured mode the example takes the bytes of `data` from the message: `getData()` is written again, with \
           numbers changed and repeated members dropped. The SDK has no binding for NATS; the example has one.",
};

const RUST: Language = Language {
    name: "Rust",
    folder: "rust",
    kafka: &["target/debug/kafka"],
    nats: &["target/debug/nats"],
    kafka_client: "rdkafka",
    nats_client: "async-nats",
    sdk: "cloudevents-sdk",
    lock: "Cargo.lock",
    lost: |_, _| &["the form of `time`, which is the same instant"],
    note: "The example gives the SDK the attributes alone and keeps the bytes of `data` itself: the SDK refuses `1E400`, \
           rounds long numbers and sorts members. Its own bindings are for older clients.",
};

pub const ALL: [&Language; 5] = [&PYTHON, &TYPESCRIPT, &GO, &JAVA, &RUST];

pub fn of_folder(folder: &str) -> &'static Language {
    ALL.into_iter().find(|language| language.folder == folder).expect("a language of the table")
}

impl Language {
    /// Its folder in this repository.
    pub fn source(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(self.folder)
    }

    /// The program for a bus, with its arguments.
    pub fn program(&self, kind: Kind) -> &'static [&'static str] {
        match kind {
            Kind::Kafka => self.kafka,
            Kind::Nats => self.nats,
        }
    }

    pub fn client(&self, kind: Kind) -> &'static str {
        match kind {
            Kind::Kafka => self.kafka_client,
            Kind::Nats => self.nats_client,
        }
    }

    /// The version of a package in the lock file.
    pub fn version(&self, package: &str) -> String {
        let lock = fs::read_to_string(self.source().join(self.lock)).expect("the lock file can be read");
        let version = match self.lock {
            "requirements.txt" => {
                after(&lock, &format!("\n{package}==")).or_else(|| after(&lock, &format!("{package}==")))
            }
            "package-lock.json" => {
                after(&lock, &format!("\"node_modules/{package}\": {{\n      \"version\": \""))
            }
            "go.mod" => after(&lock, &format!("{package} v")),
            "Cargo.lock" => after(&lock, &format!("name = \"{package}\"\nversion = \"")),
            "pom.xml" => {
                let dependency = lock.split(&format!("<artifactId>{package}</artifactId>")).nth(1);
                dependency.and_then(|rest| after(rest, "<version>"))
            }
            other => panic!("{other}: a kind of lock file that is not known"),
        };
        version.unwrap_or_else(|| panic!("{package} is not in {}", self.lock))
    }
}

/// The version that stands after the first occurrence of a text.
fn after(text: &str, before: &str) -> Option<String> {
    let (_, rest) = text.split_once(before)?;
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "._-+".contains(c))).unwrap_or(rest.len());
    Some(rest[..end].to_owned())
}
