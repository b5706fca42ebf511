//! One try of a delivery as HTTP, in the headers that Attio sends.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::dev::client::USER_AGENT;
use crate::dev::sign::sign;

/// One delivery to one webhook, as it is tried now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// Where to.
    pub target_url: String,
    /// The body.
    pub body: String,
    /// The same on every try.
    pub key: String,
    /// Hex HMAC of the body.
    pub signature: String,
}

impl Parcel {
    /// Signs a body.
    pub fn new(target_url: &str, secret: &str, body: String, key: &str) -> Self {
        let signature = sign(secret, &[body.as_bytes()]);
        Self { target_url: target_url.to_owned(), body, key: key.to_owned(), signature }
    }

    /// The request that goes to an address in the place of the URL's host.
    fn request(self, address: SocketAddr) -> hyper::http::Result<Request<Full<Bytes>>> {
        let rest = self.target_url.split_once("://").map_or(&*self.target_url, |(_, rest)| rest);
        let path = rest.find('/').map_or("/", |at| &rest[at..]);
        Request::post(format!("http://{address}{path}"))
            .header("User-Agent", USER_AGENT)
            .header("Content-Type", "application/json")
            .header("Attio-Signature", &self.signature)
            .header("X-Attio-Signature", &self.signature)
            .header("Idempotency-Key", &self.key)
            .body(Full::new(self.body.into()))
    }
}

/// What a try comes to: a status, or none.
pub type Trying = Pin<Box<dyn Future<Output = Option<u16>> + Send>>;

/// Tries a delivery.
pub type Post = Arc<dyn Fn(Parcel) -> Trying + Send + Sync>;

/// Posts to one address, whatever the host of the target URL is: what stands behind it here.
pub fn to(address: SocketAddr) -> Post {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    Arc::new(move |parcel| {
        let client = client.clone();
        Box::pin(async move {
            let answer = client.request(parcel.request(address).ok()?).await.ok()?;
            let status = answer.status().as_u16();
            // Read to its end, so that the connection can be used again.
            answer.into_body().collect().await.ok()?;
            Some(status)
        })
    })
}
