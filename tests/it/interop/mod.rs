//! The examples in other languages, run against real brokers: each attribute, key, header and byte of data that a
//! bridge published, as their clients and SDKs read it; and consumers that are killed at every step.
//!
//! `tests/interop/run` runs all of them and writes `deploy/docs/interop.md`.

mod bus;
mod compare;
pub mod consumer;
mod inbox;
mod json;
mod kill;
pub mod languages;
mod matrix;
mod message;
mod no_code;
mod published;
mod readme;

use std::collections::BTreeSet;
use std::fs;
use std::time::Instant;

use bus::Kind;
use consumer::Consumer;
use languages::Language;
use message::Mode;

/// Lets the consumers of a language read everything; fails unless exactly the losses of its table are seen.
fn reads_everything(language: &Language) {
    let (mut seen, mut expected) = (Vec::new(), Vec::new());
    for kind in Kind::ALL {
        let published = published::shared(kind);
        let mut consumer = Consumer::new(language, kind, &published.bus);
        consumer.begin();
        consumer.until_done();
        consumer.stop();
        let lost = compare::compare(published, &consumer.inbox.tables());
        for mode in Mode::ALL {
            let row = |lost: BTreeSet<String>| (kind.name(), mode.name(), lost);
            seen.push(row(lost[&mode].clone()));
            expected.push(row((language.lost)(kind, mode).iter().map(|words| (*words).to_owned()).collect()));
        }
    }
    assert_eq!(seen, expected, "{}", language.name);
}

/// The tests of one language, with an attribute for each.
macro_rules! language {
    ($folder:ident $(, #[$attribute:meta])?) => {
        mod $folder {
            use super::{Kind, kill, languages, reads_everything, readme};

            #[test]
            $(#[$attribute])?
            fn reads_everything_in_both_modes_on_both_buses() {
                reads_everything(languages::of_folder(stringify!($folder)));
            }

            #[test]
            $(#[$attribute])?
            fn runs_by_the_commands_of_its_readme() {
                readme::runs(languages::of_folder(stringify!($folder)));
            }

            #[test]
            $(#[$attribute])?
            fn killed_at_every_step_on_kafka_handles_each_event_once() {
                kill::survives_kills(languages::of_folder(stringify!($folder)), Kind::Kafka);
            }

            #[test]
            $(#[$attribute])?
            fn killed_at_every_step_on_nats_handles_each_event_once() {
                kill::survives_kills(languages::of_folder(stringify!($folder)), Kind::Nats);
            }
        }
    };
}

language!(python);
language!(typescript);
language!(go);
language!(java, #[ignore = "full tier: fetches and compiles for minutes"]);
language!(rust, #[ignore = "full tier: fetches and compiles for minutes"]);

#[test]
fn typescript_passes_its_type_check() {
    let output = consumer::run("npm run check", &consumer::install(languages::of_folder("typescript")));
    assert!(output.status.success(), "{output:?}");
}

/// The command `tests/interop/run`.
#[test]
#[ignore = "run by tests/interop/run"]
fn command() {
    // Words that choose languages, for those who work on one.
    let chosen = std::env::var("ATTIO_BRIDGE_INTEROP").unwrap_or_default();
    let is_chosen =
        |language: &&Language| chosen.is_empty() || chosen.split(' ').any(|folder| folder == language.folder);
    for language in languages::ALL.into_iter().filter(is_chosen) {
        let begun = Instant::now();
        reads_everything(language);
        println!("{}: as expected, in {:.0?}", language.name, begun.elapsed());
    }
    fs::write(matrix::path(), matrix::page()).expect("the page is written");
    print!("{}", matrix::table());
}
