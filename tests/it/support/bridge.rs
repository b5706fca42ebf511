//! A bridge in this process, on free ports, with a bus that the test controls.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use attio_bridge::app::{App, Error};
use attio_bridge::config::{self, Config, Input};
use attio_bridge::pipeline::outcome::Reason;
use attio_bridge::pipeline::publish::Bus;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::client::{Client, Response};
use super::memory::Memory;
use super::request::{Request, SECRET};
use super::scrape::Scrape;
use super::wait::{PATIENCE, eventually};

/// A running bridge. It ends with the runtime of the test, not on drop.
pub struct Bridge<B: Bus + ?Sized = Memory> {
    pub bus: Arc<B>,
    pub http: SocketAddr,
    pub admin: SocketAddr,
    reload: Arc<Notify>,
    stop: CancellationToken,
    running: JoinHandle<Result<(), Error>>,
}

/// The configuration of a bridge with one source, `attio`, from these variables and the common ones.
pub fn config(variables: &[(&str, &str)]) -> Config {
    let usual = [
        ("ATTIO_WEBHOOK_SECRET", SECRET),
        ("ATTIO_BRIDGE__BUS__TYPE", "stdout"),
        ("ATTIO_BRIDGE__HTTP__LISTEN", "127.0.0.1:0"),
        ("ATTIO_BRIDGE__ADMIN__LISTEN", "127.0.0.1:0"),
    ];
    let all = usual.iter().chain(variables);
    let environment = all.map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    config::load(&Input { environment, ..Input::default() }).unwrap_or_else(|problems| panic!("{problems}"))
}

impl Bridge {
    /// A bridge with the default configuration.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// A bridge with a changed configuration.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(&[]);
        change(&mut config);
        Self::over(Memory::new(), config).await
    }

    /// A bridge with a short answer timeout.
    pub async fn impatient() -> Self {
        Self::with(|config| config.http.answer_timeout = Duration::from_millis(150)).await
    }
}

impl Bridge<dyn Bus> {
    /// A bridge with the configured bus.
    pub async fn serving(config: Config) -> Self {
        let app = App::bind(config).await.unwrap();
        Self::running(Arc::clone(app.bus()), app)
    }
}

impl<B: Bus> Bridge<B> {
    /// A bridge with the given bus.
    pub async fn over(bus: Arc<B>, config: Config) -> Self {
        let port: Arc<dyn Bus> = Arc::<B>::clone(&bus);
        let app = App::bind_to(config, "memory", |_, _, _| Ok(port)).await.unwrap();
        Self::running(bus, app)
    }
}

impl<B: Bus + ?Sized> Bridge<B> {
    fn running(bus: Arc<B>, app: App) -> Self {
        let (http, admin) = (app.http_addr().unwrap(), app.admin_addr().unwrap());
        let (reload, stop) = (app.reload(), CancellationToken::new());
        let running = tokio::spawn(app.run(stop.clone().cancelled_owned()));
        Self { bus, http, admin, reload, stop, running }
    }

    pub async fn connect(&self) -> Client {
        Client::connect(self.http).await
    }

    /// Sends one request on a new connection.
    pub async fn ask(&self, request: &Request) -> Response {
        self.connect().await.ask(request).await
    }

    /// The status and the reason of the answer to a request.
    pub async fn answer(&self, request: &Request) -> (u16, &'static str) {
        let (status, reason) = self.ask(request).await.status_and_reason();
        let known = Reason::ALL.map(Reason::slug);
        (status, known.into_iter().find(|slug| *slug == reason).expect("a reason of the table"))
    }

    /// Requests a path of the admin listener.
    pub async fn admin(&self, path: &str) -> Response {
        let mut request = Request::unsigned("").method("GET").path(path);
        request.headers.retain(|(name, _)| name == "Host");
        Client::connect(self.admin).await.ask(&request).await
    }

    pub async fn metrics(&self) -> Scrape {
        Scrape::parse(std::str::from_utf8(&self.admin("/metrics").await.body).unwrap())
    }

    /// One sample of a scrape.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().await.get(name, labels)
    }

    /// Waits until a metric has a value.
    pub async fn until(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        eventually(&format!("{name}{labels:?} = {value}"), || async {
            self.metric(name, labels).await == value
        })
        .await;
    }

    /// Requests a reload, as SIGHUP does, without waiting.
    pub fn begin_reload(&self) {
        self.reload.notify_one();
    }

    /// Requests the stop of the bridge, without waiting.
    pub fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Stops the bridge and returns its result.
    pub async fn stop(self) -> Result<(), Error> {
        self.stop.cancel();
        timeout(PATIENCE, self.running).await.expect("the bridge ends").unwrap()
    }
}
