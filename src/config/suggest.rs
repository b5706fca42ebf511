//! What somebody who wrote an unknown key may have meant.

use super::env::variable;
use super::tree::Origin;

/// Below this likeness (1 is equal) a suggestion confuses more than it helps.
const ALIKE: f64 = 0.85;

/// The message for an unknown key, with a suggestion where one is close.
pub fn unknown(key: &str, origin: &Origin, known: &[String]) -> String {
    let what = if matches!(origin, Origin::Environment(_)) { "unknown variable" } else { "unknown key" };
    let Some(meant) = closest(key, known) else {
        return format!("{what}; remove it, or see the example configuration for every key");
    };
    match origin {
        Origin::Environment(_) => format!("{what}; did you mean `{}`?", variable(meant)),
        _ => format!("{what}; did you mean `{meant}`?"),
    }
}

/// The end of a message about a word that is not in a set: the nearest one that is, if any is near.
pub fn nearest<'w>(word: &str, set: impl IntoIterator<Item = &'w str>) -> String {
    let likeness = |candidate: &str| strsim::jaro_winkler(&word.to_lowercase(), &candidate.to_lowercase());
    set.into_iter()
        .map(|candidate| (likeness(candidate), candidate))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or_else(String::new, |(_, meant)| format!("; did you mean \"{meant}\"?"))
}

/// A key of the same table that is spelt much like this one, else one of that name elsewhere.
fn closest<'k>(key: &str, known: &'k [String]) -> Option<&'k str> {
    let (table, name) = split(key);
    let likeness = |candidate: &str| strsim::jaro_winkler(name, split(candidate).1);
    known
        .iter()
        .filter(|candidate| split(candidate).0 == table && likeness(candidate) >= ALIKE)
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .or_else(|| known.iter().find(|candidate| split(candidate).1 == name))
        .map(String::as_str)
}

fn split(key: &str) -> (&str, &str) {
    key.rsplit_once('.').unwrap_or(("", key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_suggested() {
        let set = ["kafka", "nats", "stdout"];
        let table = [("kafak", "kafka"), ("Kafka", "kafka"), ("stout", "stdout")];
        for (word, meant) in table {
            assert_eq!(nearest(word, set), format!("; did you mean \"{meant}\"?"));
        }
        assert_eq!(nearest("zebra", set), "");
    }

    #[test]
    fn the_closest_key_is_suggested() {
        let known: Vec<String> =
            ["http", "http.listen", "http.max_body_bytes", "shutdown.delay", "kafka.bootstrap_servers"]
                .map(String::from)
                .into();
        let table = [
            ("http.listn", Some("http.listen")),
            ("http.max_body", Some("http.max_body_bytes")),
            ("http.delay", Some("shutdown.delay")),
            ("kafka.bootstrap-servers", Some("kafka.bootstrap_servers")),
            ("htttp", Some("http")),
            ("listen", Some("http.listen")),
            ("http.zebra", None),
        ];
        for (key, meant) in table {
            assert_eq!(closest(key, &known), meant, "{key}");
        }
    }
}
