//! The bench: what a delivery costs, and how long it takes, beside the floor it stands on.
//!
//! `tests/bench/run` installs what it needs, builds it and runs it; `tests/bench/README.md` explains
//! the figures.

mod body;
mod direct;
mod instructions;
mod load;
mod observers;
mod others;
mod peer;
mod report;
mod residence;
mod row;
mod server;
mod stage;
mod suite;
#[path = "../it/support/mod.rs"]
#[allow(dead_code, unused_imports, clippy::unwrap_used, reason = "made for the tests")]
mod support;
mod targets;
mod usage;
mod work;

use std::process::ExitCode;
use std::time::Duration;

use others::{Others, Snapshot};
use report::Machine;
use stage::Stage;
use suite::Options;

/// The bridge's own, for the floor too: a ratio compares work and nothing else.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
        ["direct", task] => {
            let done = direct::run(&serde_json::from_str(task).expect("a task"));
            println!("{}", serde_json::to_string(&done).expect("figures are JSON"));
        }
        ["instructions"] => println!("{}", report::costs(&instructions::costs())),
        ["observers"] => observers::run(20, false),
        ["observers", "page"] => observers::run(60, true),
        ["load", port, events, connections, seconds] => {
            let number = |word: &str| word.parse::<usize>().expect("a number");
            load::alone(
                ([127, 0, 0, 1], number(port) as u16).into(),
                number(events),
                number(connections),
                Duration::from_secs(number(seconds) as u64),
            );
        }
        _ => match options(&words) {
            Some(options) => return all(&options),
            None => {
                eprintln!(
                    "usage: tests/bench/run [--quick] [--only SERVER,…] [--quiet-check] [--beside NAME=PROGRAM]… [--peer 'NAME=COMMAND']… | instructions | observers [page] | --help"
                );
                return ExitCode::from(2);
            }
        },
    }
    ExitCode::SUCCESS
}

/// How long `--quiet-check` looks before it starts anything.
const LOOK: Duration = Duration::from_secs(3);

fn options(words: &[&str]) -> Option<Options> {
    let mut options = Options::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--quick" => options.quick = true,
            "--only" => options.only = words.next()?.split(',').map(str::to_owned).collect(),
            "--quiet-check" => options.quiet_check = true,
            "--beside" => {
                let (name, program) = words.next()?.split_once('=')?;
                options.builds.push((name.to_owned(), std::path::absolute(program).ok()?));
            }
            "--peer" => match words.next()?.parse() {
                Ok(peer) => options.peers.push(peer),
                Err(error) => {
                    eprintln!("--peer: {error}");
                    return None;
                }
            },
            _ => return None,
        }
    }
    Some(options)
}

fn all(options: &Options) -> ExitCode {
    let mut machine = Machine::describe();
    let refuse = |others: &Others| {
        eprintln!("no figures: this machine is not quiet: {}", others.describe());
        ExitCode::FAILURE
    };
    if options.quiet_check {
        eprintln!("looking for {} s whether others use this machine", LOOK.as_secs());
        let before = Snapshot::take();
        std::thread::sleep(LOOK);
        let others = before.since();
        if !others.are_quiet() {
            return refuse(&others);
        }
    }
    let (rows, others) = suite::run(options);
    if options.quiet_check && !others.are_quiet() {
        return refuse(&others);
    }
    machine.others = others.describe();
    let mut targets = targets::of_rows(&rows);
    if options.wants("residence") {
        targets.extend(residence::run(options.quick));
    }
    let counted = !options.quick && options.only.is_empty();
    let costs = if counted { instructions::costs() } else { Vec::new() };
    targets.extend(targets::of_costs(&costs));
    report::write(&machine, &rows, &costs, &targets);
    ExitCode::SUCCESS
}
