//! A broker as a child process that cannot outlive this one.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};

use crate::support::wait::{eventually_blocking, eventually_some};

/// A running program under a shell that reads from a pipe of this process and kills it at its end.
pub struct Watched {
    watchdog: Child,
    /// The process id of the program itself.
    pid: u32,
}

/// A Kafka node sometimes ignores SIGTERM, so no test relies on its end.
const STOPS_WITHIN: Duration = Duration::from_secs(15);

/// Statics are not dropped, so the watchdog also removes the data, unless it is to be kept.
const WATCHDOG: &str = r#"
    exec 3<&0
    "$@" </dev/null 3<&- &
    child=$!
    echo "$child" >"$DATA/child.pid.new" && mv "$DATA/child.pid.new" "$DATA/child.pid"
    (
        read -r word
        kill -KILL "$child"
        [ "$word" = keep ] && exit
        while kill -0 "$child"; do sleep 0.1; done
        rm -rf "$DATA"
    ) <&3 >/dev/null 2>&1 &
    exec 3<&-
    wait "$child"
"#;

impl Watched {
    /// Starts a command whose data is in a folder; its output goes to `output.log` there.
    pub fn start(command: &Command, data: &Path) -> Self {
        let pid_file = data.join("child.pid");
        // Not there on the first start.
        let _ = fs::remove_file(&pid_file);
        let output = || fs::File::options().append(true).create(true).open(data.join("output.log"));
        let watchdog = Command::new("sh")
            .arg("-c")
            .arg(WATCHDOG)
            .arg("watchdog")
            .arg(command.get_program())
            .args(command.get_args())
            .env("DATA", data)
            .stdin(Stdio::piped())
            .stdout(output().expect("a file for the output"))
            .stderr(output().expect("a file for the output"))
            .spawn()
            .expect("sh starts");
        let pid = || fs::read_to_string(&pid_file).ok()?.trim().parse().ok();
        let pid = eventually_some("the program starts", pid);
        Self { watchdog, pid }
    }

    /// The process id of the program itself.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.pid.to_string()).status();
        assert!(sent.expect("kill starts").success(), "the program does not run");
    }

    /// Freezes it (SIGSTOP); none of its threads runs when this returns.
    pub fn freeze(&self) {
        self.signal("STOP");
        let tasks = PathBuf::from(format!("/proc/{}/task", self.pid));
        let stopped = |task: fs::DirEntry| {
            let status = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // The state stands after the name, which is in brackets.
            status.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
        };
        eventually_blocking("every thread stands still", || {
            fs::read_dir(&tasks).is_ok_and(|mut tasks| tasks.all(|task| task.is_ok_and(stopped)))
        });
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.watchdog.try_wait().ok().flatten()
    }

    /// Stops it (SIGTERM), and kills it if it does not end in time; its data stays.
    pub fn stop(mut self) {
        self.signal("TERM");
        let deadline = Instant::now() + STOPS_WITHIN;
        while self.ended().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
    }

    /// Kills it (SIGKILL), frozen or not; its data stays.
    pub fn kill(mut self) {
        // It is gone when the watchdog is. A program that ended by itself is gone too.
        if let Some(mut pipe) = self.watchdog.stdin.take() {
            let _ = pipe.write_all(b"keep\n");
        }
        self.watchdog.wait().expect("the watchdog ends");
    }
}

/// The process of a broker across restarts.
#[derive(Default)]
pub struct Process(Mutex<Option<Watched>>);

impl Process {
    /// Starts it; see [`Watched::start`].
    pub fn start(&self, command: &Command, data: &Path) {
        let mut process = self.0.lock();
        assert!(process.is_none(), "the broker already runs");
        *process = Some(Watched::start(command, data));
    }

    /// The one that runs, to be frozen or asked about.
    pub fn running(&self) -> MappedMutexGuard<'_, Watched> {
        MutexGuard::map(self.0.lock(), |process| process.as_mut().expect("the broker runs"))
    }

    /// The one that runs, to be ended.
    pub fn take(&self) -> Watched {
        self.0.lock().take().expect("the broker runs")
    }

    /// Fails the test, with the broker's log, if it has ended by itself.
    pub fn assert_alive(&self, log: impl FnOnce() -> String) {
        if let Some(status) = self.running().ended() {
            panic!("the broker ended ({status}):\n{}", log());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(process) = self.0.get_mut().take() {
            process.kill();
        }
    }
}

/// Where `tests/install.sh` puts things: beside the build of this test.
pub fn kit(needed: &str) -> PathBuf {
    static KIT: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
        let program = std::env::current_exe().ok()?;
        program.ancestors().map(|folder| folder.join("kit")).find(|kit| kit.is_dir())
    });
    let found = KIT.clone().filter(|kit| kit.join(needed).is_file());
    found.unwrap_or_else(|| panic!("no {needed} to test with: run tests/install.sh once, it fetches it"))
}
