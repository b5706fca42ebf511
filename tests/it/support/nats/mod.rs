//! A real NATS for the tests: one nats-server with JetStream as a child process, from what
//! `tests/install.sh` made.
//!
//! ```ignore
//! let server = nats::shared();                   // one for the whole test process
//! let own = nats::Server::start();               // one that the test may kill
//! own.kill(); own.restart();
//! for message in own.read_all("ATTIO") { … }
//! ```
//!
//! The server never outlives the tests, whatever ends them.

pub mod bench;
pub mod callout;
pub mod cluster;
pub mod target;
mod server;
pub mod trust;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::Config;
use async_nats::jetstream::{self, Context};
use futures_util::StreamExt;
use tokio::runtime::Runtime;

use crate::support::wait::{PATIENCE, eventually_ok};

pub use server::{Server, Settings};

/// One request to a server.
const REQUEST: Duration = Duration::from_secs(10);

/// A message as the stream keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub subject: String,
    pub headers: BTreeMap<String, String>,
    pub payload: Vec<u8>,
}

impl Stored {
    /// The payload as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("the payload is text")
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// The server that all tests share. Use unique streams and subjects, and do not kill it.
pub fn shared() -> Arc<Server> {
    static SHARED: LazyLock<Arc<Server>> = LazyLock::new(|| Arc::new(Server::start()));
    SHARED.clone()
}

/// The runtime of the tests that have none of their own.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
    });
    &RUNTIME
}

/// Waits on a thread of its own, because the test may be inside a runtime already.
fn block_on<T: Send>(future: impl Future<Output = T> + Send) -> T {
    let waited = std::thread::scope(|scope| scope.spawn(|| runtime().block_on(future)).join());
    waited.expect("the request does not panic")
}

impl Server {
    /// A JetStream client of the administrator.
    pub async fn admin(&self) -> Context {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let client = loop {
            match self.admin_options().connect(self.url()).await {
                Ok(client) => break client,
                Err(error) => assert!(tokio::time::Instant::now() < deadline, "no connection: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        jetstream::new(client)
    }

    /// Makes a stream; usable when this returns.
    pub fn create_stream(&self, name: &str, subjects: &[&str], change: impl FnOnce(&mut Config)) {
        let subjects = subjects.iter().map(|subject| (*subject).to_owned()).collect();
        let mut config = Config { name: name.into(), subjects, ..Config::default() };
        change(&mut config);
        block_on(async { self.admin().await.create_stream(config).await.map(drop) })
            .expect("the stream is made");
    }

    /// Changes a stream.
    pub fn change_stream(&self, name: &str, change: impl FnOnce(&mut Config)) {
        let mut config = self.stream(name).expect("the stream is there");
        change(&mut config);
        block_on(async { self.admin().await.update_stream(config).await.map(drop) })
            .expect("the stream is changed");
    }

    /// Removes a stream.
    pub fn delete_stream(&self, name: &str) {
        block_on(async { self.admin().await.delete_stream(name).await.map(drop) })
            .expect("the stream is removed");
    }

    /// Removes a message from a stream.
    pub fn delete_message(&self, stream: &str, sequence: u64) {
        block_on(async {
            let stream = self.admin().await.get_stream(stream).await.expect("the stream is there");
            stream.delete_message(sequence).await.expect("the message is removed");
        });
    }

    /// Removes all messages of a stream.
    pub fn purge(&self, stream: &str) {
        block_on(async {
            let stream = self.admin().await.get_stream(stream).await.expect("the stream is there");
            stream.purge().await.expect("the messages are removed");
        });
    }

    /// Publishes a message, as another program does; returns the sequence, and whether the server took it for a
    /// duplicate.
    pub fn publish(&self, subject: &str, headers: &[(&str, &str)], payload: &str) -> (u64, bool) {
        let (subject, payload) = (subject.to_owned(), payload.to_owned().into());
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| map.insert(*name, *value));
        block_on(async {
            let admin = self.admin().await;
            let sent = admin.publish_with_headers(subject, map, payload).await;
            let ack = sent.expect("it is sent").await.expect("it is stored");
            (ack.sequence, ack.duplicate)
        })
    }

    /// A stream's settings; `None` where there is no such stream.
    pub fn stream(&self, name: &str) -> Option<Config> {
        block_on(async {
            let stream = self.admin().await.get_stream(name).await.ok()?;
            Some(stream.cached_info().config.clone())
        })
    }

    /// The names of a stream's consumers.
    pub fn consumers(&self, stream: &str) -> Vec<String> {
        block_on(async {
            let stream = self.admin().await.get_stream(stream).await.expect("the stream is there");
            stream.consumer_names().map(|name| name.expect("a name")).collect().await
        })
    }

    /// The state of a consumer; `None` where there is no such consumer.
    pub fn consumer(&self, stream: &str, name: &str) -> Option<jetstream::consumer::Info> {
        block_on(async {
            let stream = self.admin().await.get_stream(stream).await.ok()?;
            stream.consumer_info(name).await.ok()
        })
    }

    /// Everything in a stream, in the order of storing.
    pub fn read_all(&self, stream: &str) -> Vec<Stored> {
        let read = || block_on(async { self.try_read_all(stream).await });
        // A cluster that has just lost a server may need a moment for a consumer.
        eventually_ok(&format!("stream {stream} can be read"), read)
    }

    async fn try_read_all(&self, stream: &str) -> Result<Vec<Stored>, async_nats::Error> {
        let stream = self.admin().await.get_stream(stream).await?;
        let count = usize::try_from(stream.cached_info().state.messages)?;
        let config = pull::Config { ack_policy: AckPolicy::None, ..pull::Config::default() };
        let mut messages = stream.create_consumer(config).await?.messages().await?;
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            let next = tokio::time::timeout(REQUEST, messages.next()).await?;
            all.push(stored(&next.ok_or("the stream has fewer")??));
        }
        Ok(all)
    }
}

fn stored(message: &jetstream::Message) -> Stored {
    let headers = message.headers.iter().flat_map(|headers| headers.iter());
    let one =
        |values: &Vec<async_nats::HeaderValue>| values.iter().map(ToString::to_string).collect::<String>();
    Stored {
        subject: message.subject.to_string(),
        headers: headers.map(|(name, values)| (name.to_string(), one(values))).collect(),
        payload: message.payload.to_vec(),
    }
}
