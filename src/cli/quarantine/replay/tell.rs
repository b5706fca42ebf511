//! What became of what was replayed, as it is told.

use std::collections::BTreeMap;

use serde_json::json;

use super::Arguments;
use super::load::Load;
use crate::cli::{Exit, reading, say};
use crate::consumer::line::safe;
use crate::consumer::replay::{Ending, Replayed};

/// What became of one, as text or JSON.
pub(super) fn show(load: &Load, replayed: &Replayed, arguments: &Arguments) -> String {
    if arguments.json {
        let mut value = json!(replayed);
        value["id"] = json!(load.name);
        value["reason"] = json!(load.reason);
        value["dry_run"] = json!(arguments.dry_run);
        return format!("{value}\n");
    }
    let paint = reading::paint();
    let word = replayed.ending.word();
    let word = match replayed.ending {
        Ending::Failed | Ending::Refused | Ending::Unplaced => paint.bad(word),
        Ending::Published if arguments.dry_run => paint.good("would be published"),
        Ending::Published => paint.good(word),
        Ending::Duplicate | Ending::Filtered | Ending::Empty => paint.known(word),
    };
    let why = replayed.why.as_deref().map(|why| format!(": {}", safe(why))).unwrap_or_default();
    let mut out = format!("{} {} {word}{why}\n", safe(&load.name), paint.dim(&safe(&load.reason)));
    if matches!(replayed.ending, Ending::Published) {
        for event in &replayed.events {
            out += &format!("  {} {} {}\n", safe(&event.address), event.kind, event.id);
        }
    }
    out
}

/// Says what became of all, and how that ends the verb.
pub(super) fn conclude(
    sums: &BTreeMap<Ending, usize>,
    of: usize,
    without_identity: usize,
    dry_run: bool,
) -> Exit {
    let words: Vec<_> = sums.iter().map(|(ending, count)| format!("{} {count}", ending.word())).collect();
    let dry = if dry_run { " (dry run: nothing was published)" } else { "" };
    say(format_args!("{} of {of} tried{dry}: {}", sums.values().sum::<usize>(), words.join(", ")));
    if without_identity > 0 {
        say(format_args!(
            "{without_identity} came without an Idempotency-Key, so their ids are random: the next replay publishes them again"
        ));
    }
    let some = |endings: &[Ending]| endings.iter().any(|ending| sums.contains_key(ending));
    if some(&[Ending::Failed]) {
        Exit::Failed
    } else if some(&[Ending::Refused, Ending::Unplaced]) {
        say("what was refused stays in quarantine");
        Exit::Unexpected
    } else {
        Exit::Done
    }
}
