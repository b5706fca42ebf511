//! One nats-server as a child process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use async_nats::ConnectOptions;
use parking_lot::Mutex;
use serde_json::Value;

use crate::support::ports::free_ports;
use crate::support::wait::eventually_blocking;
use crate::support::watched::{Process, kit};

/// The login of the administrator.
type Admin = Arc<dyn Fn() -> ConnectOptions + Send + Sync>;

/// The settings of a server.
#[derive(Clone)]
pub struct Settings {
    /// False turns JetStream off.
    pub jetstream: bool,
    /// More of the server's configuration, in its own language.
    pub more: String,
    /// The login of the administrator.
    pub admin: Admin,
}

impl Default for Settings {
    fn default() -> Self {
        Self { jetstream: true, more: String::new(), admin: Arc::new(ConnectOptions::new) }
    }
}

/// A server: its data, and its process while it runs.
pub struct Server {
    /// Ends before its data does.
    process: Process,
    data: tempfile::TempDir,
    settings: Mutex<Settings>,
    port: u16,
}

impl Server {
    /// A fresh server of its own; ready when this returns.
    pub fn start() -> Self {
        Self::with(Settings::default())
    }

    /// A fresh server with more of a configuration.
    pub fn with(settings: Settings) -> Self {
        let server = Self::prepared(settings);
        server.restart();
        server
    }

    /// A server that does not run yet.
    pub fn prepared(settings: Settings) -> Self {
        let data = tempfile::tempdir().expect("a folder for the server's data");
        let [port] = free_ports();
        Self { process: Process::default(), data, settings: Mutex::new(settings), port }
    }

    /// Where files of a test's configuration can be put.
    pub fn folder(&self) -> &Path {
        self.data.path()
    }

    /// `nats://host:port`.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Takes effect at the next start.
    pub fn configure(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings.lock());
    }

    /// The login of the administrator.
    pub fn admin_options(&self) -> ConnectOptions {
        let admin = Arc::clone(&self.settings.lock().admin);
        admin()
    }

    /// Kills it (SIGKILL); its data stays.
    pub fn kill(&self) {
        self.process.take().kill();
    }

    /// Stops it (SIGTERM) and waits for its end; its data stays.
    pub fn stop(&self) {
        self.process.take().stop();
    }

    /// Starts it, again on the same data and port; ready when this returns.
    pub fn restart(&self) {
        self.restart_without_waiting();
        self.wait_until_ready();
    }

    /// Waits until it listens, and JetStream is on where it should be.
    pub fn wait_until_ready(&self) {
        self.wait_until_it_listens();
        if self.settings.lock().jetstream {
            eventually_blocking("the server is ready", || {
                self.assert_alive();
                self.log()
                    .rsplit("Starting nats-server")
                    .next()
                    .is_some_and(|log| log.contains("Server is ready"))
            });
        }
    }

    /// Starts it, and returns while it is still starting.
    pub fn restart_without_waiting(&self) {
        let file = self.data.path().join("server.conf");
        fs::write(&file, self.configuration()).expect("the configuration is written");
        let mut command = Command::new(kit("nats-server").join("nats-server"));
        command.args(["-c"]).arg(file);
        self.process.start(&command, self.data.path());
    }

    /// Removes everything that JetStream has stored, while it does not run.
    pub fn erase(&self) {
        fs::remove_dir_all(self.data.path().join("store")).expect("the data is removed");
    }

    /// Reads its configuration again (SIGHUP).
    pub fn reload(&self) {
        let before = self.log().matches("Reloaded server configuration").count();
        fs::write(self.data.path().join("server.conf"), self.configuration())
            .expect("the configuration is written");
        self.process.running().signal("HUP");
        eventually_blocking("the configuration is read", || {
            self.log().matches("Reloaded server configuration").count() > before
        });
    }

    /// Keeps its data on drop; returns the folder.
    pub fn keep(&mut self) -> PathBuf {
        self.data.disable_cleanup(true);
        self.data.path().to_owned()
    }

    /// Freezes it: connections stay open, nothing is answered (SIGSTOP).
    pub fn pause(&self) {
        self.process.running().freeze();
    }

    /// Resumes it after [`Self::pause`] (SIGCONT).
    pub fn resume(&self) {
        self.process.running().signal("CONT");
    }

    /// Enters lame duck mode (SIGUSR2): the server notifies its clients and closes their connections gradually.
    pub fn lame_duck(&self) {
        self.process.running().signal("USR2");
    }

    /// Its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.data.path().join("output.log")).unwrap_or_default()
    }

    fn assert_alive(&self) {
        self.process.assert_alive(|| self.log());
    }

    /// The server then writes its ports to a file.
    fn wait_until_it_listens(&self) {
        let pid = self.process.running().pid();
        let file: PathBuf = self.data.path().join(format!("nats-server_{pid}.ports"));
        eventually_blocking("the server listens", || {
            self.assert_alive();
            fs::read(&file).is_ok_and(|text| serde_json::from_slice::<Value>(&text).is_ok())
        });
    }

    fn configuration(&self) -> String {
        let settings = self.settings.lock();
        let (data, more) = (self.data.path().display(), &settings.more);
        let port = self.port;
        let jetstream = match settings.jetstream {
            true => format!(
                "jetstream {{ store_dir: \"{data}/store\", max_file_store: 16GB, max_memory_store: 64MB }}"
            ),
            false => String::new(),
        };
        format!("listen: \"127.0.0.1:{port}\"\nports_file_dir: \"{data}\"\n{jetstream}\n{more}\n")
    }
}
