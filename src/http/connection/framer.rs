//! Frames requests between the socket and hyper: hyper receives complete heads that were accepted, then
//! the bytes of their bodies, and no other byte.
//!
//! Each byte is copied twice, from the socket into this buffer and from there into hyper's: the price of
//! checking a head before hyper reads any of it.

use bytes::{Buf, BytesMut};

use super::head::{BodyFraming, HeadParser, Refusal, line};

/// What the bytes at the front of the buffer belong to.
#[derive(Debug)]
enum State {
    Head(HeadParser),
    Body {
        left: u64,
        last: bool,
    },
    Chunked(ChunkedBody),
    /// Nothing more is read: a head was refused, a body was malformed, or the request was HTTP/1.0.
    Closed,
}

/// What was passed on.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Bytes,
    /// The first bytes of a head.
    Head,
    /// The first bytes of a [synthetic request](synthetic_request), in place of a head that was refused.
    RefusedHead(Refusal),
    /// Nothing: read from the socket first.
    NeedsMore,
    /// Nothing, and nothing will follow.
    Closed,
}

pub struct RequestFramer {
    /// Bytes received and not passed on.
    buffer: BytesMut,
    /// How many of them may be passed on.
    ready: usize,
    state: State,
    head_limit: usize,
}

/// Bytes to read at once, for a head and for a body.
const HEAD_READ_BYTES: usize = 4096;
const BODY_READ_BYTES: usize = 16 * 1024;

impl RequestFramer {
    pub fn new(head_limit: usize) -> Self {
        let state = State::Head(HeadParser::new(head_limit));
        Self { buffer: BytesMut::new(), ready: 0, state, head_limit }
    }

    pub fn buffer(&mut self) -> &mut BytesMut {
        let spare = self.buffer.capacity() - self.buffer.len();
        match self.state {
            // A slow head uses up its spare capacity before the buffer is copied into a larger one.
            State::Head(_) if spare > 0 && !self.buffer.is_empty() => {}
            State::Head(_) => self.buffer.reserve(HEAD_READ_BYTES),
            _ => self.buffer.reserve(BODY_READ_BYTES),
        }
        &mut self.buffer
    }

    /// Whether no byte of a next request has arrived.
    pub fn is_idle(&self) -> bool {
        self.buffer.is_empty() && matches!(self.state, State::Head(_))
    }

    /// Shrinks the buffer of a connection that waits, to at most twice its contents.
    pub fn shrink(&mut self) {
        if self.buffer.capacity() > 2 * self.buffer.len() {
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
    }

    /// Passes on at most `most` bytes.
    pub fn pass(&mut self, most: usize, take: impl FnOnce(&[u8])) -> Result<Event, MalformedChunk> {
        let event = if self.ready == 0 { self.advance()? } else { Event::Bytes };
        let count = self.ready.min(most);
        take(&self.buffer[..count]);
        self.buffer.advance(count);
        self.ready -= count;
        Ok(event)
    }

    /// Decides how many bytes may be passed on.
    fn advance(&mut self) -> Result<Event, MalformedChunk> {
        match &mut self.state {
            State::Closed => return Ok(Event::Closed),
            State::Head(_) => return Ok(self.advance_head()),
            State::Body { left, last } => {
                self.ready = usize::try_from(*left).unwrap_or(usize::MAX).min(self.buffer.len());
                *left -= self.ready as u64;
                if let (0, last) = (*left, *last) {
                    self.state = self.after_body(last);
                }
            }
            State::Chunked(body) => match body.advance(&self.buffer) {
                Ok(count) => {
                    self.ready = count;
                    if body.has_ended() {
                        self.state = self.after_body(false);
                    }
                }
                Err(error) => {
                    self.state = State::Closed;
                    return Err(error);
                }
            },
        }
        Ok(if self.ready == 0 { Event::NeedsMore } else { Event::Bytes })
    }

    fn advance_head(&mut self) -> Event {
        let State::Head(parser) = &mut self.state else { return Event::NeedsMore };
        match parser.parse(&self.buffer) {
            Ok(None) => Event::NeedsMore,
            Ok(Some(head)) => {
                self.ready = head.length;
                self.state = match head.body {
                    BodyFraming::Length(0) => self.after_body(head.http_10),
                    BodyFraming::Length(left) => State::Body { left, last: head.http_10 },
                    BodyFraming::Chunked => State::Chunked(ChunkedBody::default()),
                };
                Event::Head
            }
            Err(refusal) => {
                let request = synthetic_request(&self.buffer, parser.path(&self.buffer).unwrap_or("/"));
                self.buffer = BytesMut::from(&*request);
                self.ready = self.buffer.len();
                self.state = State::Closed;
                Event::RefusedHead(refusal)
            }
        }
    }

    fn after_body(&self, last: bool) -> State {
        if last { State::Closed } else { State::Head(HeadParser::new(self.head_limit)) }
    }
}

/// The request that hyper receives in place of one whose head was refused. It goes through the router like
/// any other, so the refusal is counted, logged and answered after the answers before it: without a body if the
/// request was a HEAD.
fn synthetic_request(refused: &[u8], path: &str) -> String {
    let method = if refused.starts_with(b"HEAD ") { "HEAD" } else { "POST" };
    format!("{method} {path} HTTP/1.1\r\nHost: refused\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed chunk")]
pub struct MalformedChunk;

/// The part of a chunked body that is expected next (RFC 9112 section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The line with a chunk's size.
    Size,
    /// Bytes left of a chunk.
    Data(u64),
    /// The CR LF after a chunk.
    DataEnd,
    /// A trailer field, or the empty line that ends the body.
    Trailer,
    End,
}

#[derive(Debug)]
struct ChunkedBody {
    part: Part,
    /// Bytes of extensions and trailers that may still arrive.
    spare: usize,
}

/// Bytes of extensions and trailers in one body. The limit of bodies does not count them.
const MAX_SPARE_BYTES: usize = 4096;

/// Hex digits of a chunk size; with one more the size could overflow.
const MAX_DIGITS: usize = 15;

impl Default for ChunkedBody {
    fn default() -> Self {
        Self { part: Part::Size, spare: MAX_SPARE_BYTES }
    }
}

impl ChunkedBody {
    fn has_ended(&self) -> bool {
        self.part == Part::End
    }

    /// How many of these bytes belong to the body and to complete lines of it.
    fn advance(&mut self, bytes: &[u8]) -> Result<usize, MalformedChunk> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match self.part {
                Part::End => break,
                Part::Data(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    let left = left - here as u64;
                    self.part = if left == 0 { Part::DataEnd } else { Part::Data(left) };
                    at += here;
                }
                Part::DataEnd => match rest {
                    [b'\r'] => break,
                    [b'\r', b'\n', ..] => {
                        self.part = Part::Size;
                        at += 2;
                    }
                    _ => return Err(MalformedChunk),
                },
                Part::Size | Part::Trailer => {
                    let Some(line) = line(rest, 0).map_err(|_| MalformedChunk)? else {
                        // The line is too long already, or may still end in time.
                        let possible = rest.len() <= self.spare + MAX_DIGITS + 1;
                        return if possible { Ok(at) } else { Err(MalformedChunk) };
                    };
                    self.part = self.after_line(line)?;
                    at += line.len() + 2;
                }
            }
        }
        Ok(at)
    }

    fn after_line(&mut self, line: &[u8]) -> Result<Part, MalformedChunk> {
        let is_size = self.part == Part::Size;
        let digits =
            if is_size { line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count() } else { 0 };
        let (digits, text) = line.split_at(digits);
        if !text.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..)) {
            return Err(MalformedChunk);
        }
        self.spare = self.spare.checked_sub(text.len()).ok_or(MalformedChunk)?;
        if !is_size {
            return Ok(if text.is_empty() { Part::End } else { Part::Trailer });
        }
        // What follows the size is an extension, or nothing.
        if !(1..=MAX_DIGITS).contains(&digits.len()) || text.first().is_some_and(|byte| *byte != b';') {
            return Err(MalformedChunk);
        }
        let digits = std::str::from_utf8(digits).map_err(|_| MalformedChunk)?;
        match u64::from_str_radix(digits, 16).map_err(|_| MalformedChunk)? {
            0 => Ok(Part::Trailer),
            size => Ok(Part::Data(size)),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;

    use super::*;

    /// The length of the chunked body at the front of a text, read in one piece and byte by byte.
    fn body(text: &str) -> Result<Option<usize>, MalformedChunk> {
        let mut whole = ChunkedBody::default();
        let length = whole.advance(text.as_bytes()).map(|at| whole.has_ended().then_some(at));
        let mut slow = ChunkedBody::default();
        let (mut at, mut buffer) = (0, Vec::new());
        let pieces = text.bytes().try_for_each(|byte| {
            buffer.push(byte);
            let count = slow.advance(&buffer)?;
            buffer.drain(..count);
            at += count;
            Ok(())
        });
        assert_eq!(pieces.map(|()| slow.has_ended().then_some(at)), length, "{text:?}");
        length
    }

    #[test]
    fn chunked_body_ends_after_its_last_chunk() {
        let whole = [
            "0\r\n\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
            "A\r\n\r\n0\r\n\r\n0\r\n\r\n000\r\n\r\n",
            "1;x=\"y\"\r\na\r\n0;z\r\nX-Sum: 1\r\nY: 2\r\n\r\n",
        ];
        for text in whole {
            assert_eq!(body(text), Ok(Some(text.len())), "{text:?}");
            assert_eq!(body(&format!("{text}GET / HTTP/1.1\r\n")), Ok(Some(text.len())), "{text:?}");
            for cut in 0..text.len() {
                assert_eq!(body(&text[..cut]), Ok(None), "{text:?} until {cut}");
            }
        }
    }

    #[test]
    fn ambiguous_chunks_are_malformed() {
        let long = format!("1;{}\r\n", "x".repeat(5000));
        let table = [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "+1\r\n",
            " 1\r\n",
            "1 \r\n",
            "0x1\r\n",
            "1\n",
            "1\ra",
            "1\r\nab",
            "1\r\na\n",
            "1\r\na\rb",
            ";x\r\n",
            "1;a\nb\r\n",
            "0\r\n\n",
            "0\r\nA: b\n",
            "0\r\nA: b\rc",
            "1000000000000000\r\n",
            &long,
        ];
        for text in table {
            assert_eq!(body(text), Err(MalformedChunk), "{text:?}");
        }
    }

    #[test]
    fn trickled_head_is_rarely_copied_and_bounded_in_memory() {
        const LIMIT: usize = 256 * 1024;
        let mut framer = RequestFramer::new(LIMIT);
        let head = format!("POST / HTTP/1.1\r\nHost: h\r\nX: {}\r\n", "x".repeat(LIMIT - 100));
        let (mut copied, mut at) = (0, std::ptr::null());
        for (came, byte) in head.bytes().enumerate() {
            let buffer = framer.buffer();
            buffer.put_u8(byte);
            if buffer.as_ptr() != at {
                copied += came;
                at = buffer.as_ptr();
            }
            assert_eq!(framer.pass(LIMIT, |_| {}).unwrap(), Event::NeedsMore);
            framer.shrink();
            if framer.buffer.as_ptr() != at {
                copied += came;
                at = framer.buffer.as_ptr();
            }
            assert!(framer.buffer.capacity() <= 2 * framer.buffer.len(), "{came}");
        }
        assert!(copied < 2 * HEAD_READ_BYTES * HEAD_READ_BYTES, "{copied} bytes copied for {}", head.len());
    }
}
