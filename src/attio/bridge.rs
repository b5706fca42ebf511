//! A running bridge, asked from outside: what it counts, and whether it takes a secret.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use super::{Error, transport};

/// From the connection to the last byte.
const TIMEOUT: Duration = Duration::from_secs(5);

/// More than any page of metrics.
const LONGEST: usize = 16 << 20;

/// A delivery without events: it is verified, and nothing comes of it.
const NO_EVENTS: &str = r#"{"webhook_id":"","events":[]}"#;

/// Asks bridges. It sends no key.
#[derive(Clone)]
pub struct Bridge {
    client: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// One page of metrics.
#[derive(Clone, Debug, Default)]
pub struct Samples(String);

impl Bridge {
    /// Nothing is sent yet.
    pub fn new() -> Result<Self, Error> {
        // A connection of its own for each request: behind a load balancer each may meet another replica.
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        Ok(Self { client: builder.pool_max_idle_per_host(0).build(transport::connector()?) })
    }

    /// Reads `/metrics`.
    pub async fn metrics(&self, url: &str) -> Result<Samples, String> {
        let request = Request::builder().method(Method::GET).uri(url);
        match self.ask(url, request, Bytes::new()).await? {
            (200, body) => Ok(Samples(String::from_utf8_lossy(&body).into_owned())),
            (status, _) => Err(format!("{url} answered {status}")),
        }
    }

    /// Whether the bridge at a target URL takes what is signed with a secret: it is sent a delivery that
    /// has no events.
    pub async fn takes(&self, url: &str, secret: &SecretString) -> Result<bool, String> {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes())
            .expect("HMAC takes a key of any length");
        mac.update(NO_EVENTS.as_bytes());
        let signature = mac.finalize().into_bytes().iter().fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        });
        let request = Request::builder()
            .method(Method::POST)
            .uri(url)
            .header("Content-Type", "application/json")
            .header("Attio-Signature", signature);
        match self.ask(url, request, Bytes::from_static(NO_EVENTS.as_bytes())).await? {
            (200, _) => Ok(true),
            (401, _) => Ok(false),
            (status, _) => Err(format!("{url} answered {status}")),
        }
    }

    async fn ask(
        &self,
        url: &str,
        request: hyper::http::request::Builder,
        body: Bytes,
    ) -> Result<(u16, Bytes), String> {
        let failed = |error: &dyn std::fmt::Display| format!("{url} gave no answer: {error}");
        let request = request.body(Full::new(body)).map_err(|error| failed(&error))?;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| failed(&error))?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), LONGEST).collect().await;
            Ok((status, body.map_err(|error| failed(&error))?.to_bytes()))
        };
        tokio::time::timeout(TIMEOUT, exchange).await.unwrap_or_else(|_| Err(failed(&"too late")))
    }
}

impl Samples {
    /// The sum of a metric's samples that have all these labels; none where there is no such sample.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let value = |line: &str| {
            let (series, value) = line.strip_prefix("attio_bridge_")?.rsplit_once(' ')?;
            let (found, labels) = series.split_once('{').unwrap_or((series, ""));
            let have: Vec<&str> = labels.trim_end_matches('}').split(',').collect();
            let fits = found == name && wanted.iter().all(|label| have.contains(&&**label));
            if fits { value.parse::<f64>().ok() } else { None }
        };
        self.0.lines().filter_map(value).fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_added_up() {
        let text = "# HELP x\nattio_bridge_a_total{source=\"s\",secret=\"x\"} 2\nattio_bridge_a_total{source=\"t\",secret=\"x\"} 3\n";
        let samples = Samples(text.into());
        assert_eq!(samples.sum("a_total", &[("secret", "x")]), Some(5.0));
        assert_eq!(samples.sum("a_total", &[("source", "s"), ("secret", "x")]), Some(2.0));
        assert_eq!(samples.sum("a_total", &[("secret", "y")]), None);
    }
}
