//! Posts deliveries over HTTP: one attempt, with Attio's time limit.

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

use crate::signing::SignedRequest;

/// How long Attio waits for an answer.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// Longer answers are an error.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum PostError {
    /// No connection.
    #[error("not reached: {0}")]
    NotReached(String),
    /// The connection failed.
    #[error("connection lost: {0}")]
    Interrupted(String),
    /// The time is up.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    /// The request cannot be written.
    #[error("invalid request")]
    Invalid,
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
    /// Whether both of Attio's guides call it a success.
    pub fn is_success(&self) -> bool {
        matches!(self.status, 200 | 202)
    }

    /// Whether Attio's current guide calls it a success: no retry.
    pub fn is_2xx(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The `reason` in its body; empty if there is none.
    pub fn reason(&self) -> String {
        #[derive(Deserialize)]
        struct Body {
            reason: String,
        }
        serde_json::from_slice(&self.body).map_or_else(|_| String::new(), |Body { reason }| reason)
    }
}

/// Sends requests over connections that are kept alive. Cheap to clone.
#[derive(Clone)]
pub struct Poster {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    user_agent: &'static str,
}

impl Poster {
    /// One that trusts the certificate authorities of this machine.
    pub fn new(user_agent: &'static str) -> Result<Self, String> {
        let roots = tls().with_native_roots();
        let roots = roots
            .map_err(|error| format!("no certificate authorities: {error}; name a file in SSL_CERT_FILE"))?;
        Ok(Self::with(roots.with_no_client_auth(), user_agent))
    }

    /// One for `http://` alone.
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
    pub async fn post(&self, url: &str, request: &SignedRequest) -> Result<Reply, PostError> {
        let mut builder = Request::post(url).header("Content-Type", "application/json");
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        self.send(builder, request.body.clone()).await
    }

    /// Gets a page once.
    pub async fn get(&self, url: &str) -> Result<Reply, PostError> {
        self.send(Request::get(url), Bytes::new()).await
    }

    async fn send(&self, request: hyper::http::request::Builder, body: Bytes) -> Result<Reply, PostError> {
        let request = request.header("User-Agent", self.user_agent).body(Full::new(body));
        let request = request.map_err(|_| PostError::Invalid)?;
        let started = Instant::now();
        let exchange = tokio::time::timeout(TIMEOUT, self.exchange(request)).await;
        let (status, body) = exchange.unwrap_or(Err(PostError::Timeout))?;
        Ok(Reply { status, body, took: started.elapsed() })
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(u16, Bytes), PostError> {
        let response = self.client.request(request).await.map_err(|error| match error.is_connect() {
            true => PostError::NotReached(cause(&error)),
            false => PostError::Interrupted(cause(&error)),
        })?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| PostError::Interrupted(error.to_string()))?;
        Ok((status, body.to_bytes()))
    }
}

fn tls() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    builder.expect("the provider has cipher suites for every safe version")
}

/// The innermost cause: the layers above it add nothing.
fn cause(error: &hyper_util::client::legacy::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
