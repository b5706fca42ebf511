//! Parses one request head as it arrives and accepts only heads that can be read in one way.
//!
//! `httparse` checks the grammar, as it does again in hyper: what passes here, hyper accepts too, so every
//! refusal is the bridge's own. On top come the checks of RFC 9112 that httparse leaves to its caller: line
//! ends (sections 2.2 and 5.2) and framing (section 6). Where the RFC permits leniency this parser is
//! strict, because request smuggling uses exactly those cases.

use std::mem::MaybeUninit;

use axum::http::Uri;
use httparse::{Error, Header, Request, Status};
use memchr::memchr2;

use crate::pipeline::outcome::Reason;

/// Header fields in one request.
pub const MAX_FIELDS: usize = 100;

/// The longest field name, in bytes.
const MAX_NAME_BYTES: usize = 1024;

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// Content-Length, or no body.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub length: usize,
    pub body: BodyFraming,
    /// HTTP/1.0: the connection ends with the answer.
    pub http_10: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    /// What is wrong, if the reason alone does not say.
    pub error: Option<String>,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self { reason, error: None }
    }
}

fn bad(error: &str) -> Refusal {
    Refusal { reason: Reason::BadFraming, error: Some(error.to_owned()) }
}

/// Parses one head. It is given the same bytes and more until it decides, and scans each byte once.
#[derive(Debug)]
pub struct HeadParser {
    limit: usize,
    /// Start of the line that is incomplete. Above 0 the request line is complete and valid.
    line: usize,
    /// Bytes of that line without a CR or LF.
    scanned: usize,
}

impl HeadParser {
    pub fn new(limit: usize) -> Self {
        Self { limit, line: 0, scanned: 0 }
    }

    /// The head at the front of `bytes`; none while it is incomplete.
    pub fn parse(&mut self, bytes: &[u8]) -> Result<Option<Head>, Refusal> {
        let allowed = &bytes[..bytes.len().min(self.limit)];
        let mut scanned = std::mem::take(&mut self.scanned);
        while let Some(line) = line(&allowed[self.line..], scanned)? {
            let end = self.line + line.len() + 2;
            if self.line == 0 {
                check_request_line(&allowed[..end])?;
            } else if line.is_empty() {
                return parse_complete(&allowed[..end]).map(Some);
            }
            (self.line, scanned) = (end, 0);
        }
        let new = &allowed[self.line + scanned..];
        self.scanned = scanned + new.len() - usize::from(new.ends_with(b"\r"));
        if self.line == 0 && !new.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\r')) {
            // Such as TLS to a plain port, whose bytes may never form a line.
            return Err(bad("not an HTTP request"));
        }
        if bytes.len() > self.limit { Err(Reason::HeadersTooLarge.into()) } else { Ok(None) }
    }

    /// The request path, for counting the refusal by its source; none if no source can have it.
    pub fn path<'b>(&self, bytes: &'b [u8]) -> Option<&'b str> {
        const MAX_PATH_BYTES: usize = 128;
        let mut request = Request::new(&mut []);
        // Incomplete without the header fields; the request line is all that matters.
        let _ = request.parse(&bytes[..self.line]);
        let path = request.path?.split('?').next()?;
        let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'/');
        (path.starts_with('/') && path.len() <= MAX_PATH_BYTES && path.bytes().all(fits)).then_some(path)
    }
}

/// The line at the front of `bytes`, without its CR LF; none while it is incomplete; an error for a CR or LF that
/// is not part of CR LF. The first `scanned` bytes are known to have no CR and no LF.
pub fn line(bytes: &[u8], scanned: usize) -> Result<Option<&[u8]>, Refusal> {
    let end = memchr2(b'\r', b'\n', &bytes[scanned..]).map_or(bytes.len(), |at| scanned + at);
    let (line, end) = bytes.split_at(end);
    match end {
        [] | [b'\r'] => Ok(None),
        [b'\r', b'\n', ..] => Ok(Some(line)),
        _ => Err(bad("a line does not end with CR LF")),
    }
}

fn check_request_line(line: &[u8]) -> Result<(), Refusal> {
    let mut request = Request::new(&mut []);
    match (request.parse(line), request.path, request.version) {
        (Ok(_), Some(path), Some(_)) if path.is_ascii() && Uri::try_from(path).is_ok() => Ok(()),
        (Err(Error::Version), ..) => Err(bad("the version must be HTTP/1.1 or HTTP/1.0")),
        _ => Err(bad("malformed request line")),
    }
}

/// Parses a head that ends with its empty line and whose lines all end with CR LF.
fn parse_complete(head: &[u8]) -> Result<Head, Refusal> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut fields) {
        Ok(Status::Complete(length)) if length == head.len() => {}
        Err(Error::TooManyHeaders) => return Err(Reason::HeadersTooLarge.into()),
        _ => return Err(bad("malformed header field")),
    }
    let http_10 = request.version == Some(0);
    let body = framing(&request, http_10).map_err(|Refusal { reason, error }| Refusal {
        reason,
        error: error.map(|error| format!("HTTP/1.{}: {error}", u8::from(!http_10))),
    })?;
    Ok(Head { length: head.len(), body, http_10 })
}

/// How the end of the body is found, if the head leaves no doubt.
fn framing(request: &Request<'_, '_>, http_10: bool) -> Result<BodyFraming, Refusal> {
    let (mut hosts, mut length, mut chunked) = (0, None, false);
    for Header { name, value } in request.headers.iter() {
        if name.len() > MAX_NAME_BYTES {
            return Err(Reason::HeadersTooLarge.into());
        }
        if name.eq_ignore_ascii_case("host") {
            hosts += 1;
        } else if name.eq_ignore_ascii_case("content-length") {
            if length.replace(content_length(value.trim_ascii())?).is_some() {
                return Err(bad("more than one Content-Length"));
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            let repeated = std::mem::replace(&mut chunked, true);
            if repeated || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err(bad("the only Transfer-Encoding must be chunked"));
            }
        }
    }
    let no_body = matches!(request.method, Some("GET" | "HEAD"));
    match (hosts, length, chunked) {
        (2.., ..) => Err(bad("more than one Host")),
        (0, ..) if !http_10 => Err(bad("no Host")),
        (_, Some(_), true) => Err(bad("Content-Length beside Transfer-Encoding")),
        (.., true) if http_10 => Err(bad("Transfer-Encoding")),
        // In HTTP/1.0 such a body may also end with the connection.
        (_, None, false) if http_10 && !no_body => Err(bad("no Content-Length")),
        (.., true) => Ok(BodyFraming::Chunked),
        (_, length, false) => Ok(BodyFraming::Length(length.unwrap_or(0))),
    }
}

/// Digits only. A number of more than 63 bits is a body that is too large; hyper refuses the largest ones itself.
fn content_length(value: &[u8]) -> Result<u64, Refusal> {
    let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    match digits {
        None | Some("") => Err(bad("malformed Content-Length")),
        Some(digits) => match digits.parse() {
            Ok(length) if length <= i64::MAX as u64 => Ok(length),
            _ => Err(Reason::BodyTooLarge.into()),
        },
    }
}
