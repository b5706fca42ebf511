//! Reads a page of `/metrics` back.

use std::collections::BTreeMap;

pub type Labels = BTreeMap<String, String>;

/// The bridge's own samples on one page; others, such as `process_*`, are left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples(Vec<Sample>);

#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Without the prefix `attio_bridge_`.
    pub name: String,
    pub labels: Labels,
    pub value: f64,
}

impl Samples {
    /// Reads the Prometheus text format 0.0.4. Lines that are not samples are skipped.
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(sample).collect())
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Sample> {
        self.0.iter()
    }

    /// The sum of a metric's samples that have at least these labels; none if there is no such sample.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let matches = |sample: &&Sample| {
            let has =
                |(name, value): &(&str, &str)| sample.labels.get(*name).is_some_and(|have| have == value);
            sample.name == name && labels.iter().all(has)
        };
        self.0.iter().filter(matches).map(|sample| sample.value).reduce(|sum, value| sum + value)
    }
}

/// `attio_bridge_name{a="b",c="d"} 1`. No label of the bridge has an escaped character.
fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.strip_prefix("attio_bridge_")?.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let labels = labels.trim_end_matches('}').split("\",").filter(|label| !label.is_empty());
    let label = |label: &str| {
        let (name, value) = label.split_once("=\"")?;
        Some((name.to_owned(), value.trim_end_matches('"').to_owned()))
    };
    Some(Sample {
        name: name.to_owned(),
        labels: labels.map(label).collect::<Option<_>>()?,
        value: value.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_labels() {
        let samples = Samples::parse(
            "# HELP x\nattio_bridge_a_total{source=\"s\",secret=\"x\"} 2\n\
             attio_bridge_a_total{source=\"t\",secret=\"x\"} 3\nprocess_threads 1\n",
        );
        assert_eq!(samples.iter().count(), 2);
        assert_eq!(samples.sum("a_total", &[("secret", "x")]), Some(5.0));
        assert_eq!(samples.sum("a_total", &[("source", "s"), ("secret", "x")]), Some(2.0));
        assert_eq!(samples.sum("a_total", &[("secret", "y")]), None);
    }
}
