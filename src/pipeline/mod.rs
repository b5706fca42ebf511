//! The path of one delivery, in the order of the modules: [`Pipeline::handle`] calls them.
//!
//! Nothing here knows of HTTP or of a broker, and no stage imports another; they meet in the values
//! that `handle` passes from one to the next. The pipeline returns facts; what they mean for an
//! answer, a metric or a log line is the edge's business.

pub mod verify;
pub mod parse;
pub mod identify;
pub mod filter;
pub mod dedup;
pub mod slugs;
pub mod normalize;
pub mod route;
pub mod publish;
pub mod quarantine;
pub mod outcome;

mod carry;

use std::borrow::Cow;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;

use crate::catalog;
use crate::delivery::{Delivery, SourceName, Unverified, Verified};
use crate::metrics::{Metrics, PublishMetrics};
use dedup::Dedup;
use filter::Filter;
use outcome::Outcome;
use parse::{Element, Parsed};
use publish::Bus;
use route::Routes;
use slugs::Slugs;
use verify::{SignatureError, Verifier};

/// One configured source.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// Its name: path segment and metric label.
    pub name: SourceName,
    /// How it proves itself.
    pub verify: verify::Options,
    /// What is dropped on purpose.
    pub filter: filter::Options,
    /// The workspace, for bodies that name none.
    pub workspace_id: Option<String>,
}

/// One source, ready for deliveries.
struct Source {
    name: SourceName,
    /// Swapped whole when secrets change.
    verifier: ArcSwap<Verifier>,
    /// Swapped whole when slugs change.
    filter: ArcSwap<Filter>,
    workspace_id: Option<String>,
}

/// The data path of one bridge.
pub struct Pipeline {
    sources: HashMap<SourceName, Arc<Source>>,
    dedup: Dedup,
    routes: Routes,
    /// None where nobody asks for slugs.
    slugs: ArcSwapOption<Slugs>,
    bus: Arc<dyn Bus>,
    publish_metrics: HashMap<Arc<str>, Arc<PublishMetrics>>,
}

/// Events that are worked on before other deliveries get a turn: a body may hold tens of thousands.
const EVENTS_AT_A_STRETCH: usize = 64;

/// Gives other deliveries their turn before the event at this place, if it is time.
async fn give_way(at: usize) {
    if at % EVENTS_AT_A_STRETCH == EVENTS_AT_A_STRETCH - 1 {
        tokio::task::yield_now().await;
    }
}

/// Where an event that lay alone in quarantine was in its delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The webhook that fired.
    pub webhook_id: Option<String>,
    /// The place, from 0.
    pub index: usize,
}

/// Events with their places in their delivery, or something without one.
type Placed<'a> = Vec<(Option<usize>, Element<'a>)>;

/// The webhook, and what a body holds.
fn elements(body: &Bytes) -> (Option<Cow<'_, str>>, Placed<'_>) {
    match parse::parse(body) {
        Parsed::Events { webhook_id, elements } => {
            let placed = elements.into_iter().enumerate();
            (webhook_id, placed.map(|(index, element)| (Some(index), element)).collect())
        }
        Parsed::Unreadable(reason) => (None, vec![(None, Element::Unusable { raw: body.clone(), reason })]),
    }
}

/// Why a delivery has no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No source of that name is configured.
    #[error("no such source")]
    UnknownSource,
    /// It is not genuine.
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

impl Pipeline {
    /// Joins the stages.
    pub fn new(
        sources: &[SourceOptions],
        routes: Routes,
        dedup: Dedup,
        bus: Arc<dyn Bus>,
        metrics: &Metrics,
    ) -> Self {
        let source = |options: &SourceOptions| {
            let SourceOptions { name, verify, filter, workspace_id } = options;
            let source = Source {
                name: name.clone(),
                verifier: ArcSwap::from_pointee(Verifier::new(verify)),
                filter: ArcSwap::from_pointee(Filter::new(filter)),
                workspace_id: workspace_id.clone(),
            };
            (name.clone(), Arc::new(source))
        };
        let publish_metrics = |address: Arc<str>| (Arc::clone(&address), metrics.publish(&address));
        Self {
            sources: sources.iter().map(source).collect(),
            publish_metrics: routes.addresses().into_iter().map(publish_metrics).collect(),
            dedup,
            routes,
            slugs: ArcSwapOption::empty(),
            bus,
        }
    }

    /// The source of that name, as it stands in a path.
    pub fn source(&self, name: &str) -> Option<&SourceName> {
        self.sources.keys().find(|source| source.as_str() == name)
    }

    /// Puts other secrets in force for a source: from the next delivery on these count, and no others.
    pub fn set_secrets(&self, source: &SourceName, secrets: &[verify::Secret]) {
        if let Some(source) = self.sources.get(source) {
            let verifier = source.verifier.load().with_secrets(secrets);
            source.verifier.store(Arc::new(verifier));
        }
    }

    /// Puts other slugs in force: from the next event on these are written, and filters may name them.
    pub fn set_slugs(&self, slugs: &Arc<Slugs>) {
        self.slugs.store(Some(Arc::clone(slugs)));
        for source in self.sources.values() {
            let filter = source.filter.load().with_slugs(slugs);
            source.filter.store(Arc::new(filter));
        }
    }

    /// The walk of one delivery: verify, and then what [`Self::process_verified`] does.
    ///
    /// `received` hears the number of events as soon as it is known.
    pub async fn handle(
        &self,
        delivery: Delivery<Unverified>,
        received: impl FnOnce(usize),
    ) -> Result<Outcome, Rejection> {
        let source = self.sources.get(&delivery.source).ok_or(Rejection::UnknownSource)?;
        let delivery = source.verifier.load().verify(delivery)?;
        Ok(self.process(source, &delivery, received).await)
    }

    /// The walk of a delivery that is genuine: parse, then per event identify, filter, dedup, normalize,
    /// route, publish. Every event is on its way before the first ack is waited for.
    pub async fn process_verified(
        &self,
        delivery: Delivery<Verified>,
        received: impl FnOnce(usize),
    ) -> Result<Outcome, Rejection> {
        let source = self.sources.get(&delivery.source).ok_or(Rejection::UnknownSource)?;
        Ok(self.process(source, &delivery, received).await)
    }

    async fn process(
        &self,
        source: &Source,
        delivery: &Delivery<Verified>,
        received: impl FnOnce(usize),
    ) -> Outcome {
        let (webhook_id, elements) = elements(&delivery.body);
        received(elements.len());
        self.walk(source, delivery, webhook_id, elements, true).await
    }

    /// The same walk for what comes out of quarantine, alone or as a whole delivery: under the ids that
    /// its events had. What still can never be published is told as [`outcome::EventResult::Unusable`] or
    /// [`publish::PublishError::Rejected`], and not quarantined again.
    pub async fn replay(
        &self,
        delivery: Delivery<Verified>,
        alone: Option<Place>,
    ) -> Result<Outcome, Rejection> {
        let (webhook_id, elements) = match alone {
            Some(Place { webhook_id, index }) => {
                (webhook_id.map(Cow::Owned), vec![(Some(index), parse::parse_element(&delivery.body))])
            }
            None => elements(&delivery.body),
        };
        let source = self.sources.get(&delivery.source).ok_or(Rejection::UnknownSource)?;
        Ok(self.walk(source, &delivery, webhook_id, elements, false).await)
    }

    async fn walk(
        &self,
        source: &Source,
        delivery: &Delivery<Verified>,
        webhook_id: Option<Cow<'_, str>>,
        elements: Placed<'_>,
        quarantines: bool,
    ) -> Outcome {
        let carrier = carry::Carrier { pipeline: self, source, delivery, webhook_id, quarantines };
        let mut departed = Vec::with_capacity(elements.len());
        for (at, (place, element)) in elements.into_iter().enumerate() {
            give_way(at).await;
            departed.push(carrier.depart(place, element));
        }
        let mut due = pin!(tokio::time::sleep_until(delivery.answer_by));
        // The last is waited for first: once it has its ack most of the others have theirs, and this task
        // is woken once instead of for each of them.
        let mut arrived = Vec::with_capacity(departed.len());
        while let Some(departure) = departed.pop() {
            arrived.push(departure.arrive(due.as_mut()).await);
        }
        arrived.reverse();
        // What the broker will never take leaves again before any of it is waited for.
        for (at, departure) in arrived.iter_mut().enumerate() {
            give_way(at).await;
            carrier.depart_again(departure);
        }
        let mut events = Vec::with_capacity(arrived.len());
        let mut unidentified = 0;
        for departure in arrived {
            unidentified += usize::from(departure.unidentified);
            events.push(departure.conclude(due.as_mut()).await);
        }
        Outcome {
            events,
            unidentified,
            delivery_id: delivery.idempotency_key().map(str::to_owned),
            webhook_id: carrier.webhook_id.filter(|id| catalog::is_id(id)).map(Cow::into_owned),
            secret: Arc::clone(delivery.secret()),
        }
    }
}
