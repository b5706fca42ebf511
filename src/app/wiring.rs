//! Builds the pipeline of a configuration: its stages, their metrics, and the bus.

use std::sync::Arc;
use std::time::Duration;

use crate::bus::{self, StartError};
use crate::catalog::Category;
use crate::config::Config;
use crate::http_client::{self, HttpClient, NoAuthorities};
use crate::metrics::{Labels, Metrics};
use crate::pipeline::dedup::Dedup;
use crate::pipeline::outcome::{EventResult, Reason, UNKNOWN_CATEGORY};
use crate::pipeline::publish::{Bus, PublishError};
use crate::pipeline::route::Routes;
use crate::pipeline::{Pipeline, SourceOptions};
use crate::supervise::Supervisor;
use crate::traces::export::{Counters, Exporter};
use crate::traces::{Spans, Tracer};

/// The pipeline of a configuration onto the caller's bus, without listeners.
pub fn pipeline(config: &Config, bus: Arc<dyn Bus>) -> Pipeline {
    let (routes, metrics) = measured(config, bus.name());
    let dedup = Dedup::new(config.dedup, metrics.dedup());
    join(config, routes, dedup, bus, &metrics)
}

/// The pipeline of a configuration onto its own bus, without listeners. `around` may wrap the bus; the
/// supervisor reports when a part of the bus ends.
pub fn publisher(
    config: &Config,
    supervisor: &Supervisor,
    around: impl FnOnce(Arc<dyn Bus>) -> Arc<dyn Bus>,
) -> Result<Pipeline, StartError> {
    let (routes, metrics) = measured(config, config.bus.kind.name());
    let requirements = config.requirements();
    let bus = around(bus::start(config.bus.clone(), &requirements, metrics.bus(), supervisor)?.0);
    let dedup = Dedup::new(config.dedup, metrics.dedup());
    Ok(join(config, routes, dedup, bus, &metrics))
}

/// The destinations, and metrics with a label for each.
pub(super) fn measured(config: &Config, bus_name: &'static str) -> (Routes, Arc<Metrics>) {
    let routes = Routes::new(&config.route);
    let metrics = Metrics::new(labels(config, bus_name, &routes));
    (routes, metrics)
}

pub(super) fn join(
    config: &Config,
    routes: Routes,
    dedup: Dedup,
    bus: Arc<dyn Bus>,
    metrics: &Metrics,
) -> Pipeline {
    let pipeline = Pipeline::new(&config.sources, routes, dedup, bus, metrics)
        .with_schemas(config.schema_base_url.clone());
    if config.slugs_file.is_some() {
        pipeline.set_slugs(&config.slugs.clone().unwrap_or_default());
    }
    pipeline
}

/// The ends of a queue of spans, if there is an endpoint.
#[expect(clippy::type_complexity, reason = "taken apart at once")]
pub(super) fn traces(
    endpoint: Option<&str>,
    metrics: &Metrics,
) -> Result<Option<(Tracer, (Exporter, Spans))>, NoAuthorities> {
    let Some(endpoint) = endpoint else { return Ok(None) };
    let options = http_client::Options {
        timeout: Duration::from_secs(10),
        max_body_bytes: 64 * 1024,
        keep_alive: true,
    };
    let client = match endpoint.starts_with("https:") {
        true => HttpClient::new(options)?,
        false => HttpClient::plain(options),
    };
    let counters = Counters { exported: metrics.spans("exported"), failed: metrics.spans("failed") };
    let (tracer, spans) = Tracer::new(metrics.spans("dropped"));
    Ok(Some((tracer, (Exporter { client, endpoint: endpoint.to_owned(), counters }, spans))))
}

fn labels(config: &Config, bus: &'static str, routes: &Routes) -> Labels {
    let source = |source: &SourceOptions| {
        let secrets = source.verify.secrets.iter().map(|secret| secret.label.to_string());
        (source.name.to_string(), secrets.collect())
    };
    let refused = Reason::ALL.into_iter().filter(|reason| reason.is_of_signature()).map(Reason::slug);
    Labels {
        sources: config.sources.iter().map(source).collect(),
        reasons: Reason::ALL.into_iter().map(Reason::slug).collect(),
        categories: Category::ALL.into_iter().map(Category::as_str).chain([UNKNOWN_CATEGORY]).collect(),
        event_results: EventResult::LABELS.to_vec(),
        signature_results: ["ok"].into_iter().chain(refused).collect(),
        publish_results: PublishError::LABELS.to_vec(),
        bus,
        destinations: routes.addresses().iter().map(ToString::to_string).collect(),
    }
}
