//! Reads one request head as it arrives and allows only what can be read in one way.
//!
//! Source: RFC 9112 sections 2 to 6. Where the RFC lets a recipient be lenient (bare line feeds,
//! folded lines, repeated lengths, a length beside a transfer coding) this one is not: every such
//! leniency has been somebody's request smuggling. Whatever passes here, hyper takes too, so that
//! every refusal is the bridge's own.

use axum::http::Uri;
use memchr::{memchr, memchr2};

use crate::pipeline::outcome::Reason;

/// Header fields in one request.
pub const MAX_FIELDS: usize = 100;

/// The longest field name; none that means anything comes near.
const MAX_NAME_BYTES: usize = 1024;

/// How the body of a request is told from what comes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes.
    Length(u64),
    /// Until the last chunk.
    Chunked,
}

/// What is known of a head so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// More must come.
    Incomplete,
    /// It ends after so many bytes.
    Complete(usize, Framing),
    /// It is not taken.
    Refused(Reason),
}

/// The scanner of one head. It is shown the same bytes again, and more of them, until it has decided.
#[derive(Debug)]
pub struct Head {
    limit: usize,
    /// Bytes looked at.
    at: usize,
    /// Where the line that is being looked at begins.
    line: usize,
    /// Where the target stands, once the request line is complete.
    target: Option<(usize, usize)>,
    fields: usize,
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
}

impl Head {
    /// For a head of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, at: 0, line: 0, target: None, fields: 0, hosts: 0, length: None, chunked: false }
    }

    /// Looks at what has come since the last time. `bytes` begin where the head does.
    pub fn scan(&mut self, bytes: &[u8]) -> Scan {
        match self.advance(bytes) {
            Err(reason) => Scan::Refused(reason),
            Ok(None) => Scan::Incomplete,
            Ok(Some(framing)) => Scan::Complete(self.at, framing),
        }
    }

    /// The path that the head names, where it is one that a source could have; for the account alone.
    pub fn path<'b>(&self, bytes: &'b [u8]) -> Option<&'b str> {
        const MAX_PATH_BYTES: usize = 128;
        let (start, end) = self.target?;
        let path = std::str::from_utf8(&bytes[start..end]).ok()?.split('?').next()?;
        let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'/');
        let plain = path.starts_with('/') && path.len() <= MAX_PATH_BYTES && path.bytes().all(fits);
        plain.then_some(path)
    }

    fn advance(&mut self, bytes: &[u8]) -> Result<Option<Framing>, Reason> {
        while let Some(&byte) = bytes.get(self.at) {
            let after_return = self.at > self.line && bytes[self.at - 1] == b'\r';
            if !after_return && is_text(byte) {
                // Most of a head is: passed over at once, as far as the limit.
                let length = text_length(&bytes[self.at..bytes.len().min(self.limit.max(self.at))]);
                self.at += length;
                if length > 0 {
                    continue;
                }
            }
            self.at += 1;
            if self.at > self.limit {
                return Err(Reason::HeadersTooLarge);
            }
            match byte {
                b'\n' if after_return => {
                    let line = self.line..self.at - 2;
                    self.line = self.at;
                    if self.line(bytes, line)? {
                        return self.framing().map(Some);
                    }
                }
                b'\r' if !after_return => {}
                _ => return Err(Reason::BadFraming),
            }
        }
        Ok(None)
    }

    /// Takes one line; true where it is the empty one at the end.
    fn line(&mut self, bytes: &[u8], line: std::ops::Range<usize>) -> Result<bool, Reason> {
        if self.target.is_none() {
            let start = line.start;
            let (from, to) = target(&bytes[line]).ok_or(Reason::BadFraming)?;
            self.target = Some((start + from, start + to));
            return Ok(false);
        }
        if line.is_empty() {
            return Ok(true);
        }
        self.fields += 1;
        if self.fields > MAX_FIELDS {
            return Err(Reason::HeadersTooLarge);
        }
        self.field(&bytes[line])?;
        Ok(false)
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Reason> {
        let colon = memchr(b':', line).ok_or(Reason::BadFraming)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.len() > MAX_NAME_BYTES {
            return Err(Reason::HeadersTooLarge);
        }
        // A folded line begins with white space, and so has no name either.
        if !is_token(name) {
            return Err(Reason::BadFraming);
        }
        if name.eq_ignore_ascii_case(b"host") {
            self.hosts += 1;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let repeated = self.length.replace(length(value)?).is_some();
            return if repeated { Err(Reason::BadFraming) } else { Ok(()) };
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let repeated = std::mem::replace(&mut self.chunked, true);
            if repeated || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Reason::BadFraming);
            }
        }
        Ok(())
    }

    /// What the whole head says.
    fn framing(&self) -> Result<Framing, Reason> {
        match (self.hosts, self.length, self.chunked) {
            (1, None, true) => Ok(Framing::Chunked),
            (1, length, false) => Ok(Framing::Length(length.unwrap_or(0))),
            _ => Err(Reason::BadFraming),
        }
    }
}

/// What may stand in a line.
const fn is_text(byte: u8) -> bool {
    (byte == b'\t') | ((b' ' <= byte) & (byte != 0x7f))
}

/// How many bytes at the front may stand in a line.
fn text_length(bytes: &[u8]) -> usize {
    let line = memchr2(b'\r', b'\n', bytes).map_or(bytes, |end| &bytes[..end]);
    // Looks at every byte, because that is quicker than to stop at the first that does not fit.
    if line.iter().fold(true, |good, byte| good & is_text(*byte)) {
        return line.len();
    }
    line.iter().take_while(|byte| is_text(**byte)).count()
}

/// Where the target stands in a request line of HTTP/1.1.
fn target(line: &[u8]) -> Option<(usize, usize)> {
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let good = words.next().is_none()
        && is_token(method)
        && target.iter().all(u8::is_ascii_graphic)
        && Uri::try_from(target).is_ok()
        && version == b"HTTP/1.1";
    let start = method.len() + 1;
    good.then_some((start, start + target.len()))
}

/// Digits and nothing else. More than any number holds is too large, whatever it is.
fn length(value: &[u8]) -> Result<u64, Reason> {
    let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    match digits {
        None | Some("") => Err(Reason::BadFraming),
        Some(digits) => digits.parse().map_err(|_| Reason::BodyTooLarge),
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| TOKEN[usize::from(*byte)])
}

/// Whether a byte may stand in a token. A table, because every byte of every field name is looked up.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};
