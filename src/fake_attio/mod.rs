//! A fake of Attio: its REST API on a loopback port, and the delivery of webhooks. For `dev` and for tests.
//!
//! It does what Attio documents, at <https://docs.attio.com/rest-api/guides/webhooks>,
//! <https://docs.attio.com/rest-api/guides/rate-limiting> and <https://api.attio.com/openapi/api>. Missing: Basic
//! authentication, objects without a slug, test events, value history. Not documented, and chosen here: an event type
//! outside the documented set is a `validation_type`; the entries of a record that is deleted or merged are deleted
//! with it; an answer is as old as [`store::Store::lag`] allows, and its `x-accurate-at` says so.

mod api;
pub mod changes;
pub mod deliver;
pub mod error;
pub mod limits;
pub mod post;
mod query;
mod reads;
mod render;
pub mod store;
pub mod webhook;
pub mod world;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use parking_lot::{Mutex, MutexGuard};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use store::Store;

pub struct FakeAttio {
    address: SocketAddr,
    store: Arc<Mutex<Store>>,
    _end: DropGuard,
}

impl FakeAttio {
    /// Listens on a free loopback port, on the current runtime.
    pub async fn start(store: Store) -> io::Result<Self> {
        Self::start_behind(store, |api| api).await
    }

    /// The same, with something in front of the API.
    pub async fn start_behind(store: Store, layer: impl FnOnce(Router) -> Router) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        Self::serve(listener, Arc::new(Mutex::new(store)), layer)
    }

    /// Serves a workspace on a listener, for example the workspace of a fake that was dropped. Needs a runtime.
    pub fn serve(
        listener: TcpListener,
        store: Arc<Mutex<Store>>,
        layer: impl FnOnce(Router) -> Router,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let end = CancellationToken::new();
        let app = layer(api::router(Arc::clone(&store)));
        let ended = end.clone().cancelled_owned();
        tokio::spawn(async move {
            tokio::select! {
                served = axum::serve(listener, app) => drop(served),
                () = ended => {}
            }
        });
        Ok(Self { address, store, _end: end.drop_guard() })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock()
    }

    pub fn shared(&self) -> Arc<Mutex<Store>> {
        Arc::clone(&self.store)
    }
}
