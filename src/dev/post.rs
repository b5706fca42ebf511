//! The HTTP of whoever posts: one attempt at a time, and as much time for its answer as Attio gives.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use serde::Deserialize;

use super::stamp::Headers;

/// How long Attio waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// More of an answer than this is not read.
const LONGEST_ANSWER: usize = 1 << 20;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Lost {
    /// Nobody was reached.
    #[error("not reached: {0}")]
    NotReached(String),
    /// The exchange broke off.
    #[error("broken off: {0}")]
    BrokenOff(String),
    /// The answer took too long.
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Late,
    /// The request cannot be written.
    #[error("not a request")]
    Unsendable,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Bytes,
    /// From before the request to after the last byte of the answer.
    pub took: Duration,
}

impl Reply {
    /// Whether Attio would take it for a yes, by either of its guides.
    pub fn is_good(&self) -> bool {
        matches!(self.status, 200 | 202)
    }

    /// Whether Attio would not send the delivery again, by its current guide.
    pub fn is_taken(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The `reason` in its body; empty where it has none.
    pub fn reason(&self) -> String {
        #[derive(Deserialize)]
        struct Body {
            reason: String,
        }
        serde_json::from_slice(&self.body).map_or_else(|_| String::new(), |Body { reason }| reason)
    }
}

/// Sends requests. Connections are kept and used again, as Attio does.
#[derive(Clone)]
pub struct Poster {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    user_agent: &'static str,
}

impl Poster {
    /// One that trusts the certificate authorities of this machine; nothing is sent.
    pub fn new(user_agent: &'static str) -> Result<Self, String> {
        let roots = tls().with_native_roots();
        let roots = roots
            .map_err(|error| format!("no certificate authorities: {error}; name a file in SSL_CERT_FILE"))?;
        Ok(Self::with(roots.with_no_client_auth(), user_agent))
    }

    /// One that trusts nobody: for `http://` alone.
    pub fn plain(user_agent: &'static str) -> Self {
        let roots = tls().with_root_certificates(RootCertStore::empty());
        Self::with(roots.with_no_client_auth(), user_agent)
    }

    fn with(tls: ClientConfig, user_agent: &'static str) -> Self {
        let mut http = HttpConnector::new();
        http.set_nodelay(true);
        http.enforce_http(false);
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls);
        let connector = connector.https_or_http().enable_http1().wrap_connector(http);
        Self { client: Client::builder(TokioExecutor::new()).build(connector), user_agent }
    }

    /// Posts JSON once.
    pub async fn post(&self, url: &str, headers: &Headers, body: Bytes) -> Result<Reply, Lost> {
        let mut request = Request::post(url).header("Content-Type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        self.send(request, body).await
    }

    /// Gets a page once.
    pub async fn get(&self, url: &str) -> Result<Reply, Lost> {
        self.send(Request::get(url), Bytes::new()).await
    }

    async fn send(&self, request: hyper::http::request::Builder, body: Bytes) -> Result<Reply, Lost> {
        let request = request.header("User-Agent", self.user_agent).body(Full::new(body));
        let request = request.map_err(|_| Lost::Unsendable)?;
        let started = Instant::now();
        let exchange = tokio::time::timeout(PATIENCE, self.exchange(request)).await;
        let (status, body) = exchange.unwrap_or(Err(Lost::Late))?;
        Ok(Reply { status, body, took: started.elapsed() })
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(u16, Bytes), Lost> {
        let response = self.client.request(request).await.map_err(|error| match error.is_connect() {
            true => Lost::NotReached(cause(&error)),
            false => Lost::BrokenOff(cause(&error)),
        })?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
        let body = body.map_err(|error| Lost::BrokenOff(error.to_string()))?;
        Ok((status, body.to_bytes()))
    }
}

fn tls() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    builder.expect("the provider has cipher suites for every safe version")
}

/// What lies under an error: the layers above it say only that there was one.
fn cause(error: &hyper_util::client::legacy::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
