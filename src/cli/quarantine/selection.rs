//! Which pieces of quarantine a verb is about, and how they are found.

use std::collections::BTreeSet;

use clap::Args;
use time::OffsetDateTime;

use crate::bus;
use crate::bus::read::{Begin, Plan};
use crate::cli::reading::{Session, begin, moment, refuse};
use crate::cli::{Exit, fail, say};
use crate::cloudevent::decode::DecodedEvent;
use crate::consumer::quarantined::Quarantined;
use crate::pipeline::route::Routes;

/// What is wanted of quarantine.
#[derive(Args, Clone, Debug)]
pub struct Selection {
    /// Only what is here for these reasons, such as rejected_by_broker
    #[arg(long, value_name = "REASON", value_delimiter = ',')]
    reason: Vec<String>,
    /// Only what was received since: beginning, a time such as 2026-11-24T10:00:00Z, or how long ago, such as 2h
    #[arg(long, value_name = "WHEN", default_value = "beginning", value_parser = begin)]
    from: Begin,
    /// Only what was received before a time, or longer ago than
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    until: Option<OffsetDateTime>,
}

impl Selection {
    /// Everything.
    pub const ALL: Self = Self { reason: Vec::new(), from: Begin::Beginning, until: None };

    fn has(&self, piece: &Quarantined) -> bool {
        let since = match self.from {
            Begin::At(time) => piece.received_at >= time,
            Begin::Beginning | Begin::Now => true,
        };
        since
            && self.until.is_none_or(|until| piece.received_at < until)
            && (self.reason.is_empty() || self.reason.contains(&piece.reason))
    }

    /// Reads quarantine to its end: each piece once, in the order of receipt.
    pub async fn read(&self, session: &Session) -> Result<Vec<Quarantined>, Exit> {
        let Session { config, stop } = session;
        let destination = Routes::new(&config.route).quarantine().clone();
        let plan = Plan { destinations: vec![destination], begin: self.from, follow: false };
        let mut reader = bus::read(&config.bus.kind, plan).await.map_err(refuse)?;
        let (mut seen, mut pieces) = (BTreeSet::new(), Vec::new());
        let read = loop {
            let item = tokio::select! {
                () = stop.cancelled() => break Err(fail("interrupted")),
                item = reader.next() => item,
            };
            match item {
                None => break Ok(()),
                Some(Err(error)) => break Err(refuse(error)),
                Some(Ok(item)) => match DecodedEvent::from_message(&item.headers, &item.payload)
                    .ok()
                    .and_then(Quarantined::read)
                {
                    Some(piece) if self.has(&piece) && seen.insert(piece.id.clone()) => pieces.push(piece),
                    Some(_) => {}
                    None => say(format_args!(
                        "left out: {}, {}: nothing that the bridge has quarantined",
                        item.address, item.position
                    )),
                },
            }
        };
        reader.end().await;
        pieces.sort_by_key(|piece| piece.received_at);
        read.map(|()| pieces)
    }

    /// The same, and of that only these; each by its id or the beginning of it.
    pub async fn read_named(&self, session: &Session, ids: &[String]) -> Result<Vec<Quarantined>, Exit> {
        let pieces = self.read(session).await?;
        if ids.is_empty() {
            return Ok(pieces);
        }
        let mut named = Vec::with_capacity(ids.len());
        for id in ids {
            // As `list` shortens it.
            let id = id.trim_end_matches('…');
            let mut found = pieces.iter().filter(|piece| piece.id.starts_with(id));
            match (found.next(), found.next()) {
                (Some(piece), None) => named.push(piece.clone()),
                (Some(_), Some(_)) => {
                    return Err(fail(format_args!("several pieces begin with {id}: give more of the id")));
                }
                (None, _) => {
                    return Err(fail(format_args!(
                        "nothing in quarantine has the id {id}: see `quarantine list`"
                    )));
                }
            }
        }
        Ok(named)
    }
}
