//! Drops events by the source's include and exclude rules.
//!
//! A dropped event is answered 200 and counted as `filtered`. Objects and lists are given by id or by slug.
//! While a slug of a rule is unknown, an event cannot be ruled out by it: such an event passes, because one
//! that was dropped by mistake is lost.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::parse::Event;
use super::slugs::{Slugs, ids};

/// Rules. An empty list is no rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Event types: `record.updated` or `record.*`.
    pub types: Vec<String>,
    /// Actor types: `workspace-member`, for example.
    pub actor_types: Vec<String>,
    /// Object ids or slugs.
    pub objects: Vec<String>,
    /// List ids or slugs.
    pub lists: Vec<String>,
    pub attributes: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// An event must match every list that is not empty.
    pub include: Rules,
    /// An event that matches any of these lists is dropped.
    pub exclude: Rules,
}

#[derive(Debug)]
pub struct Filter {
    options: Options,
    include: Matcher,
    exclude: Matcher,
}

/// Rules whose slugs are resolved to ids.
#[derive(Debug)]
struct Matcher {
    rules: Rules,
    objects: Named,
    lists: Named,
}

/// A rule for objects or for lists.
#[derive(Debug, Default)]
struct Named {
    ids: Vec<String>,
    /// Whether a slug of it is unknown.
    unresolved: bool,
}

impl Filter {
    /// A filter without slugs.
    pub fn new(options: &Options) -> Self {
        Self::of(options, None)
    }

    /// The same filter with these slugs.
    pub fn with_slugs(&self, slugs: &Slugs) -> Self {
        Self::of(&self.options, Some(slugs))
    }

    fn of(options: &Options, slugs: Option<&Slugs>) -> Self {
        let matcher = |rules: &Rules| Matcher {
            objects: Named::of(&rules.objects, slugs.map(|slugs| &slugs.objects)),
            lists: Named::of(&rules.lists, slugs.map(|slugs| &slugs.lists)),
            rules: rules.clone(),
        };
        Self {
            include: matcher(&options.include),
            exclude: matcher(&options.exclude),
            options: options.clone(),
        }
    }

    /// Whether an event is published.
    pub fn passes(&self, event: &Event<'_>) -> bool {
        let included = self.include.matches(event).all(|matches| matches != Some(false));
        let excluded = self.exclude.matches(event).any(|matches| matches == Some(true));
        included && !excluded
    }
}

impl Matcher {
    /// For each rule whether the event matches it; none if there is no rule or a slug is unknown.
    fn matches<'a>(&'a self, event: &'a Event<'_>) -> impl Iterator<Item = Option<bool>> + 'a {
        let Rules { types, actor_types, attributes, .. } = &self.rules;
        let of_type = list(types, || types.iter().any(|pattern| is_type(pattern, event)));
        let of_actor = list(actor_types, || {
            event
                .actor_type
                .as_deref()
                .is_some_and(|of_event| actor_types.iter().any(|actor| actor == of_event))
        });
        let objects = self.objects.matches(event, &["object_id", "parent_object_id"]);
        let lists = self.lists.matches(event, &["list_id"]);
        let of_attribute = list(attributes, || has(attributes, event, &["attribute_id"]));
        [of_type, of_actor, objects, lists, of_attribute].into_iter()
    }
}

impl Named {
    fn of(wanted: &[String], slugs: Option<&BTreeMap<String, String>>) -> Self {
        let mut named = Self { ids: wanted.to_vec(), unresolved: false };
        let Some(slugs) = slugs else { return named };
        for slug in wanted.iter().filter(|wanted| is_slug(wanted)) {
            let known = ids(slugs, slug).map(str::to_owned);
            let before = named.ids.len();
            named.ids.extend(known);
            named.unresolved |= named.ids.len() == before;
        }
        named
    }

    fn matches(&self, event: &Event<'_>, names: &[&str]) -> Option<bool> {
        let found = list(&self.ids, || has(&self.ids, event, names))?;
        // An event without such an id matches no slug, known or not.
        let unknown = !found && self.unresolved && event.ids.any_of(names).next().is_some();
        (!unknown).then_some(found)
    }
}

/// Whether the name of an object or list is a slug: Attio's ids are UUIDs.
pub fn is_slug(name: &str) -> bool {
    Uuid::try_parse(name).is_err()
}

fn has(wanted: &[String], event: &Event<'_>, names: &[&str]) -> bool {
    event.ids.any_of(names).any(|id| wanted.iter().any(|wanted| wanted == id))
}

fn list(wanted: &[String], matches: impl FnOnce() -> bool) -> Option<bool> {
    (!wanted.is_empty()).then(matches)
}

/// `note.*` matches every type of the category, `note-content.updated` among them, and every type that begins
/// with `note.`; any other pattern matches itself.
fn is_type(pattern: &str, event: &Event<'_>) -> bool {
    let Some(category) = pattern.strip_suffix(".*") else { return event.event_type == pattern };
    event.kind.category().is_some_and(|of_event| of_event.as_str() == category)
        || event.event_type.strip_prefix(category).is_some_and(|action| action.starts_with('.'))
}
