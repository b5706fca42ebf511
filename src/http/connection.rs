//! One connection: its deadlines between requests, and its end when the bridge drains.
//!
//! hyper's own header timer also runs while a kept-alive connection is idle, so it cannot tell a
//! stalled head (seconds) from a good client between two requests (more than a minute). This
//! wrapper can: it sees the bytes arrive, and the service tells it when a request begins and ends.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How long a connection may wait, and for what.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For the rest of a head, and for the first byte of a connection.
    pub header: Duration,
    /// For the next request.
    pub idle: Duration,
}

/// What the connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// A head has begun to arrive, or must.
    Head,
    /// A request is being worked on: its deadlines are its own.
    Busy,
    /// Between two requests.
    Idle,
}

/// The phase, shared by the connection's I/O and its service.
#[derive(Clone)]
pub struct Progress(Arc<AtomicU8>);

impl Progress {
    /// A connection that has just been accepted.
    pub fn accepted() -> Self {
        Self(Arc::new(AtomicU8::new(Phase::Head as u8)))
    }

    /// A head is complete and its request is being worked on.
    pub fn request_began(&self) {
        self.set(Phase::Busy);
    }

    /// The answer is ready to be written.
    pub fn request_ended(&self) {
        self.set(Phase::Idle);
    }

    fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Relaxed);
    }

    fn get(&self) -> Phase {
        match self.0.load(Ordering::Relaxed) {
            phase if phase == Phase::Head as u8 => Phase::Head,
            phase if phase == Phase::Busy as u8 => Phase::Busy,
            _ => Phase::Idle,
        }
    }
}

/// The connection's bytes, with a clock beside them.
pub struct Connection {
    io: TokioIo<TcpStream>,
    progress: Progress,
    timeouts: Timeouts,
    /// The phase that `timer` was set for.
    timed: Phase,
    timer: Pin<Box<Sleep>>,
    /// Ends an idle connection as soon as the bridge drains.
    draining: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Connection {
    /// Wraps an accepted connection.
    pub fn new(stream: TcpStream, progress: Progress, timeouts: Timeouts, drain: CancellationToken) -> Self {
        Self {
            io: TokioIo::new(stream),
            progress,
            timeouts,
            timed: Phase::Head,
            timer: Box::pin(sleep(timeouts.header)),
            draining: Box::pin(drain.cancelled_owned()),
        }
    }

    fn time(&mut self, phase: Phase) {
        if self.timed == phase {
            return;
        }
        self.timed = phase;
        let limit = match phase {
            Phase::Head => self.timeouts.header,
            Phase::Idle => self.timeouts.idle,
            Phase::Busy => return,
        };
        self.timer.as_mut().reset(Instant::now() + limit);
    }

    /// Whether the wait that the phase allows is over.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let phase = self.progress.get();
        self.time(phase);
        if phase == Phase::Busy {
            return Poll::Pending;
        }
        if phase == Phase::Idle && self.draining.as_mut().poll(cx).is_ready() {
            return Poll::Ready(io::Error::new(io::ErrorKind::ConnectionAborted, "draining"));
        }
        ready!(self.timer.as_mut().poll(cx));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }
}

impl Read for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            Poll::Ready(result) => {
                if self.progress.get() == Phase::Idle {
                    self.progress.set(Phase::Head);
                    self.time(Phase::Head);
                }
                Poll::Ready(result)
            }
            Poll::Pending => self.poll_over(cx).map(Err),
        }
    }
}

impl Write for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}
