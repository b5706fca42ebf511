//! A request as somebody has written it down: a dump of it, an HTTP archive, or its parts.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;

use crate::delivery::{Header, Headers};

/// A request, as far as it was written down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// Its path, where it was written down.
    pub path: Option<String>,
    /// Names and values as they came.
    pub headers: Vec<(String, Bytes)>,
    /// The body, byte for byte.
    pub body: Bytes,
}

/// Why what was written down is no request.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A line among the headers has no colon.
    #[error(
        "line {line} is no header, for it has no colon: a dump has maybe a request line, the headers, an empty \
         line and the body"
    )]
    NoHeader {
        /// Counted from 1. What it says is not told: it may be a secret's file that was named by mistake.
        line: usize,
    },
    /// Nothing there.
    #[error("there is no header in it: a dump has the headers, an empty line and the body")]
    Empty,
    /// The archive is none.
    #[error("it is no HTTP archive (HAR): {0}")]
    Archive(String),
    /// The archive has fewer entries.
    #[error("the archive has {entries} entries, and none with number {wanted} (they are counted from 1)")]
    NoEntry {
        /// What was asked for.
        wanted: usize,
        /// How many there are.
        entries: usize,
    },
}

impl Captured {
    /// Reads a dump: maybe a request line, then headers, an empty line, and the body to the end. Lines as
    /// `curl -v` prints them, with `> ` in front, are taken as well; then there is no body among them.
    pub fn dump(bytes: &Bytes) -> Result<Self, Error> {
        if bytes.starts_with(b"> ") || bytes.starts_with(b"* ") {
            return Self::of_curl(&String::from_utf8_lossy(bytes));
        }
        let (head, body) = split(bytes);
        let mut request = Self::head(&String::from_utf8_lossy(&head))?;
        request.body = body;
        Ok(request)
    }

    fn of_curl(text: &str) -> Result<Self, Error> {
        let sent = text.lines().filter_map(|line| line.trim_end().strip_prefix('>')).map(str::trim_start);
        Self::head(&sent.collect::<Vec<_>>().join("\n"))
    }

    /// Reads a head alone.
    pub fn head(text: &str) -> Result<Self, Error> {
        let mut request = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.is_empty() {
                continue;
            }
            if index == 0 && line.contains(" HTTP/") {
                request.path = line.split(' ').nth(1).map(path_of);
                continue;
            }
            let Some((name, value)) = line.split_once(':') else {
                return Err(Error::NoHeader { line: index + 1 });
            };
            let value = Bytes::copy_from_slice(value.trim().as_bytes());
            request.headers.push((name.trim().to_owned(), value));
        }
        if request.headers.is_empty() { Err(Error::Empty) } else { Ok(request) }
    }

    /// Reads one entry of an HTTP archive, counted from 1.
    /// Source: the HAR 1.2 specification, `entries[].request`.
    pub fn archive(bytes: &[u8], wanted: usize) -> Result<Self, Error> {
        let archive: Archive =
            serde_json::from_slice(bytes).map_err(|error| Error::Archive(error.to_string()))?;
        let entries = archive.log.entries.len();
        let entry = wanted.checked_sub(1).and_then(|index| archive.log.entries.into_iter().nth(index));
        let HarRequest { url, headers, post_data } = entry.ok_or(Error::NoEntry { wanted, entries })?.request;
        let body = match post_data {
            Some(PostData { text, encoding: Some(encoding) }) if encoding == "base64" => STANDARD
                .decode(text)
                .map_err(|error| Error::Archive(format!("the body is not in base64: {error}")))?
                .into(),
            Some(PostData { text, .. }) => Bytes::from(text),
            None => Bytes::new(),
        };
        // Pseudo headers of HTTP/2 are no headers.
        let headers = headers.into_iter().filter(|header| !header.name.starts_with(':'));
        Ok(Self {
            path: Some(path_of(&url)),
            headers: headers.map(|header| (header.name, Bytes::from(header.value))).collect(),
            body,
        })
    }

    /// The source that the path names, as `/webhooks/{source}` does.
    pub fn source(&self) -> Option<&str> {
        let path = self.path.as_deref()?;
        let path = path.split(['?', '#']).next().unwrap_or(path);
        path.strip_prefix("/api")
            .unwrap_or(path)
            .strip_prefix("/webhooks/")
            .filter(|name| !name.contains('/'))
    }

    /// The values of a header.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Bytes> {
        let named = move |(found, _): &&(String, Bytes)| found.eq_ignore_ascii_case(name);
        self.headers.iter().filter(named).map(|(_, value)| value)
    }

    /// The headers that mean something to the pipeline.
    pub fn to_headers(&self) -> Headers {
        let header = |name| {
            let mut values = self.values(name);
            match (values.next(), values.next()) {
                (None, _) => Header::Absent,
                (Some(value), None) => Header::Once(value.clone()),
                (Some(_), Some(_)) => Header::Repeated,
            }
        };
        Headers {
            attio_signature: header("attio-signature"),
            x_attio_signature: header("x-attio-signature"),
            timestamp: header("x-attio-timestamp"),
            idempotency_key: header("idempotency-key"),
        }
    }
}

/// The path of a URL or of a request's target.
fn path_of(target: &str) -> String {
    let rest = target.split_once("://").map_or(target, |(_, rest)| rest);
    let at = if rest.len() == target.len() { 0 } else { rest.find('/').unwrap_or(rest.len()) };
    rest[at..].to_owned()
}

/// Head and body: whichever kind of empty line comes first.
fn split(bytes: &Bytes) -> (Bytes, Bytes) {
    let find =
        |end: &[u8]| bytes.windows(end.len()).position(|window| window == end).map(|at| (at, end.len()));
    let ends = [find(b"\r\n\r\n"), find(b"\n\n")];
    match ends.into_iter().flatten().min() {
        Some((at, length)) => (bytes.slice(..at), bytes.slice(at + length..)),
        None => (bytes.clone(), Bytes::new()),
    }
}

#[derive(Deserialize)]
struct Archive {
    log: Log,
}

#[derive(Deserialize)]
struct Log {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    request: HarRequest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HarRequest {
    url: String,
    headers: Vec<HarHeader>,
    post_data: Option<PostData>,
}

#[derive(Deserialize)]
struct HarHeader {
    name: String,
    value: String,
}

#[derive(Deserialize)]
struct PostData {
    text: String,
    encoding: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(request: &Captured) -> Vec<(&str, &[u8])> {
        request.headers.iter().map(|(name, value)| (name.as_str(), value.as_ref())).collect()
    }

    #[test]
    fn a_dump_has_a_request_line_or_none_and_either_line_end() {
        for dump in [
            "POST /webhooks/attio?x=1 HTTP/1.1\r\nHost: h\r\nA: b \r\n\r\n{\n\n}\r\n",
            "POST https://h/webhooks/attio HTTP/1.1\nHost: h\nA:b\n\n{\n\n}\r\n",
        ] {
            let request = Captured::dump(&Bytes::from(dump)).unwrap();
            assert_eq!(request.source(), Some("attio"));
            assert_eq!(headers(&request), [("Host", &b"h"[..]), ("A", b"b")]);
            assert_eq!(request.body, "{\n\n}\r\n");
        }
        let bare = Captured::dump(&Bytes::from("A: b\n\n{}")).unwrap();
        assert_eq!((bare.source(), bare.body.as_ref()), (None, &b"{}"[..]));
    }

    #[test]
    fn what_curl_says_of_a_request_is_its_head() {
        let text = "* Connected\n> POST /api/webhooks/crm HTTP/1.1\n> Host: h\n> A: b\n> \n< HTTP/1.1 401 no\n< c: d\n";
        let request = Captured::dump(&Bytes::from(text)).unwrap();
        assert_eq!(request.source(), Some("crm"));
        assert_eq!(headers(&request), [("Host", &b"h"[..]), ("A", b"b")]);
    }

    #[test]
    fn what_is_no_dump_is_told_with_its_line() {
        let error = Captured::dump(&Bytes::from("A: b\nnothing here\n\n{}")).unwrap_err();
        assert_eq!(error, Error::NoHeader { line: 2 });
        assert_eq!(Captured::dump(&Bytes::from("\n\n{}")).unwrap_err(), Error::Empty);
    }

    #[test]
    fn an_archive_has_entries() {
        let archive =
            br#"{"log":{"entries":[{"request":{"method":"POST","url":"https://h.test/webhooks/attio",
            "headers":[{"name":":path","value":"/"},{"name":"A","value":"b"}],
            "postData":{"mimeType":"application/json","text":"e30=","encoding":"base64"}}}]}}"#;
        let request = Captured::archive(archive, 1).unwrap();
        assert_eq!((request.source(), request.body.as_ref()), (Some("attio"), &b"{}"[..]));
        assert_eq!(headers(&request), [("A", &b"b"[..])]);
        assert_eq!(Captured::archive(archive, 2).unwrap_err(), Error::NoEntry { wanted: 2, entries: 1 });
        assert_eq!(Captured::archive(archive, 0).unwrap_err(), Error::NoEntry { wanted: 0, entries: 1 });
        assert!(matches!(Captured::archive(b"{}", 1), Err(Error::Archive(_))));
    }

    #[test]
    fn a_header_that_comes_twice_is_repeated() {
        let request = Captured::dump(&Bytes::from("Attio-Signature: a\nattio-signature: b\n\n")).unwrap();
        assert_eq!(request.to_headers().attio_signature, Header::Repeated);
    }
}
