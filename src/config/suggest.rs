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
