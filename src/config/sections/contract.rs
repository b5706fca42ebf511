//! `[contract]`: what consumers can rely on.

use crate::config::kinds::{Form, Pattern};
use crate::config::section::{Section, keys};

pub(super) const BASE_URL: Pattern = Pattern {
    expects: "an address that begins with https:// or http://, without a login, `?` and `#`",
    regex: r"^https?://[!$-;=A-~]+$",
    accepts: is_base_url,
};

/// Whether a text is the beginning of an address, all of which may stand in a CloudEvents URI.
fn is_base_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let fits = |byte: u8| byte.is_ascii_graphic() && !b"\"#<>?\\^`{|}".contains(&byte);
    let has_login = |rest: &str| rest.split('/').next().is_some_and(|host| host.contains('@'));
    rest.is_some_and(|rest| !rest.trim_matches('/').is_empty() && rest.bytes().all(fits) && !has_login(rest))
}

keys! {
    Contract {
        /// Address below which you publish the schemas that `attio-bridge contract schema --to DIR` writes. Events
        /// then carry `dataschema`: <base_url>/<event_type>.json.
        base_url: Form(&BASE_URL) like "https://schemas.example.com/attio";
    }
}

/// The address without a slash at its end.
pub fn base_url(section: &mut Section<'_>) -> Option<String> {
    Contract::read(section).base_url.map(|url| url.trim_end_matches('/').to_owned())
}
