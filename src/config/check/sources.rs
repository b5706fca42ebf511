//! `[sources.NAME]`.

use std::collections::BTreeSet;
use std::time::Duration;

use super::DAY;
use super::route::Route;
use crate::catalog::{self, EVENT_TYPES};
use crate::config::env::Environment;
use crate::config::report::{Given, Report};
use crate::config::secret;
use crate::config::section::Section;
use crate::config::suggest;
use crate::config::types;
use crate::delivery::SourceName;
use crate::pipeline::verify::{Options, Scheme, Secret};
use crate::pipeline::{SourceOptions, filter};

const SCHEMES: [(&str, Scheme); 3] =
    [("auto", Scheme::Auto), ("attio", Scheme::Attio), ("timestamped", Scheme::Timestamped)];

/// Reads every source.
pub fn read(section: &mut Section<'_>, environment: &Environment) -> Vec<SourceOptions> {
    let entries = section.entries();
    if entries.is_empty() {
        let message = "no source is configured; set ATTIO_WEBHOOK_SECRET (or ATTIO_WEBHOOK_SECRET_FILE), \
                       or add a table [sources.NAME] with its secrets";
        section.report().problem(section.path(), None, message);
    }
    let mut sources = Vec::new();
    for (name, node) in entries {
        let origin = node.origin.clone();
        let mut source = section.child(&name, node);
        let options = self::source(&mut source, environment);
        match SourceName::new(&name) {
            Ok(name) => sources.push(SourceOptions { name, ..options }),
            Err(error) => source.report().misnamed(source.path(), &origin, error.to_string()),
        }
    }
    sources
}

/// Reads one source; its name is filled in by the caller.
fn source(section: &mut Section<'_>, environment: &Environment) -> SourceOptions {
    let scheme = section.or("scheme", "auto", |node| types::choice(node, &SCHEMES)).value;
    let range = Duration::from_secs(1)..=DAY;
    let timestamp_tolerance = section.duration_or("timestamp_tolerance", "300s", range).value;
    let secrets = secrets(section, environment);
    let workspace_id = section.text("workspace_id");
    if let Some(given) = workspace_id.as_ref().filter(|given| !catalog::is_id(&given.value)) {
        section.report().refuse(given, "expects an id: 1 to 128 characters of A-Z, a-z, 0-9, ., _, : and -");
    }
    let mut filter = section.section("filter");
    let filter = filter::Options {
        include: rules(&mut filter.section("include")),
        exclude: rules(&mut filter.section("exclude")),
    };
    SourceOptions {
        name: SourceName::new("unnamed").expect("a good name"),
        verify: Options { scheme, timestamp_tolerance, secrets },
        filter,
        workspace_id: super::value(workspace_id),
    }
}

fn secrets(section: &mut Section<'_>, environment: &Environment) -> Vec<Secret> {
    let report = section.report();
    let key = section.key("secrets");
    let path = section.path().to_owned();
    let entries = section.tables("secrets");
    if entries.is_empty() {
        let message = "the source has no secret; add one, as in \
                       secrets = [{ label = \"default\", file = \"/run/secrets/attio\" }]";
        report.problem(&key, None, message);
    }
    let secrets: Vec<Secret> =
        entries.into_iter().filter_map(|entry| secret::entry(entry, &path, environment)).collect();
    let mut labels = BTreeSet::new();
    for secret in &secrets {
        if !labels.insert(secret.label.clone()) {
            let message =
                format!("the label `{}` is given twice; labels are unique in a source", secret.label);
            report.problem(&key, None, message);
        }
    }
    secrets
}

fn rules(section: &mut Section<'_>) -> filter::Rules {
    let types = section.list("types");
    unknown_types(section.report(), &types);
    filter::Rules {
        types: types.value,
        actor_types: section.list("actor_types").value,
        objects: section.list("objects").value,
        lists: section.list("lists").value,
        attributes: section.list("attributes").value,
    }
}

/// Attio adds types, so one that is not in the catalog may still be right.
fn unknown_types(report: &Report, types: &Given<Vec<String>>) {
    for name in &types.value {
        let known = match name.strip_suffix(".*") {
            Some(stem) => EVENT_TYPES.iter().any(|entry| entry.name.split('.').next() == Some(stem)),
            None => is_known(name),
        };
        if !known {
            report.warn(types, unknown_type(name));
        }
    }
}

/// Warns of slugs in filters that stand for no id.
pub fn check_slugs(report: &Report, sources: &[SourceOptions], route: &Route) {
    for source in sources {
        let filter = &source.filter;
        for (which, rules) in [("include", &filter.include), ("exclude", &filter.exclude)] {
            let slugs = route.slugs.as_deref();
            let lists = [
                ("objects", &rules.objects, slugs.map(|slugs| &slugs.objects)),
                ("lists", &rules.lists, slugs.map(|slugs| &slugs.lists)),
            ];
            for (kind, wanted, known) in lists {
                let key = format!("sources.{}.filter.{which}.{kind}", source.name);
                for slug in wanted.iter().filter(|wanted| filter::is_slug(wanted)) {
                    let message = match (&route.slugs_file, known) {
                        (None, _) => {
                            format!("{slug:?} is no id: set route.slugs_file to name {kind} by slug")
                        }
                        (Some(file), Some(known)) if !known.values().any(|known| known == slug) => format!(
                            "{slug:?} is neither an id nor a slug in {}; until it is, this list drops none of \
                             the {kind} that it does not name",
                            file.display()
                        ),
                        _ => continue,
                    };
                    report.warning(&key, report.origin_of(&key).as_ref(), message);
                }
            }
        }
    }
}

/// What is said of a type that the catalog not_ready_reason.
pub fn unknown_type(name: &str) -> String {
    let meant = suggest::nearest(name, EVENT_TYPES.iter().map(|entry| entry.name));
    format!("{name:?} is no event type that this build knows{meant}")
}

/// Whether the catalog has an event type.
pub fn is_known(name: &str) -> bool {
    EVENT_TYPES.iter().any(|entry| entry.name == name)
}
