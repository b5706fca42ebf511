//! Which records of the quarantine a verb works on.

use clap::Args;
use clap::builder::PossibleValuesParser;
use time::OffsetDateTime;

use crate::bus::read::Begin;
use crate::cli::bus_session::{Session, fail_read};
use crate::cli::parsers::{begin, moment};
use crate::cli::{Exit, fail, say};
use crate::consumer::quarantine::{Bodies, Entry, QuarantineError, QuarantineReader, REASONS, Stored};
use crate::pipeline::route::Routes;
use crate::printable::line;

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
    /// Every record.
    pub const ALL: Self = Self { reason: Vec::new(), from: None, until: None };

    /// Whether it has no filter.
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
    pub async fn entries(&self, session: &Session) -> Result<Vec<Stored>, Exit> {
        let skipped = |item: &crate::bus::read::Item| {
            let address = line(&item.address);
            say(format_args!("skipped {address}, {}: not a quarantine record", item.position));
        };
        reader(session)
            .entries(self.from.unwrap_or(Begin::Beginning), |entry| self.matches(entry), skipped)
            .await
            .map_err(failed)
    }

    /// Those of the selected entries with these ids, each given in full or by its first characters; without ids
    /// all of them.
    pub async fn named(&self, session: &Session, ids: &[String]) -> Result<Vec<Stored>, Exit> {
        let entries = self.entries(session).await?;
        if ids.is_empty() {
            return Ok(entries);
        }
        let find = |id: &String| {
            // `list` shortens ids so.
            let id = id.trim_end_matches('…');
            let mut found = entries.iter().filter(|stored| stored.entry.id.starts_with(id));
            match (found.next(), found.next()) {
                (Some(stored), None) => Ok(stored.clone()),
                (Some(_), Some(_)) => {
                    Err(fail(format_args!("several ids begin with {id}: give more characters")))
                }
                (None, _) => {
                    Err(fail(format_args!("no record in quarantine has the id {id}: see `quarantine list`")))
                }
            }
        };
        ids.iter().map(find).collect()
    }

    /// The bodies of [`Self::named`], and how many.
    pub async fn bodies(&self, session: &Session, ids: &[String]) -> Result<(Bodies, usize), Exit> {
        let entries = self.named(session, ids).await?;
        let count = entries.len();
        Ok((reader(session).bodies(entries), count))
    }
}

fn reason() -> PossibleValuesParser {
    PossibleValuesParser::new(REASONS.map(|(reason, _)| reason))
}

fn reader(Session { config, stop }: &Session) -> QuarantineReader {
    let destination = Routes::new(&config.route).quarantine().clone();
    QuarantineReader { bus: config.bus.kind.clone(), destination, stop: stop.clone() }
}

/// Prints why the quarantine cannot be read.
pub fn failed(error: QuarantineError) -> Exit {
    match error {
        QuarantineError::Read(error) => fail_read(error),
        QuarantineError::Interrupted | QuarantineError::Gone(_) => fail(error),
    }
}
