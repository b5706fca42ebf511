//! `[route]`: where events go, and the slugs of objects and lists.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Entries;
use crate::catalog::Category;
use crate::config::diagnostics::{Diagnostics, nearest};
use crate::config::kinds::{FilePath, Form, Kind, Pattern};
use crate::config::section::{Section, keys};
use crate::files;
use crate::pipeline::route::{self, Options};
use crate::pipeline::slugs::Slugs;
use crate::pipeline::{SourceOptions, filter};

pub(super) const ADDRESS: Pattern = Pattern {
    expects: "letters, digits, _ and - in parts joined by dots, 200 characters at most",
    regex: r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$",
    accepts: route::is_address,
};

pub const CATEGORIES: Entries = Entries {
    names: || Category::ALL.iter().map(|category| category.as_str()).collect(),
    kind: &Form(&ADDRESS),
    example: "record = \"crm.record.v1\"",
};

pub const CATEGORIES_DOC: &str = "\
Another address for a category: record, list-entry, list, list-attribute, object-attribute, note,
task, comment, workspace-member, call-recording, activity, activity-attribute, activity-record.";

keys! {
    RouteKeys {
        /// First part of every address: <prefix>.<category>, <prefix>.unknown, <prefix>.quarantine.
        prefix: Form(&ADDRESS) = "attio";
        /// File with the slugs of objects and lists, by id; events then carry the slug in the extensions
        /// `attioobject` and `attiolist`. JSON, as `attio-bridge slugs pull` writes it. Read again when it
        /// changes, and on SIGHUP. A file that is missing or malformed stops nothing: the log says why, and
        /// the slugs known so far stay in use.
        slugs_file: FilePath like "/etc/attio-bridge/slugs.json";
    }
}

pub struct Route {
    pub options: Options,
    pub slugs_file: Option<PathBuf>,
    pub slugs: Option<Arc<Slugs>>,
}

pub fn route(section: &mut Section<'_>) -> Route {
    let RouteKeys { prefix, slugs_file } = RouteKeys::read(section);
    let longest = format!("{prefix}.{}", Category::ActivityAttribute);
    if !route::is_address(&longest) {
        section.refuse("prefix", format!("is too long: {longest} would have more than 200 characters"));
    }
    let slugs = slugs_file.as_ref().and_then(|file| slugs(section, file));
    let categories = categories(&mut section.section("categories"), &prefix);
    Route { options: Options { prefix, categories }, slugs_file, slugs }
}

fn categories(section: &mut Section<'_>, prefix: &str) -> BTreeMap<Category, String> {
    let diagnostics = section.diagnostics();
    let mut categories = BTreeMap::new();
    for (name, node) in section.entries() {
        let key = section.key(&name);
        let Some(category) = Category::parse(&name) else {
            let known = (CATEGORIES.names)();
            let meant = nearest(&name, known.iter().copied());
            let message = format!("no such category; known are {}{meant}", known.join(", "));
            diagnostics.problem(&key, Some(&node.origin), message);
            continue;
        };
        match Form(&ADDRESS).parse(&node, diagnostics) {
            Ok((address, json)) => {
                diagnostics.setting(&key, json, Some(&node.origin));
                let reserved = ["quarantine", "unknown"];
                if let Some(kept) = reserved.iter().find(|kept| address == format!("{prefix}.{kept}")) {
                    let message = format!("{address} is where {kept} events go; choose another address");
                    diagnostics.problem(&key, Some(&node.origin), message);
                }
                categories.insert(category, address);
            }
            Err(message) => diagnostics.problem(&key, Some(&node.origin), message),
        }
    }
    categories
}

/// The slugs. A malformed file is a warning, not a problem: events are published without slugs.
fn slugs(section: &Section<'_>, file: &Path) -> Option<Arc<Slugs>> {
    section.diagnostics().file(file);
    let text = files::read_text(file, files::MAX_BYTES);
    let parsed = text
        .map_err(|error| files::unreadable(file, &error))
        .and_then(|text| Slugs::parse(&text).map_err(|error| format!("the file {} {error}", file.display())));
    let warn = |error: &String| {
        let message = format!("{error}; the slugs known so far stay in use, at start none");
        section.warn("slugs_file", message);
    };
    parsed.inspect_err(warn).ok().map(Arc::new)
}

/// Warns of slugs in filters that no id has.
pub fn check_slugs(diagnostics: &Diagnostics, sources: &[SourceOptions], route: &Route) {
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
                    diagnostics.warn(&key, message);
                }
            }
        }
    }
}
