//! One connection of a sender: a minimal HTTP client that reports every way a connection may end.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::results::{self, Results};

/// How long the sender waits for an answer, as Attio does.
pub const SENDER_WAITS: Duration = Duration::from_secs(5);

/// A connection.
pub struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A complete answer, whether the connection ends with it, and the results of the events.
    Status { status: u16, closes: bool, answered: Results },
    /// The connection ended without one.
    Lost,
    /// Nothing came within [`SENDER_WAITS`].
    Silence,
}

impl Wire {
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = timeout(SENDER_WAITS, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: Vec::new() })
    }

    /// Whether the peer has closed it, or sent unrequested bytes.
    pub fn is_stale(&self) -> bool {
        let mut byte = [0];
        !matches!(self.stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Writes bytes; an error shows when reading.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        matches!(timeout(SENDER_WAITS, self.stream.write_all(bytes)).await, Ok(Ok(())))
    }

    /// Waits for the answer.
    pub async fn reply(&mut self) -> Reply {
        timeout(SENDER_WAITS, self.read_reply()).await.unwrap_or(Reply::Silence)
    }

    /// Closes the connection in order.
    pub async fn leave(mut self) {
        // The peer may have closed first.
        let _ = self.stream.shutdown().await;
    }

    /// Resets the connection.
    pub fn reset(self) {
        // A socket that is gone already needs no reset.
        let _ = self.stream.set_zero_linger();
    }

    async fn read_reply(&mut self) -> Reply {
        loop {
            if let Some(reply) = self.parse() {
                return reply;
            }
            let mut buffer = [0; 2048];
            match self.stream.read(&mut buffer).await {
                Ok(count @ 1..) => self.read.extend_from_slice(&buffer[..count]),
                Ok(0) | Err(_) => return Reply::Lost,
            }
        }
    }

    /// The first answer in the bytes read, once it is complete.
    fn parse(&mut self) -> Option<Reply> {
        let end = self.read.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = std::str::from_utf8(&self.read[..end]).expect("heads of the bridge are text");
        let status: u16 = head.get(9..12)?.parse().expect("a status line");
        let (mut length, mut closes) = (0, false);
        for line in head.split("\r\n").skip(1) {
            let Some((name, value)) = line.split_once(':') else { continue };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().expect("a length");
            } else if name.eq_ignore_ascii_case("connection") {
                closes = value.trim().eq_ignore_ascii_case("close");
            }
        }
        if self.read.len() < end + length {
            return None;
        }
        let answered = results::answer_results(status, &self.read[end..end + length]);
        self.read.drain(..end + length);
        Some(Reply::Status { status, closes, answered })
    }
}
