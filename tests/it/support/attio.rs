//! A fake Attio, and the program run against it.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use attio_bridge::attio::{Client, Options};
use attio_bridge::fake_attio::FakeAttio;
use attio_bridge::fake_attio::deliver::Timing;
use attio_bridge::fake_attio::deliver::{Deliverer, Post, post_to};
use attio_bridge::fake_attio::store::Store;
use attio_bridge::fake_attio::webhook::{Subscription, Webhook, WebhookInput};
use parking_lot::{Mutex, MutexGuard};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::faults::{Fault, Faults, Seen, in_front};
use super::program::run_bare;
use super::wait::PATIENCE;

/// The key that the fake accepts.
pub const KEY: &str = "key-of-the-tests-0123456789abcdef";

/// A fake Attio, and a folder for what the program writes.
pub struct Attio {
    server: Mutex<Server>,
    /// Stays bound while it is killed, so that nobody else gets its port.
    listener: TcpListener,
    store: Arc<Mutex<Store>>,
    faults: Arc<Mutex<Faults>>,
    folder: TempDir,
    runtime: Runtime,
}

/// Who accepts connections.
enum Server {
    Up {
        _fake: FakeAttio,
    },
    /// Resets them.
    Down {
        _reset: AbortOnDropHandle<()>,
    },
}

/// How a run of the program ended.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Attio {
    pub fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (store, faults) = (Arc::new(Mutex::new(Store::new(KEY))), Arc::default());
        let server = Mutex::new(serve(&runtime, &listener, &store, &faults));
        Self { server, listener, store, faults, folder: TempDir::new().unwrap(), runtime }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.listener.local_addr().unwrap())
    }

    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock()
    }

    /// The API is down: new connections are reset, and those that are open end with their next request. The
    /// workspace stays, and so do its deliveries.
    pub fn kill(&self) {
        self.faults.lock().down = true;
        let reset = self.runtime.spawn(reset(on_runtime(&self.runtime, &self.listener)));
        *self.server.lock() = Server::Down { _reset: AbortOnDropHandle::new(reset) };
    }

    pub fn restart(&self) {
        self.faults.lock().down = false;
        *self.server.lock() = serve(&self.runtime, &self.listener, &self.store, &self.faults);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Delivers what happens in the workspace to a bridge.
    pub fn deliverer(&self, bridge: SocketAddr, timing: Timing) -> Arc<Deliveries> {
        let statuses = Arc::new(Mutex::new(Vec::new()));
        let post = counting(post_to(bridge), Arc::clone(&statuses));
        Arc::new(Deliveries { deliverer: Deliverer::new(Arc::clone(&self.store), post, timing), statuses })
    }

    /// Runs a future on the runtime of the fake.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Leaves a future to the runtime of the fake.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.runtime.spawn(future)
    }

    /// A client for it.
    pub fn client(&self) -> Client {
        let api_key = Some(KEY.to_owned().into());
        Client::new(&Options { api_key, api_url: self.url(), timeout: PATIENCE }).unwrap()
    }

    /// Writes a file and returns its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Orders what goes wrong next.
    pub fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().next.extend(faults);
    }

    /// Orders what goes wrong from now on with every request whose target ends with this.
    pub fn always(&self, end: &str, fault: Fault) {
        self.faults.lock().always.push((end.to_owned(), fault));
    }

    pub fn no_more_faults(&self) {
        let mut faults = self.faults.lock();
        faults.next.clear();
        faults.always.clear();
    }

    /// What it was asked so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.faults.lock().seen.clone()
    }

    /// The most requests within any one second, of each sender that has added its name to the key.
    pub fn most_in_a_second(&self) -> BTreeMap<String, usize> {
        let most = |mut times: Vec<Instant>| {
            times.sort();
            let end = |from: &Instant| times.partition_point(|time| *time < *from + Duration::from_secs(1));
            times.iter().enumerate().map(|(at, from)| end(from) - at).max().unwrap_or_default()
        };
        let senders = self.faults.lock().senders.clone();
        senders.into_iter().map(|(name, times)| (name, most(times))).collect()
    }

    /// Runs `webhooks` with these arguments.
    pub fn webhooks(&self, arguments: &[&str]) -> Ran {
        self.with(&[], arguments)
    }

    /// Runs `webhooks` with a configuration file.
    pub fn configured(&self, file: &Path, arguments: &[&str]) -> Ran {
        self.with(&[("ATTIO_BRIDGE_CONFIG", file.to_str().unwrap())], arguments)
    }

    /// Runs `webhooks` with more variables; the last of a name wins.
    pub fn with(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Ran {
        let url = self.url();
        let mut command = Command::new(env!("CARGO_BIN_EXE_attio-bridge"));
        command.arg("webhooks").args(arguments).env_clear().stdin(Stdio::null());
        command.env("ATTIO_API_KEY", KEY).env("ATTIO_BRIDGE__ATTIO__API_URL", &url);
        command.current_dir(self.folder.path());
        Ran::of(command.envs(variables.iter().copied()).output().unwrap())
    }

    /// Adds a webhook, not through the program.
    pub fn add(&self, target_url: &str, subscriptions: &[(&str, Value)]) -> String {
        let one = |(event_type, filter): &(&str, Value)| Subscription {
            event_type: (*event_type).to_owned(),
            filter: filter.clone(),
        };
        let wanted = WebhookInput {
            target_url: Some(target_url.to_owned()),
            subscriptions: Some(subscriptions.iter().map(one).collect()),
        };
        self.store().create(wanted).unwrap().webhook_id
    }

    /// The one webhook there is.
    pub fn only(&self) -> Webhook {
        let store = self.store();
        assert_eq!(store.webhooks.len(), 1);
        store.webhooks[0].clone()
    }

    /// How often a method was asked for.
    pub fn asked(&self, method: &str) -> usize {
        self.seen().iter().filter(|seen| seen.method == method).count()
    }
}

fn serve(
    runtime: &Runtime,
    listener: &TcpListener,
    store: &Arc<Mutex<Store>>,
    faults: &Arc<Mutex<Faults>>,
) -> Server {
    let listener = on_runtime(runtime, listener);
    let _entered = runtime.enter();
    let fake = FakeAttio::serve(listener, Arc::clone(store), |api| in_front(api, faults));
    Server::Up { _fake: fake.unwrap() }
}

/// The same listener, for a runtime.
fn on_runtime(runtime: &Runtime, listener: &TcpListener) -> tokio::net::TcpListener {
    let same = listener.try_clone().unwrap();
    same.set_nonblocking(true).unwrap();
    let _entered = runtime.enter();
    tokio::net::TcpListener::from_std(same).unwrap()
}

/// Accepts connections and resets them.
async fn reset(listener: tokio::net::TcpListener) {
    loop {
        if let Ok((connection, _)) = listener.accept().await {
            // The client may have closed it.
            let _ = connection.set_zero_linger();
        }
    }
}

/// A deliverer, and what its tries were answered.
pub struct Deliveries {
    deliverer: Deliverer,
    statuses: Arc<Mutex<Vec<Option<u16>>>>,
}

impl Deliveries {
    /// The status of each try so far; none where nothing was in time.
    pub fn statuses(&self) -> Vec<Option<u16>> {
        self.statuses.lock().clone()
    }
}

impl Deref for Deliveries {
    type Target = Deliverer;

    fn deref(&self) -> &Deliverer {
        &self.deliverer
    }
}

fn counting(post: Post, statuses: Arc<Mutex<Vec<Option<u16>>>>) -> Post {
    Arc::new(move |url, request| {
        let (trying, statuses) = (post(url, request), Arc::clone(&statuses));
        Box::pin(async move {
            let result = trying.await;
            statuses.lock().push(result.as_ref().ok().map(|reply| reply.status));
            result
        })
    })
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Fails the test unless it ended so.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        let Self { code: found, stdout, stderr } = &self;
        assert_eq!(*found, code, "stdout:\n{stdout}\nstderr:\n{stderr}");
        self
    }

    /// Fails the test unless every part is in its messages.
    #[track_caller]
    pub fn mentions(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in:\n{}", self.stderr);
        }
        self
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}:\n{}", self.stdout))
    }
}

/// Runs the program with any arguments and nothing in its environment.
pub fn program(arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
    Ran::of(run_bare(arguments, variables))
}
