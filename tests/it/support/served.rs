//! The built binary as it serves.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;

use super::eventually_some;
use super::request::SECRET;

/// A running `attio-bridge serve`. Killed when dropped.
pub struct Served {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    pub http: SocketAddr,
    pub admin: SocketAddr,
}

impl Served {
    /// Starts it and waits for its line `listening`.
    pub fn start(variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_attio-bridge"))
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .env_clear()
            .env("ATTIO_WEBHOOK_SECRET", SECRET)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it goes as it should");
        let mut log = BufReader::new(child.stderr.take().expect("it goes as it should")).lines();
        let line = loop {
            let line = log.next().expect("it listens before its log ends").expect("it goes as it should");
            let line: serde_json::Value = serde_json::from_str(&line).expect("it goes as it should");
            if line["message"] == "listening" {
                break line;
            }
        };
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&kept);
        std::thread::spawn(move || log.map_while(Result::ok).for_each(|line| keep.lock().push(line)));
        let address = |name: &str| {
            line[name].as_str().expect("it goes as it should").parse().expect("it goes as it should")
        };
        Self { child, log: kept, http: address("http_addr"), admin: address("admin_addr") }
    }

    /// Its log since it listens, line by line.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().clone()
    }

    /// Its standard output.
    pub fn stdout(&mut self) -> BufReader<ChildStdout> {
        BufReader::new(self.child.stdout.take().expect("it goes as it should"))
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill").args(["-s", name, &pid]).status().expect("it goes as it should").success()
        );
    }

    /// How it ended, waited for.
    pub fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually_some("the process ends", || child.try_wait().expect("it goes as it should"))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It has ended already in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
