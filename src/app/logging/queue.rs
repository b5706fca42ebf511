//! The queue of log lines before stderr: logging never blocks. A thread writes the lines; when the queue
//! is full, lines are dropped, counted and reported.
//!
//! Hand-written, because the non-blocking writer of `tracing-appender` (0.2.5) has one flush, the drop of its guard,
//! which prints to stdout when the queue is full, and does not report what it dropped.

use std::io::{self, Write};
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

/// Between two writes: a wake-up and a system call for each line alone cost more than the lines. While lines keep
/// coming, the thread wakes by itself, at most 100 times per second, and nobody has to wake it. A line after a pause
/// wakes it and is written this much later.
const INTERVAL: Duration = Duration::from_millis(10);

/// Bytes in one write: half of what a pipe holds.
const CHUNK: usize = 32 * 1024;

/// Memory that stays allocated for lines after a burst.
const KEPT: usize = 256 * 1024;

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
    lines: Lines,
    /// Lines written since the start.
    written: u64,
    writing: bool,
    /// The thread sleeps until a line is pushed.
    asleep: bool,
    /// Lines dropped and not reported yet. Until they are, every further line is dropped too.
    dropped: u64,
}

/// Lines in one buffer, so that neither a line nor a write needs an allocation.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    /// Where each line ends.
    ends: Vec<usize>,
}

impl Lines {
    fn push(&mut self, line: &[u8]) {
        self.bytes.extend_from_slice(line);
        self.ends.push(self.bytes.len());
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        self.ends.clear();
    }
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
            let mut batch = Lines::default();
            loop {
                lines.next_batch(&mut batch);
                lines.write(&mut out, &batch);
                if let Some(dropped) = lines.take_dropped() {
                    report(dropped);
                }
                lines.end_batch();
            }
        })?;
        Ok(queue)
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.state.lock();
        let full = state.dropped > 0 || state.lines.ends.len() >= CAPACITY;
        if full && self.writer.get() != Some(&std::thread::current().id()) {
            state.dropped += 1;
            self.dropped.inc();
            return;
        }
        state.lines.push(line);
        if std::mem::take(&mut state.asleep) {
            self.pushed.notify_one();
        }
    }

    /// Waits for lines and takes all of them.
    fn next_batch(&self, batch: &mut Lines) {
        batch.clear();
        std::thread::sleep(INTERVAL);
        let mut state = self.state.lock();
        if state.lines.ends.is_empty() {
            state.asleep = true;
            self.pushed.wait_while(&mut state, |state| state.lines.ends.is_empty());
            MutexGuard::unlocked(&mut state, || std::thread::sleep(INTERVAL));
        }
        state.writing = true;
        std::mem::swap(&mut state.lines, batch);
    }

    fn write(&self, out: &mut impl Write, batch: &Lines) {
        let (mut at, mut lines) = (0, 0);
        while let Some(&end) = batch.ends.get(lines) {
            match out.write(&batch.bytes[at..batch.bytes.len().min(at + CHUNK)]) {
                Ok(count @ 1..) => at += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A process that shares stderr may have made it non-blocking. A line must not be torn.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(RETRY_PAUSE),
                // stderr is closed, or its file is full, so the error cannot be reported.
                Ok(0) | Err(_) => {
                    self.dropped.inc();
                    at = end;
                }
            }
            let written = batch.ends[lines..].iter().take_while(|end| **end <= at).count();
            lines += written;
            self.state.lock().written += written as u64;
            self.written.notify_all();
        }
        // As above.
        let _ = out.flush();
    }

    /// How many lines were dropped, once the queue has drained to half.
    fn take_dropped(&self) -> Option<u64> {
        let mut state = self.state.lock();
        let report = state.dropped > 0 && state.lines.ends.len() <= CAPACITY / 2;
        report.then(|| std::mem::take(&mut state.dropped))
    }

    /// After the report, which a flush waits for.
    fn end_batch(&self) {
        self.state.lock().writing = false;
        self.written.notify_all();
    }

    /// Waits until every line is written, or stderr is not read any more.
    pub fn flush(&self) {
        let deadline = Instant::now() + FLUSH_TIMEOUT;
        let mut state = self.state.lock();
        while (state.writing || !state.lines.ends.is_empty()) && Instant::now() < deadline {
            let before = state.written;
            let waited = self.written.wait_for(&mut state, STALLED);
            if waited.timed_out() && state.written == before {
                return;
            }
        }
    }
}

/// The writer that the subscriber uses; each write is one line.
pub struct LineWriter(pub Arc<Queue>);

impl<'a> MakeWriter<'a> for LineWriter {
    type Writer = &'a LineWriter;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Write for &LineWriter {
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

    /// Accepts a write only when the test permits it.
    struct Pipe {
        permits: Receiver<()>,
        taken: SyncSender<String>,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Disconnected: everything may pass.
            let _ = self.permits.recv();
            // Whole lines, and no more than a few at once.
            let lines =
                bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")).take(64);
            let sent = lines.map(|line| {
                let _ = self.taken.send(String::from_utf8_lossy(line).trim_end().to_owned());
                line.len()
            });
            Ok(sent.sum())
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
            queue.push(format!("{line}\n").as_bytes());
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
        queue.push(b"and on\n");
        queue.flush();
        assert_eq!(lines.try_iter().collect::<Vec<_>>(), ["and on"]);
    }

    #[test]
    fn drops_are_reported_while_more_lines_are_dropped() {
        let (permit, permits) = sync_channel(0);
        let (taken, lines) = sync_channel(8 * CAPACITY);
        let own: Arc<OnceLock<Arc<Queue>>> = Arc::default();
        let fill = |queue: &Queue| (0..2 * CAPACITY).for_each(|_| queue.push(b"line\n"));
        let (into, again) = (Arc::clone(&own), std::cell::Cell::new(false));
        let report = move |dropped: u64| {
            let queue = into.get().expect("nothing is dropped before");
            if !again.replace(true) {
                std::thread::scope(|scope| drop(scope.spawn(|| fill(queue))));
            }
            queue.push(format!("dropped {dropped}\n").as_bytes());
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

    /// Counts the writes, and how often the thread that writes was woken.
    struct Counts(SyncSender<(usize, u64)>);

    impl Write for Counts {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let status = std::fs::read_to_string("/proc/thread-self/status")?;
            let switches = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            let switches = switches.and_then(|count| count.trim().parse().ok()).expect("Linux counts them");
            self.0.send((bytes.len(), switches)).expect("the test listens");
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn one_write_takes_many_lines_and_a_line_after_a_pause_needs_no_flush() {
        const LINES: usize = 2_000;
        let (wrote, writes) = sync_channel(4 * CAPACITY);
        let counter = IntCounter::new("dropped", "Dropped.").expect("a name");
        let queue = Queue::start(Counts(wrote), counter, |_| {}).expect("a thread");
        queue.push(b"first\n");
        let (first, before) = writes.recv().expect("it is written without a flush");
        assert_eq!(first, b"first\n".len());
        let began = Instant::now();
        for _ in 0..LINES {
            queue.push(b"line\n");
            std::thread::sleep(Duration::from_micros(50));
        }
        queue.flush();
        let intervals = (began.elapsed().as_nanos() / INTERVAL.as_nanos()) as usize + 1;
        let writes: Vec<_> = writes.try_iter().collect();
        assert_eq!(writes.iter().map(|(bytes, _)| bytes).sum::<usize>(), LINES * b"line\n".len());
        assert!(writes.len() <= intervals, "{} writes in {intervals} intervals", writes.len());
        // One sleep between two writes; a lock may be taken in addition, seldom.
        let woken = writes.last().map_or(before, |(_, switches)| *switches) - before;
        assert!(woken as usize <= 2 * intervals, "woken {woken} times in {intervals} intervals");
        queue.push(b"last\n");
        queue.flush();
    }

    #[test]
    fn flush_waits_for_a_slow_reader() {
        struct Slow(SyncSender<()>);
        impl Write for Slow {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                std::thread::sleep(Duration::from_millis(20));
                self.0.send(()).expect("the test listens");
                Ok(bytes.len().min(b"line\n".len()))
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
            queue.push(b"line\n");
        }
        queue.flush();
        assert_eq!(lines.try_iter().count(), 50);
    }
}
