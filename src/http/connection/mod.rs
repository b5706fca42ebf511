//! One connection: what it lets through, its deadlines between requests, and its end.
//!
//! hyper's own header timer also runs while a kept-alive connection is idle, so it cannot tell a
//! stalled head (seconds) from a good client between two requests (more than a minute). And hyper
//! takes heads that can be read in two ways. This wrapper sees the bytes arrive: it knows where each
//! request begins and ends, times what it waits for, and lets nothing through that it does not
//! understand ([`gate`]).

pub mod phase;
pub mod head;
pub mod chunks;
pub mod gate;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::io::poll_read_buf;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

pub use gate::Gate;
use gate::Passed;
use phase::Phase;
pub use phase::{Progress, Timeouts};

/// How long, and for how many bytes, a client that is still sending is listened to after the last
/// answer: closing earlier would reset the connection, and with it the answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;

/// The connection's bytes, with a gate before them and a clock beside them.
pub struct Connection {
    io: TokioIo<TcpStream>,
    /// None where hyper's own reading is good enough.
    gate: Option<Gate>,
    progress: Progress,
    timeouts: Timeouts,
    /// The phase that `timer` was set for.
    timed: Phase,
    timer: Pin<Box<Sleep>>,
    /// Ends an idle connection as soon as the bridge drains.
    draining: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Once the last answer is written: how many more bytes are listened to.
    lingering: Option<usize>,
}

impl Connection {
    /// Wraps an accepted connection.
    pub fn new(
        stream: TcpStream,
        gate: Option<Gate>,
        progress: Progress,
        timeouts: Timeouts,
        drain: CancellationToken,
    ) -> Self {
        Self {
            io: TokioIo::new(stream),
            gate,
            progress,
            timeouts,
            timed: Phase::Head,
            timer: Box::pin(sleep(timeouts.header)),
            draining: Box::pin(drain.cancelled_owned()),
            lingering: None,
        }
    }

    fn time(&mut self, phase: Phase) {
        if self.timed == phase {
            return;
        }
        self.timed = phase;
        let limit = match phase {
            Phase::Head => self.timeouts.header,
            Phase::Busy | Phase::Idle | Phase::Writing => self.timeouts.idle,
        };
        self.timer.as_mut().reset(Instant::now() + limit);
    }

    /// Whether the wait that the phase allows is over.
    fn poll_over(&mut self, cx: &mut Context<'_>, phase: Phase) -> Poll<io::Error> {
        if phase == Phase::Busy {
            return Poll::Pending;
        }
        self.time(phase);
        if phase == Phase::Idle && self.draining.as_mut().poll(cx).is_ready() {
            return Poll::Ready(io::Error::new(io::ErrorKind::ConnectionAborted, "draining"));
        }
        ready!(self.timer.as_mut().poll(cx));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    /// The phase while nothing comes: part of a head is more than nothing.
    fn waiting(&self) -> Phase {
        match (self.progress.get(), &self.gate) {
            (Phase::Idle, Some(gate)) if !gate.is_idle() => Phase::Head,
            (phase, _) => phase,
        }
    }

    /// Reads without looking.
    fn poll_read_open(&mut self, cx: &mut Context<'_>, cursor: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.io).poll_read(cx, cursor));
        if self.progress.get() == Phase::Idle {
            self.progress.set(Phase::Head);
        }
        Poll::Ready(result)
    }

    /// Reads what the gate lets through.
    fn poll_read_gated(
        &mut self,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let Some(gate) = &mut self.gate else { return Poll::Ready(Ok(())) };
            let passed = gate.pass(cursor.remaining(), |bytes| cursor.put_slice(bytes));
            match passed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
                Passed::Some | Passed::Closed => return Poll::Ready(Ok(())),
                Passed::Head(refused) => {
                    self.progress.set(Phase::Busy);
                    self.timed = Phase::Busy;
                    if let Some(reason) = refused {
                        self.progress.refuse(reason);
                    }
                    return Poll::Ready(Ok(()));
                }
                Passed::None => {}
            }
            match poll_read_buf(Pin::new(self.io.inner_mut()), cx, gate.buffer()) {
                Poll::Pending => {
                    gate.rest();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(end) => return Poll::Ready(end.map(drop)),
            }
        }
    }

    /// A write that does not end is waited for, but not for ever.
    fn poll_written<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match written {
            Poll::Pending => self.poll_over(cx, Phase::Writing).map(Err),
            Poll::Ready(result) => {
                if self.timed == Phase::Writing {
                    self.timed = Phase::Busy;
                }
                Poll::Ready(result)
            }
        }
    }

    /// Hears a client out that is still sending, so that it can read its answer.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(left) = self.lingering.filter(|left| *left > 0) {
            let mut unheard = BytesMut::with_capacity(4096);
            match poll_read_buf(Pin::new(self.io.inner_mut()), cx, &mut unheard) {
                Poll::Ready(Ok(count @ 1..)) => self.lingering = Some(left.saturating_sub(count)),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.timer.as_mut().poll(cx),
            }
        }
        Poll::Ready(())
    }
}

impl Read for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = match self.gate {
            Some(_) => self.poll_read_gated(cx, cursor),
            None => self.poll_read_open(cx, cursor),
        };
        if read.is_ready() {
            return read;
        }
        let phase = self.waiting();
        self.poll_over(cx, phase).map(Err)
    }
}

impl Write for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.poll_written(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.poll_written(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            let at_rest = self.gate.as_ref().is_none_or(Gate::is_idle);
            self.lingering = Some(if at_rest { 0 } else { LINGER_BYTES });
            self.timer.as_mut().reset(Instant::now() + LINGER);
        }
        self.poll_linger(cx).map(Ok)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.poll_written(cx, written)
    }
}
