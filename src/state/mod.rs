//! `state`: topics with the newest state of each entity, for what Attio's events hold ids of.
//!
//! [`run::Run`] follows the bridge's own topics: a [`notice`] says which entity an event is about, [`settle`] collects
//! the events of an entity for a moment, [`crate::attio::entities`] reads it, [`envelope`] makes the state, and
//! [`crate::bus::state`] publishes it and marks the events as done. There it says why the newest state is last.
//!
//! # Why no change is lost
//!
//! An event is marked as done only with a state that is true at the event's receipt or later: one read whose answer is
//! accurate then (an earlier one is read again), or a tombstone. Until then the event stays open, whatever happens to
//! the process, and is taken again.

pub mod backfill;
pub mod diff;
pub mod envelope;
mod known;
pub mod metrics;
pub mod names;
pub mod notice;
mod read;
pub mod run;
mod settle;
pub mod stored;
pub mod targets;
mod warnings;
pub mod writing;

use std::sync::Arc;
use std::time::Duration;

use crate::attio::entities::Kind;
use crate::bus::state::{Needs, Role, StateError, Writer};
use crate::catalog::Category;
use crate::pipeline::publish::Destination;
use crate::pipeline::route::Routes;

/// Why a verb of `state` ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Bus(#[from] StateError),
    /// What to grant.
    #[error("{0}")]
    Denied(String),
    /// Attio answers 404 for what was to be gone through.
    #[error("{0}")]
    Missing(String),
    #[error("{0}")]
    Setup(String),
}

/// `[state]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The first part of every address.
    pub prefix: String,
    /// Objects, by slug or id, whose records are kept; all if there are none.
    pub objects: Vec<String>,
    /// Lists whose entries are kept, likewise.
    pub lists: Vec<String>,
    pub notes: bool,
    pub tasks: bool,
    pub comments: bool,
    /// The consumer group or durable consumer, and the transactional id.
    pub group: String,
    /// The stream on NATS.
    pub stream: String,
    /// How long the changes of one entity are collected.
    pub settle: Duration,
    /// Most requests to Attio in any one second.
    pub reads_per_second: u32,
    /// `host:port` of /livez, /readyz and /metrics.
    pub listen: String,
}

impl Options {
    /// What is kept.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> + '_ {
        Kind::ALL.into_iter().filter(|kind| match kind {
            Kind::Record | Kind::ListEntry => true,
            Kind::Note => self.notes,
            Kind::Task => self.tasks,
            Kind::Comment => self.comments,
        })
    }

    /// The topic of a kind, or the first part of its subjects.
    pub fn address(&self, kind: Kind) -> Arc<str> {
        [&self.prefix, ".", kind.as_str()].concat().into()
    }

    pub fn addresses(&self) -> Vec<Arc<str>> {
        self.kinds().map(|kind| self.address(kind)).collect()
    }

    /// Where the state of an entity goes.
    pub fn destination(&self, kind: Kind, id: &str) -> Arc<Destination> {
        let address = self.address(kind);
        Arc::new(Destination { subject: [&*address, ".", id].concat().into(), address })
    }

    pub fn writer(&self, role: Role) -> Writer {
        Writer {
            group: self.group.clone(),
            role,
            addresses: self.addresses(),
            prefix: self.prefix.clone(),
            stream: self.stream.clone(),
        }
    }

    /// What it needs of the bus, with events at these routes.
    pub fn needs(&self, routes: &Routes) -> Needs {
        let events = self.categories().flat_map(|category| routes.of_category(category.as_str()));
        Needs { writer: self.writer(Role::Run), events: events.collect() }
    }

    /// The categories of the events that are followed.
    fn categories(&self) -> impl Iterator<Item = Category> + '_ {
        self.kinds().filter_map(|kind| Category::parse(kind.as_str()))
    }
}
