//! Events as JSON Lines on standard output: a bus for pipes.
//!
//! Always structured, one event a line, flushed before the ack. The reader on the other end of the
//! pipe is the broker here: once it has gone, every publish fails.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use crate::cloudevent::structured;
use crate::metrics::BusMetrics;
use crate::pipeline::publish::{BoxFuture, Bus, BusState, Message, PublishError, Receipt, Ticket};

/// Lines waiting for the writer. A full queue is answered at once, so a stalled reader costs a
/// bounded amount of memory.
const QUEUE_LINES: usize = 4096;

/// The bus. Lines are written by a thread of its own, because a pipe whose reader stalls blocks.
pub struct Stdout {
    queue: SyncSender<(Vec<u8>, Ticket)>,
    status: Arc<Status>,
}

struct Status {
    broken: AtomicBool,
    waiting: AtomicU64,
    metrics: BusMetrics,
}

impl Stdout {
    /// A bus that writes to the process's standard output.
    pub fn start(metrics: BusMetrics) -> io::Result<Arc<Self>> {
        Self::with_writer(io::stdout(), metrics)
    }

    /// A bus that writes to `out`.
    pub fn with_writer(out: impl Write + Send + 'static, metrics: BusMetrics) -> io::Result<Arc<Self>> {
        metrics.up.set(1);
        let status = Arc::new(Status { broken: AtomicBool::new(false), waiting: AtomicU64::new(0), metrics });
        let (queue, lines) = sync_channel::<(Vec<u8>, Ticket)>(QUEUE_LINES);
        let writer = Arc::clone(&status);
        std::thread::Builder::new().name("stdout".into()).spawn(move || {
            let mut out = out;
            for (line, ticket) in lines {
                writer.write(&mut out, &line, ticket);
            }
        })?;
        Ok(Arc::new(Self { queue, status }))
    }
}

impl Status {
    fn write(&self, out: &mut impl Write, line: &[u8], ticket: Ticket) {
        let verdict = match out.write_all(line).and_then(|()| out.flush()) {
            Ok(()) => Ok(Receipt { duplicate: false }),
            Err(error) => {
                self.broken.store(true, Ordering::Relaxed);
                self.metrics.up.set(0);
                Err(PublishError::Unavailable { detail: format!("standard output: {error}").into() })
            }
        };
        self.waiting.fetch_sub(1, Ordering::Release);
        ticket.settle(verdict);
    }
}

/// One event as one line. A line break in the data can only be white space between JSON tokens, so
/// a blank in its place changes nothing.
fn line(message: &Message) -> Vec<u8> {
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

    fn publish(&self, message: Message, ticket: Ticket) {
        self.status.waiting.fetch_add(1, Ordering::Relaxed);
        let Err(refused) = self.queue.try_send((line(&message), ticket)) else { return };
        self.status.waiting.fetch_sub(1, Ordering::Release);
        let (ticket, error) = match refused {
            TrySendError::Full((_, ticket)) => {
                let detail = "the reader of standard output does not keep up".into();
                (ticket, PublishError::Busy { detail })
            }
            TrySendError::Disconnected((_, ticket)) => {
                let detail = "the writer of standard output has ended".into();
                (ticket, PublishError::Unavailable { detail })
            }
        };
        ticket.settle(Err(error));
    }

    fn state(&self) -> BusState {
        if self.status.broken.load(Ordering::Relaxed) { BusState::Down } else { BusState::Up }
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
