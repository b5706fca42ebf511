//! Between the socket and hyper: hyper is given whole heads that were found good, then the bytes of
//! their bodies, and never a byte of anything else.
//!
//! A head that is refused never reaches hyper. A stand-in does, so that the refusal takes the way of
//! every other answer (JSON, metrics, log), and after it nothing is read any more.

use bytes::{Buf, BytesMut};

use super::chunks::{BadChunk, Chunks};
use super::head::{Framing, Head, Scan};
use crate::pipeline::outcome::Reason;

/// What the bytes at the front of the buffer are part of.
#[derive(Debug)]
enum Part {
    Head(Head),
    Body(u64),
    Chunks(Chunks),
    /// Of nothing: a head was refused, or a body had no end.
    Closed,
}

/// What there is for hyper.
#[derive(Debug, PartialEq, Eq)]
pub enum Passed {
    /// Bytes were passed on.
    Some,
    /// The first bytes of a head were passed on; why it is a stand-in, if it is.
    Head(Option<Reason>),
    /// More must come first.
    None,
    /// Nothing will ever come.
    Closed,
}

/// One connection's gate.
pub struct Gate {
    /// What came and was not passed on.
    buffer: BytesMut,
    /// Of which so much may be.
    ready: usize,
    part: Part,
    head_limit: usize,
}

/// What is read at once while a head is expected, and while a body is.
const HEAD_READ_BYTES: usize = 4096;
const BODY_READ_BYTES: usize = 16 * 1024;

impl Gate {
    /// For heads of at most `head_limit` bytes.
    pub fn new(head_limit: usize) -> Self {
        Self { buffer: BytesMut::new(), ready: 0, part: Part::Head(Head::new(head_limit)), head_limit }
    }

    /// Where the next bytes of the socket go.
    pub fn buffer(&mut self) -> &mut BytesMut {
        let spare = self.buffer.capacity() - self.buffer.len();
        match self.part {
            // A head that comes slowly grows in the room that is left, and is copied when there is none.
            Part::Head(_) if spare > 0 && !self.buffer.is_empty() => {}
            Part::Head(_) => self.buffer.reserve(HEAD_READ_BYTES),
            _ => self.buffer.reserve(BODY_READ_BYTES),
        }
        &mut self.buffer
    }

    /// Whether nothing of a next request has come.
    pub fn is_idle(&self) -> bool {
        self.buffer.is_empty() && matches!(self.part, Part::Head(_))
    }

    /// Nothing more comes for now: who waits holds no more memory than twice what has come.
    pub fn rest(&mut self) {
        if self.buffer.capacity() > 2 * self.buffer.len() {
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
    }

    /// Passes on what may be, at most `room` bytes of it.
    pub fn pass(&mut self, room: usize, take: impl FnOnce(&[u8])) -> Result<Passed, BadChunk> {
        let mut passed = Passed::Some;
        if self.ready == 0 {
            passed = self.look()?;
        }
        let count = self.ready.min(room);
        take(&self.buffer[..count]);
        self.buffer.advance(count);
        self.ready -= count;
        Ok(passed)
    }

    /// Decides how much of the buffer may be passed on.
    fn look(&mut self) -> Result<Passed, BadChunk> {
        match &mut self.part {
            Part::Closed => return Ok(Passed::Closed),
            Part::Head(_) => return Ok(self.look_at_head()),
            Part::Body(left) => {
                self.ready = usize::try_from(*left).unwrap_or(usize::MAX).min(self.buffer.len());
                *left -= self.ready as u64;
                if *left == 0 {
                    self.expect_head();
                }
            }
            Part::Chunks(chunks) => match chunks.follow(&self.buffer) {
                Ok(count) => {
                    self.ready = count;
                    if chunks.ended() {
                        self.expect_head();
                    }
                }
                Err(error) => {
                    self.part = Part::Closed;
                    return Err(error);
                }
            },
        }
        Ok(if self.ready == 0 { Passed::None } else { Passed::Some })
    }

    fn look_at_head(&mut self) -> Passed {
        let Part::Head(head) = &mut self.part else { return Passed::None };
        match head.scan(&self.buffer) {
            Scan::Incomplete => Passed::None,
            Scan::Complete(length, framing) => {
                self.ready = length;
                match framing {
                    Framing::Length(0) => self.expect_head(),
                    Framing::Length(length) => self.part = Part::Body(length),
                    Framing::Chunked => self.part = Part::Chunks(Chunks::default()),
                }
                Passed::Head(None)
            }
            Scan::Refused(reason) => {
                let stand_in = stand_in(head.path(&self.buffer).unwrap_or("/"));
                self.buffer = BytesMut::from(&*stand_in);
                self.ready = self.buffer.len();
                self.part = Part::Closed;
                Passed::Head(Some(reason))
            }
        }
    }

    fn expect_head(&mut self) {
        self.part = Part::Head(Head::new(self.head_limit));
    }
}

/// The request that hyper sees in the place of one that was refused.
fn stand_in(path: &str) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nHost: refused\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;

    use super::*;

    #[test]
    fn a_head_that_comes_byte_by_byte_is_copied_seldom_and_holds_little() {
        const LIMIT: usize = 256 * 1024;
        let mut gate = Gate::new(LIMIT);
        let head = format!("POST / HTTP/1.1\r\nHost: h\r\nX: {}\r\n", "x".repeat(LIMIT - 100));
        let (mut copied, mut at) = (0, std::ptr::null());
        for (came, byte) in head.bytes().enumerate() {
            let buffer = gate.buffer();
            buffer.put_u8(byte);
            if buffer.as_ptr() != at {
                copied += came;
                at = buffer.as_ptr();
            }
            assert_eq!(gate.pass(LIMIT, |_| {}).unwrap(), Passed::None);
            gate.rest();
            if gate.buffer.as_ptr() != at {
                copied += came;
                at = gate.buffer.as_ptr();
            }
            assert!(gate.buffer.capacity() <= 2 * gate.buffer.len(), "{came}");
        }
        assert!(copied < 2 * HEAD_READ_BYTES * HEAD_READ_BYTES, "{copied} bytes copied for {}", head.len());
    }
}
