//! `[state]`: the topics with the newest state of each entity.

use std::time::Duration;

use super::HOUR;
use super::{http, route};
use crate::config::kinds::{Boolean, Form, Integer, List, Pattern, TimeSpan};
use crate::config::section::{Section, keys};
use crate::pipeline::route::Routes;
use crate::state::Options;

const GROUP: Pattern = Pattern {
    expects: "letters, digits, _ and -, 100 characters at most",
    regex: r"^[A-Za-z0-9_-]{1,100}$",
    accepts: |text| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        (1..=100).contains(&text.len()) && text.bytes().all(fits)
    },
};

keys! {
    State => Options {
        /// First part of every address: <prefix>.record, <prefix>.list-entry and so on.
        prefix: Form(&route::ADDRESS) = "attio-state";
        /// Objects whose records are kept, by slug or id; all, if empty.
        objects: List = "";
        /// Lists whose entries are kept, by slug or id; all, if empty.
        lists: List = "";
        /// Whether notes are kept.
        notes: Boolean = "false";
        /// Whether tasks are kept.
        tasks: Boolean = "false";
        /// Whether comments are kept.
        comments: Boolean = "false";
        /// Consumer group (Kafka) or durable consumer (NATS) of `state run`, and its transactional id.
        group: Form(&GROUP) = "attio-bridge-state";
        /// JetStream stream of the states, on NATS.
        stream: Form(&GROUP) = "ATTIO_STATE";
        /// How long the changes of one entity are collected before it is read. Deletes and merges do not wait.
        settle: TimeSpan(Duration::ZERO..=HOUR) = "5s";
        /// Most requests to Attio in any one second. Attio allows 100 for everything that a workspace runs.
        reads_per_second: Integer<u32>(1..=100) = "50";
        /// Address of /livez, /readyz and /metrics of `state run`, host:port.
        listen: Form(&http::ADDRESS) = "0.0.0.0:8082";
    }
}

/// The options; `routes` are the addresses of the events, which must be others.
pub fn state(section: &mut Section<'_>, routes: &Routes) -> Options {
    let options = State::read(section);
    let is_below = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let states = crate::attio::entities::Kind::ALL.map(|kind| options.address(kind));
    let taken = states.iter().find_map(|state| {
        let clashes = |events: &&std::sync::Arc<str>| is_below(state, events) || is_below(events, state);
        Some((state, routes.addresses().iter().find(clashes)?.clone()))
    });
    if let Some((state, events)) = taken {
        section
            .refuse("prefix", format!("{state} and {events}, where events go, clash; choose another prefix"));
    }
    options
}
