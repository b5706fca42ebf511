//! A fake of Attio: its REST API on a loopback port, and the delivery of webhooks. For `dev` and for tests.
//!
//! It does what Attio documents, at <https://docs.attio.com/rest-api/guides/webhooks>,
//! <https://docs.attio.com/rest-api/guides/rate-limiting> and <https://api.attio.com/openapi/api>:
//!
//! - [`api`]: the endpoints with their scopes, 200 on POST and DELETE; `limit` 10 to 100, 10 by default, `offset`, no
//!   total; `/v2/self` is 200 for any key.
//! - [`webhook`], [`filter`]: `target_url` begins with https; `event_type` and `filter` are required, `filter` may be null.
//! - [`store`]: the secret is in the answer to POST alone; PATCH replaces the subscriptions and keeps id and secret;
//!   (URL, type, filter) is unique.
//! - [`response`], [`fault`]: errors with `status_code`, `type`, `code`, `message` and `validation_errors`; a 5xx is a
//!   proxy's HTML.
//! - [`timing`], [`deliver`]: the rate limits, the signatures, one `Idempotency-Key` for all attempts, retries for three
//!   days, then the states `degraded` and `inactive`.
//!
//! Missing: Basic authentication, objects without a slug, test events.
//! Not documented, and chosen here: an event type outside the documented set is a `validation_type`.

#![allow(missing_docs, reason = "public for tests alone, and most names say it")]

mod api;
pub mod deliver;
pub mod fault;
mod filter;
pub mod post;
mod response;
pub mod store;
pub mod timing;
pub mod webhook;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use store::Store;

/// A running fake. Stops when it is dropped.
pub struct FakeAttio {
    address: SocketAddr,
    store: Arc<Mutex<Store>>,
    end: CancellationToken,
}

impl FakeAttio {
    /// Listens on a free loopback port, on the current runtime.
    pub async fn start(store: Store) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let store = Arc::new(Mutex::new(store));
        let end = CancellationToken::new();
        let app = api::router(Arc::clone(&store));
        let ended = end.clone().cancelled_owned();
        tokio::spawn(async move {
            tokio::select! {
                served = axum::serve(listener, app) => drop(served),
                () = ended => {}
            }
        });
        Ok(Self { address, store, end })
    }

    /// The value for `attio.api_url`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock()
    }

    /// Its state, for a deliverer.
    pub fn shared(&self) -> Arc<Mutex<Store>> {
        Arc::clone(&self.store)
    }
}

impl Drop for FakeAttio {
    fn drop(&mut self) {
        self.end.cancel();
    }
}
