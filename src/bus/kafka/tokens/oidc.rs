//! A token by OAuth 2.0's client credentials: one POST to the token endpoint. Source: RFC 6749, 2.3.1, 4.4 and 5.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use hyper::Request;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::token::{Token, encoded};
use crate::files;
use crate::http_client::{self, Error, HttpClient};

/// One request, and the size of its answer.
const LIMITS: http_client::Options =
    http_client::Options { timeout: Duration::from_secs(10), max_body_bytes: 256 << 10, keep_alive: false };

/// How much of a server's text is repeated.
const SHOWN: usize = 200;

/// How to get a token: `[kafka.oauth]` with the provider "oidc".
#[derive(Clone, Debug)]
pub struct Oidc {
    pub token_url: String,
    pub client_id: String,
    pub client_secret: SecretString,
    pub client_auth: ClientAuth,
    pub scope: Option<String>,
    pub audience: Option<String>,
    /// The authorities that may sign the server's certificate; the system's where absent.
    pub ca_file: Option<PathBuf>,
}

impl PartialEq for Oidc {
    fn eq(&self, other: &Self) -> bool {
        let parts = |oidc: &Self| {
            let Self { token_url, client_id, client_secret, client_auth, scope, audience, ca_file } =
                oidc.clone();
            let client = (client_id, client_secret.expose_secret().to_owned(), client_auth);
            (token_url, client, scope, audience, ca_file)
        };
        parts(self) == parts(other)
    }
}

/// Where the client's id and secret are in the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// In the header `Authorization`.
    Basic,
    /// In the form.
    Post,
}

/// An answer with a token.
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    /// Seconds. Some servers send text.
    expires_in: Option<serde_json::Value>,
}

/// An answer without one.
#[derive(Default, Deserialize)]
struct Refused {
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_description: String,
}

impl Oidc {
    pub(super) async fn fetch(&self) -> Result<Token, String> {
        let (id, secret) = (encoded(&self.client_id), encoded(self.client_secret.expose_secret()));
        let mut form = vec![("grant_type", "client_credentials".to_owned())];
        for (name, value) in [("scope", &self.scope), ("audience", &self.audience)] {
            form.extend(value.as_deref().map(|value| (name, encoded(value))));
        }
        let mut request = Request::post(&self.token_url)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        match self.client_auth {
            ClientAuth::Basic => {
                let login = STANDARD.encode(format!("{id}:{secret}"));
                request = request.header(AUTHORIZATION, format!("Basic {login}"));
            }
            ClientAuth::Post => form.extend([("client_id", id), ("client_secret", secret)]),
        }
        let body: Vec<_> = form.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let fetched = Instant::now();
        let sent = self.client()?.send(request, Bytes::from(body.join("&"))).await;
        let response = sent.map_err(|error| match error {
            Error::Certificate(text) => {
                format!("kafka.oauth.token_url: {text}: set kafka.oauth.ca_file to the authority of its certificate")
            }
            error => format!("kafka.oauth.token_url: no answer of the token server: {error}"),
        })?;
        if response.status != 200 {
            return Err(self.refusal(response.status, &response.body));
        }
        let granted: Granted = serde_json::from_slice(&response.body).map_err(|_| {
            "kafka.oauth.token_url: what answers there is no token endpoint: its answer has no access_token".to_owned()
        })?;
        let life = granted.life().ok_or(
            "kafka.oauth.token_url: the token server does not say when its token expires (expires_in)",
        )?;
        // librdkafka refuses other characters, with an error that does not name the server.
        if granted.access_token.is_empty()
            || !granted.access_token.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err("kafka.oauth.token_url: the token server's access_token is no token".into());
        }
        Ok(Token { value: granted.access_token, principal: self.client_id.clone(), fetched, life })
    }

    /// A client that trusts what the file holds now.
    fn client(&self) -> Result<HttpClient, String> {
        if let Some(path) = &self.ca_file {
            let pem = files::read_regular(path, files::MAX_BYTES)
                .map_err(|error| format!("kafka.oauth.ca_file: {}", files::unreadable(path, &error)))?;
            let client = HttpClient::trusting(LIMITS, &pem);
            return client.map_err(|error| format!("kafka.oauth.ca_file: {}: {error}", path.display()));
        }
        if self.token_url.starts_with("http://") {
            return Ok(HttpClient::plain(LIMITS));
        }
        HttpClient::new(LIMITS).map_err(|error| error.to_string())
    }

    fn refusal(&self, status: u16, body: &[u8]) -> String {
        let Refused { error, error_description } = serde_json::from_slice(body).unwrap_or_default();
        let advice = match (error.as_str(), status) {
            ("invalid_client" | "unauthorized_client", _) | ("", 401) => {
                "check kafka.oauth.client_id and kafka.oauth.client_secret"
            }
            ("invalid_scope", _) => "check kafka.oauth.scope",
            ("invalid_target", _) => "check kafka.oauth.audience",
            ("", 404 | 405) => "check kafka.oauth.token_url",
            (_, 500..) | (_, 429) => "it is tried again",
            _ => "check kafka.oauth",
        };
        let said = [error, error_description].map(|text| self.shown(&text));
        let said: Vec<_> = said.into_iter().filter(|text| !text.is_empty()).collect();
        let said = if said.is_empty() { String::new() } else { format!(" ({})", said.join(": ")) };
        format!("the token server of kafka.oauth.token_url answers {status}{said}: {advice}")
    }

    /// A text of the server without what must not be in a log.
    fn shown(&self, text: &str) -> String {
        let text = text.replace(self.client_secret.expose_secret(), "***");
        text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(SHOWN).collect()
    }
}

impl Granted {
    /// From `expires_in`, else from the token itself if it is a JWT with `iat` and `exp`.
    fn life(&self) -> Option<Duration> {
        let told = self.expires_in.as_ref().and_then(|value| {
            value.as_f64().or_else(|| value.as_str().and_then(|text| text.trim().parse().ok()))
        });
        let seconds = told.or_else(|| {
            let claims = URL_SAFE_NO_PAD.decode(self.access_token.split('.').nth(1)?).ok()?;
            let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
            Some(claims["exp"].as_f64()? - claims["iat"].as_f64()?)
        })?;
        Duration::try_from_secs_f64(seconds).ok().filter(|life| !life.is_zero())
    }
}
