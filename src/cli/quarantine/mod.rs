//! `quarantine`: lists, shows, exports and replays what is in the dead-letter topic.

mod inspect;
mod replay;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use time::OffsetDateTime;

use super::arguments::{begin, moment};
use super::{BusSession, Exit, Failure, say, with_bus};
use crate::bus::read::Begin;
use crate::config::Input;
use crate::consumer::quarantine::{Bodies, Entry, QuarantineReader, REASONS, Stored};
use crate::pipeline::route::Routes;
use crate::printable::line;

const AFTER_HELP: &str = "\
Example: what is quarantined and why, and a replay once the cause is fixed
  attio-bridge quarantine list --from 24h
  attio-bridge quarantine show 9d5ee6c0
  attio-bridge quarantine replay 9d5ee6c0 --dry-run
  attio-bridge quarantine replay 9d5ee6c0";

const NOTHING: &str = "no quarantined events";

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// List what is in quarantine, and why
    List(inspect::ListArguments),
    /// Show one record: its raw body, why it was quarantined, and what to do about it
    Show(inspect::ShowArguments),
    /// Write records to files: the raw body, and all metadata
    Export(inspect::ExportArguments),
    /// Process records again, under the ids that their events would have had
    Replay(replay::Arguments),
}

pub fn run(input: &Input, arguments: &Arguments) -> Result<Exit, Failure> {
    with_bus(input, async |session| match &arguments.verb {
        Verb::List(arguments) => inspect::list(session, arguments).await,
        Verb::Show(arguments) => inspect::show(session, arguments).await,
        Verb::Export(arguments) => inspect::export(session, arguments).await,
        Verb::Replay(arguments) => replay::run(session, arguments).await,
    })
}

/// Filters on records.
#[derive(Args, Clone, Debug)]
pub struct Selection {
    /// Only records with these reasons, such as rejected_by_broker
    #[arg(long, value_name = "REASON", value_delimiter = ',', value_parser = reason())]
    reason: Vec<String>,
    /// Only records received since: beginning, a time such as 2026-11-24T10:00:00Z, or an age such as 2h
    /// [default: beginning]
    #[arg(long, value_name = "WHEN", value_parser = begin)]
    from: Option<Begin>,
    /// Only records received before a time, or older than an age
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    until: Option<OffsetDateTime>,
}

impl Selection {
    pub const ALL: Self = Self { reason: Vec::new(), from: None, until: None };

    pub fn is_all(&self) -> bool {
        self.reason.is_empty() && self.from.is_none() && self.until.is_none()
    }

    fn matches(&self, entry: &Entry) -> bool {
        let since = match self.from {
            Some(Begin::At(time)) => entry.received_at >= time,
            None | Some(Begin::Beginning | Begin::Now) => true,
        };
        since
            && self.until.is_none_or(|until| entry.received_at < until)
            && (self.reason.is_empty() || self.reason.contains(&entry.reason))
    }

    /// The selected entries, in the order of receipt.
    pub async fn entries(&self, session: &BusSession) -> Result<Vec<Stored>, Failure> {
        let skipped = |item: &crate::bus::read::Item| {
            let address = line(&item.address);
            say(format_args!("skipped {address}, {}: not a quarantine record", item.position));
        };
        let begin = self.from.unwrap_or(Begin::Beginning);
        Ok(reader(session).entries(begin, |entry| self.matches(entry), skipped).await?)
    }

    /// The bodies of those of the selected entries with these ids, each given in full or by its first characters;
    /// without ids all of them. And how many.
    pub async fn bodies(&self, session: &BusSession, ids: &[String]) -> Result<(Bodies, usize), Failure> {
        let mut entries = self.entries(session).await?;
        let find = |id: &String| {
            // `list` shortens ids so.
            let id = id.trim_end_matches('…');
            let mut found = entries.iter().filter(|stored| stored.entry.id.starts_with(id));
            match (found.next(), found.next()) {
                (Some(stored), None) => Ok(stored.clone()),
                (Some(_), Some(_)) => Err(format!("several ids begin with {id}: give more characters")),
                (None, _) => Err(format!("no record in quarantine has the id {id}: see `quarantine list`")),
            }
        };
        if !ids.is_empty() {
            entries = ids.iter().map(find).collect::<Result<_, _>>()?;
        }
        let count = entries.len();
        Ok((reader(session).bodies(entries), count))
    }
}

fn reason() -> PossibleValuesParser {
    PossibleValuesParser::new(REASONS.map(|(reason, _)| reason))
}

fn reader(BusSession { config, stop }: &BusSession) -> QuarantineReader {
    let destination = Routes::new(&config.route).quarantine().clone();
    QuarantineReader { bus: config.bus.kind.clone(), destination, stop: stop.clone() }
}
