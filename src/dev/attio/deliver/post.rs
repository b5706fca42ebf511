//! One try of a delivery as HTTP, in the headers that Attio sends.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::dev::mail::Mail;
use crate::dev::post::{Lost, Poster, Reply};
use crate::dev::stamp::Headers;

/// What Attio called itself where it was last seen, in its reference of 2023.
const USER_AGENT: &str = "Attio 2.0 (https://attio.com/developers/using-webhooks)";

/// One delivery as it is tried now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// Where to.
    pub target_url: String,
    /// Signature and key.
    pub headers: Headers,
    /// The body.
    pub body: Bytes,
}

impl Parcel {
    /// A delivery to that URL, signed now.
    pub fn new(target_url: &str, secret: &str, mail: &Mail) -> Self {
        let (target_url, body) = (target_url.to_owned(), mail.body.clone());
        Self { target_url, headers: mail.headers(secret), body }
    }

    /// The URL with an address in the place of its host, and without TLS.
    fn url_at(&self, address: SocketAddr) -> String {
        let rest = self.target_url.split_once("://").map_or(&*self.target_url, |(_, rest)| rest);
        let path = rest.find('/').map_or("/", |at| &rest[at..]);
        format!("http://{address}{path}")
    }
}

/// What a try comes to.
pub type Trying = Pin<Box<dyn Future<Output = Result<Reply, Lost>> + Send>>;

/// Tries a delivery.
pub type Post = Arc<dyn Fn(Parcel) -> Trying + Send + Sync>;

/// Posts to one address, whatever the host of the target URL is: what stands behind it here.
pub fn to(address: SocketAddr) -> Post {
    let poster = Poster::plain(USER_AGENT);
    Arc::new(move |parcel| {
        let poster = poster.clone();
        Box::pin(async move {
            let url = parcel.url_at(address);
            poster.post(&url, &parcel.headers, parcel.body).await
        })
    })
}
