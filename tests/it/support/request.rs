//! Requests as a sender makes them, and as an attacker does.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The secret of every bridge that the tests start; that of `signing-vectors.json`.
pub const SECRET: &str = "2f83d6f1da3638e7e9ded95b7561d1f39fbc5a82c0ee0f5d709f046a78067609";

/// The signature of a text, in lower case hex.
pub fn sign(secret: &str, parts: &[&[u8]]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One HTTP request, written out by hand so that it may be wrong in any way.
#[derive(Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub version: &'static str,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    pub chunk: Option<usize>,
}

impl Request {
    /// A POST of that body to source `attio`, without a signature.
    pub fn unsigned(body: impl AsRef<[u8]>) -> Self {
        Self {
            method: "POST".into(),
            path: "/webhooks/attio".into(),
            version: "HTTP/1.1",
            headers: vec![
                ("Host".into(), "bridge.test".into()),
                ("Content-Type".into(), "application/json".into()),
            ],
            body: body.as_ref().to_vec(),
            chunk: None,
        }
    }

    /// Signed as Attio does: over the body.
    pub fn signed(body: impl AsRef<[u8]>) -> Self {
        let request = Self::unsigned(body);
        let signature = sign(SECRET, &[&request.body]);
        request.header("Attio-Signature", signature)
    }

    /// Signed as Attio does, with an idempotency key.
    pub fn keyed(key: &str, body: impl AsRef<[u8]>) -> Self {
        Self::signed(body).header("Idempotency-Key", key)
    }

    /// Signed in the timestamped scheme: over `timestamp.body`.
    pub fn timestamped(timestamp: &str, body: impl AsRef<[u8]>) -> Self {
        let request = Self::unsigned(body);
        let signature = sign(SECRET, &[timestamp.as_bytes(), b".", &request.body]);
        request.header("X-Attio-Signature", signature).header("X-Attio-Timestamp", timestamp)
    }

    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.into(), value.as_ref().to_vec()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(header, _)| !header.eq_ignore_ascii_case(name));
        self
    }

    pub fn path(mut self, path: &str) -> Self {
        self.path = path.into();
        self
    }

    pub fn method(mut self, method: &str) -> Self {
        self.method = method.into();
        self
    }

    /// Sent in chunks of that size, without a Content-Length.
    pub fn chunked(mut self, size: usize) -> Self {
        self.chunk = Some(size);
        self
    }

    /// The request line and the headers, with the empty line after them.
    pub fn head(&self) -> Vec<u8> {
        let mut out = format!("{} {} {}\r\n", self.method, self.path, self.version).into_bytes();
        for (name, value) in &self.headers {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        let framed = |name: &str| self.headers.iter().any(|(header, _)| header.eq_ignore_ascii_case(name));
        if self.chunk.is_some() {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        } else if !framed("content-length") && !framed("transfer-encoding") {
            out.extend_from_slice(format!("Content-Length: {}\r\n", self.body.len()).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out
    }

    /// The body as it stands on the wire.
    pub fn framed_body(&self) -> Vec<u8> {
        let Some(size) = self.chunk else { return self.body.clone() };
        let mut out = Vec::new();
        for chunk in self.body.chunks(size) {
            out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            out.extend_from_slice(chunk);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"0\r\n\r\n");
        out
    }

    pub fn bytes(&self) -> Vec<u8> {
        [self.head(), self.framed_body()].concat()
    }
}
