//! The steps of the README in order, from a fresh clone.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::support::kafka::Broker;
use crate::support::ports::free_address;
use crate::support::unique;
use crate::support::wait::eventually_blocking;

const SECRET: &str = "a secret that is long enough for a newcomer";

/// A folder to work in, and the program.
struct Desk {
    folder: tempfile::TempDir,
    program: PathBuf,
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Desk {
    fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(self.folder.path()).env_clear().stdin(Stdio::null());
        command.env("ATTIO_BRIDGE_CONFIG", "config.toml");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs the program; asserts its exit code.
    fn expect(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {printed}{said}");
        printed
    }
}

/// A folder with `deploy/dev.sh`, and programs of which each prints its name and arguments to `calls`.
fn with_programs(programs: &[(&str, &str)]) -> tempfile::TempDir {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(path("deploy")).unwrap();
    std::fs::create_dir_all(path("bin")).unwrap();
    std::fs::copy(here.join("deploy/dev.sh"), path("deploy/dev.sh")).unwrap();
    std::fs::copy(here.join("Cargo.toml"), path("Cargo.toml")).unwrap();
    let script = |file: &Path, text: &str| {
        std::fs::write(
            file,
            format!("#!/bin/sh\necho \"${{0##*/}} $*\" >> '{}'\n{text}\n", path("calls").display()),
        )
        .unwrap();
        std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    };
    script(&path("deploy/build-packages.sh"), "");
    programs.iter().for_each(|(name, text)| script(&path("bin").join(name), text));
    for tool in ["sh", "dirname", "sed", "cut", "sort", "head"] {
        let found = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(tool));
        let found = found.iter().find(|path| path.exists()).expect("a system has it");
        std::os::unix::fs::symlink(found, path("bin").join(tool)).unwrap();
    }
    folder
}

/// Runs `deploy/dev.sh --once`: its exit code, its standard error, and what it called.
fn run_dev_script(folder: &Path, terminal: bool) -> (Option<i32>, String, String) {
    let script = folder.join("deploy/dev.sh");
    let mut command = match terminal {
        true => {
            let mut command = Command::new("/usr/bin/script");
            command.args(["-qec", &format!("'{}' --once", script.display()), "/dev/null"]);
            command
        }
        false => {
            let mut command = Command::new(&script);
            command.arg("--once");
            command
        }
    };
    let output = command.env_clear().env("PATH", folder.join("bin")).stdin(Stdio::null()).output().unwrap();
    let shown = [output.stdout, output.stderr].concat();
    let calls = std::fs::read_to_string(folder.join("calls")).unwrap_or_default();
    (output.status.code(), String::from_utf8(shown).unwrap(), calls)
}

#[test]
fn dev_script_names_a_missing_or_old_rust() {
    let needed = env!("CARGO_PKG_RUST_VERSION");
    let table: [(&[(&str, &str)], &str); 4] = [
        (&[], "cargo is not installed"),
        (&[("cargo", "")], "rustc is not installed"),
        (&[("cargo", ""), ("rustc", "echo rustc 1.9.0 '(abc 2016-05-26)'")], "Rust is too old: 1.9.0"),
        (&[("cargo", ""), ("rustc", "exit 1")], "Rust is too old: unknown version"),
    ];
    for (programs, told) in table {
        let folder = with_programs(programs);
        let (code, shown, calls) = run_dev_script(folder.path(), false);
        assert_eq!(code, Some(1), "{told}: {shown}");
        assert!(
            shown.contains(told) && shown.contains(&format!("Rust {needed} or newer")),
            "{told}: {shown}"
        );
        assert!(shown.contains("https://rustup.rs"), "{shown}");
        assert!(!calls.contains("build"), "nothing was installed or built: {calls}");
    }
}

#[test]
fn dev_script_shows_the_build_on_a_terminal() {
    let rustc = format!("echo rustc {}.0", env!("CARGO_PKG_RUST_VERSION"));
    for terminal in [true, false] {
        let folder = with_programs(&[("cargo", ""), ("rustc", &rustc)]);
        let (code, shown, calls) = run_dev_script(folder.path(), terminal);
        assert_eq!(code, Some(0), "{shown}");
        assert!(shown.contains("building: about 5 minutes the first time"), "{shown}");
        let calls: Vec<_> = calls.lines().skip_while(|call| !call.starts_with("cargo")).collect();
        let build = if terminal { "cargo build --locked" } else { "cargo build --locked --quiet" };
        assert_eq!(calls, [build, "cargo run --locked --quiet -- dev --once"]);
        // The second time there is nothing to wait for.
        let built = folder.path().join("target/debug");
        std::fs::create_dir_all(&built).unwrap();
        std::fs::copy("/bin/true", built.join("attio-bridge")).unwrap();
        assert!(!run_dev_script(folder.path(), terminal).1.contains("building"));
    }
}

/// The first command of the README, in a fresh clone. What is built already is used.
#[test]
#[ignore = "full tier: builds a clone"]
fn the_first_command_works_in_a_fresh_clone() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let clone = folder.path().join("attio-bridge");
    let cloned = Command::new("git").args(["clone", "--quiet"]).arg(here).arg(&clone).status().unwrap();
    assert!(cloned.success());
    let program = std::env::current_exe().unwrap();
    let target = program.ancestors().find(|folder| folder.join("debug").is_dir()).unwrap();
    let output = Command::new(clone.join("deploy/dev.sh"))
        .args(["--once", "--listen", "127.0.0.1:0"])
        .env("CARGO_TARGET_DIR", target.join("newcomer"))
        .output()
        .unwrap();
    let screen = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{screen}{}", String::from_utf8_lossy(&output.stderr));
    assert!(screen.contains("Everything arrived exactly as expected."), "{screen}");
}

#[test]
fn kcat_reads_the_events_of_dev() {
    let desk = desk();
    let mut command = desk.command(&["dev", "--json", "--rate", "20", "--listen", "127.0.0.1:0"]);
    command.env_remove("ATTIO_BRIDGE_CONFIG");
    let mut dev = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(dev.0.stdout.take().unwrap()).lines();
    let start: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    std::thread::spawn(move || lines.count());
    let output = Command::new("kcat")
        .args(["-b", start["kafka"].as_str().unwrap(), "-C", "-t", "attio.record", "-o", "beginning"])
        .args(["-c", "1", "-q", "-X", "fetch.wait.max.ms=10"])
        .output()
        .expect("tests/install.sh installs kcat");
    let event: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!((&event["specversion"], &event["type"]), (&"1.0".into(), &"com.attio.record.created".into()));
}

fn desk() -> Desk {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_attio-bridge"));
    Desk { folder: tempfile::tempdir().unwrap(), program }
}

/// From the first configuration to a delivery that came back out of quarantine.
#[test]
fn from_first_configuration_to_quarantine_replay_on_kafka() {
    let (desk, broker, prefix) = (desk(), Broker::start(), unique("newcomer"));
    let (http, admin) = (free_address(), free_address());
    desk.write("secret", SECRET);
    desk.write(
        "config.toml",
        &format!(
            "[http]\nlisten = \"{http}\"\n[admin]\nlisten = \"{admin}\"\n\
             [sources.attio]\nsecrets = [{{ label = \"default\", file = \"{}\" }}]\n\
             [route]\nprefix = \"{prefix}\"\n[bus]\ntype = \"kafka\"\n\
             [kafka]\nbootstrap_servers = \"{}\"\ntopics.ensure = \"create\"\n",
            desk.folder.path().join("secret").display(),
            broker.bootstrap(),
        ),
    );
    // This topic accepts only small messages.
    let tasks = format!("{prefix}.task");
    broker.create_topic(&tasks, 1, &[("max.message.bytes", "2000")]);
    assert!(desk.expect(0, &["check"]).contains("the configuration is good"));
    assert!(desk.expect(0, &["topics", "--format", "kafka"]).contains(&prefix));

    let _serving = Running(desk.command(&["serve"]).stderr(Stdio::null()).spawn().unwrap());
    eventually_blocking("it is ready", || desk.run(&["healthcheck"]).status.success());
    desk.expect(0, &["check", "--connect"]);
    let target = format!("http://{http}/webhooks/attio");
    desk.expect(0, &["send", &target, "--event", "record.updated"]);
    let event = desk.expect(0, &["tail", "--from", "beginning", "--count", "1", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&event).unwrap()["type"], "com.attio.record.updated");

    // A wrong secret is answered 401; `explain` finds the cause in the captured request.
    let body = desk.write("body.json", r#"{"webhook_id":"w","events":[]}"#);
    let wrong = desk.write("wrong", &format!("{SECRET}\n\n"));
    let headers = desk.expect(0, &["sign", &body, "--secret-file", &wrong]);
    let headers = desk.write("headers.txt", &headers);
    desk.expect(3, &["send", &target, &body, "--secret-file", &wrong]);
    let why = desk.expect(3, &["explain", "--headers", &headers, "--body", &body]);
    assert!(why.contains("401 (signature_mismatch)") && why.contains("with a line end"), "{why}");

    // An event too large for its topic is quarantined, and replayed when the topic accepts it.
    let large = format!(
        r#"{{"webhook_id":"w","events":[{{"event_type":"task.created","id":{{"workspace_id":"ws","task_id":"t1"}},"x":"{}"}}]}}"#,
        "x".repeat(3000)
    );
    let large = desk.write("large.json", &large);
    desk.expect(0, &["send", &target, &large]);
    let aside: Value = serde_json::from_str(&desk.expect(0, &["quarantine", "list", "--json"])).unwrap();
    assert!(aside.to_string().contains("rejected_by_broker"), "{aside}");
    assert_eq!(broker.read_all(&tasks).len(), 0);
    broker.set_topic(&tasks, "max.message.bytes", "1048588");
    desk.expect(0, &["quarantine", "replay"]);
    assert_eq!(broker.read_all(&tasks).len(), 1);
}
