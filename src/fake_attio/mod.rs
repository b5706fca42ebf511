//! A fake of Attio: its REST API on a loopback port, and the delivery of webhooks. For `dev` and for tests.
//!
//! It does what Attio documents, at <https://docs.attio.com/rest-api/guides/webhooks>,
//! <https://docs.attio.com/rest-api/guides/rate-limiting> and <https://api.attio.com/openapi/api>. The
//! project's notes `contract.md` hold these facts with their sources; section by section:
//!
//! | `contract.md` | fact | file |
//! |---|---|---|
//! | 4 | bearer token; JSON with a charset; `x-attio-execution-id` on every answer of the API itself | [`api`], [`response`] |
//! | 4.1 | five endpoints, their scopes, 200 on POST and DELETE, `{}` after DELETE; no others | [`api`] |
//! | 4.1 | `target_url` begins with https; `event_type` and `filter` are both required, `filter` may be null | [`webhook`] |
//! | 4.1 | ids, status, `created_at` with nine digits; `secret` (64 hex digits, 1.3) on POST alone | [`answers`], [`store`] |
//! | 4.1 | PATCH replaces the subscriptions, keeps id and secret, and checks uniqueness again | [`store`] |
//! | 4.1 | (URL, type, filter) is unique in a workspace and in a request, in any order; null is an empty `$and` | [`store`], [`filter`] |
//! | 4.1 | `limit` 10 to 100, 10 by default; `offset`; no cursor, no total | [`api`] |
//! | 4.2 | null, or one of `$and` and `$or` over `{field, operator, value}`, one level | [`filter`] |
//! | 4.3 | `status_code`, `type`, `code`, `message`; `validation_errors`; unknown routes are `not_found`; a 5xx is a proxy's HTML | [`response`], [`fault`] |
//! | 4.4 | 100 reads and 25 writes a second; 429 with `Retry-After` as an HTTP date, the next second; not processed | [`timing`] |
//! | 4.5 | `/v2/self` is 200 for any key; objects, lists, attributes, by id or slug | [`api`], [`answers`] |
//! | 1.1, 1.3 | POST, JSON, both signature headers over the raw body, one `Idempotency-Key` for all attempts, no timestamp | [`deliver`] |
//! | 1.2 | `webhook_id` and one event | [`deliver`] |
//! | 1.5 | 5 s; 200 or 202; exponential waits in about three days; then degraded, still sent to; seven days later inactive | [`deliver`], [`timing`] |
//! | 1.5 | 25 a second to one URL, the rest waits; several in flight | [`deliver`], [`timing`] |
//! | 1.7 | two webhooks that match one event are two deliveries under two keys | [`deliver`] |
//!
//! Missing: Basic authentication (4), objects without a slug (4.5), test events (1.6).
//! Not documented, and chosen here: an event type outside the documented set is a `validation_type`.

pub mod answers;
pub mod api;
pub mod deliver;
pub mod fault;
pub mod filter;
pub mod post;
pub mod response;
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

    /// Its state.
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
