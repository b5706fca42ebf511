//! Runs `attio-bridge serve` as a process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::client::{Client, Response};
use super::program::program;
use super::request::{Request, SECRET};
use super::scrape::Scrape;
use super::wait::eventually_some;

/// A running `attio-bridge serve`. Killed when dropped.
pub struct Served {
    child: Child,
    pub http: SocketAddr,
    pub admin: SocketAddr,
    log: Arc<Mutex<Vec<Value>>>,
    deaf: Arc<AtomicBool>,
}

impl Served {
    /// Starts it with these variables and the common ones, and waits for the log line `listening`.
    pub fn start(variables: &[(&str, &str)]) -> Self {
        Self::after("exec \"$0\" \"$@\"", variables)
    }

    /// The same with a file mounted over a file of the system, `/etc/hosts` for example, for this process alone.
    pub fn with_mounted(file: &Path, over: &str, variables: &[(&str, &str)]) -> Self {
        let allowed = Command::new("unshare").args(["-rm", "true"]).output().unwrap();
        assert!(allowed.status.success(), "this test needs mounts of its own (unshare -rm): {allowed:?}");
        let mount = format!("mount --bind '{}' {over} && exec \"$0\" \"$@\"", file.display());
        let script = format!("exec unshare -rm sh -c {} \"$0\" \"$@\"", quoted(&mount));
        Self::after(&script, variables)
    }

    /// The same from a shell that ends with `exec "$0" "$@"`.
    pub fn after(script: &str, variables: &[(&str, &str)]) -> Self {
        // A configuration file has secrets of its own.
        let configured = variables.iter().any(|(name, _)| *name == "ATTIO_BRIDGE_CONFIG");
        let secret = (!configured).then_some(("ATTIO_WEBHOOK_SECRET", SECRET));
        // The shell becomes the bridge, so its own id is what systemd would set.
        let mut child = Command::new("sh")
            .args(["-c", &format!("export WATCHDOG_PID=$$; {script}"), &program()])
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .env_clear()
            .envs(secret)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let listening = loop {
            let line = lines.next().expect("it listens before its log ends").unwrap();
            let line: Value = serde_json::from_str(&line).unwrap();
            log.lock().unwrap().push(line.clone());
            if line["message"] == "listening" {
                break line;
            }
        };
        let rest = Arc::clone(&log);
        let deaf = Arc::new(AtomicBool::new(false));
        let closed = Arc::clone(&deaf);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                while closed.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(10));
                }
                // The message of a panic is not JSON.
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                rest.lock().unwrap().push(line);
            }
        });
        let address = |name: &str| listening[name].as_str().unwrap().parse().unwrap();
        Self { child, http: address("http_addr"), admin: address("admin_addr"), log, deaf }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time it has used, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let after_name = stat.rsplit_once(')').unwrap().1;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        // Fields 14 and 15 of proc(5), in ticks, of which Linux has 100 a second.
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }

    /// Its peak memory, in MiB.
    pub fn peak_mib(&self) -> u64 {
        self.kib("VmHWM:") / 1024
    }

    /// Its resident memory, in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.kib("VmRSS:")
    }

    fn kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    pub fn stdout(&mut self) -> BufReader<ChildStdout> {
        BufReader::new(self.child.stdout.take().unwrap())
    }

    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    pub fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually_some("the process ends", || child.try_wait().unwrap())
    }

    /// Whether its log is read. While it is not, its stderr fills up.
    pub fn read_log(&self, read: bool) {
        self.deaf.store(!read, Ordering::Relaxed);
    }

    /// The lines of its log with this message.
    pub fn logged(&self, message: &str) -> Vec<Value> {
        let log = self.log.lock().unwrap();
        log.iter().filter(|line| line["message"] == message).cloned().collect()
    }

    /// All lines of its log.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().iter().map(Value::to_string).collect()
    }

    /// Sends one request on a new connection.
    pub async fn ask(&self, request: &Request) -> Response {
        Client::connect(self.http).await.ask(request).await
    }

    pub async fn metrics(&self) -> Scrape {
        Scrape::parse(std::str::from_utf8(&self.admin("/metrics").await.body).unwrap())
    }

    /// The status of a probe.
    pub async fn probe(&self, path: &str) -> u16 {
        self.admin(path).await.status
    }

    /// Requests a path of the admin listener.
    pub async fn admin(&self, path: &str) -> Response {
        let mut request = Request::unsigned("").method("GET").path(path);
        request.headers.retain(|(name, _)| name == "Host");
        Client::connect(self.admin).await.ask(&request).await
    }
}

/// A text as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

impl Drop for Served {
    fn drop(&mut self) {
        // It has ended already in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
