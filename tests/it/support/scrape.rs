//! One scrape of `/metrics`, read back from its text.

use std::collections::{BTreeMap, BTreeSet};

pub use attio_bridge::metrics::samples::Labels;
use attio_bridge::metrics::samples::Samples;

/// Every sample by its full name and labels. Names are without the prefix that all of them have.
#[derive(Clone, Debug)]
pub struct Scrape {
    samples: BTreeMap<(String, Labels), f64>,
}

impl Scrape {
    pub fn parse(text: &str) -> Self {
        let samples = Samples::parse(text);
        let lines = text.lines().filter(|line| line.starts_with("attio_bridge_"));
        assert_eq!(samples.iter().count(), lines.count(), "a sample cannot be read:\n{text}");
        Self {
            samples: samples.iter().map(|one| ((one.name.clone(), one.labels.clone()), one.value)).collect(),
        }
    }

    /// The sample with exactly these labels.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let key = (name.to_owned(), owned(labels));
        *self.samples.get(&key).unwrap_or_else(|| panic!("no sample {key:?}"))
    }

    /// The sum over every sample that has at least these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted = owned(labels);
        let has = |have: &Labels| wanted.iter().all(|(name, value)| have.get(name) == Some(value));
        self.samples.iter().filter(|((n, have), _)| n == name && has(have)).map(|(_, value)| value).sum()
    }

    /// Names and labels of everything there is.
    pub fn label_sets(&self) -> BTreeSet<(String, Labels)> {
        self.samples.keys().cloned().collect()
    }

    /// The label sets of one name.
    pub fn labels_of(&self, name: &str) -> BTreeSet<Labels> {
        self.samples.keys().filter(|(n, _)| n == name).map(|(_, labels)| labels.clone()).collect()
    }

    pub fn names(&self) -> BTreeSet<String> {
        self.samples.keys().map(|(name, _)| name.clone()).collect()
    }

    /// What the account promises of every scrape.
    pub fn balances(&self) -> bool {
        self.sum("events_received_total", &[])
            == self.sum("events_total", &[]) + self.get("events_in_flight", &[])
    }
}

fn owned(labels: &[(&str, &str)]) -> Labels {
    labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
