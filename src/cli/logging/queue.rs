//! Lines on their way to stderr. Whoever logs never waits for whoever reads: the lines have a thread of
//! their own, there is room for so many, and beyond them lines are dropped, counted and told of.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::sync::{Arc, OnceLock};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use prometheus::IntCounter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait: a few seconds of a busy bridge, a few MiB.
pub const ROOM: usize = 8192;

/// How long the last lines are waited for while none of them leaves.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long the last lines may take to leave, however slowly they do.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long to wait where stderr takes nothing now and does not make its writer wait.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How long the first line of a pause waits for company: to wake a thread and to call the system for
/// each line alone costs more than the lines do.
const GATHERING: Duration = Duration::from_millis(1);

/// Lines that are written at once.
const AT_ONCE: usize = 64;

/// The lines that wait.
pub struct Queue {
    state: Mutex<State>,
    /// A line has come.
    came: Condvar,
    /// A line has left.
    left: Condvar,
    /// Counts what is dropped.
    dropped: IntCounter,
    /// The thread that writes. What it says itself is never dropped: it is how many lines were.
    writer: OnceLock<ThreadId>,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    /// Lines that have left.
    written: u64,
    /// More are being written.
    writing: bool,
    /// The thread sleeps until a line comes.
    asleep: bool,
    /// Dropped and not told of yet; until that is told, every further line is dropped too.
    dropped: u64,
}

impl Queue {
    /// Starts the thread that writes to `out`. What is dropped is counted at once; the thread calls `tell` with the number of lines that were
    /// dropped as soon as there is room again; what `tell` logs may come back into this queue.
    pub fn start(
        mut out: impl Write + Send + 'static,
        dropped: IntCounter,
        tell: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let (state, came, left) = (Mutex::default(), Condvar::new(), Condvar::new());
        let queue = Arc::new(Self { state, came, left, dropped, writer: OnceLock::new() });
        let lines = Arc::clone(&queue);
        std::thread::Builder::new().name("log".into()).spawn(move || {
            lines.writer.get_or_init(|| std::thread::current().id());
            loop {
                let batch = lines.next();
                lines.write(&mut out, &batch);
                if let Some(dropped) = lines.over() {
                    tell(dropped);
                }
            }
        })?;
        Ok(queue)
    }

    /// Takes a line, or drops it.
    fn push(&self, line: &[u8]) {
        let mut state = self.state.lock();
        let full = state.dropped > 0 || state.lines.len() >= ROOM;
        if full && self.writer.get() != Some(&std::thread::current().id()) {
            state.dropped += 1;
            self.dropped.inc();
            return;
        }
        state.lines.push_back(line.to_vec());
        if std::mem::take(&mut state.asleep) {
            self.came.notify_one();
        }
    }

    /// Waits for the next lines.
    fn next(&self) -> Vec<Vec<u8>> {
        let mut state = self.state.lock();
        if state.lines.is_empty() {
            state.asleep = true;
            self.came.wait_while(&mut state, |state| state.lines.is_empty());
            MutexGuard::unlocked(&mut state, || std::thread::sleep(GATHERING));
        }
        state.writing = true;
        let count = state.lines.len().min(AT_ONCE);
        state.lines.drain(..count).collect()
    }

    /// Writes lines, in one call where `out` can.
    fn write(&self, out: &mut impl Write, batch: &[Vec<u8>]) {
        let mut slices: Vec<IoSlice<'_>> = batch.iter().map(|line| IoSlice::new(line)).collect();
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let before = rest.len();
            match out.write_vectored(rest) {
                Ok(count @ 1..) => IoSlice::advance_slices(&mut rest, count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another process that shares stderr may have made it so; a line must not be torn for it.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(LOOK_AGAIN),
                // Nobody is there to be told that stderr is gone, or how much of a line it took.
                Ok(0) | Err(_) => rest = &mut rest[1..],
            }
            self.state.lock().written += (before - rest.len()) as u64;
            self.left.notify_all();
        }
        // As above.
        let _ = out.flush();
    }

    /// The last lines have left. Tells how many were dropped, once there is room to say so and go on.
    fn over(&self) -> Option<u64> {
        let mut state = self.state.lock();
        state.writing = false;
        self.left.notify_all();
        let flows = state.dropped > 0 && state.lines.len() <= ROOM / 2;
        flows.then(|| std::mem::take(&mut state.dropped))
    }

    /// Waits until every line has left, as long as lines leave at all.
    pub fn flush(&self) {
        let deadline = Instant::now() + LAST_WORDS;
        let mut state = self.state.lock();
        while (state.writing || !state.lines.is_empty()) && Instant::now() < deadline {
            let before = state.written;
            let waited = self.left.wait_for(&mut state, PATIENCE);
            if waited.timed_out() && state.written == before {
                return;
            }
        }
    }
}

/// One line, in one write.
pub struct Line<'a>(&'a Queue);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the subscriber writes its lines to.
pub struct Lines(pub Arc<Queue>);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// Takes a line only when the test lets it.
    struct Pipe {
        permits: Receiver<()>,
        taken: SyncSender<String>,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // The test that has dropped its end lets everything through.
            let _ = self.permits.recv();
            let _ = self.taken.send(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_blocked_reader_costs_lines_and_no_time_and_is_told_how_many() {
        let (permit, permits) = sync_channel(0);
        let (taken, lines) = sync_channel(4 * ROOM);
        let (told, dropped) = sync_channel(4 * ROOM);
        let tell = move |lines| told.send(lines).expect("the test listens");
        let counted = IntCounter::new("dropped", "Dropped.").expect("a name");
        let queue = Queue::start(Pipe { permits, taken }, counted.clone(), tell).expect("a thread");
        let sent = 3 * ROOM;
        for line in 0..sent {
            queue.push(line.to_string().as_bytes());
        }
        queue.flush();
        assert!(lines.try_recv().is_err(), "nothing has left, and nobody waited for it for ever");
        drop(permit);
        let dropped = dropped.recv().expect("it is told");
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
    fn how_many_were_dropped_is_said_however_many_lines_come_meanwhile() {
        let (permit, permits) = sync_channel(0);
        let (taken, lines) = sync_channel(8 * ROOM);
        let own: Arc<OnceLock<Arc<Queue>>> = Arc::default();
        let fill = |queue: &Queue| (0..2 * ROOM).for_each(|_| queue.push(b"line"));
        let (into, again) = (Arc::clone(&own), std::cell::Cell::new(false));
        let tell = move |dropped: u64| {
            let queue = into.get().expect("nothing is dropped before");
            if !again.replace(true) {
                std::thread::scope(|scope| drop(scope.spawn(|| fill(queue))));
            }
            queue.push(format!("dropped {dropped}").as_bytes());
        };
        let counted = IntCounter::new("dropped", "Dropped.").expect("a name");
        let queue = Queue::start(Pipe { permits, taken }, counted.clone(), tell).expect("a thread");
        let _ = own.set(Arc::clone(&queue));
        fill(&queue);
        drop(permit);
        queue.flush();
        let told = |line: String| line.strip_prefix("dropped ")?.parse::<u64>().ok();
        let told: Vec<u64> = lines.try_iter().filter_map(told).collect();
        assert_eq!((told.len(), told.iter().sum()), (2, counted.get()), "{told:?}");
    }

    #[test]
    fn a_flush_waits_for_a_slow_reader() {
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
        let (taken, lines) = sync_channel(4 * ROOM);
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
