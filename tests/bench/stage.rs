//! Servers that do a part of the bridge's work: the floor, and one stage more at a time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use attio_bridge::app::App;
use attio_bridge::app::logging;
use attio_bridge::bus::StartError;
use attio_bridge::config::{self, Input};
use attio_bridge::metrics::Metrics;
use attio_bridge::pipeline::publish::{Ack, BoxFuture, Bus, BusState, Message, PublishHandle};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::routing::post;
use http_body_util::BodyExt;
use tokio::net::TcpListener;

use crate::support::request::SECRET;
use crate::work::Work;

/// What a server does with a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Reads the body and answers 200.
    Floor,
    /// Also checks the signature.
    Verify,
    /// Also parses the body and gives each event its identity.
    Identify,
    /// Also looks each event up and remembers it.
    Dedup,
    /// All of the bridge, on a bus that acknowledges at once.
    Memory,
}

impl Stage {
    /// Every stage, in the order of the path.
    pub const ALL: [Self; 5] = [Self::Floor, Self::Verify, Self::Identify, Self::Dedup, Self::Memory];

    /// Its name on the command line and in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Verify => "verify",
            Self::Identify => "identify",
            Self::Dedup => "dedup",
            Self::Memory => "memory",
        }
    }

    /// The stage of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }
}

/// Serves until the process is ended, with as many threads as the bridge has.
pub fn serve(stage: Stage, address: SocketAddr) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        match stage {
            Stage::Floor => axum_serve(Router::new().route(PATH, post(floor)), address).await,
            Stage::Memory => bridge(address).await,
            _ => {
                let work = Arc::new(Work::new());
                let part = move |State(work): State<Arc<Work>>, request| part(stage, work, request);
                axum_serve(Router::new().route(PATH, post(part)).with_state(work), address).await;
            }
        }
    });
}

const PATH: &str = "/webhooks/{source}";

async fn axum_serve(router: Router, address: SocketAddr) {
    let listener = TcpListener::bind(address).await.expect("the port is free");
    axum::serve(listener, router).await.expect("it never ends by itself");
}

async fn floor(body: Bytes) -> StatusCode {
    if body.is_empty() { StatusCode::BAD_REQUEST } else { StatusCode::OK }
}

async fn part(stage: Stage, work: Arc<Work>, request: Request) -> StatusCode {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return StatusCode::BAD_REQUEST };
    let Some(delivery) = work.verify(work.delivery(&head.headers, body.to_bytes())) else {
        return StatusCode::UNAUTHORIZED;
    };
    if stage == Stage::Verify {
        return StatusCode::OK;
    }
    for identity in work.identify(&delivery, &work.parse(&delivery)) {
        if stage == Stage::Dedup && !work.remember(&identity).await {
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
    }
    StatusCode::OK
}

/// The bridge itself, with its log, as `serve` runs it.
async fn bridge(address: SocketAddr) {
    let variables = [
        ("ATTIO_WEBHOOK_SECRET", SECRET.to_owned()),
        ("ATTIO_BRIDGE__BUS__TYPE", "stdout".to_owned()),
        ("ATTIO_BRIDGE__HTTP__LISTEN", address.to_string()),
        ("ATTIO_BRIDGE__ADMIN__LISTEN", "127.0.0.1:0".to_owned()),
    ];
    let environment = variables.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    let input = Input { environment, ..Input::default() };
    let config = config::load(&input).unwrap_or_else(|problems| panic!("{problems}"));
    let _log = logging::start(config.log, &input.environment).expect("the system gives a thread");
    let open = |_: &Metrics, _, _: &_| -> Result<Arc<dyn Bus>, StartError> { Ok(Arc::new(Sink)) };
    let app = App::bind_to(config, "memory", open).await.expect("the port is free");
    app.run(std::future::pending()).await.expect("it never ends by itself");
}

/// A bus that acknowledges everything and keeps nothing, so that a long run fits into memory.
struct Sink;

impl Bus for Sink {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn publish(&self, message: Message, ticket: PublishHandle) {
        drop(message);
        ticket.settle(Ok(Ack { duplicate: false, position: None }));
    }

    fn state(&self) -> BusState {
        BusState::Up
    }

    fn flush(&self, _: Duration) -> BoxFuture<'_, u64> {
        Box::pin(std::future::ready(0))
    }
}
