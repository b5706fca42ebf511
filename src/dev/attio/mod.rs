//! A fake of Attio's REST API on a loopback port: for `dev`, and for the tests of what speaks to Attio.
//!
//! What it does is what Attio documents, at <https://docs.attio.com/rest-api/guides/webhooks>,
//! <https://docs.attio.com/rest-api/guides/rate-limiting> and <https://api.attio.com/openapi/api>. The
//! project keeps what these say, each fact with its source, in its notes `contract.md`; line by line:
//!
//! | `contract.md` | what it says | here |
//! |---|---|---|
//! | 4 | bearer token; JSON with a charset; `x-attio-execution-id` on every answer of the API's own | [`api`] |
//! | 4.1 | five endpoints, their scopes, 200 on POST and DELETE, `{}` after DELETE; no others | [`api`] |
//! | 4.1 | `target_url` begins with https; `event_type` and `filter` are both required, `filter` may be null | [`input`] |
//! | 4.1 | ids, status, `created_at` with nine digits; `secret` (64 hex digits, 1.3) on POST alone | [`shape`], [`store`] |
//! | 4.1 | PATCH replaces the subscriptions, keeps id and secret, and checks uniqueness anew | [`store`] |
//! | 4.1 | (URL, type, filter) once in a workspace and in a request, whatever the order; null is an empty `$and` | [`store`], [`filter`] |
//! | 4.1 | `limit` 10 to 100, 10 by itself; `offset`; no cursor, no total | [`api`] |
//! | 4.2 | null, or one of `$and` and `$or` over `{field, operator, value}`, one level | [`filter`] |
//! | 4.3 | `status_code`, `type`, `code`, `message`; `validation_errors`; unknown routes are `not_found`; a 5xx is a proxy's HTML | [`problem`], [`fault`] |
//! | 4.4 | 100 reads and 25 writes a second; 429 with `Retry-After` as an HTTP date, the next second; not processed | [`rate`] |
//! | 4.5 | `/v2/self` is 200 for any key; objects, lists, attributes, by id or slug | [`api`], [`shape`] |
//! | 1.1, 1.3 | POST, JSON, both signature headers over the raw body, one `Idempotency-Key` for all tries, no timestamp | [`deliver`] |
//! | 1.2 | `webhook_id` and one event | [`deliver`] |
//! | 1.5 | 5 s; 200 or 202; exponential waits in about three days; then degraded, still sent to; seven days on inactive | [`deliver`] |
//! | 1.5 | 25 a second to one URL, what is too much waits; several in flight | [`deliver`] |
//! | 1.7 | two webhooks that take one event are two deliveries under two keys | [`deliver`] |
//!
//! Not played: Basic authentication (4), objects without a slug (4.5), test events (1.6).
//! Not documented, and decided here: an event type outside the documented set is a `validation_type`.

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
