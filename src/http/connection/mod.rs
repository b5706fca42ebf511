//! One connection below hyper: it frames requests, keeps the deadlines between them, and ends gracefully.
//!
//! hyper's own header timer also runs while a kept-alive connection is idle, so it cannot tell a stalled
//! head (seconds) from a client between two requests (more than a minute). And hyper accepts heads that can
//! be read in two ways. This layer sees the bytes arrive: it knows where each request begins and ends, and
//! passes on nothing that it does not understand ([`framer`]).

pub mod framer;
pub mod head;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::io::poll_read_buf;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use framer::{Event, RequestFramer};
use head::Refusal;

/// After the last answer, how long and how many bytes a client that still sends is read: to close earlier
/// would reset the connection, and the client would lose the answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;

#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For the rest of a head.
    pub header: Duration,
    /// For the first byte of a request, and for each write of an answer.
    pub idle: Duration,
    /// The same while every connection is in use and another waits: the longest idle one is closed first.
    pub idle_when_full: Duration,
}

/// Marks an answer whose body goes on until one of both sides ends it. Its connection has no deadline but that of
/// each write.
#[derive(Clone, Copy)]
pub struct Endless;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The rest of a head.
    Head,
    /// The service, which has deadlines of its own.
    Busy,
    /// The first byte of the first request. Load balancers open connections before they have a request.
    New,
    /// The first byte of the next request.
    Idle,
    /// The client, to read its answer.
    Writing,
}

impl Phase {
    fn is_between_requests(self) -> bool {
        matches!(self, Self::New | Self::Idle)
    }
}

/// Shared by a connection and its service, which run in the same task.
#[derive(Clone)]
pub struct Progress(Arc<Mutex<State>>);

struct State {
    phase: Phase,
    refusal: Option<Refusal>,
}

impl Progress {
    pub fn accepted() -> Self {
        Self(Arc::new(Mutex::new(State { phase: Phase::New, refusal: None })))
    }

    /// A request has reached the service. Returns why its head was refused, if this is the synthetic
    /// request in its place.
    pub fn request_began(&self) -> Option<Refusal> {
        let mut state = self.0.lock();
        state.phase = Phase::Busy;
        state.refusal.take()
    }

    pub fn request_ended(&self) {
        self.set(Phase::Idle);
    }

    fn set(&self, phase: Phase) {
        self.0.lock().phase = phase;
    }

    fn get(&self) -> Phase {
        self.0.lock().phase
    }
}

/// A TCP stream that frames requests and has deadlines.
pub struct Connection {
    io: TokioIo<TcpStream>,
    /// None for the admin listener, where hyper's own parser is strict enough.
    framer: Option<RequestFramer>,
    progress: Progress,
    timeouts: Timeouts,
    /// The phase that `timer` was set for.
    timed: Phase,
    timer: Pin<Box<Sleep>>,
    /// Notified to close one connection.
    full: Arc<Notify>,
    /// Waits for that, once this one has been idle for long enough.
    closable: Option<Pin<Box<OwnedNotified>>>,
    /// Ends a connection between two requests as soon as the bridge drains.
    draining: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Set once the last answer is written: how many more bytes to read.
    lingering: Option<usize>,
}

impl Connection {
    pub fn new(
        stream: TcpStream,
        framer: Option<RequestFramer>,
        progress: Progress,
        timeouts: Timeouts,
        full: Arc<Notify>,
        drain: CancellationToken,
    ) -> Self {
        Self {
            io: TokioIo::new(stream),
            framer,
            progress,
            timeouts,
            timed: Phase::Busy,
            timer: Box::pin(sleep(timeouts.idle)),
            full,
            closable: None,
            draining: Box::pin(drain.cancelled_owned()),
            lingering: None,
        }
    }

    /// Starts the timer of a phase, unless it runs already.
    fn start_timer(&mut self, phase: Phase) {
        if self.timed == phase {
            return;
        }
        self.timed = phase;
        self.closable = None;
        let Timeouts { header, idle, idle_when_full } = self.timeouts;
        let limit = match phase {
            Phase::Head => header,
            // Later the rest of it.
            Phase::Busy | Phase::New | Phase::Idle | Phase::Writing => idle.min(idle_when_full),
        };
        self.timer.as_mut().reset(Instant::now() + limit);
    }

    /// Ready when the phase has used up its time.
    fn poll_deadline(&mut self, cx: &mut Context<'_>, phase: Phase) -> Poll<io::Error> {
        if phase == Phase::Busy {
            return Poll::Pending;
        }
        let draining = phase.is_between_requests() && self.draining.as_mut().poll(cx).is_ready();
        match phase {
            Phase::Idle if draining => {
                return Poll::Ready(io::Error::new(io::ErrorKind::ConnectionAborted, "draining"));
            }
            // Its first request may be on its way.
            Phase::New if draining => self.start_timer(Phase::Head),
            _ => self.start_timer(phase),
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if self.timed == Phase::Head || self.closable.is_some() {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            let Timeouts { idle, idle_when_full, .. } = self.timeouts;
            self.timer.as_mut().reset(Instant::now() + idle.saturating_sub(idle_when_full));
            self.closable = Some(Box::pin(Arc::clone(&self.full).notified_owned()));
        }
        let Some(closable) = &mut self.closable else { return Poll::Pending };
        ready!(closable.as_mut().poll(cx));
        Poll::Ready(io::Error::new(io::ErrorKind::ConnectionAborted, "closed to make room"))
    }

    /// Ends the current phase.
    fn end_phase(&mut self) {
        self.timed = Phase::Busy;
        // If this one was about to be closed, another is.
        self.closable = None;
    }

    /// The phase while nothing arrives. A connection with part of a head is not idle.
    fn waiting(&self) -> Phase {
        match (self.progress.get(), &self.framer) {
            (phase, Some(framer)) if phase.is_between_requests() && !framer.is_idle() => Phase::Head,
            (phase, _) => phase,
        }
    }

    fn poll_read_unframed(
        &mut self,
        cx: &mut Context<'_>,
        cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.io).poll_read(cx, cursor));
        if self.progress.get().is_between_requests() {
            self.progress.set(Phase::Head);
            self.end_phase();
        }
        Poll::Ready(result)
    }

    fn poll_read_framed(
        &mut self,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let Some(framer) = &mut self.framer else { return Poll::Ready(Ok(())) };
            let event = framer.pass(cursor.remaining(), |bytes| cursor.put_slice(bytes));
            match event.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
                Event::Bytes | Event::Closed => return Poll::Ready(Ok(())),
                event @ (Event::Head | Event::RefusedHead(_)) => {
                    self.end_phase();
                    let mut state = self.progress.0.lock();
                    state.phase = Phase::Busy;
                    if let Event::RefusedHead(refusal) = event {
                        state.refusal = Some(refusal);
                    }
                    return Poll::Ready(Ok(()));
                }
                Event::NeedsMore => {}
            }
            match poll_read_buf(Pin::new(self.io.inner_mut()), cx, framer.buffer()) {
                Poll::Pending => {
                    framer.shrink();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(end) => return Poll::Ready(end.map(drop)),
            }
        }
    }

    /// Gives a pending write the idle timeout.
    fn poll_written<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match written {
            Poll::Pending => self.poll_deadline(cx, Phase::Writing).map(Err),
            Poll::Ready(result) => {
                if self.timed == Phase::Writing {
                    self.end_phase();
                }
                Poll::Ready(result)
            }
        }
    }

    /// Reads and discards what the client still sends, so that it can read its answer.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(left) = self.lingering.filter(|left| *left > 0) {
            let mut discarded = BytesMut::with_capacity(4096);
            match poll_read_buf(Pin::new(self.io.inner_mut()), cx, &mut discarded) {
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
        let read = match self.framer {
            Some(_) => self.poll_read_framed(cx, cursor),
            None => self.poll_read_unframed(cx, cursor),
        };
        if read.is_ready() {
            return read;
        }
        let phase = self.waiting();
        self.poll_deadline(cx, phase).map(Err)
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
            let idle = self.framer.as_ref().is_none_or(RequestFramer::is_idle);
            self.lingering = Some(if idle { 0 } else { LINGER_BYTES });
            self.timer.as_mut().reset(Instant::now() + LINGER);
        }
        self.poll_linger(cx).map(Ok)
    }
}
