//! The HTTP of the sender: one connection for each request, as much time as Attio gives.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

use super::planned::{Answer, Counts, Request};

/// How long Attio waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What Attio called itself where it was last seen.
pub const USER_AGENT: &str = "Attio 2.0 (https://attio.com/developers/using-webhooks)";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error("no connection to {address}: {source}")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The exchange broke off.
    #[error("the exchange broke off: {0}")]
    Exchange(#[from] hyper::Error),
    /// The answer took too long.
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Late,
    /// The request cannot be written.
    #[error("not a request: {0}")]
    Request(#[from] hyper::http::Error),
}

/// An answer, and how long it took.
#[derive(Clone, Debug)]
pub struct Answered {
    /// What was answered.
    pub answer: Answer,
    /// From before the connection to after the last byte.
    pub took: Duration,
}

/// Makes a delivery.
pub async fn deliver(address: SocketAddr, request: &Request) -> Result<Answered, Error> {
    let mut post = hyper::Request::post(request.path)
        .header("Host", address.to_string())
        .header("User-Agent", USER_AGENT)
        .header("Content-Type", "application/json");
    for (name, value) in &request.headers {
        post = post.header(*name, value);
    }
    let post = post.body(Full::new(request.body.clone()))?;
    let started = Instant::now();
    let (status, body) = exchange(address, post).await?;
    Ok(Answered { answer: read(status, &body), took: started.elapsed() })
}

/// Gets a page of the admin listener.
pub async fn get(address: SocketAddr, path: &str) -> Result<(u16, Bytes), Error> {
    let request = hyper::Request::get(path).header("Host", address.to_string()).body(Full::default())?;
    exchange(address, request).await
}

async fn exchange(address: SocketAddr, request: hyper::Request<Full<Bytes>>) -> Result<(u16, Bytes), Error> {
    let exchange = async {
        let stream = TcpStream::connect(address).await;
        let stream = stream.map_err(|source| Error::Connect { address, source })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        drop(sender);
        // The answer is complete; how its connection ends changes nothing.
        let _ = connection.await;
        Ok((status, body))
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap_or(Err(Error::Late))
}

/// The members that both kinds of answer have, and those of the good one.
#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    reason: String,
    #[serde(flatten)]
    counts: Option<Counts>,
}

fn read(status: u16, body: &[u8]) -> Answer {
    match serde_json::from_slice(body) {
        Ok(Body { reason, counts }) => Answer { status, reason, counts },
        Err(error) => Answer { status, reason: format!("(unreadable answer: {error})"), counts: None },
    }
}
