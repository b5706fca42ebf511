//! A captured request: a dump of it, an HTTP archive, or its parts.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::Value;

use crate::delivery::{Header, Headers};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    pub path: Option<String>,
    /// Names and values as received.
    pub headers: Vec<(String, Bytes)>,
    pub body: Bytes,
}

impl Captured {
    /// Reads a dump: an optional request line, headers, an empty line, and the body to the end. Or what
    /// `curl -v` prints, with `> ` in front of each line and without the body.
    pub fn dump(bytes: &Bytes) -> Result<Self, String> {
        if bytes.starts_with(b"> ") || bytes.starts_with(b"* ") {
            let text = String::from_utf8_lossy(bytes);
            let sent = text.lines().filter_map(|line| line.trim_end().strip_prefix('>')).map(str::trim_start);
            return Self::head(&sent.collect::<Vec<_>>().join("\n"));
        }
        let (head, body) = split(bytes);
        Ok(Self { body, ..Self::head(&String::from_utf8_lossy(&head))? })
    }

    pub fn head(text: &str) -> Result<Self, String> {
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
            // The text is not reported: the file may be one with a secret.
            let (name, value) = line.split_once(':').ok_or_else(|| {
                format!(
                    "line {} is not a header, because it has no colon; expected an optional request line, headers, an \
                     empty line and the body",
                    index + 1
                )
            })?;
            let value = Bytes::copy_from_slice(value.trim().as_bytes());
            request.headers.push((name.trim().to_owned(), value));
        }
        match request.headers.is_empty() {
            true => Err("it has no headers; expected headers, an empty line and the body".into()),
            false => Ok(request),
        }
    }

    /// Reads one entry of an HTTP archive, counted from 1.
    /// Source: the HAR 1.2 specification, `entries[].request`.
    pub fn archive(bytes: &[u8], wanted: usize) -> Result<Self, String> {
        let invalid = |error: &str| format!("it is not an HTTP archive (HAR): {error}");
        let archive: Value = serde_json::from_slice(bytes).map_err(|error| invalid(&error.to_string()))?;
        let entries = archive["log"]["entries"].as_array().ok_or(invalid("it has no `log.entries`"))?;
        let entry = wanted.checked_sub(1).and_then(|index| entries.get(index));
        let count = entries.len();
        let none = || {
            format!(
                "the archive has {count} entries, and none with number {wanted} (they are counted from 1)"
            )
        };
        let request = &entry.ok_or_else(none)?["request"];
        let text = |value: &Value, name: &str| {
            value[name]
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| invalid(&format!("a request without `{name}`")))
        };
        let mut captured = Self { path: Some(path_of(&text(request, "url")?)), ..Self::default() };
        for header in request["headers"].as_array().ok_or(invalid("a request without `headers`"))? {
            let name = text(header, "name")?;
            // Pseudo headers of HTTP/2 are not headers.
            if !name.starts_with(':') {
                captured.headers.push((name, text(header, "value")?.into()));
            }
        }
        if let Some(data) = request.get("postData").filter(|data| !data.is_null()) {
            let body = text(data, "text")?;
            captured.body = match data["encoding"].as_str() {
                Some("base64") => {
                    STANDARD.decode(body).map_err(|_| invalid("the body is not base64"))?.into()
                }
                _ => body.into(),
            };
        }
        Ok(captured)
    }

    /// The source in the path, as in `/webhooks/{source}`.
    pub fn source(&self) -> Option<&str> {
        let path = self.path.as_deref()?;
        let path = path.split(['?', '#']).next().unwrap_or(path);
        let name = path.strip_prefix("/api").unwrap_or(path).strip_prefix("/webhooks/")?;
        Some(name).filter(|name| !name.contains('/'))
    }

    /// Every header whose name contains "signature".
    pub fn signatures(&self) -> impl Iterator<Item = &(String, Bytes)> {
        self.headers.iter().filter(|(name, _)| name.to_ascii_lowercase().contains("signature"))
    }

    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Bytes> {
        let named = move |(found, _): &&(String, Bytes)| found.eq_ignore_ascii_case(name);
        self.headers.iter().filter(named).map(|(_, value)| value)
    }

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
            idempotency_key: Header::idempotency_key(self.values("idempotency-key").map(|value| &value[..])),
        }
    }
}

fn path_of(target: &str) -> String {
    let rest = target.split_once("://").map_or(target, |(_, rest)| rest);
    let at = if rest.len() == target.len() { 0 } else { rest.find('/').unwrap_or(rest.len()) };
    rest[at..].to_owned()
}

/// Head and body, at the first empty line of either kind.
fn split(bytes: &Bytes) -> (Bytes, Bytes) {
    let find =
        |end: &[u8]| bytes.windows(end.len()).position(|window| window == end).map(|at| (at, end.len()));
    let ends = [find(b"\r\n\r\n"), find(b"\n\n")];
    match ends.into_iter().flatten().min() {
        Some((at, length)) => (bytes.slice(..at), bytes.slice(at + length..)),
        None => (bytes.clone(), Bytes::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(request: &Captured) -> Vec<(&str, &[u8])> {
        request.headers.iter().map(|(name, value)| (name.as_str(), value.as_ref())).collect()
    }

    #[test]
    fn dump_with_and_without_request_line_and_either_line_end() {
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
    fn curl_verbose_output_is_a_head() {
        let text = "* Connected\n> POST /api/webhooks/crm HTTP/1.1\n> Host: h\n> A: b\n> \n< HTTP/1.1 401 no\n< c: d\n";
        let request = Captured::dump(&Bytes::from(text)).unwrap();
        assert_eq!(request.source(), Some("crm"));
        assert_eq!(headers(&request), [("Host", &b"h"[..]), ("A", b"b")]);
    }

    #[test]
    fn malformed_dump_is_an_error_with_its_line() {
        let error = Captured::dump(&Bytes::from("A: b\nnothing here\n\n{}")).unwrap_err();
        assert!(error.starts_with("line 2 is not a header"), "{error}");
        assert!(Captured::dump(&Bytes::from("\n\n{}")).unwrap_err().contains("no headers"));
    }

    #[test]
    fn archive_entries_are_counted_from_1() {
        let archive =
            br#"{"log":{"entries":[{"request":{"method":"POST","url":"https://h.test/webhooks/attio",
            "headers":[{"name":":path","value":"/"},{"name":"A","value":"b"}],
            "postData":{"mimeType":"application/json","text":"e30=","encoding":"base64"}}}]}}"#;
        let request = Captured::archive(archive, 1).unwrap();
        assert_eq!((request.source(), request.body.as_ref()), (Some("attio"), &b"{}"[..]));
        assert_eq!(headers(&request), [("A", &b"b"[..])]);
        for wanted in [0, 2] {
            let error = Captured::archive(archive, wanted).unwrap_err();
            assert!(error.contains("1 entries") && error.contains(&format!("number {wanted} ")), "{error}");
        }
        assert!(Captured::archive(b"{}", 1).unwrap_err().contains("not an HTTP archive"));
    }

    #[test]
    fn repeated_header_is_repeated() {
        let request = Captured::dump(&Bytes::from("Attio-Signature: a\nattio-signature: b\n\n")).unwrap();
        assert_eq!(request.to_headers().attio_signature, Header::Repeated);
    }
}
