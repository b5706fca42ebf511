//! From raw values to the checked configuration: one file per group of keys, here what they share.

mod attio;
mod bus;
mod http;
mod kafka;
mod nats;
mod route;
mod sources;

use std::path::PathBuf;
use std::time::Duration;

use super::env::Environment;
use super::files;
use super::log;
use super::report::{Given, Report};
use super::section::Section;
use super::{Config, Input};
use crate::attio::{Options, WebhookOptions};
use crate::pipeline::dedup;
use crate::shutdown;

pub use http::admin_listen;

const INSTANT: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Reads everything. The result is good only if the report has no problem.
pub fn read(root: &mut Section<'_>, input: &Input) -> Config {
    let environment: &Environment = &input.environment;
    let http = http::read(&mut root.section("http"));
    let admin_listen = http::admin(&mut root.section("admin"), &http.listen);
    let sources = sources::read(&mut root.section("sources"), environment);
    let route = route::read(&mut root.section("route"));
    sources::check_slugs(root.report(), &sources, &route);
    let dedup = dedup(&mut root.section("dedup"));
    let bus = bus::read(root);
    let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
    // For its problems: `serve` never speaks to Attio.
    attio(root, &names);
    let shutdown = shutdown(&mut root.section("shutdown"));
    let workers = root.section("runtime").whole("workers", 1..=1024).map(|workers| size(&workers));
    let log = log::read(&mut root.section("log"));
    Config {
        http: http.options,
        admin_listen,
        sources,
        route: route.options,
        slugs_file: route.slugs_file,
        slugs: route.slugs,
        dedup,
        bus,
        shutdown,
        workers,
        log,
        warnings: Vec::new(),
        settings: Vec::new(),
        secrets: Default::default(),
        files: Default::default(),
        input: input.clone(),
    }
}

/// Reads how to reach Attio, and the webhooks that should exist there. `sources` are the names of those
/// that deliveries can come in on.
pub fn attio(root: &mut Section<'_>, sources: &[&str]) -> (Options, Vec<WebhookOptions>) {
    (attio::read(&mut root.section("attio")), attio::webhooks(root.tables("webhooks"), sources))
}

fn dedup(section: &mut Section<'_>) -> dedup::Options {
    dedup::Options {
        window: section.duration_or("window", "96h", Duration::from_secs(1)..=CENTURY).value,
        capacity: section.whole_or("capacity", "250000", 1..=u64::MAX).value,
    }
}

fn shutdown(section: &mut Section<'_>) -> shutdown::Options {
    shutdown::Options {
        delay: section.duration_or("delay", "0s", Duration::ZERO..=HOUR).value,
        drain_timeout: section.duration_or("drain_timeout", "20s", INSTANT..=HOUR).value,
    }
}

/// A number as a size in memory.
fn size(given: &Given<u64>) -> usize {
    usize::try_from(given.value).unwrap_or(usize::MAX)
}

/// A file that must be there and readable.
fn readable(report: &Report, given: Option<&Given<PathBuf>>) {
    let Some(given) = given.filter(|given| !given.value.as_os_str().is_empty()) else { return };
    let path = given.value.display();
    report.file(&given.value);
    let tried = files::open(&given.value).and_then(|file| file.metadata());
    match tried {
        Err(error) => report.refuse(given, format!("the file {path} cannot be read: {error}")),
        Ok(found) if found.is_dir() => report.refuse(given, format!("{path} is a directory, not a file")),
        Ok(_) => {}
    }
}

fn value<T>(given: Option<Given<T>>) -> Option<T> {
    given.map(|given| given.value)
}
