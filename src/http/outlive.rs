//! Work that a request begins and that must not end with it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Work that its request waits for and, should the request be given up, goes on in a task of its own.
/// Tracked from its start. A task for each from the start would cost two switches between tasks.
pub(super) struct Outliving<F>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    /// None once it has ended, well or in a panic.
    work: Option<Pin<Box<F>>>,
    tracker: TaskTracker,
    _tracked: TaskTrackerToken,
}

impl<F> Outliving<F>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    /// Begins at the first poll, or at the drop.
    pub(super) fn new(tracker: &TaskTracker, work: F) -> Self {
        Self { work: Some(Box::pin(work)), tracker: tracker.clone(), _tracked: tracker.token() }
    }
}

impl<F> Future for Outliving<F>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut work = self.work.take().expect("a future is not polled after its end");
        let polled = work.as_mut().poll(cx);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<F> Drop for Outliving<F>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn drop(&mut self) {
        // Without a runtime the process is at its end.
        if let (Some(work), Ok(runtime)) = (self.work.take(), Handle::try_current()) {
            self.tracker.spawn_on(work, &runtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn work_goes_on_where_its_request_ends() {
        for polls in [0, 1] {
            let (tracker, go, done) = (TaskTracker::new(), Arc::new(Notify::new()), Arc::new(Notify::new()));
            let (wait, tell) = (Arc::clone(&go), Arc::clone(&done));
            let mut work = Outliving::new(&tracker, async move {
                wait.notified().await;
                tell.notify_one();
            });
            for _ in 0..polls {
                assert!((&mut work).now_or_never().is_none());
            }
            assert_eq!(tracker.len(), 1);
            drop(work);
            go.notify_one();
            done.notified().await;
            tracker.close();
            tracker.wait().await;
        }
    }

    #[tokio::test]
    async fn work_that_has_ended_leaves_nothing() {
        let tracker = TaskTracker::new();
        assert_eq!(Outliving::new(&tracker, async { 7 }).await, 7);
        assert!(tracker.is_empty());
    }
}
