//! Events as JSON Lines on standard output: a bus for pipes.
//!
//! Always structured, one event per line, flushed before the ack. When the reader of the pipe is gone, every
//! publish fails. A write that fails half way (a full disk) leaves a torn line; a line break is tried again and again
//! until it can be written, so that no acknowledged event is part of a torn line and readiness returns by itself.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::error::StartError;
use crate::cloudevent::structured;
use crate::metrics::BusMetrics;
use crate::pipeline::publish::{Ack, BoxFuture, Bus, BusState, Message, PublishError, PublishHandle};
use crate::supervise::Supervisor;

/// Lines waiting for the writer; more are answered [`PublishError::Busy`]. One delivery has at most 10,000
/// events.
const QUEUE_LINES: usize = 16_384;

/// How often a line break is tried after a write has failed.
const RETRY: Duration = Duration::from_secs(1);

/// The least time between two log lines about that.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// The bus. A separate thread writes, because a stalled reader blocks the pipe.
pub struct Stdout {
    queue: SyncSender<(Vec<u8>, PublishHandle)>,
    status: Arc<Status>,
}

struct Status {
    /// Why the last write failed.
    broken: Mutex<Option<Arc<str>>>,
    waiting: AtomicU64,
    metrics: BusMetrics,
}

impl Stdout {
    /// Writes to the process's standard output.
    pub fn start(metrics: BusMetrics, supervisor: &Supervisor) -> Result<Arc<Self>, StartError> {
        Self::with_writer(io::stdout(), metrics, supervisor)
    }

    /// A bus that writes to `out`.
    pub fn with_writer(
        out: impl Write + Send + 'static,
        metrics: BusMetrics,
        supervisor: &Supervisor,
    ) -> Result<Arc<Self>, StartError> {
        metrics.up.set(1);
        let status = Arc::new(Status { broken: Mutex::new(None), waiting: AtomicU64::new(0), metrics });
        let (queue, lines) = sync_channel::<(Vec<u8>, PublishHandle)>(QUEUE_LINES);
        let writer = Arc::clone(&status);
        let thread = supervisor.spawn_thread("stdout writer", move || {
            let mut out = out;
            let (mut announced, mut logged) = (false, None::<Instant>);
            loop {
                let torn = writer.broken.lock().is_some();
                let next = if torn { lines.recv_timeout(RETRY) } else { lines.recv().map_err(Into::into) };
                let (line, handle) = match next {
                    Ok((line, handle)) => (line, Some(handle)),
                    Err(RecvTimeoutError::Timeout) => (Vec::new(), None),
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                writer.write(&mut out, &line, torn, handle);
                let broken = writer.broken.lock().clone();
                match broken {
                    Some(reason) if !announced && logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) => {
                        (announced, logged) = (true, Some(Instant::now()));
                        tracing::error!("{reason}. Until then every delivery is answered 503");
                    }
                    None if announced => {
                        announced = false;
                        tracing::info!("standard output can be written again");
                    }
                    _ => {}
                }
            }
        });
        thread.map_err(|source| StartError::Thread { thread: "stdout writer", source })?;
        Ok(Arc::new(Self { queue, status }))
    }
}

impl Status {
    /// Writes one line, after a line break if the last one was `torn`.
    fn write(&self, out: &mut impl Write, line: &[u8], torn: bool, handle: Option<PublishHandle>) {
        let separator: &[u8] = if torn { b"\n" } else { b"" };
        let written = out.write_all(separator).and_then(|()| out.write_all(line)).and_then(|()| out.flush());
        *self.broken.lock() = written.as_ref().err().map(not_written);
        self.metrics.up.set(i64::from(written.is_ok()));
        let Some(handle) = handle else { return };
        self.waiting.fetch_sub(1, Ordering::Release);
        let refused =
            |error| PublishError::Unavailable { detail: format!("standard output: {error}").into() };
        handle.settle(written.map(|()| Ack { duplicate: false, position: None }).map_err(refused));
    }
}

/// What is wrong, and what to do.
fn not_written(error: &io::Error) -> Arc<str> {
    let remedy = match error.kind() {
        io::ErrorKind::BrokenPipe => {
            "what read it has ended: start the bridge again with a reader that lasts"
        }
        io::ErrorKind::StorageFull => "free space on its disk; the bridge then goes on by itself",
        _ => "correct where it goes; the bridge then goes on by itself",
    };
    format!("cannot write to standard output: {error}; {remedy}").into()
}

/// One event as one line. A line break in the data can only be white space between JSON tokens, so a space can
/// replace it.
pub(super) fn line(message: &Message) -> Vec<u8> {
    let mut line = structured::encode(&message.event);
    for byte in &mut line {
        if matches!(byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
    line.push(b'\n');
    line
}

impl Bus for Stdout {
    fn name(&self) -> &'static str {
        "stdout"
    }

    fn publish(&self, message: Message, handle: PublishHandle) {
        self.status.waiting.fetch_add(1, Ordering::Relaxed);
        let Err(refused) = self.queue.try_send((line(&message), handle)) else { return };
        self.status.waiting.fetch_sub(1, Ordering::Release);
        let (handle, error) = match refused {
            TrySendError::Full((_, handle)) => {
                let detail = "the reader of standard output is too slow".into();
                (handle, PublishError::Busy { detail })
            }
            TrySendError::Disconnected((_, handle)) => {
                let detail = "the writer of standard output has ended".into();
                (handle, PublishError::Unavailable { detail })
            }
        };
        handle.settle(Err(error));
    }

    fn state(&self) -> BusState {
        // Not down: it is this replica's own output, and another one may be able to write.
        if self.status.broken.lock().is_some() { BusState::Starting } else { BusState::Up }
    }

    fn not_ready_reason(&self) -> Option<Arc<str>> {
        self.status.broken.lock().clone()
    }

    fn flush(&self, within: Duration) -> BoxFuture<'_, u64> {
        let deadline = Instant::now() + within;
        Box::pin(async move {
            loop {
                let waiting = self.status.waiting.load(Ordering::Acquire);
                if waiting == 0 || Instant::now() >= deadline {
                    return waiting;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloudevent::{CloudEvent, Data};
    use crate::metrics::{Labels, Metrics};
    use crate::pipeline::parse::MAX_EVENTS;
    use crate::pipeline::publish::{AckCallback, Destination, PublishResult};
    use crate::supervise::Supervisor;
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    /// Accepts so many bytes, then fails once in the middle of a line, then recovers.
    struct FailsOnce {
        accepts: usize,
        out: Arc<parking_lot::Mutex<Vec<u8>>>,
    }

    impl Write for FailsOnce {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.accepts == 0 {
                self.accepts = usize::MAX;
                return Err(io::ErrorKind::StorageFull.into());
            }
            let count = bytes.len().min(self.accepts);
            self.accepts -= count;
            self.out.lock().extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Report(SyncSender<PublishResult>);

    impl AckCallback for Report {
        fn settle(self: Box<Self>, result: PublishResult) {
            self.0.send(result).unwrap();
        }
    }

    fn bus(out: impl Write + Send + 'static) -> (Arc<Stdout>, Arc<Metrics>) {
        let metrics = Metrics::new(Labels { bus: "stdout", ..Labels::default() });
        let bus = Stdout::with_writer(out, metrics.bus(), &Supervisor::detached()).unwrap();
        (bus, metrics)
    }

    fn publish(bus: &Stdout, metrics: &Metrics, id: &str) -> Receiver<PublishResult> {
        let (sender, result) = sync_channel(1);
        let event = CloudEvent::new(id, &["urn:x"], Data::Json("{}".into()));
        let destination = Arc::new(Destination { address: "a".into(), subject: "a".into() });
        let message = Message { destination, event, dedup_key: String::new(), structured_only: false };
        bus.publish(message, PublishHandle::new(Box::new(Report(sender)), metrics.publish("a"), None));
        result
    }

    #[test]
    fn acknowledged_event_after_a_torn_line_is_on_a_line_of_its_own() {
        let out = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let (bus, metrics) = bus(FailsOnce { accepts: 30, out: Arc::clone(&out) });
        assert!(publish(&bus, &metrics, "first").recv().unwrap().is_err());
        assert!(publish(&bus, &metrics, "second").recv().unwrap().is_ok());
        assert_eq!(bus.state(), BusState::Up, "it recovers");
        let text = String::from_utf8(out.lock().clone()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(serde_json::from_str::<serde_json::Value>(lines[1]).is_ok(), "{text}");
    }

    /// Fails as long as its disk is full.
    struct Disk(Arc<AtomicBool>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let full = self.0.load(Ordering::Relaxed);
            if full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(bytes.len()) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn readiness_fails_with_the_reason_and_returns_without_a_delivery() {
        let full = Arc::new(AtomicBool::new(true));
        let (bus, metrics) = bus(Disk(Arc::clone(&full)));
        assert_eq!((bus.state(), bus.not_ready_reason()), (BusState::Up, None));
        assert!(publish(&bus, &metrics, "1").recv().unwrap().is_err());
        assert_eq!(bus.state(), BusState::Starting);
        let reason = bus.not_ready_reason().unwrap();
        assert!(reason.contains("standard output") && reason.contains("free space"), "{reason}");
        full.store(false, Ordering::Relaxed);
        while bus.state() != BusState::Up {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(bus.not_ready_reason(), None);
    }

    /// Accepts nothing until it is released.
    struct Blocked(std::sync::mpsc::Receiver<()>);

    impl Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Unblocked permanently once the sender is dropped.
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn delivery_of_the_most_events_fits_the_queue() {
        let (release, released) = sync_channel(0);
        let (bus, metrics) = bus(Blocked(released));
        let results: Vec<_> = (0..MAX_EVENTS).map(|_| publish(&bus, &metrics, "1")).collect();
        drop(release);
        for result in results {
            assert_eq!(result.recv().unwrap(), Ok(Ack { duplicate: false, position: None }));
        }
    }
}
