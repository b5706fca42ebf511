//! Servers as processes of their own, so that what they use is theirs alone.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::stage::Stage;
use crate::support::ports::free_ports;
use crate::support::request::{Request, SECRET};
use crate::support::wait::eventually_blocking;
use crate::support::watched::kit;

/// A running server. Ended when dropped.
pub struct Server {
    /// Its row in the report.
    pub name: String,
    /// Where it takes deliveries.
    pub address: SocketAddr,
    /// The admin listener of a bridge.
    pub admin: Option<SocketAddr>,
    /// The program itself.
    pub pid: u32,
    /// From its start until it took a connection.
    pub started_in: Duration,
    child: Child,
}

impl Server {
    /// A server of this program that does a part of the work.
    pub fn stage(stage: Stage) -> Self {
        Self::under(&[], stage)
    }

    /// The same under a program that watches it.
    pub fn under(watcher: &[&str], stage: Stage) -> Self {
        let [port] = free_ports();
        let this = std::env::current_exe().expect("this program has a path").display().to_string();
        let port_text = port.to_string();
        let words: Vec<&str> =
            watcher.iter().copied().chain([this.as_str(), "serve", stage.name(), &port_text]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        Self::start(stage.name(), command, port)
    }

    /// This program of the bridge, with these variables beside the usual ones; ready when this returns.
    pub fn bridge(name: &str, program: &Path, variables: &[(&str, String)]) -> Self {
        let [port, admin] = free_ports();
        let mut command = Command::new(program);
        command
            .args(["serve", "--listen", &format!("127.0.0.1:{port}")])
            .args(["--admin-listen", &format!("127.0.0.1:{admin}")])
            .env_clear()
            .env("ATTIO_WEBHOOK_SECRET", SECRET)
            .envs(variables.iter().map(|(name, value)| (name, value)));
        let mut server = Self::start(name, command, port);
        server.admin = Some(([127, 0, 0, 1], admin).into());
        eventually_blocking(&format!("{name} is ready"), || ready(admin));
        server
    }

    /// Express and kafkajs, as the usual tutorial has it.
    pub fn node(bootstrap: &str, topic: &str) -> Self {
        let [port] = free_ports();
        let mut command = Command::new("node");
        command.arg(kit("express/server.js").join("express/server.js")).env("NODE_ENV", "production");
        Self::tutorial("node", command, port, bootstrap, topic)
    }

    /// FastAPI and aiokafka, as the usual tutorial has it.
    pub fn python(bootstrap: &str, topic: &str) -> Self {
        let [port] = free_ports();
        let mut command = Command::new(kit("fastapi/bin/uvicorn").join("fastapi/bin/uvicorn"));
        command
            .args(["server:app", "--host", "127.0.0.1", "--no-access-log", "--port", &port.to_string()])
            .arg("--app-dir")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/python"));
        Self::tutorial("python", command, port, bootstrap, topic)
    }

    fn tutorial(name: &str, mut command: Command, port: u16, bootstrap: &str, topic: &str) -> Self {
        command
            .env("PORT", port.to_string())
            .env("SECRET", SECRET)
            .env("KAFKA_BROKERS", bootstrap)
            .env("KAFKA_TOPIC", topic);
        Self::start(name, command, port)
    }

    /// Starts a server of any kind; it takes connections when this returns.
    pub fn start(name: &str, mut command: Command, port: u16) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let begun = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        while TcpStream::connect(address).is_err() {
            if let Some(status) = child.try_wait().expect("it is our child") {
                panic!("{name} ended: {status}; run it by hand to see why: {command:?}");
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{name} never listens: {command:?}");
            std::thread::sleep(Duration::from_micros(500));
        }
        Self { name: name.into(), address, admin: None, pid: child.id(), started_in: begun.elapsed(), child }
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(mut self) {
        let stopped = Command::new("kill").arg(self.pid.to_string()).status();
        stopped.expect("kill is there");
        self.child.wait().expect("it is our child");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ready(admin: u16) -> bool {
    let request = Request::unsigned("").method("GET").path("/readyz").without("Content-Type");
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", admin)) else { return false };
    let mut answer = [0; 12];
    stream.write_all(&request.bytes()).and_then(|()| stream.read_exact(&mut answer)).is_ok()
        && answer.ends_with(b"200")
}
