//! Follows a chunked body, to know where it ends (RFC 9112 section 7.1).

/// What is expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// A digit of a chunk's size, of which there are some already or none.
    Size {
        digits: u8,
    },
    /// An extension, which means nothing to anybody.
    Extension,
    SizeLineFeed,
    Data,
    DataReturn,
    DataLineFeed,
    /// A trailer field, or the empty line that ends the body.
    Trailer {
        begun: bool,
    },
    TrailerLineFeed {
        last: bool,
    },
    Nothing,
}

/// The framing of a body is not what the RFC says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a chunk that is none")]
pub struct BadChunk;

/// One chunked body.
#[derive(Debug)]
pub struct Chunks {
    next: Next,
    /// Of the chunk that is being read.
    left: u64,
    /// Bytes of extensions and trailers that may still come: they are no part of any body limit.
    spare: usize,
}

/// Extensions and trailers of one body; senders of webhooks use neither.
const MAX_SPARE_BYTES: usize = 4096;

/// So many hex digits that the size cannot overflow.
const MAX_DIGITS: u8 = 15;

impl Default for Chunks {
    /// Before the first chunk.
    fn default() -> Self {
        Self { next: Next::Size { digits: 0 }, left: 0, spare: MAX_SPARE_BYTES }
    }
}

impl Chunks {
    /// Whether the body has ended.
    pub fn ended(&self) -> bool {
        self.next == Next::Nothing
    }

    /// How many of these bytes belong to the body.
    pub fn follow(&mut self, bytes: &[u8]) -> Result<usize, BadChunk> {
        let mut at = 0;
        while at < bytes.len() && !self.ended() {
            if self.next == Next::Data {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
                self.left -= here as u64;
                at += here;
                if self.left == 0 {
                    self.next = Next::DataReturn;
                }
                continue;
            }
            self.next = self.step(bytes[at])?;
            at += 1;
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> Result<Next, BadChunk> {
        match (self.next, byte) {
            (Next::Size { digits }, _) if byte.is_ascii_hexdigit() && digits < MAX_DIGITS => {
                let digit = char::from(byte).to_digit(16).ok_or(BadChunk)?;
                self.left = self.left * 16 + u64::from(digit);
                Ok(Next::Size { digits: digits + 1 })
            }
            (Next::Size { digits: 1.. }, b'\r') => Ok(Next::SizeLineFeed),
            (Next::Size { digits: 1.. }, b';') => Ok(Next::Extension),
            (Next::Extension, b'\r') => Ok(Next::SizeLineFeed),
            (Next::Extension, _) => self.skip(byte, Next::Extension),
            (Next::SizeLineFeed, b'\n') if self.left == 0 => Ok(Next::Trailer { begun: false }),
            (Next::SizeLineFeed, b'\n') => Ok(Next::Data),
            (Next::DataReturn, b'\r') => Ok(Next::DataLineFeed),
            (Next::DataLineFeed, b'\n') => Ok(Next::Size { digits: 0 }),
            (Next::Trailer { begun }, b'\r') => Ok(Next::TrailerLineFeed { last: !begun }),
            (Next::Trailer { .. }, _) => self.skip(byte, Next::Trailer { begun: true }),
            (Next::TrailerLineFeed { last: true }, b'\n') => Ok(Next::Nothing),
            (Next::TrailerLineFeed { last: false }, b'\n') => Ok(Next::Trailer { begun: false }),
            _ => Err(BadChunk),
        }
    }

    /// Passes over a byte that means nothing, within reason.
    fn skip(&mut self, byte: u8, next: Next) -> Result<Next, BadChunk> {
        self.spare = self.spare.checked_sub(1).ok_or(BadChunk)?;
        if byte == b'\t' || (b' '..=b'~').contains(&byte) || byte >= 0x80 { Ok(next) } else { Err(BadChunk) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much of a text is the body, read in one piece and byte by byte.
    fn body(text: &str) -> Result<Option<usize>, BadChunk> {
        let mut whole = Chunks::default();
        let length = whole.follow(text.as_bytes()).map(|at| whole.ended().then_some(at));
        let mut slow = Chunks::default();
        let mut at = 0;
        let pieces = text.as_bytes().chunks(1).try_for_each(|byte| {
            at += slow.follow(byte)?;
            Ok(())
        });
        assert_eq!(pieces.map(|()| slow.ended().then_some(at)), length, "{text:?}");
        length
    }

    #[test]
    fn a_body_ends_where_its_last_chunk_says() {
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
    fn what_can_be_read_in_two_ways_is_no_chunk() {
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
            assert_eq!(body(text), Err(BadChunk), "{text:?}");
        }
    }
}
