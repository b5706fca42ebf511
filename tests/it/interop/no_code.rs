//! The examples without code, Kafka Connect and Flink SQL: what their files hold of the messages on Kafka.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::bus::Kind;
use super::consumer::run;
use super::message::{Message, Mode};
use super::published;
use crate::support::watched::Watched;

/// Where the examples expect a broker, and where Connect's own listener is.
const BROKER: &str = "127.0.0.1:9092";
const CONNECT: &str = "127.0.0.1:8083";

/// Long enough for a JVM with a mini cluster on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// A copy of an example that runs by the commands of its README.
struct Example {
    folder: PathBuf,
    process: Watched,
    _data: TempDir,
}

impl Example {
    fn start(name: &str, broker: &str) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let folder = data.path().join(name);
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name), &folder, broker);
        let readme = fs::read_to_string(folder.join("README.md")).expect("the README can be read");
        let block = readme.split("```sh\n").nth(1).and_then(|rest| rest.split("\n```").next());
        let commands: Vec<_> = block.expect("it has commands").lines().collect();
        let [install, _, consume] = commands[..] else { panic!("three commands, not {commands:?}") };
        let output = run(install, &folder);
        assert!(output.status.success(), "{install}: {output:?}");
        let mut command = Command::new("env");
        command.arg("-C").arg(&folder).args(["sh", "-c", &format!("exec env {consume}")]);
        let process = Watched::start(&command, data.path());
        Self { folder, process, _data: data }
    }

    /// Waits until a text is found in what it wrote.
    fn until(&mut self, what: &str, mut holds: impl FnMut(&Path) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(&self.folder.join("target")) {
            let log = || fs::read_to_string(self._data.path().join("output.log")).unwrap_or_default();
            assert!(self.process.ended().is_none(), "it ended, and not: {what}\n{}", log());
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}\n{}", log());
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

/// Copies files and folders, but for what an installation made.
fn copy(from: &Path, to: &Path, broker: &str) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("the example can be read") {
        let path = entry.expect("an entry").path();
        let to = to.join(path.file_name().expect("a name"));
        if path.is_file() {
            let text = fs::read_to_string(&path).expect("text");
            fs::write(to, text.replace(BROKER, broker).replace(CONNECT, "127.0.0.1:0"))
                .expect("it is copied");
        } else if !path.ends_with("target") {
            copy(&path, &to, broker);
        }
    }
}

/// Everything in a file, or in the finished files of a folder.
fn written(path: &Path) -> Vec<u8> {
    if path.is_file() {
        return fs::read(path).expect("it can be read");
    }
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("part-")));
    files.sort();
    files.into_iter().flat_map(|file| fs::read(file).expect("it can be read")).collect()
}

/// Lines, of values that may hold line ends themselves, and what stands for a message without a value.
fn lines(messages: &[Message], without_value: &str) -> Vec<Vec<u8>> {
    let line = |message: &Message| match &message.value[..] {
        [] => without_value.into(),
        value => [value, b"\n"].concat(),
    };
    messages.iter().map(line).filter(|line| !line.is_empty()).collect()
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Waits until a file holds each message as it is and nothing else.
fn holds_every_byte(example: &mut Example, file: &str, lines: &[Vec<u8>]) {
    let length: usize = lines.iter().map(Vec::len).sum();
    example.until("all messages are written", |target| written(&target.join(file)).len() >= length);
    let written = written(&example.folder.join("target").join(file));
    for line in lines {
        assert!(contains(&written, line), "{}", String::from_utf8_lossy(line));
    }
    assert_eq!(written.len(), length);
}

/// Waits until a file holds the id of each structured event, written by `form`.
fn holds_every_id(example: &mut Example, file: &str, form: impl Fn(&str) -> String) {
    let published = published::shared(Kind::Kafka);
    let events = published.messages.iter().filter_map(|message| message.event.as_ref());
    let structured = events.filter(|event| event.mode == Mode::Structured);
    for id in structured.map(|event| form(&event.attributes["id"])) {
        example.until(&id, |target| contains(&written(&target.join(file)), id.as_bytes()));
    }
}

#[test]
#[ignore = "full tier: fetches Kafka Connect"]
fn kafka_connect_keeps_every_byte() {
    let published = published::shared(Kind::Kafka);
    let broker = published.bus.proxy.addr().to_string();
    let mut example = Example::start("kafka-connect", &broker);
    holds_every_byte(&mut example, "raw.jsonl", &lines(&published.messages, "null\n"));
    holds_every_id(&mut example, "json.txt", |id| format!("id={id}, "));
    assert!(!contains(&written(&example.folder.join("target/json.txt")), b"data="));
    example.until("a message that is no JSON is set aside", |_| {
        let mut read = Command::new("kcat");
        let read =
            read.args(["-C", "-e", "-q", "-b", &broker, "-t", "dlq.attio"]).output().expect("kcat runs");
        read.stdout == b"this is no event\n"
    });
    example.process.signal("TERM");
}

#[test]
#[ignore = "full tier: fetches Flink"]
fn flink_sql_keeps_every_byte() {
    let published = published::shared(Kind::Kafka);
    let mut example = Example::start("flink-sql", &published.bus.proxy.addr().to_string());
    holds_every_byte(&mut example, "raw", &lines(&published.messages, ""));
    holds_every_id(&mut example, "json", |id| format!(r#"{{"id":"{id}","type":"com.attio."#));
    example.process.signal("TERM");
}
