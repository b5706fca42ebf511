//! One attempt: a request, and as much time for its answer as Attio gives.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;

/// How long Attio waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// More of an answer than this is not read.
const LONGEST_ANSWER: usize = 1 << 20;

const USER_AGENT: &str = concat!("attio-bridge/", env!("CARGO_PKG_VERSION"), " send");

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
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// The `reason` in its body; empty where it has none.
    pub reason: String,
    /// From before the request to after the last byte of the answer.
    pub took: Duration,
}

impl Reply {
    /// Whether Attio would take it for a yes, by either of its guides.
    pub fn is_good(&self) -> bool {
        matches!(self.status, 200 | 202)
    }

    /// Whether Attio would not send the delivery again.
    pub fn is_taken(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Posts to one address. Connections are kept and used again, as Attio does.
pub struct Poster {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
}

impl Poster {
    /// Makes the client; nothing is sent.
    pub fn new(uri: Uri) -> Result<Self, String> {
        let mut http = HttpConnector::new();
        http.set_nodelay(true);
        http.enforce_http(false);
        let tls = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
            .map_err(|error| format!("no certificate authorities: {error}; name a file in SSL_CERT_FILE"))?;
        let connector = tls.https_or_http().enable_http1().wrap_connector(http);
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), uri })
    }

    /// One attempt.
    pub async fn post(&self, headers: &[(&str, String)], body: Bytes) -> Result<Reply, Lost> {
        let mut request = Request::post(self.uri.clone())
            .header("User-Agent", USER_AGENT)
            .header("Content-Type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(body)).map_err(|_| Lost::Unsendable)?;
        let started = Instant::now();
        let (status, body) =
            tokio::time::timeout(PATIENCE, self.exchange(request)).await.unwrap_or(Err(Lost::Late))?;
        Ok(Reply { status, reason: reason(&body), took: started.elapsed() })
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

/// What lies under an error: the layers above it say only that there was one.
fn cause(error: &hyper_util::client::legacy::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

fn reason(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Answer {
        reason: String,
    }
    serde_json::from_slice(body).map_or_else(|_| String::new(), |Answer { reason }| reason)
}
