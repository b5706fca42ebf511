//! A future that goes on in a task of its own when it is dropped.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Work of a request that must not be cancelled with it: dropped before its end, it goes on as a task. Tracked
/// from its start. To spawn each from the start would cost two task switches per request.
pub(super) struct DetachOnDrop<F>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    /// None once it has ended or panicked.
    work: Option<Pin<Box<F>>>,
    tracker: TaskTracker,
    _tracked: TaskTrackerToken,
}

impl<F> DetachOnDrop<F>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    /// Starts at the first poll, or when dropped.
    pub(super) fn new(tracker: &TaskTracker, work: F) -> Self {
        Self { work: Some(Box::pin(work)), tracker: tracker.clone(), _tracked: tracker.token() }
    }
}

impl<F> Future for DetachOnDrop<F>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut work = self.work.take().expect("a future is not polled after it has ended");
        let polled = work.as_mut().poll(cx);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<F> Drop for DetachOnDrop<F>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn drop(&mut self) {
        // Without a runtime the process is ending.
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
    async fn dropped_work_goes_on() {
        for polls in [0, 1] {
            let (tracker, go, done) = (TaskTracker::new(), Arc::new(Notify::new()), Arc::new(Notify::new()));
            let (wait, finish) = (Arc::clone(&go), Arc::clone(&done));
            let mut work = DetachOnDrop::new(&tracker, async move {
                wait.notified().await;
                finish.notify_one();
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
    async fn completed_work_leaves_no_task() {
        let tracker = TaskTracker::new();
        assert_eq!(DetachOnDrop::new(&tracker, async { 7 }).await, 7);
        assert!(tracker.is_empty());
    }
}
