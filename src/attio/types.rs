//! Resources of Attio's API, and when two URLs are the same.

use percent_encoding::percent_decode_str;
use reqwest::Url;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::catalog::EVENT_TYPES;
use crate::printable::line;

/// A webhook. Its secret is only in the answer to its creation, see [`Created`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Webhook {
    pub id: Id,
    /// As Attio spells it: compare with [`is_same_url`].
    pub target_url: String,
    pub subscriptions: Vec<Subscription>,
    /// [`ACTIVE`]; `degraded` after about three days of failed deliveries; [`INACTIVE`]; or one that this build does
    /// not know.
    pub status: String,
    /// As Attio writes it: UTC, nine fractional digits.
    pub created_at: String,
}

/// The status of a webhook that Attio sends to.
pub const ACTIVE: &str = "active";

/// The status of a webhook that was degraded for seven days: Attio no longer sends.
pub const INACTIVE: &str = "inactive";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Id {
    pub workspace_id: String,
    pub webhook_id: String,
}

impl Webhook {
    pub fn webhook_id(&self) -> &str {
        &self.id.webhook_id
    }

    /// Its id, safe to print.
    pub fn shown_id(&self) -> String {
        line(&self.id.webhook_id)
    }

    pub fn is_at(&self, url: &str) -> bool {
        is_same_url(&self.target_url, url)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subscription {
    pub event_type: String,
    /// Which of its events; none for all. Attio refuses a subscription without the member, so none is sent as null.
    #[serde(default)]
    pub filter: Option<Json>,
}

/// A webhook that was just created, with its secret, which Attio shows only this once.
#[derive(Clone, Debug, Deserialize)]
pub struct Created {
    #[serde(flatten)]
    pub webhook: Webhook,
    pub secret: SecretString,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    pub id: String,
    pub slug: String,
}

/// What a slug names; an attribute is one of an object or a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    Object,
    List,
    Attribute,
}

impl Resource {
    pub const ALL: [Self; 3] = [Self::Object, Self::List, Self::Attribute];

    pub fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::List => "list",
            Self::Attribute => "attribute",
        }
    }
}

/// The answer of `GET /v2/self`: what an API key is.
#[derive(Clone, Debug, Deserialize)]
pub struct Token {
    pub active: bool,
    #[serde(default)]
    pub workspace_id: Option<String>,
    #[serde(default)]
    pub workspace_name: Option<String>,
    /// Separated by spaces.
    #[serde(default)]
    pub scope: Option<String>,
}

/// Why an event type with a `*` is refused, and those that it stands for.
pub fn pattern_error(event_type: &str) -> Option<String> {
    let (start, _) = event_type.split_once('*')?;
    let meant = EVENT_TYPES.iter().map(|entry| entry.name).filter(|name| name.starts_with(start));
    let meant: Vec<&str> = meant.collect();
    let meant = if meant.is_empty() { String::new() } else { format!(": {}", meant.join(", ")) };
    Some(format!("{event_type:?} is a pattern, which Attio does not accept: name each event type{meant}"))
}

/// Whether two URLs are the same, however each side spells them.
pub fn is_same_url(a: &str, b: &str) -> bool {
    normalized(a) == normalized(b)
}

/// The normal form of a URL (RFC 3986, section 6.2): the host in lower case, no default port, no dot at the end of the
/// host, no dot segments, percent-encoding only where it is needed and in upper case. Without a fragment, an empty
/// query and a slash at the end of the path.
pub fn normalized(url: &str) -> String {
    let Ok(mut parsed) = Url::parse(url) else { return url.to_owned() };
    parsed.set_fragment(None);
    if parsed.query() == Some("") {
        parsed.set_query(None);
    }
    if let Some(host) = parsed.host_str().and_then(|host| host.strip_suffix('.')).map(str::to_owned) {
        // Fails only for URLs without a host.
        let _ = parsed.set_host(Some(&host));
    }
    let path = parsed.path().trim_end_matches('/').to_owned();
    parsed.set_path(&path);
    without_needless_escapes(parsed.as_str())
}

fn without_needless_escapes(url: &str) -> String {
    let mut parts = url.split('%');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let Some((digits, rest)) = part.split_at_checked(2) else {
            out += "%";
            out += part;
            continue;
        };
        let escape = format!("%{}", digits.to_ascii_uppercase());
        match percent_decode_str(&escape).collect::<Vec<_>>()[..] {
            [byte] if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => out.push(byte.into()),
            _ => out += &escape,
        }
        out += rest;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_url_are_the_same() {
        let url = "https://hooks.example.com/webhooks/a~b?x=%2F";
        for other in [
            "https://HOOKS.Example.com/webhooks/a~b?x=%2F",
            "HTTPS://hooks.example.com:443/webhooks/a~b?x=%2f",
            "https://hooks.example.com./webhooks/./a%7Eb/?x=%2f#top",
            "https://hooks.example.com/%77ebhooks/x/../a%7eb?%78=%2F",
        ] {
            assert!(is_same_url(url, other), "{other}: {} {}", normalized(url), normalized(other));
        }
        for other in [
            "http://hooks.example.com/webhooks/a~b?x=%2F",
            "https://hooks.example.com:8443/webhooks/a~b?x=%2F",
            "https://hooks.example.com/Webhooks/a~b?x=%2F",
            "https://hooks.example.com/webhooks/a~b?x=/",
            "https://hooks.example.com/webhooks/a~b",
        ] {
            assert!(!is_same_url(url, other), "{other}");
        }
        assert!(is_same_url("https://h", "https://H:443/?") && is_same_url("no url", "no url"));
        assert_eq!(without_needless_escapes("%4"), "%4");
        assert_eq!(without_needless_escapes("%zz%é"), "%ZZ%é");
    }
}
