//! Drops events on purpose, by the source's own lists.
//!
//! What is dropped is answered 200 and counted as `filtered`.

use super::parse::Event;

/// What an event is compared with. An empty list says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// Event types, as `record.updated` or `record.*`.
    pub types: Vec<String>,
    /// Actor types, as `workspace-member`.
    pub actor_types: Vec<String>,
    /// Object ids.
    pub objects: Vec<String>,
    /// List ids.
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
    include: Rules,
    exclude: Rules,
}

impl Filter {
    /// A filter that follows the options.
    pub fn new(options: &Options) -> Self {
        let Options { include, exclude } = options.clone();
        Self { include, exclude }
    }

    /// Whether an event goes on.
    pub fn passes(&self, event: &Event) -> bool {
        let included = self.include.matches(event).all(|verdict| verdict.unwrap_or(true));
        let excluded = self.exclude.matches(event).any(|verdict| verdict.unwrap_or(false));
        included && !excluded
    }
}

impl Rules {
    /// For each list whether the event is in it; none where the list is empty.
    fn matches<'a>(&'a self, event: &'a Event) -> impl Iterator<Item = Option<bool>> + 'a {
        let types = list(&self.types, || self.types.iter().any(|t| is_type(t, event)));
        let actors = list(&self.actor_types, || {
            event.actor_type.as_ref().is_some_and(|actor| self.actor_types.contains(actor))
        });
        let has = |wanted: &[String], names: &[&str]| {
            event.ids.any_of(names).any(|id| wanted.iter().any(|wanted| wanted == id))
        };
        let objects = list(&self.objects, || has(&self.objects, &["object_id", "parent_object_id"]));
        let lists = list(&self.lists, || has(&self.lists, &["list_id"]));
        let attributes = list(&self.attributes, || has(&self.attributes, &["attribute_id"]));
        [types, actors, objects, lists, attributes].into_iter()
    }
}

fn list(wanted: &[String], matches: impl FnOnce() -> bool) -> Option<bool> {
    (!wanted.is_empty()).then(matches)
}

/// `note.*` stands for every type of the category, `note-content.updated` among them, and for every
/// type that begins so; anything else for itself.
fn is_type(pattern: &str, event: &Event) -> bool {
    let Some(category) = pattern.strip_suffix(".*") else { return pattern == event.event_type };
    event.kind.category().is_some_and(|of_event| of_event.as_str() == category)
        || event.event_type.strip_prefix(category).is_some_and(|action| action.starts_with('.'))
}
