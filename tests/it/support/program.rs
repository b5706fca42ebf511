//! Runs the built program, to its end or in the background.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::thread::JoinHandle;

use serde_json::Value;

use super::request::SECRET;
use super::wait::{eventually_blocking, eventually_some};

const SIGKILL: i32 = 9;

/// Environment variables of the program.
pub type Variables = Vec<(String, String)>;

/// These variables; names without `ATTIO_BRIDGE__`.
pub fn variables(pairs: &[(&str, &str)]) -> Variables {
    pairs.iter().map(|(name, value)| (format!("ATTIO_BRIDGE__{name}"), (*value).to_owned())).collect()
}

/// The same, borrowed.
pub fn lent(variables: &Variables) -> Vec<(&str, &str)> {
    variables.iter().map(|(name, value)| (&**name, &**value)).collect()
}

/// Names another program to test, for example one with a planted bug.
pub const PROGRAM: &str = "ATTIO_BRIDGE_TEST_PROGRAM";

/// The program to test.
pub fn program() -> String {
    std::env::var(PROGRAM).unwrap_or_else(|_| env!("CARGO_BIN_EXE_attio-bridge").into())
}

/// The program with these variables and no others.
pub fn command(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).env_clear().envs(variables.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn with_secret(variables: &Variables) -> Vec<(&str, &str)> {
    [vec![("ATTIO_WEBHOOK_SECRET", SECRET)], lent(variables)].concat()
}

/// Runs it to its end, with these variables and no secret.
pub fn run_bare(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    command(arguments, variables).output().expect("the program runs")
}

/// Runs it to its end.
pub fn run(arguments: &[&str], variables: &Variables) -> Output {
    run_bare(arguments, &with_secret(variables))
}

/// What it prints, where it ends with 0.
pub fn printed(arguments: &[&str], variables: &Variables) -> String {
    let output = run(arguments, variables);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("data is text")
}

/// What it shows on a terminal of so many columns, where it ends with 0.
pub fn on_terminal(columns: usize, arguments: &[&str], variables: &Variables) -> String {
    let program = program();
    let typed = format!("stty cols {columns} rows 50 && exec '{program}' '{}'", arguments.join("' '"));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &typed, "/dev/null"]).stdin(Stdio::null());
    script.env_clear().env("NO_COLOR", "1").envs(with_secret(variables));
    let output = script.output().expect("script, of util-linux, runs");
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("data is text").replace("\r\n", "\n")
}

/// Lines of JSON.
pub fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// The program in the background. Killed on drop.
pub struct Program {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
    stderr: Option<JoinHandle<String>>,
}

impl Program {
    pub fn start(arguments: &[&str], variables: &Variables) -> Self {
        let mut child = command(arguments, &with_secret(variables)).spawn().expect("the program starts");
        let stdout = child.stdout.take().map(BufReader::new);
        let mut stderr = child.stderr.take().expect("piped");
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            // A test that expects text fails if this is not UTF-8.
            let _ = stderr.read_to_string(&mut text);
            text
        });
        Self { child, stdout, stderr: Some(stderr) }
    }

    /// The next line of its standard output.
    pub fn line(&mut self) -> Value {
        let mut line = String::new();
        let stdout = self.stdout.as_mut().expect("it was not closed");
        let read = stdout.read_line(&mut line).expect("it can be read");
        assert!(read > 0, "it ended: {:?}", self.end());
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Closes its standard output.
    pub fn close_stdout(&mut self) {
        self.stdout = None;
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().expect("kill runs").success());
    }

    /// Waits until the process has its signal handlers; before, a signal would kill it.
    pub fn listens(&self) {
        let file = format!("/proc/{}/status", self.child.id());
        eventually_blocking("it listens for SIGINT", || {
            let status = std::fs::read_to_string(&file).unwrap_or_default();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0").trim();
            u64::from_str_radix(caught, 16).is_ok_and(|caught| caught & 0b10 != 0)
        });
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it can be asked").is_some()
    }

    /// Whether it was ended by a signal other than SIGKILL.
    pub fn has_crashed(&mut self) -> bool {
        let ended = self.child.try_wait().expect("it can be asked");
        ended.and_then(|status| status.signal()).is_some_and(|signal| signal != SIGKILL)
    }

    /// Waits for its end; returns the exit code and standard error.
    pub fn end(&mut self) -> (Option<i32>, String) {
        let child = &mut self.child;
        let status = eventually_some("the program ends", || child.try_wait().expect("it can be asked"));
        let said = self.stderr.take().map(|thread| thread.join().expect("it is read")).unwrap_or_default();
        (status.code(), said)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended already in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
