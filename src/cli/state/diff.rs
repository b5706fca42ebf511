//! `state diff`: compares what Attio holds with the state topics.

use clap::Args;
use serde_json::json;

use super::writer::{self, Which, begin, write};
use crate::bus::state::Role;
use crate::cli::output::{Counter, print, say, table};
use crate::cli::{Exit, Failure};
use crate::config::{self, Input};
use crate::state::diff::{self, Compared, Difference, Found};

const AFTER_HELP: &str = "\
It finds what events cannot tell: what was missed while a webhook was inactive, written without events, or deleted unseen. \
It reads everything from Attio and from the topics, and what differs once more after state.settle, so that `state run` may \
go on meanwhile. Exit code 0: nothing differs, or it was repaired; 3: something differs.

Example: what did we lose in the outage?
  attio-bridge state diff
Example: publish what is missing or stale, and tombstones for what is left over
  attio-bridge state diff --repair";

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Publish the difference
    #[arg(long)]
    repair: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(input: &Input, arguments: &Arguments) -> Result<Exit, Failure> {
    writer::run(input, "interrupted", async |config| compare(config, arguments).await)
}

async fn compare(config: &config::State, arguments: &Arguments) -> Result<Exit, Failure> {
    let scope = arguments.which.scope();
    let (reading, targets) = begin(config, &scope).await?;
    let shown = Counter::new();
    let Compared { count: compared, found, mut failed } =
        diff::diff(&reading, &config.bus.kind, &targets, &scope, |rows| shown.add(rows)).await?;
    drop(shown);
    if arguments.json {
        print(format_args!("{:#}\n", found.iter().map(json).collect::<serde_json::Value>()));
    } else if !found.is_empty() {
        let row = |found: &Found| {
            let kind = found.entity.kind.as_str().to_owned();
            [kind, found.entity.id.clone(), found.difference.as_str().to_owned()]
        };
        print(table(["KIND", "ID", "DIFFERENCE"], &found.iter().map(row).collect::<Vec<_>>()));
    }
    let count = |difference| found.iter().filter(|found| found.difference == difference).count();
    let [missing, stale, left] = Difference::ALL.map(count);
    let all = found.len();
    say(format_args!(
        "{compared} entities compared, {all} differ: {missing} missing, {stale} stale, {left} left over"
    ));
    if arguments.repair && all > 0 {
        let writing = write(config, Role::Repair, reading).await?;
        failed += diff::repair(&writing, &found).await?;
        if failed == 0 {
            say("repaired");
        }
    }
    match failed {
        0 if all == 0 || arguments.repair => Ok(Exit::Done),
        0 => Ok(Exit::Unexpected),
        failed => Err(format!("{failed} entities could not be read or published, see above").into()),
    }
}

fn json(found: &Found) -> serde_json::Value {
    json!({
        "kind": found.entity.kind.as_str(), "id": found.entity.id, "container": found.entity.container,
        "difference": found.difference.as_str(),
    })
}
