//! Posts deliveries over HTTP: one attempt, with Attio's time limit.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Request;
use hyper::http::request::Builder;
use serde_json::Value;

use crate::http_client::{Error, HttpClient, NoAuthorities, Options};
use crate::signing::SignedRequest;

/// How long Attio waits for an answer.
pub const TIMEOUT: Duration = Duration::from_secs(5);

const OPTIONS: Options = Options { timeout: TIMEOUT, max_body_bytes: 1 << 20, keep_alive: true };

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum PostError {
    #[error("not reached: {0}")]
    NotReached(String),
    #[error("connection lost: {0}")]
    Interrupted(String),
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    #[error("invalid request")]
    Invalid,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
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
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["reason"].as_str().unwrap_or_default().to_owned()
    }
}

/// Sends requests over connections that are kept alive. Cheap to clone.
#[derive(Clone)]
pub struct Poster {
    client: HttpClient,
    user_agent: &'static str,
}

impl Poster {
    /// One that trusts the certificate authorities of this machine.
    pub fn new(user_agent: &'static str) -> Result<Self, NoAuthorities> {
        Ok(Self { client: HttpClient::new(OPTIONS)?, user_agent })
    }

    pub fn plain(user_agent: &'static str) -> Self {
        Self { client: HttpClient::plain(OPTIONS), user_agent }
    }

    pub async fn post(&self, url: &str, request: &SignedRequest) -> Result<Reply, PostError> {
        let mut builder = Request::post(url).header("Content-Type", "application/json");
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        self.send(builder, request.body.clone()).await
    }

    pub async fn get(&self, url: &str) -> Result<Reply, PostError> {
        self.send(Request::get(url), Bytes::new()).await
    }

    async fn send(&self, request: Builder, body: Bytes) -> Result<Reply, PostError> {
        let started = Instant::now();
        let response = self.client.send(request.header("User-Agent", self.user_agent), body).await;
        let took = started.elapsed();
        let response = response.map_err(|error| match error {
            Error::Invalid(_) => PostError::Invalid,
            Error::Timeout(_) => PostError::Timeout,
            Error::Connect(text) | Error::Certificate(text) => PostError::NotReached(cause(&text)),
            Error::Interrupted(text) => PostError::Interrupted(cause(&text)),
            Error::TooLarge(_) => PostError::Interrupted(error.to_string()),
        })?;
        Ok(Reply { status: response.status, body: response.body, took })
    }
}

/// The innermost of several causes: those above it add nothing.
fn cause(causes: &str) -> String {
    match causes.find("invalid peer certificate: ") {
        Some(at) => causes[at..].to_owned(),
        None => causes.rsplit(": ").next().unwrap_or(causes).to_owned(),
    }
}
