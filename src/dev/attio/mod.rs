//! A fake of Attio's REST API on a loopback port: for `dev`, and for the tests of what speaks to Attio.
//!
//! What it does is what Attio documents:
//!
//! - the five webhook endpoints, their shapes, scopes and errors: the OpenAPI document at
//!   <https://api.attio.com/openapi/api>, and <https://docs.attio.com/rest-api/guides/webhooks>;
//! - 100 reads and 25 writes a second, 429 with `Retry-After` as an HTTP date:
//!   <https://docs.attio.com/rest-api/guides/rate-limiting>;
//! - deliveries, their tries, and what becomes of a webhook that they fail at: [`deliver`].
//!
//! Not documented, and decided here: an event type outside the documented set is a `validation_type`;
//! a 5xx carries HTML, as from a proxy in front of the API.

pub mod api;
pub mod deliver;
pub mod fault;
pub mod filter;
pub mod input;
pub mod problem;
pub mod rate;
pub mod shape;
pub mod store;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use store::Store;

/// A running fake. It ends when it is dropped.
pub struct FakeAttio {
    address: SocketAddr,
    store: Arc<Mutex<Store>>,
    end: CancellationToken,
}

impl FakeAttio {
    /// Listens on a loopback port that the system chooses, and answers on the current runtime.
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

    /// The base address, as `attio.api_url` takes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything it knows: to look at, and to change as Attio itself would.
    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock()
    }

    /// The same, to be kept by whoever delivers.
    pub fn shared(&self) -> Arc<Mutex<Store>> {
        Arc::clone(&self.store)
    }
}

impl Drop for FakeAttio {
    fn drop(&mut self) {
        self.end.cancel();
    }
}
