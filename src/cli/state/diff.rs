//! `state diff`: compares what Attio holds with the state topics.

use clap::Args;
use serde_json::json;
use uuid::Uuid;

use super::writer::{self, Which, begin, write};
use crate::attio::entities::Kind;
use crate::bus::state::Role;
use crate::cli::output::{Counter, print, say, table};
use crate::cli::{Exit, Failure};
use crate::config::{self, Input};
use crate::state::diff::{self, Compared, Difference, Found};
use crate::state::targets::Scope;

const AFTER_HELP: &str = "\
It finds what events cannot tell: what was missed while a webhook was inactive, written without events, or deleted unseen. \
It reads everything from Attio and from the topics, and what differs once more after state.settle, so that `state run` may \
go on meanwhile. Exit code 0: nothing differs, or it was repaired; 3: something differs.

What is kept of an object or a list that the key may not see is named, and neither compared nor repaired: it may only be \
hidden, and a tombstone is for ever. --deleted-list says of a list that it was deleted.

Example: what did we lose in the outage?
  attio-bridge state diff
Example: publish what is missing or stale, and tombstones for what is left over
  attio-bridge state diff --repair
Example: tombstones for the entries of a list that was deleted
  attio-bridge state diff --repair --deleted-list LIST_ID";

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Publish the difference
    #[arg(long)]
    repair: bool,
    /// A list, by id, that was deleted: what is kept of it is left over; may be repeated
    #[arg(long, value_name = "ID", value_parser = list_id)]
    deleted_list: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The id of a list, as events and states have it.
fn list_id(text: &str) -> Result<String, String> {
    match Uuid::try_parse(text) {
        Ok(id) => Ok(id.to_string()),
        Err(_) => Err("not the id of a list, which is a UUID".to_owned()),
    }
}

pub fn run(input: &Input, arguments: &Arguments) -> Result<Exit, Failure> {
    writer::run(input, "interrupted", async |config| compare(config, arguments).await)
}

async fn compare(config: &config::State, arguments: &Arguments) -> Result<Exit, Failure> {
    let scope = Scope { deleted_lists: arguments.deleted_list.clone(), ..arguments.which.scope() };
    let (reading, targets) = begin(config, &scope).await?;
    let shown = Counter::new();
    let Compared { count: compared, found, hidden, mut failed } =
        diff::diff(&reading, &config.bus.kind, &targets, &scope, |rows| shown.add(rows)).await?;
    drop(shown);
    for ((kind, id), kept) in &hidden {
        say(hidden_line(*kind, id, *kept));
    }
    if arguments.json {
        print(format_args!("{:#}\n", found.iter().map(json).collect::<serde_json::Value>()));
    } else if !found.is_empty() {
        let row = |found: &Found| {
            let kind = found.entity.kind.as_str().to_owned();
            [kind, found.entity.id.to_string(), found.difference.as_str().to_owned()]
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
        failed += diff::repair(&writing, &scope, &found).await?;
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

/// What is said of states that are not compared.
fn hidden_line(kind: Kind, id: &str, kept: usize) -> String {
    let (owner, advice) = match kind {
        Kind::Record => ("object", String::new()),
        Kind::ListEntry => ("list", format!("; if it was deleted: --repair --deleted-list {id}")),
        Kind::Note | Kind::Task | Kind::Comment => ("object or list", String::new()),
    };
    let kind = kind.as_str();
    format!("{owner} {id}: ATTIO_API_KEY may not see it: {kept} states ({kind}) are left as they are{advice}")
}

fn json(found: &Found) -> serde_json::Value {
    json!({
        "kind": found.entity.kind.as_str(), "id": &*found.entity.id, "container": found.entity.container.as_deref(),
        "difference": found.difference.as_str(),
    })
}
