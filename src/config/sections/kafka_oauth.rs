//! `[kafka.oauth]`.

use std::collections::BTreeMap;

use super::readable;
use crate::bus::kafka::options::{ClientAuth, OAUTHBEARER, Oidc, UNSECURED};
use crate::config::kinds::{Case, Choice, FilePath, Form, Pattern, Secret, Text};
use crate::config::section::{Section, keys};
use crate::http_client;

const TOKEN_URL: Pattern = Pattern {
    expects: "an https:// URL; http:// is for loopback addresses alone, as the secret is sent there",
    regex: "^https?://.+$",
    accepts: |url| {
        let host = url.strip_prefix("https://");
        host.is_some_and(|host| !host.is_empty() && !url.contains(char::is_whitespace))
            || url.starts_with("http://") && http_client::is_loopback(url)
    },
};

const CLIENT_AUTH: [(&str, ClientAuth); 2] = [("basic", ClientAuth::Basic), ("post", ClientAuth::Post)];

keys! {
    Oauth {
        /// The token endpoint. Required with sasl_mechanism "OAUTHBEARER".
        token_url: Form(&TOKEN_URL) like "https://login.example.com/oauth2/token";
        /// The client's id.
        client_id: Text like "attio-bridge";
        /// The client's secret. Better given as ATTIO_BRIDGE__KAFKA__OAUTH__CLIENT_SECRET_FILE than here.
        client_secret: Secret like "change-me";
        /// How the id and the secret are sent: "basic" in the header Authorization, "post" in the form.
        client_auth: Choice<ClientAuth>(&CLIENT_AUTH, Case::Exact) = "basic";
        /// The scopes to ask for, separated by spaces.
        scope: Text like "kafka";
        /// The audience to ask for, where the server wants one (Auth0 does).
        audience: Text like "https://kafka.example.com";
        /// PEM file with the authorities that may sign the token server's certificate. If not set,
        /// the system's.
        ca_file: FilePath like "/etc/attio-bridge/login-ca.pem";
    }
}

/// Reads `[kafka.oauth]`; `mechanism` is the login of `[kafka]`, if it is used.
pub fn read(
    section: &mut Section<'_>,
    mechanism: Option<&str>,
    properties: &BTreeMap<String, String>,
) -> Option<Oidc> {
    let keys = Oauth::read(section);
    let unsecured = properties.get(UNSECURED).is_some_and(|value| value == "true");
    let needed = [
        ("token_url", keys.token_url.is_some()),
        ("client_id", keys.client_id.is_some()),
        ("client_secret", keys.client_secret.is_some()),
    ];
    let any = needed.iter().any(|(_, set)| *set);
    match mechanism {
        Some(OAUTHBEARER) if unsecured => {
            if any {
                let message = format!("is not used with the property {UNSECURED}; remove one of them");
                needed.iter().filter(|(_, set)| *set).for_each(|(name, _)| section.refuse(name, &*message));
            }
            return None;
        }
        Some(OAUTHBEARER) => {
            for (name, _) in needed.iter().filter(|(_, set)| !set) {
                section.missing(name, "required with sasl_mechanism OAUTHBEARER");
            }
        }
        _ => {}
    }
    if mechanism.is_some() {
        readable(section, "ca_file", keys.ca_file.as_deref());
    }
    Some(Oidc {
        token_url: keys.token_url?,
        client_id: keys.client_id?,
        client_secret: keys.client_secret?,
        client_auth: keys.client_auth,
        scope: keys.scope,
        audience: keys.audience,
        ca_file: keys.ca_file,
    })
}
