//! The page `deploy/docs/interop.md`: what each client reads, from the table that the tests hold against real brokers.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::bus::Kind;
use super::languages::{ALL, Language};
use super::message::Mode;

const INTRODUCTION: &str = "\
# Consumers in other languages

Each folder of [examples](../../examples) is a consumer for Kafka and one for NATS, with the CloudEvents SDK of its
language. `tests/interop/run` publishes every fixture through the bridge to a real Kafka and a real NATS in both content
modes, with repeats, unusual JSON and messages that are no event, runs every example, and compares each attribute, key,
header and byte of `data` with what is on the bus. It fails unless exactly the losses below are seen, and writes this page.

Whatever the language:

- drop repeats by `source` and `id`, in the transaction that does the work, and acknowledge after it;
- a message that cannot be read is set aside, not retried for ever. SDKs of several languages invent a random `id` for an
  event without one, so check for it;
- compare times as instants: most SDKs write `time` in another form;
- to keep `data` byte for byte, publish with `bus.content_mode = \"binary\"`: `data` is the payload. In structured mode it
  is the last member of the JSON object, so its bytes stand between the first `,\"data\":` and the last `}`.

Each example is also killed (SIGKILL) on each bus: connected with nothing to read; while its work waits for the database;
after its work is done and before the acknowledgement reaches the broker; after that; and at random under a stream of
events. It then handles every event once, and stops with exit code 0 on SIGTERM.

Without code, [Kafka Connect](../../examples/kafka-connect) and [Flink SQL](../../examples/flink-sql) are configured to write
every byte of what is on Kafka; their READMEs say which settings lose what, and a test runs both.

";

pub fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/docs/interop.md")
}

/// The page.
pub fn page() -> String {
    format!("{INTRODUCTION}{}\n{}", table(), notes())
}

/// The matrix alone.
pub fn table() -> String {
    let mut text =
        "| language | bus | client | CloudEvents SDK | mode | lost |\n|---|---|---|---|---|---|\n".to_owned();
    for language in ALL {
        for kind in Kind::ALL {
            for mode in Mode::ALL {
                text.push_str(&row(language, kind, mode));
            }
        }
    }
    text
}

fn row(language: &Language, kind: Kind, mode: Mode) -> String {
    let with_version = |package| format!("{package} {}", language.version(package));
    let (client, sdk) = (with_version(language.client(kind)), with_version(language.sdk));
    let lost = match (language.lost)(kind, mode) {
        [] => "nothing".to_owned(),
        lost => lost.join("; "),
    };
    format!("| {} | {} | {client} | {sdk} | {} | {lost} |\n", language.name, kind.name(), mode.name())
}

fn notes() -> String {
    let mut text = String::new();
    for language in ALL {
        let _ = writeln!(text, "**{}.** {}\n", language.name, language.note);
    }
    text.trim_end().to_owned() + "\n"
}

#[test]
fn page_is_that_of_the_table_and_the_lock_files() {
    let written = fs::read_to_string(path()).expect("the page is there");
    assert_eq!(written, page(), "run tests/interop/run, which writes it");
}
