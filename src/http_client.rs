//! The HTTP client of every verb that sends requests: one attempt, a deadline, a bounded body.
//!
//! TLS is rustls with the ring provider. Trusted are the system's certificate authorities, or those of
//! `SSL_CERT_FILE` and `SSL_CERT_DIR`. Proxies are taken from the environment (`HTTPS_PROXY`, `HTTP_PROXY`,
//! `ALL_PROXY`, `NO_PROXY`), but never for loopback addresses. Redirects are not followed, so that no
//! header reaches another host. Errors contain neither URLs nor headers.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::HeaderMap;
use hyper::http::request;
use reqwest::{Client, Url, redirect};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// Connecting includes the proxy's CONNECT and the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// From the connection to the last byte of the answer.
    pub timeout: Duration,
    /// A longer body is an error.
    pub max_body_bytes: usize,
    /// Whether connections are kept for the next request.
    pub keep_alive: bool,
}

#[derive(Clone, Debug)]
pub struct HttpClient {
    direct: Client,
    /// For all but loopback addresses.
    proxied: Client,
    options: Options,
}

#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request cannot be written. It was not sent.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// There is no connection. The request was not sent.
    #[error("{0}")]
    Connect(String),
    /// The server's certificate is not trusted. The request was not sent.
    #[error("{0}")]
    Certificate(String),
    /// The connection failed; the server may have the request.
    #[error("{0}")]
    Interrupted(String),
    /// The time is up; the server may have the request.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
}

/// There are no certificate authorities to trust.
#[derive(Clone, Debug, thiserror::Error)]
#[error("no certificate authorities: {0}")]
pub struct NoAuthorities(String);

impl HttpClient {
    /// A client for any address. Reads the certificate authorities.
    pub fn new(options: Options) -> Result<Self, NoAuthorities> {
        let authorities = authorities()?;
        let direct = build(builder(authorities.clone(), options).no_proxy());
        Ok(Self { direct, proxied: build(builder(authorities, options)), options })
    }

    /// A client that trusts the authorities of a PEM file alone.
    pub fn trusting(options: Options, pem: &[u8]) -> Result<Self, NoAuthorities> {
        let mut authorities = RootCertStore::empty();
        authorities.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).map_while(Result::ok));
        if authorities.is_empty() {
            return Err(NoAuthorities("the file holds no certificate in PEM form".into()));
        }
        let direct = build(builder(authorities.clone(), options).no_proxy());
        Ok(Self { direct, proxied: build(builder(authorities, options)), options })
    }

    /// A client for `http://` alone, without proxies. Reads no files.
    pub fn plain(options: Options) -> Self {
        let direct = build(builder(RootCertStore::empty(), options).no_proxy());
        Self { proxied: direct.clone(), direct, options }
    }

    /// Sends one request and reads the whole response.
    pub async fn send(&self, request: request::Builder, body: Bytes) -> Result<Response, Error> {
        let request = request.body(body).map_err(|error| Error::Invalid(error.to_string()))?;
        let request = reqwest::Request::try_from(request).map_err(|error| Error::Invalid(causes(error)))?;
        let client = if has_loopback_host(request.url()) { &self.direct } else { &self.proxied };
        let exchange = self.exchange(client, request);
        let timeout = self.options.timeout;
        tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(Error::Timeout(timeout)))
    }

    async fn exchange(&self, client: &Client, request: reqwest::Request) -> Result<Response, Error> {
        let mut response = client.execute(request).await.map_err(classify)?;
        let (mut body, most) = (BytesMut::new(), self.options.max_body_bytes);
        while let Some(chunk) = response.chunk().await.map_err(classify)? {
            if body.len() + chunk.len() > most {
                return Err(Error::TooLarge(most));
            }
            body.extend_from_slice(&chunk);
        }
        let status = response.status().as_u16();
        Ok(Response { status, headers: std::mem::take(response.headers_mut()), body: body.freeze() })
    }
}

fn builder(authorities: RootCertStore, options: Options) -> reqwest::ClientBuilder {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let tls = tls.expect("ring has cipher suites for every safe version of TLS");
    let builder = Client::builder()
        .tls_backend_preconfigured(tls.with_root_certificates(authorities).with_no_client_auth())
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT);
    if options.keep_alive { builder } else { builder.pool_max_idle_per_host(0) }
}

fn build(builder: reqwest::ClientBuilder) -> Client {
    builder
        .build()
        .expect("only TLS settings, headers and resolvers can fail, and reqwest makes none of them here")
}

fn authorities() -> Result<RootCertStore, NoAuthorities> {
    let found = rustls_native_certs::load_native_certs();
    let mut authorities = RootCertStore::empty();
    authorities.add_parsable_certificates(found.certs);
    if !authorities.is_empty() {
        return Ok(authorities);
    }
    let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
    let found = if errors.is_empty() { "none found".into() } else { errors.join("; ") };
    Err(NoAuthorities(format!("{found}; name a file in SSL_CERT_FILE")))
}

/// Whether a URL's host is this machine.
pub fn is_loopback(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| has_loopback_host(&url))
}

fn has_loopback_host(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn classify(error: reqwest::Error) -> Error {
    let connect = error.is_connect();
    let text = causes(error);
    match connect {
        true if text.contains("invalid peer certificate") => Error::Certificate(text),
        true => Error::Connect(text),
        false => Error::Interrupted(text),
    }
}

/// The error and its causes, without the URL.
fn causes(error: reqwest::Error) -> String {
    let error = error.without_url();
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
    fn loopback_is_by_address_or_localhost() {
        for url in ["http://127.0.0.1:80", "http://[::1]:80", "http://localhost/x"] {
            assert!(is_loopback(url), "{url}");
        }
        let others = [
            "http://api.attio.com",
            "http://127.0.0.1.example.com",
            "http://localhost@example.com",
            "http://10.0.0.1:1",
        ];
        for url in others {
            assert!(!is_loopback(url), "{url}");
        }
    }
}
