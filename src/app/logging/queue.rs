//! The queue of log lines before stderr: logging never blocks. A thread writes the lines; when the queue
//! is full, lines are dropped, counted and reported.
//!
//! Hand-written, because the non-blocking writer of `tracing-appender` (0.2.5) has one flush, the drop of its guard,
//! which prints to stdout when the queue is full, and does not report what it dropped.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::sync::{Arc, OnceLock};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use prometheus::IntCounter;
use tracing_subscriber::fmt::MakeWriter;

use crate::printable::styled;

/// Lines in the queue: a few seconds of a busy bridge, a few MiB.
pub const CAPACITY: usize = 8192;

/// A flush gives up after this long without progress.
const STALLED: Duration = Duration::from_millis(500);

/// A flush gives up after this long in any case.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The pause before another write when stderr is non-blocking and full.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// How long the first line after a pause waits for more: a wake-up and a system call for each line alone
/// cost more than the lines.
const BATCH_DELAY: Duration = Duration::from_millis(1);

/// Lines in one write.
const BATCH: usize = 64;

pub struct Queue {
    state: Mutex<State>,
    pushed: Condvar,
    written: Condvar,
    dropped: IntCounter,
    /// The thread that writes. Its own lines are never dropped: they report the drops.
    writer: OnceLock<ThreadId>,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    /// Lines written since the start.
    written: u64,
    writing: bool,
    /// The thread sleeps until a line is pushed.
    asleep: bool,
    /// Lines dropped and not reported yet. Until they are, every further line is dropped too.
    dropped: u64,
}

impl Queue {
    /// Starts the thread that writes to `out`. Drops are counted in `dropped` at once; the thread calls
    /// `report` with their number when the queue has drained to half. `report` may log into this queue.
    pub fn start(
        mut out: impl Write + Send + 'static,
        dropped: IntCounter,
        report: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let (state, pushed, written) = (Mutex::default(), Condvar::new(), Condvar::new());
        let queue = Arc::new(Self { state, pushed, written, dropped, writer: OnceLock::new() });
        let lines = Arc::clone(&queue);
        std::thread::Builder::new().name("log".into()).spawn(move || {
            lines.writer.get_or_init(|| std::thread::current().id());
            loop {
                let batch = lines.next_batch();
                lines.write(&mut out, &batch);
                if let Some(dropped) = lines.end_batch() {
                    report(dropped);
                }
            }
        })?;
        Ok(queue)
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.state.lock();
        let full = state.dropped > 0 || state.lines.len() >= CAPACITY;
        if full && self.writer.get() != Some(&std::thread::current().id()) {
            state.dropped += 1;
            self.dropped.inc();
            return;
        }
        state.lines.push_back(line.to_vec());
        if std::mem::take(&mut state.asleep) {
            self.pushed.notify_one();
        }
    }

    fn next_batch(&self) -> Vec<Vec<u8>> {
        let mut state = self.state.lock();
        if state.lines.is_empty() {
            state.asleep = true;
            self.pushed.wait_while(&mut state, |state| state.lines.is_empty());
            MutexGuard::unlocked(&mut state, || std::thread::sleep(BATCH_DELAY));
        }
        state.writing = true;
        let count = state.lines.len().min(BATCH);
        state.lines.drain(..count).collect()
    }

    fn write(&self, out: &mut impl Write, batch: &[Vec<u8>]) {
        let mut slices: Vec<IoSlice<'_>> = batch.iter().map(|line| IoSlice::new(line)).collect();
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let before = rest.len();
            match out.write_vectored(rest) {
                Ok(count @ 1..) => IoSlice::advance_slices(&mut rest, count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A process that shares stderr may have made it non-blocking. A line must not be torn.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(RETRY_PAUSE),
                // stderr is closed, or its file is full, so the error cannot be reported.
                Ok(0) | Err(_) => {
                    self.dropped.inc();
                    rest = &mut rest[1..];
                }
            }
            self.state.lock().written += (before - rest.len()) as u64;
            self.written.notify_all();
        }
        // As above.
        let _ = out.flush();
    }

    /// Ends a batch. Returns how many lines were dropped, once the queue has drained to half.
    fn end_batch(&self) -> Option<u64> {
        let mut state = self.state.lock();
        state.writing = false;
        self.written.notify_all();
        let report = state.dropped > 0 && state.lines.len() <= CAPACITY / 2;
        report.then(|| std::mem::take(&mut state.dropped))
    }

    /// Waits until every line is written, or stderr is not read any more.
    pub fn flush(&self) {
        let deadline = Instant::now() + FLUSH_TIMEOUT;
        let mut state = self.state.lock();
        while (state.writing || !state.lines.is_empty()) && Instant::now() < deadline {
            let before = state.written;
            let waited = self.written.wait_for(&mut state, STALLED);
            if waited.timed_out() && state.written == before {
                return;
            }
        }
    }
}

/// The writer that the subscriber uses; each write is one line.
pub struct Lines(pub Arc<Queue>);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Lines;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Write for &Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Lines in JSON are printable already. No early exit: a loop over all bytes is vectorised.
        if bytes.iter().fold(true, |plain, byte| plain & matches!(byte, b' '..=b'~' | b'\n')) {
            self.0.push(bytes);
        } else {
            self.0.push(styled(&String::from_utf8_lossy(bytes)).as_bytes());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// Accepts a line only when the test permits it.
    struct Pipe {
        permits: Receiver<()>,
        taken: SyncSender<String>,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Disconnected: everything may pass.
            let _ = self.permits.recv();
            let _ = self.taken.send(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn blocked_reader_drops_lines_without_blocking_and_the_drops_are_reported() {
        let (permit, permits) = sync_channel(0);
        let (taken, lines) = sync_channel(4 * CAPACITY);
        let (reported, dropped) = sync_channel(4 * CAPACITY);
        let report = move |lines| reported.send(lines).expect("the test listens");
        let counted = IntCounter::new("dropped", "Dropped.").expect("a name");
        let queue = Queue::start(Pipe { permits, taken }, counted.clone(), report).expect("a thread");
        let sent = 3 * CAPACITY;
        for line in 0..sent {
            queue.push(line.to_string().as_bytes());
        }
        queue.flush();
        assert!(lines.try_recv().is_err(), "nothing is written, and the flush ended");
        drop(permit);
        let dropped = dropped.recv().expect("the drops are reported");
        queue.flush();
        let written: Vec<String> = lines.try_iter().collect();
        assert_eq!(written.len() as u64 + dropped, sent as u64);
        assert_eq!(counted.get(), dropped);
        let first: Vec<String> = (0..written.len()).map(|line| line.to_string()).collect();
        assert_eq!(written, first, "the first lines, in their order");
        queue.push(b"and on");
        queue.flush();
        assert_eq!(lines.try_iter().collect::<Vec<_>>(), ["and on"]);
    }

    #[test]
    fn drops_are_reported_while_more_lines_are_dropped() {
        let (permit, permits) = sync_channel(0);
        let (taken, lines) = sync_channel(8 * CAPACITY);
        let own: Arc<OnceLock<Arc<Queue>>> = Arc::default();
        let fill = |queue: &Queue| (0..2 * CAPACITY).for_each(|_| queue.push(b"line"));
        let (into, again) = (Arc::clone(&own), std::cell::Cell::new(false));
        let report = move |dropped: u64| {
            let queue = into.get().expect("nothing is dropped before");
            if !again.replace(true) {
                std::thread::scope(|scope| drop(scope.spawn(|| fill(queue))));
            }
            queue.push(format!("dropped {dropped}").as_bytes());
        };
        let counted = IntCounter::new("dropped", "Dropped.").expect("a name");
        let queue = Queue::start(Pipe { permits, taken }, counted.clone(), report).expect("a thread");
        let _ = own.set(Arc::clone(&queue));
        fill(&queue);
        drop(permit);
        queue.flush();
        let reported = |line: String| line.strip_prefix("dropped ")?.parse::<u64>().ok();
        let reported: Vec<u64> = lines.try_iter().filter_map(reported).collect();
        assert_eq!((reported.len(), reported.iter().sum()), (2, counted.get()), "{reported:?}");
    }

    #[test]
    fn flush_waits_for_a_slow_reader() {
        struct Slow(SyncSender<()>);
        impl Write for Slow {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                std::thread::sleep(Duration::from_millis(20));
                self.0.send(()).expect("the test listens");
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (taken, lines) = sync_channel(4 * CAPACITY);
        let queue =
            Queue::start(Slow(taken), IntCounter::new("dropped", "Dropped.").expect("a name"), |_| {})
                .expect("a thread");
        for _ in 0..50 {
            queue.push(b"line");
        }
        queue.flush();
        assert_eq!(lines.try_iter().count(), 50);
    }
}
