//! What a session reads back, wherever it comes from.

use std::future::Future;
use std::pin::Pin;

use tokio::sync::{mpsc, oneshot};

use super::Error;
use super::cloud::Received;

/// Messages that have been read and not been looked at.
pub const QUEUE: usize = 1024;

/// Asks to be told once everything has been read that is there now.
pub type Request = oneshot::Sender<()>;

/// The session's end of whatever reads.
pub struct Readback {
    /// What has been read, in the order of reading.
    pub messages: mpsc::Receiver<Received>,
    requests: mpsc::Sender<Request>,
    end: Box<dyn FnOnce() + Send>,
}

impl Readback {
    /// Of a reader that sends what it reads, hears requests, and ends when `end` is called: both its
    /// channels are closed by then.
    pub fn new(
        messages: mpsc::Receiver<Received>,
        requests: mpsc::Sender<Request>,
        end: impl FnOnce() + Send + 'static,
    ) -> Self {
        Self { messages, requests, end: Box::new(end) }
    }

    /// Stops reading, and waits until the reader has left its broker.
    pub fn end(self) {
        let Self { messages, requests, end } = self;
        drop((messages, requests));
        end();
    }

    /// Ends once everything has been read that is on the bus now. The messages are in
    /// [`Self::messages`], which must be emptied meanwhile.
    pub async fn caught_up(&self) -> Result<oneshot::Receiver<()>, Error> {
        let (answer, caught_up) = oneshot::channel();
        self.requests.send(answer).await.map_err(|_| Error::ReaderGone)?;
        Ok(caught_up)
    }
}

/// A reader that is about to begin.
pub type Opening = Pin<Box<dyn Future<Output = Result<Readback, Error>>>>;

/// Begins to read: what is there when this is done, or comes later, will be read.
pub type Open = Box<dyn FnOnce() -> Opening>;
