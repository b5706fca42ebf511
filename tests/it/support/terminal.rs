//! The program on a terminal: what it shows, and keys.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;

use super::wait::{eventually_blocking, eventually_some};

/// A terminal on which the program runs, and then `stty`. Killed on drop.
pub struct Terminal {
    child: Child,
    keys: ChildStdin,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Runs the program on a terminal of so many columns.
    pub fn start(columns: usize, arguments: &[&str]) -> Self {
        let program = env!("CARGO_BIN_EXE_attio-bridge");
        let typed = format!(
            "trap : INT; stty cols {columns} rows 50; '{program}' '{}'; code=$?; stty -a; exit $code",
            arguments.join("' '")
        );
        let mut child = Command::new("script")
            .args(["--quiet", "--return", "--command", &typed, "/dev/null"])
            .env_clear()
            .envs([("NO_COLOR", "1"), ("TERM", "xterm"), ("PATH", "/usr/bin:/bin")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script, of util-linux, runs");
        let (keys, mut output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let shown = Arc::new(Mutex::new(Vec::new()));
        let copy = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                copy.lock().extend_from_slice(&bytes[..count]);
            }
        });
        Self { child, keys, shown }
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).and_then(|()| self.keys.flush()).expect("it reads keys");
    }

    /// The program's process.
    fn program(&self) -> u32 {
        let child = |parent: u32| {
            let file = format!("/proc/{parent}/task/{parent}/children");
            let text = std::fs::read_to_string(file).expect("it runs");
            text.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("it has a child")
        };
        child(child(self.child.id()))
    }

    /// Sends a signal to the program.
    pub fn signal(&self, name: &str) {
        let program = self.program().to_string();
        assert!(Command::new("kill").args(["-s", name, &program]).status().unwrap().success());
    }

    /// Whether the program is stopped.
    pub fn is_stopped(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/stat", self.program())).expect("it runs");
        status.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    }

    /// Whether input comes a line at a time and is echoed.
    pub fn is_restored(&self) -> bool {
        let terminal = format!("/proc/{}/fd/0", self.program());
        let output = Command::new("stty").args(["-a", "-F", &terminal]).output().expect("stty runs");
        let mode = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(mode.contains("icanon"), "{output:?}");
        !mode.contains("-icanon") && !mode.contains("-echo ")
    }

    /// Everything that was written to it, without sequences that move the cursor or set colours. A line that was drawn
    /// again is there several times.
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.shown.lock()).replace('\r', "\n");
        let mut parts = text.split("\x1b[");
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |text, part| {
            text + part.trim_start_matches(|c: char| !c.is_alphabetic()).get(1..).unwrap_or("")
        })
    }

    /// Waits until this has been shown so many times.
    pub fn shows(&self, times: usize, text: &str) {
        eventually_blocking(&format!("it shows {text}"), || self.text().matches(text).count() >= times);
    }

    /// Waits for its end; returns the exit code and everything that was shown.
    pub fn end(mut self) -> (Option<i32>, String) {
        let child = &mut self.child;
        let status = eventually_some("the program ends", || child.try_wait().expect("it can be asked"));
        eventually_blocking("the mode is shown", || self.text().contains("icanon"));
        (status.code(), self.text())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It has ended already in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
