//! Drops events on purpose, by the source's own lists.
//!
//! What is dropped is answered 200 and counted as `filtered`. An object or a list may be named by its
//! id or by its slug. Slugs come from a map that may not be there, so a list of slugs that are not all
//! known cannot tell that an event is not in it: then the event goes on, because one that was dropped
//! in error never comes back.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::parse::Event;
use super::slugs::{Slugs, ids};

/// What an event is compared with. An empty list says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// Event types, as `record.updated` or `record.*`.
    pub types: Vec<String>,
    /// Actor types, as `workspace-member`.
    pub actor_types: Vec<String>,
    /// Object ids, and slugs where a map of slugs is in force.
    pub objects: Vec<String>,
    /// List ids, and slugs where a map of slugs is in force.
    pub lists: Vec<String>,
    /// Attribute ids.
    pub attributes: Vec<String>,
}

/// Which events of a source go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// An event goes on only if it is in every list that is not empty.
    pub include: Rules,
    /// An event that is in any of these lists is dropped.
    pub exclude: Rules,
}

/// The filter of one source.
#[derive(Debug)]
pub struct Filter {
    options: Options,
    include: Matcher,
    exclude: Matcher,
}

/// Rules whose slugs have become ids.
#[derive(Debug)]
struct Matcher {
    rules: Rules,
    objects: Named,
    lists: Named,
}

/// One list of objects or lists.
#[derive(Debug, Default)]
struct Named {
    ids: Vec<String>,
    /// Whether it names a slug that stands for no id yet.
    guesses: bool,
}

impl Filter {
    /// A filter that follows the options, in which objects and lists are named by id alone.
    pub fn new(options: &Options) -> Self {
        Self::of(options, None)
    }

    /// The same with the slugs of a map, in place of those it had.
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

    /// Whether an event goes on.
    pub fn passes(&self, event: &Event<'_>) -> bool {
        let included = self.include.verdicts(event).all(|verdict| verdict != Some(false));
        let excluded = self.exclude.verdicts(event).any(|verdict| verdict == Some(true));
        included && !excluded
    }
}

impl Matcher {
    /// For each list whether the event is in it; none where the list is empty or cannot tell.
    fn verdicts<'a>(&'a self, event: &'a Event<'_>) -> impl Iterator<Item = Option<bool>> + 'a {
        let Rules { types, actor_types, attributes, .. } = &self.rules;
        let of_type = list(types, || types.iter().any(|pattern| is_type(pattern, event)));
        let of_actor = list(actor_types, || {
            event
                .actor_type
                .as_deref()
                .is_some_and(|of_event| actor_types.iter().any(|actor| actor == of_event))
        });
        let objects = self.objects.verdict(event, &["object_id", "parent_object_id"]);
        let lists = self.lists.verdict(event, &["list_id"]);
        let of_attribute = list(attributes, || has(attributes, event, &["attribute_id"]));
        [of_type, of_actor, objects, lists, of_attribute].into_iter()
    }
}

impl Named {
    fn of(wanted: &[String], slugs: Option<&BTreeMap<String, String>>) -> Self {
        let mut named = Self { ids: wanted.to_vec(), guesses: false };
        let Some(slugs) = slugs else { return named };
        for slug in wanted.iter().filter(|wanted| is_slug(wanted)) {
            let known = ids(slugs, slug).map(str::to_owned);
            let before = named.ids.len();
            named.ids.extend(known);
            named.guesses |= named.ids.len() == before;
        }
        named
    }

    fn verdict(&self, event: &Event<'_>, names: &[&str]) -> Option<bool> {
        let found = list(&self.ids, || has(&self.ids, event, names))?;
        // An event without such an id is in no list of them, whatever a slug stands for.
        let untold = !found && self.guesses && event.ids.any_of(names).next().is_some();
        (!untold).then_some(found)
    }
}

/// Whether the name of an object or a list can be no id of Attio's, which are UUIDs.
pub fn is_slug(name: &str) -> bool {
    Uuid::try_parse(name).is_err()
}

fn has(wanted: &[String], event: &Event<'_>, names: &[&str]) -> bool {
    event.ids.any_of(names).any(|id| wanted.iter().any(|wanted| wanted == id))
}

fn list(wanted: &[String], matches: impl FnOnce() -> bool) -> Option<bool> {
    (!wanted.is_empty()).then(matches)
}

/// `note.*` stands for every type of the category, `note-content.updated` among them, and for every
/// type that begins so; anything else for itself.
fn is_type(pattern: &str, event: &Event<'_>) -> bool {
    let Some(category) = pattern.strip_suffix(".*") else { return event.event_type == pattern };
    event.kind.category().is_some_and(|of_event| of_event.as_str() == category)
        || event.event_type.strip_prefix(category).is_some_and(|action| action.starts_with('.'))
}
