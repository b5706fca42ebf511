//! One HTTP request and its answer. Redirects are not followed: the key goes where it was told to go.

use std::error::Error as _;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use secrecy::{ExposeSecret, SecretString};

use super::{Error, Options, retry};
use crate::version::VERSION;

/// From the first packet to a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// More than any answer of the endpoints in use.
const LONGEST_ANSWER: usize = 16 << 20;

/// Sends requests to one address with one key.
#[derive(Clone)]
pub struct Transport {
    client: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base: String,
    authorization: HeaderValue,
    timeout: Duration,
}

/// What came back.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// How long Attio asks to wait.
    pub retry_after: Option<Duration>,
    /// What Attio's support asks for.
    pub execution_id: Option<String>,
    /// The body.
    pub body: Bytes,
}

/// Why nothing came back.
#[derive(Debug)]
pub enum Lost {
    /// Not even a connection: Attio has surely not seen the request.
    NotSent(String),
    /// Whoever answers is not who was asked for, and will not become it.
    Untrusted(String),
    /// Attio may have seen the request.
    Maybe(String),
}

impl Transport {
    /// Makes the client; nothing is sent.
    pub fn new(options: &Options) -> Result<Self, Error> {
        let key = options.api_key.as_ref().ok_or(Error::NoKey)?;
        if !in_confidence(&options.api_url) {
            let message = "attio.api_url: the key would be sent in the clear; use https://, http:// only on \
                           this machine's own addresses";
            return Err(Error::Setup(message.into()));
        }
        let client = legacy::Client::builder(TokioExecutor::new()).build(connector()?);
        Ok(Self {
            client,
            base: options.api_url.clone(),
            authorization: bearer(key)?,
            timeout: options.timeout,
        })
    }

    /// Sends one request and reads the whole answer.
    pub async fn send(&self, method: &Method, path: &str, body: Option<Bytes>) -> Result<Answer, Lost> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(AUTHORIZATION, self.authorization.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, format!("attio-bridge/{VERSION}"))
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|error| Lost::NotSent(error.to_string()))?;
        match tokio::time::timeout(self.timeout, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(Lost::Maybe(format!("no answer within {:?} (attio.timeout)", self.timeout))),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, Lost> {
        let response = self.client.request(request).await.map_err(|error| self.lost(&error))?;
        let (parts, body) = Response::into_parts(response);
        let body = Limited::new(body, LONGEST_ANSWER).collect().await;
        let body = body.map_err(|error| Lost::Maybe(format!("the answer broke off: {error}")))?;
        Ok(Answer {
            status: parts.status.as_u16(),
            retry_after: text(&parts.headers, RETRY_AFTER.as_str())
                .and_then(|after| retry::retry_after(after, text(&parts.headers, DATE.as_str()))),
            execution_id: text(&parts.headers, "x-attio-execution-id").map(String::from),
            body: body.to_bytes(),
        })
    }

    fn lost(&self, error: &legacy::Error) -> Lost {
        let why = chain(error);
        if !error.is_connect() {
            return Lost::Maybe(why);
        }
        let why = format!("{} cannot be reached: {why}", self.base);
        if !why.contains("invalid peer certificate") {
            return Lost::NotSent(format!(
                "{why}; check the network (proxies that the environment names are not used), and attio.api_url"
            ));
        }
        let advice = "where a proxy of your own stands between, name its authority in SSL_CERT_FILE";
        Lost::Untrusted(format!("{why}; {advice}"))
    }
}

/// Makes connections, under TLS where the address says so.
pub fn connector() -> Result<HttpsConnector<HttpConnector>, Error> {
    let mut http = HttpConnector::new();
    http.set_connect_timeout(Some(CONNECT_TIMEOUT));
    http.enforce_http(false);
    let tls = HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
        .map_err(|error| {
            Error::Setup(format!("no certificate authorities: {error}; name a file in SSL_CERT_FILE"))
        })?;
    Ok(tls.https_or_http().enable_http1().wrap_connector(http))
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn bearer(key: &SecretString) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", key.expose_secret()))
        .map_err(|_| Error::Setup("attio.api_key: has characters that no key has".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Whether nobody between here and there can read what is sent.
fn in_confidence(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return true };
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// An error with its causes.
fn chain(error: &legacy::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_leaves_this_machine_under_tls_alone() {
        for good in ["https://api.attio.com", "http://127.0.0.1:80", "http://[::1]:80", "http://localhost/x"]
        {
            assert!(in_confidence(good), "{good}");
        }
        let bad = [
            "http://api.attio.com",
            "http://127.0.0.1.example.com",
            "http://localhost@example.com",
            "http://10.0.0.1:1",
        ];
        for bad in bad {
            assert!(!in_confidence(bad), "{bad}");
        }
    }
}
