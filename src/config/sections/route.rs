//! `[route]`.

use std::path::PathBuf;
use std::sync::Arc;

use crate::catalog::Category;
use crate::config::report::{Given, Report};
use crate::config::section::Section;
use crate::config::suggest;
use crate::config::types;
use crate::pipeline::route::{Options, is_address};
use crate::pipeline::slugs::Slugs;

const FORM: &str = "letters, digits, _ and - in parts joined by dots, 200 characters at most";

/// `[route]` as read.
pub struct Route {
    /// The addresses.
    pub options: Options,
    /// The file with the names of objects and lists.
    pub slugs_file: Option<PathBuf>,
    /// What it holds.
    pub slugs: Option<Arc<Slugs>>,
}

/// Reads `[route]`.
pub fn read(section: &mut Section<'_>) -> Route {
    let prefix = section.text_or("prefix", "attio");
    check_prefix(section.report(), &prefix);
    let slugs_file = section.path_of("slugs_file");
    let slugs = slugs_file.as_ref().and_then(|given| slugs(section.report(), given));
    let mut own = section.section("categories");
    let mut categories = std::collections::BTreeMap::new();
    for (name, node) in own.entries() {
        let key = own.key(&name);
        let Some(category) = Category::parse(&name) else {
            let known: Vec<_> = Category::ALL.iter().map(|category| category.as_str()).collect();
            let meant = suggest::nearest(&name, known.iter().copied());
            let message = format!("no such category; known are {}{meant}", known.join(", "));
            own.report().misnamed(&key, &node.origin, message);
            continue;
        };
        match types::text(&node) {
            Ok((address, json)) => {
                own.report().setting(&key, json, Some(&node.origin));
                let given = Given { key, value: address, origin: node.origin };
                check_address(own.report(), &given, &prefix.value);
                categories.insert(category, given.value);
            }
            Err(message) => own.report().problem(&key, Some(&node.origin), message),
        }
    }
    let options = Options { prefix: prefix.value, categories };
    Route { options, slugs_file: super::value(slugs_file), slugs }
}

/// The map of slugs. A bad one is no problem: events do not wait for what they are called.
fn slugs(report: &Report, given: &Given<PathBuf>) -> Option<Arc<Slugs>> {
    let path = given.value.display();
    report.file(&given.value);
    let read = std::fs::read_to_string(&given.value).map_err(|error| format!("cannot be read: {error}"));
    match read.and_then(|text| Slugs::parse(&text).map_err(|error| error.to_string())) {
        Ok(slugs) => Some(Arc::new(slugs)),
        Err(error) => {
            let message = format!(
                "the file {path} {error}; events go on with the slugs known so far, at start with none"
            );
            report.warn(given, message);
            None
        }
    }
}

/// Every address that is made of the prefix must be one.
fn check_prefix(report: &Report, prefix: &Given<String>) {
    let longest = format!("{}.{}", prefix.value, Category::ActivityAttribute);
    if !is_address(&prefix.value) {
        report.refuse(prefix, format!("expects {FORM}; not {:?}", prefix.value));
    } else if !is_address(&longest) {
        report.refuse(prefix, format!("is too long: {longest} would have more than 200 characters"));
    }
}

fn check_address(report: &Report, given: &Given<String>, prefix: &str) {
    if !is_address(&given.value) {
        report.refuse(given, format!("expects {FORM}; not {:?}", given.value));
    }
    for kept in ["quarantine", "unknown"] {
        if given.value == format!("{prefix}.{kept}") {
            let message = format!("{} is where {kept} events go; choose another address", given.value);
            report.refuse(given, message);
        }
    }
}
