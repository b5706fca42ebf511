//! One scrape of `/metrics`, read back from its text.

use std::collections::{BTreeMap, BTreeSet};

/// Labels in the order of their names.
pub type Labels = BTreeMap<String, String>;

/// Every sample by its full name and labels. Names are without the prefix that all of them have.
#[derive(Clone, Debug)]
pub struct Scrape {
    samples: BTreeMap<(String, Labels), f64>,
}

impl Scrape {
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        Self { samples: samples.filter_map(sample).collect() }
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

/// `attio_bridge_name{a="b",c="d"} 1`; other names (of the process) are left out.
fn sample(line: &str) -> Option<((String, Labels), f64)> {
    let line = line.strip_prefix("attio_bridge_")?;
    let (series, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let mut labels_out = Labels::new();
    for label in labels.trim_end_matches('}').split("\",").filter(|label| !label.is_empty()) {
        let (name, value) = label.split_once("=\"").unwrap();
        labels_out.insert(name.to_owned(), value.trim_end_matches('"').to_owned());
    }
    Some(((name.to_owned(), labels_out), value.parse().unwrap()))
}
