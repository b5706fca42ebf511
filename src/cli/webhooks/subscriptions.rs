//! `--event` and `--filter`: what a webhook of the command line subscribes to.

use clap::Args;
use serde_json::Value as Json;

use super::{Failure, say};
use crate::attio::filter::{self, Resolver};
use crate::attio::{Client, Subscription};
use crate::catalog::{EVENT_TYPES, Kind};

/// What to subscribe to.
#[derive(Args)]
pub struct Subscribing {
    /// Event type, such as record.updated; may be given several times
    #[arg(long = "event", value_name = "TYPE")]
    events: Vec<String>,
    /// Filter of all these events, as JSON: Attio's own, or by slug as in {"list":"sales_pipeline"} or
    /// {"object":"deals","attribute":"stage"}; filters that differ stand in the configuration file
    #[arg(long, value_name = "JSON", value_parser = parsed)]
    filter: Option<Json>,
}

fn parsed(text: &str) -> Result<Json, String> {
    let json: Json = serde_json::from_str(text).map_err(|error| format!("expects JSON: {error}"))?;
    filter::parse(&json).map(|_| json)
}

impl Subscribing {
    /// Whether there is none.
    pub fn are_absent(&self) -> bool {
        self.events.is_empty() && self.filter.is_none()
    }

    /// The subscriptions as Attio takes them. A type that this build does not know is said and passed on.
    pub async fn resolve(&self, client: &Client) -> Result<Vec<Subscription>, Failure> {
        if self.events.is_empty() {
            return Err(Failure::Usage("say with --event what to subscribe to".into()));
        }
        if let Some(twice) =
            self.events.iter().enumerate().find(|(at, one)| self.events[..*at].contains(*one))
        {
            return Err(Failure::Usage(format!("--event {} is there twice", twice.1)));
        }
        let mut resolver = Resolver::new(client);
        let mut all = Vec::new();
        for event_type in &self.events {
            if !matches!(Kind::of(event_type), Kind::Known(_)) {
                let known = EVENT_TYPES.iter().map(|entry| entry.name);
                let nearest = known.max_by(|a, b| {
                    let likeness = |name: &&str| strsim::jaro_winkler(name, event_type);
                    likeness(a).total_cmp(&likeness(b))
                });
                let nearest = nearest.unwrap_or_default();
                say(format_args!(
                    "warning: {event_type:?} is no event type that this build knows (nearest: {nearest}); \
                     it is passed on"
                ));
            }
            let wanted = Subscription { event_type: event_type.clone(), filter: self.filter.clone() };
            all.push(resolver.resolve(&wanted).await?);
        }
        Ok(all)
    }
}
