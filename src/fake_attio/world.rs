//! What exists in the workspace, now and a moment ago: records, list entries, notes, tasks and comments.
//!
//! Each change begins a version. A read shows the versions of one moment, see [`World::among`]; those that no read
//! can show any more are dropped.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use serde_json::Value as Json;
use time::OffsetDateTime;
use time::macros::format_description;
use uuid::Uuid;

use crate::catalog::Category;

/// The oldest moment that a read shows.
pub const MEMORY: Duration = Duration::from_secs(3);

/// Values by attribute slug, each with the time from which it is active.
pub type Values = BTreeMap<String, (OffsetDateTime, Json)>;

/// A record and its object, by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    pub object_id: String,
    pub record_id: String,
}

#[derive(Clone, Debug)]
pub struct Item {
    pub category: Category,
    /// The object of a record or the list of an entry, by id; empty for the others.
    pub container: String,
    /// The record that an entry, a note, a task or a comment belongs to.
    pub parent: Option<Parent>,
    /// The list and the entry that a comment is about.
    pub entry: Option<(String, String)>,
    /// The thread of a comment.
    pub thread: Option<String>,
    pub created_at: OffsetDateTime,
    /// In order of time, at least one.
    versions: Vec<Version>,
}

#[derive(Clone, Debug)]
struct Version {
    since: OffsetDateTime,
    condition: Condition,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    Live(Values),
    /// 404 `merge_in_progress`.
    Merging,
    Gone,
}

impl Item {
    pub fn new(category: Category, container: &str, parent: Option<Parent>) -> Self {
        let (container, created_at) = (container.to_owned(), now());
        Self { category, container, parent, entry: None, thread: None, created_at, versions: Vec::new() }
    }

    /// Its condition at a time; none before it was created.
    pub fn at(&self, time: OffsetDateTime) -> Option<&Condition> {
        let version = self.versions.iter().rev().find(|version| version.since <= time)?;
        Some(&version.condition)
    }

    /// Its values after the last change; none if it is gone.
    pub fn values(&self) -> Option<&Values> {
        match &self.versions.last()?.condition {
            Condition::Live(values) => Some(values),
            Condition::Merging | Condition::Gone => None,
        }
    }

    /// Whether it exists after the last change.
    pub fn is_there(&self) -> bool {
        self.values().is_some()
    }

    fn begin(&mut self, since: OffsetDateTime, condition: Condition) {
        // The last one that reads may still show, and what came after it.
        let oldest = self.versions.iter().rposition(|version| version.since <= since - MEMORY);
        self.versions.drain(..oldest.unwrap_or_default());
        self.versions.push(Version { since, condition });
    }
}

/// What belongs together, in order of creation: the records of an object, the entries of a list, all notes.
#[derive(Default)]
struct Order {
    ids: Vec<String>,
    /// How many of them are gone.
    missing: usize,
    /// Until when one of them cannot be read yet.
    merging_until: Option<OffsetDateTime>,
}

#[derive(Default)]
pub struct World {
    items: HashMap<String, Item>,
    orders: HashMap<(Category, String), Order>,
    entries_of: HashMap<String, Vec<String>>,
    /// Those that are gone, and since when.
    gone: VecDeque<(OffsetDateTime, String)>,
}

impl World {
    /// Adds an item and returns its id.
    pub fn add(&mut self, item: Item, values: Values) -> String {
        self.insert(item, Condition::Live(values))
    }

    /// The same with an id of one's own.
    pub fn add_as(&mut self, id: &str, item: Item, values: Values) {
        self.insert_as(id.to_owned(), item, Condition::Live(values));
    }

    fn insert(&mut self, item: Item, condition: Condition) -> String {
        self.insert_as(Uuid::new_v4().to_string(), item, condition)
    }

    fn insert_as(&mut self, id: String, mut item: Item, condition: Condition) -> String {
        item.begin(item.created_at, condition);
        self.orders.entry((item.category, item.container.clone())).or_default().ids.push(id.clone());
        if let (Category::ListEntry, Some(parent)) = (item.category, &item.parent) {
            self.entries_of.entry(parent.record_id.clone()).or_default().push(id.clone());
        }
        self.items.insert(id.clone(), item);
        id
    }

    /// Adds a record that cannot be read until a time.
    pub fn add_merged(&mut self, item: Item, values: Values, readable: OffsetDateTime) -> String {
        let id = self.insert(item, Condition::Merging);
        if let Some(item) = self.items.get_mut(&id) {
            item.begin(readable, Condition::Live(values));
            let order = self.orders.entry((item.category, item.container.clone())).or_default();
            order.merging_until = order.merging_until.max(Some(readable));
        }
        id
    }

    pub fn get(&self, id: &str) -> Option<&Item> {
        self.items.get(id)
    }

    /// Sets a value. False if there is no such item.
    pub fn set(&mut self, id: &str, attribute: &str, value: Json) -> bool {
        let Some(item) = self.items.get_mut(id) else { return false };
        let (Some(mut values), since) = (item.values().cloned(), now()) else { return false };
        values.insert(attribute.to_owned(), (since, value));
        item.begin(since, Condition::Live(values));
        true
    }

    /// Removes an item. None if there is no such item.
    pub fn remove(&mut self, id: &str) -> Option<Item> {
        let item = self.items.get_mut(id).filter(|item| item.values().is_some())?;
        let since = now();
        item.begin(since, Condition::Gone);
        let removed = item.clone();
        if let Some(order) = self.orders.get_mut(&(removed.category, removed.container.clone())) {
            order.missing += 1;
        }
        if let (Category::ListEntry, Some(parent)) = (removed.category, &removed.parent)
            && let Some(entries) = self.entries_of.get_mut(&parent.record_id)
        {
            entries.retain(|entry| entry != id);
        }
        self.gone.push_back((since, id.to_owned()));
        Some(removed)
    }

    /// The entries of a record.
    pub fn entries_of(&self, record_id: &str) -> Vec<String> {
        self.entries_of.get(record_id).cloned().unwrap_or_default()
    }

    /// What existed at a time among these ids.
    pub fn among<'a>(
        &'a self,
        ids: impl Iterator<Item = &'a str>,
        time: OffsetDateTime,
    ) -> impl Iterator<Item = (&'a str, &'a Item, &'a Values)> {
        ids.filter_map(move |id| {
            let item = self.items.get(id)?;
            match item.at(time)? {
                Condition::Live(values) => Some((id, item, values)),
                Condition::Merging | Condition::Gone => None,
            }
        })
    }

    /// Everything of a category after the last change, in no order.
    pub fn existing(&self, category: Category) -> impl Iterator<Item = (&str, &Item, &Values)> {
        let items = self.items.iter().filter(move |(_, item)| item.category == category);
        items.filter_map(|(id, item)| Some((&**id, item, item.values()?)))
    }

    /// Everything in a container at a time, in order of creation.
    pub fn all(
        &self,
        category: Category,
        container: &str,
        time: OffsetDateTime,
    ) -> impl DoubleEndedIterator<Item = (&str, &Item, &Values)> {
        let ids = self.orders.get(&(category, container.to_owned())).map_or(&[][..], |order| &order.ids);
        ids.iter().filter_map(move |id| self.among([&**id].into_iter(), time).next())
    }

    /// A page of [`World::all`].
    pub fn page(
        &self,
        category: Category,
        container: &str,
        time: OffsetDateTime,
        (offset, limit): (usize, usize),
    ) -> Vec<(&str, &Item, &Values)> {
        let Some(order) = self.orders.get(&(category, container.to_owned())) else { return Vec::new() };
        if order.missing > 0 || order.merging_until.is_some_and(|until| time < until) {
            return self.all(category, container, time).skip(offset).take(limit).collect();
        }
        let ids = order.ids.iter().skip(offset).take(limit).map(|id| &**id);
        self.among(ids, time).collect()
    }

    /// Forgets what no read shows any more.
    pub fn forget(&mut self) {
        let oldest = now() - MEMORY;
        let done = self.gone.iter().take_while(|(since, _)| *since < oldest).count();
        if done < 64 && self.gone.len() > done {
            return;
        }
        let mut touched = Vec::new();
        for (_, id) in self.gone.drain(..done) {
            if let Some(item) = self.items.remove(&id) {
                touched.push((item.category, item.container));
            }
        }
        touched.sort();
        touched.dedup();
        for key in touched {
            let Some(order) = self.orders.get_mut(&key) else { continue };
            let before = order.ids.len();
            order.ids.retain(|id| self.items.contains_key(id));
            order.missing = order.missing.saturating_sub(before - order.ids.len());
        }
    }
}

/// The time in whole milliseconds, as answers tell it.
pub fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_millisecond(now.millisecond()).unwrap_or(now)
}

/// RFC 3339 with nine fractional digits, as Attio writes it.
pub fn text(time: OffsetDateTime) -> String {
    const TIME: &[time::format_description::FormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9]Z");
    time.format(TIME).expect("a time of this era has this form")
}
