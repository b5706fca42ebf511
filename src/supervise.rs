//! Supervision of the tasks and threads that must run as long as the bridge does.
//!
//! Every part is started through a [`Supervisor`], which reports its end. [`crate::app`] ends the process
//! with exit code 1 when a part ends before the bridge is asked to stop, so that `/livez` is never healthy
//! while a part is dead.

use std::any::Any;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, JoinHandle};

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// Ends that wait to be read. One is enough to end the process; the rest may be dropped.
const QUEUE: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{part} ended unexpectedly: {cause}")]
pub struct Ended {
    /// What ended, for example `kafka monitor`.
    pub part: &'static str,
    /// `returned`, or the message of its panic.
    pub cause: String,
}

/// Starts parts and reports their ends. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Supervisor {
    ends: mpsc::Sender<Ended>,
}

#[derive(Debug)]
pub struct Ends(mpsc::Receiver<Ended>);

impl Supervisor {
    pub fn new() -> (Self, Ends) {
        let (ends, receiver) = mpsc::channel(QUEUE);
        (Self { ends }, Ends(receiver))
    }

    /// A supervisor whose reports are ignored, for verbs that end by themselves and for tests.
    pub fn detached() -> Self {
        Self::new().0
    }

    /// Starts a task. Its end is reported, unless it was aborted.
    pub fn spawn(&self, part: &'static str, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let supervisor = self.clone();
        let supervised = async move {
            let end = AssertUnwindSafe(task).catch_unwind().await;
            supervisor.report(part, end);
        };
        tokio::spawn(supervised).abort_handle()
    }

    /// Starts a thread of that name. Its end is reported.
    pub fn spawn_thread(
        &self,
        part: &'static str,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let supervisor = self.clone();
        thread::Builder::new().name(part.to_owned()).spawn(move || {
            let end = catch_unwind(AssertUnwindSafe(work));
            supervisor.report(part, end);
        })
    }

    fn report(&self, part: &'static str, end: Result<(), Box<dyn Any + Send>>) {
        let cause = match end {
            Ok(()) => "returned".to_owned(),
            Err(panic) => panic_message(&*panic),
        };
        // A full queue or a supervisor without a listener: the first end is all that matters.
        let _ = self.ends.try_send(Ended { part, cause });
    }
}

impl Ends {
    /// Waits for the next part that ends; forever where every supervisor is gone.
    pub async fn next(&mut self) -> Ended {
        match self.0.recv().await {
            Some(ended) => ended,
            None => std::future::pending().await,
        }
    }
}

/// The text of a panic, if it has one.
fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ends_of_tasks_and_threads_are_reported_with_their_cause() {
        let (supervisor, mut ends) = Supervisor::new();
        supervisor.spawn("task", async { panic!("no more {}", "acks") });
        assert_eq!(ends.next().await, Ended { part: "task", cause: "no more acks".into() });
        supervisor.spawn_thread("thread", || {}).unwrap().join().unwrap();
        assert_eq!(ends.next().await, Ended { part: "thread", cause: "returned".into() });
    }

    #[tokio::test]
    async fn an_aborted_task_is_not_reported() {
        let (supervisor, mut ends) = Supervisor::new();
        supervisor.spawn("task", std::future::pending()).abort();
        tokio::task::yield_now().await;
        drop(supervisor);
        assert!(ends.next().now_or_never().is_none());
    }
}
