//! An HTTP client on a bare socket: it can stop half way, keep its connection, and see it closed.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::request::Request;
use super::wait::PATIENCE;

/// An HTTP response.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn reason(&self) -> String {
        self.json()["reason"].as_str().unwrap().to_owned()
    }

    /// Whether the server announces that it closes the connection.
    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// The status and the `reason` of the body.
    pub fn status_and_reason(&self) -> (u16, String) {
        (self.status, self.reason())
    }
}

/// One connection.
pub struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::from(stream)
    }

    /// One that is connected already.
    pub fn from(stream: TcpStream) -> Self {
        Self { stream, read: Vec::new() }
    }

    /// Writes bytes; false where the server has closed, which is best seen when reading.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("the server takes bytes").is_ok()
    }

    pub async fn send(&mut self, request: &Request) {
        self.write(&request.bytes()).await;
    }

    /// Resets the connection.
    pub fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }

    /// Closes the sending half.
    pub async fn half_close(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// One complete response; none if the connection was closed instead.
    pub async fn try_receive(&mut self) -> Option<Response> {
        let head_end = loop {
            if let Some(at) = find(&self.read, b"\r\n\r\n") {
                break at;
            }
            if !self.more().await {
                return None;
            }
        };
        let head = String::from_utf8(self.read.drain(..head_end + 4).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let mut response = Response { status, headers, body: Vec::new() };
        let length = response.header("content-length").map_or(0, |length| length.parse().unwrap());
        while self.read.len() < length {
            assert!(self.more().await, "closed in the middle of a body: {response:?}");
        }
        response.body = self.read.drain(..length).collect();
        Some(response)
    }

    pub async fn receive(&mut self) -> Response {
        self.try_receive().await.expect("a response and not the end of the connection")
    }

    pub async fn ask(&mut self, request: &Request) -> Response {
        self.send(request).await;
        self.receive().await
    }

    /// Waits for the server to close the connection.
    pub async fn closed(&mut self) {
        while self.more().await {}
    }

    /// Reads what comes; false at the end of the connection.
    async fn more(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let count =
            timeout(PATIENCE, self.stream.read(&mut buffer)).await.expect("the server sends or closes");
        let count = count.unwrap_or(0);
        self.read.extend_from_slice(&buffer[..count]);
        count > 0
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
