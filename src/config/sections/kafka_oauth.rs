//! `[kafka.oauth]`.

use std::collections::BTreeMap;

use super::readable;
use crate::bus::kafka::options::{
    ClientAuth, MskIam, OAUTHBEARER, Oidc, Source, UNSECURED, is_region, region_of,
};
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

const REGION: Pattern =
    Pattern { expects: "the name of a region", regex: "^[a-z]+(-[a-z]+)+-[0-9]+$", accepts: is_region };

const CLIENT_AUTH: [(&str, ClientAuth); 2] = [("basic", ClientAuth::Basic), ("post", ClientAuth::Post)];

/// Who gives the tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    Oidc,
    MskIam,
}

const MSK_IAM: &str = "aws-msk-iam";
const PROVIDERS: [(&str, Provider); 2] = [("oidc", Provider::Oidc), (MSK_IAM, Provider::MskIam)];

keys! {
    Oauth {
        /// "oidc": a token server, by OAuth 2.0's client credentials and the keys below region.
        /// "aws-msk-iam": Amazon MSK with IAM; the bridge signs tokens with the credentials that AWS's own
        /// chain finds (environment, profile, web identity, container, instance).
        provider: Choice<Provider>(&PROVIDERS, Case::Exact) = "oidc";
        /// The region of the MSK cluster. If not set, that in the host names of bootstrap_servers, else
        /// that of the variable AWS_REGION.
        region: Form(&REGION) like "eu-central-1";
        /// The token endpoint. Required with the provider "oidc".
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

/// The parts of `[kafka]` that decide what `[kafka.oauth]` means.
pub struct Login<'a> {
    /// Whether Kafka is the bus.
    pub used: bool,
    pub mechanism: Option<&'static str>,
    pub servers: &'a [String],
    pub properties: &'a BTreeMap<String, String>,
}

/// Reads `[kafka.oauth]`: where the tokens come from, if the login has any.
pub fn read(section: &mut Section<'_>, login: &Login<'_>) -> Option<Source> {
    let keys = Oauth::read(section);
    if !login.used {
        return None;
    }
    let takes_tokens = login.mechanism == Some(OAUTHBEARER);
    let unsecured = login.properties.get(UNSECURED).is_some_and(|value| value == "true");
    if takes_tokens && unsecured {
        let message = format!("is not used with the property {UNSECURED}; remove one of them");
        let needed = ["token_url", "client_id", "client_secret", "region"];
        refuse(section, |name| needed.contains(&name) || name == "provider" && keys.is_msk(), &message);
        return None;
    }
    if keys.is_msk() {
        return read_msk(section, keys, login.servers, takes_tokens);
    }
    read_oidc(section, keys, login.mechanism)
}

impl Oauth {
    fn is_msk(&self) -> bool {
        self.provider == Provider::MskIam
    }
}

fn read_msk(section: &Section<'_>, keys: Oauth, servers: &[String], takes_tokens: bool) -> Option<Source> {
    if !takes_tokens {
        let message = "\"aws-msk-iam\" needs kafka.sasl_mechanism \"OAUTHBEARER\", and kafka.security_protocol \"sasl_ssl\"";
        section.refuse("provider", message);
        return None;
    }
    let message =
        "is for the provider \"oidc\": tokens of \"aws-msk-iam\" are signed with AWS credentials; remove it";
    refuse(section, |name| !["provider", "region"].contains(&name), message);
    let in_names = || servers.iter().find_map(|server| region_of(server)).map(str::to_owned);
    Some(Source::MskIam(MskIam { region: keys.region.or_else(in_names) }))
}

fn read_oidc(section: &Section<'_>, keys: Oauth, mechanism: Option<&str>) -> Option<Source> {
    let needed = [
        ("token_url", keys.token_url.is_some()),
        ("client_id", keys.client_id.is_some()),
        ("client_secret", keys.client_secret.is_some()),
    ];
    if mechanism == Some(OAUTHBEARER) {
        let message = "needs kafka.oauth.provider \"aws-msk-iam\"; remove it, or set that";
        refuse(section, |name| name == "region", message);
        for (name, _) in needed.iter().filter(|(_, set)| !set) {
            section.missing(name, "required with sasl_mechanism OAUTHBEARER");
        }
    }
    if mechanism.is_some() {
        readable(section, "ca_file", keys.ca_file.as_deref());
    }
    let oidc = Oidc {
        token_url: keys.token_url?,
        client_id: keys.client_id?,
        client_secret: keys.client_secret?,
        client_auth: keys.client_auth,
        scope: keys.scope,
        audience: keys.audience,
        ca_file: keys.ca_file,
    };
    (mechanism == Some(OAUTHBEARER)).then_some(Source::Oidc(oidc))
}

/// Refuses the keys of this table that are set and do not belong there.
fn refuse(section: &Section<'_>, is_wrong: impl Fn(&str) -> bool, message: &str) {
    for (key, _) in section.diagnostics().set_below(section.path()) {
        let name = key.rsplit_once('.').map_or(&*key, |(_, name)| name);
        if is_wrong(name) {
            section.refuse(name, message);
        }
    }
}
