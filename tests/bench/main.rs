//! The bench: what a delivery costs, and how long it takes, beside the floor it stands on.
//!
//! `tests/bench/run` installs what it needs, builds it and runs it; `tests/bench/README.md` explains
//! the figures.

mod body;
mod instructions;
mod load;
mod row;
mod server;
mod stage;
#[path = "../it/support/mod.rs"]
#[allow(dead_code, unused_imports, missing_docs, clippy::unwrap_used, reason = "made for the tests")]
mod support;
mod usage;
mod work;

use stage::Stage;
use std::process::ExitCode;

fn main() -> ExitCode {
    // cargo adds a word of its own.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["serve", stage, port] => {
            let port: u16 = port.parse().expect("a port");
            stage::serve(Stage::parse(stage).expect("a stage"), ([127, 0, 0, 1], port).into());
        }
        ["step", step, events, count] => {
            let events = events.parse().expect("a number of events");
            instructions::step(step, events, count.parse().expect("a number of deliveries"));
        }
        ["instructions"] => instructions::report(),
        _ => {
            eprintln!("usage: tests/bench/run --help");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
