//! A running bridge, asked from outside: its metrics, and whether it accepts a secret.

use std::time::Duration;

use bytes::Bytes;
use hyper::Request;
use hyper::http::request::Builder;
use secrecy::{ExposeSecret, SecretString};
use time::OffsetDateTime;

use super::Error;
use crate::http_client::{HttpClient, Options, Response};
use crate::metrics::samples::Samples;
use crate::signing::{self, Scheme};

const OPTIONS: Options = Options {
    timeout: Duration::from_secs(5),
    // More than any page of metrics.
    max_body_bytes: 16 << 20,
    // Behind a load balancer each connection may reach another replica.
    keep_alive: false,
};

/// A delivery without events: the bridge verifies it and publishes nothing.
const NO_EVENTS: &str = r#"{"webhook_id":"","events":[]}"#;

/// Asks bridges. Sends no API key.
#[derive(Clone)]
pub struct Bridge {
    client: HttpClient,
}

impl Bridge {
    pub fn new() -> Result<Self, Error> {
        Ok(Self { client: HttpClient::new(OPTIONS).map_err(|error| Error::Setup(error.to_string()))? })
    }

    pub async fn metrics(&self, url: &str) -> Result<Samples, String> {
        match self.send(url, Request::get(url), Bytes::new()).await? {
            Response { status: 200, body, .. } => Ok(Samples::parse(&String::from_utf8_lossy(&body))),
            Response { status, .. } => Err(format!("{url} answered {status}")),
        }
    }

    /// Whether the bridge at a target URL accepts deliveries signed with a secret: sends one without events.
    pub async fn accepts(&self, url: &str, secret: &SecretString) -> Result<bool, String> {
        let (secret, body) = (secret.expose_secret(), NO_EVENTS.as_bytes());
        // Attio's scheme has no timestamp.
        let headers = signing::headers(Scheme::Attio, secret, body, None, OffsetDateTime::UNIX_EPOCH);
        let mut request = Request::post(url).header("Content-Type", "application/json");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        match self.send(url, request, Bytes::from_static(NO_EVENTS.as_bytes())).await?.status {
            200 => Ok(true),
            401 => Ok(false),
            status => Err(format!("{url} answered {status}")),
        }
    }

    async fn send(&self, url: &str, request: Builder, body: Bytes) -> Result<Response, String> {
        self.client.send(request, body).await.map_err(|error| format!("{url} did not answer: {error}"))
    }
}
