//! An example as a process, in a copy of its folder that has nothing else of this repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tempfile::TempDir;

use super::bus::{Bus, Kind};
use super::inbox::Inbox;
use super::languages::Language;
use super::readme;
use crate::support::wait::eventually_some;
use crate::support::watched::{Watched, kit};

/// What an example's own commands make in its folder.
const MADE: [&str; 5] = [".venv", "__pycache__", "bin", "node_modules", "target"];

/// Long enough for a group to notice a dead member on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Less than the time after which systemd, Kubernetes and others kill what does not stop.
const STOP: Duration = Duration::from_secs(15);

/// One installation at a time: each uses every core.
static INSTALLING: Mutex<()> = Mutex::new(());

/// Copies the example and runs the first command of its README, unless that was done for the same files; returns the
/// folder.
pub fn install(language: &Language) -> PathBuf {
    let _turn = INSTALLING.lock();
    let [install, ..] = readme::commands(language);
    let folder = kit("python/installed.txt").join("interop").join(language.folder);
    let files = files(&language.source());
    let text = |(name, bytes): &(PathBuf, Vec<u8>)| {
        format!(
            "{}
{}",
            name.display(),
            String::from_utf8_lossy(bytes)
        )
    };
    let stamp: String = files.iter().map(text).collect();
    let stamped = folder.join(".installed");
    if fs::read_to_string(&stamped).is_ok_and(|of| of == stamp) {
        return folder;
    }
    // Not there before the first installation.
    let _ = fs::remove_file(&stamped);
    for (name, bytes) in files {
        let to = folder.join(name);
        fs::create_dir_all(to.parent().expect("it is in the folder")).expect("a folder");
        fs::write(to, bytes).expect("the example is copied");
    }
    let begun = Instant::now();
    let output = run(&install, &folder);
    assert!(output.status.success(), "{}: {install}: {output:?}", language.name);
    println!("{} is installed in {:.0?}", language.name, begun.elapsed());
    fs::write(stamped, stamp).expect("the stamp is written");
    folder
}

/// Runs a command line to its end.
pub fn run(line: &str, folder: &Path) -> Output {
    let mut command = Command::new("sh");
    command.args(["-euc", line]).current_dir(folder).env("PATH", path());
    command.output().expect("sh starts")
}

/// Programs that the kit has newer than the system come first.
fn path() -> String {
    let own = kit("python/installed.txt").join("node/bin");
    format!("{}:{}", own.display(), std::env::var("PATH").unwrap_or_default())
}

/// The beginning of a command that runs in a folder with this database; more variables and the program follow.
pub fn program_in(folder: &Path, database: &Path) -> Command {
    let mut command = Command::new("env");
    command.arg("-C").arg(folder);
    command.args([format!("PATH={}", path()), format!("INBOX={}", database.display())]);
    command
}

/// The files of an example, by their path in it.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap_or_else(|error| panic!("{}: {error}", next.display())) {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(folder).expect("it is below").to_owned();
            if !path.is_dir() {
                found.push((name, fs::read(&path).expect("it can be read")));
            } else if !MADE.iter().any(|made| name == Path::new(made)) {
                folders.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A consumer of one bus with its own database, across restarts.
pub struct Consumer<'b> {
    bus: &'b Bus,
    /// Its group or durable name.
    pub name: &'static str,
    command: Command,
    process: Option<Watched>,
    data: TempDir,
    pub inbox: Inbox,
}

impl<'b> Consumer<'b> {
    /// Prepared, and not started.
    pub fn new(language: &Language, kind: Kind, bus: &'b Bus) -> Self {
        let folder = install(language);
        let data = tempfile::tempdir().expect("a folder");
        let database = data.path().join("inbox.db");
        let mut command = program_in(&folder, &database);
        command.args(bus.consumer(language.folder).iter().map(|(name, value)| format!("{name}={value}")));
        command.args(language.program(kind));
        let inbox = Inbox::open(&database);
        Self { bus, name: language.folder, command, process: None, data, inbox }
    }

    /// Starts it, and waits until it is connected.
    pub fn start(&mut self) {
        self.begin();
        self.until("it is connected", |consumer| consumer.bus.is_connected(consumer.name));
    }

    /// Starts it without waiting.
    pub fn begin(&mut self) {
        assert!(self.process.is_none(), "it runs");
        self.process = Some(Watched::start(&self.command, self.data.path()));
    }

    /// Kills it (SIGKILL), and waits until the bus knows; what a proxy still held of its words is lost.
    pub fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
        self.bus.proxy.reset();
        self.until("its connections are gone", |consumer| consumer.bus.proxy.connections() == 0);
        self.bus.proxy.pass();
        self.until("its death is noticed", |consumer| consumer.bus.is_left(consumer.name));
    }

    /// Stops it (SIGTERM): it ends with 0, and has left its group.
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.signal("TERM");
        let begun = Instant::now();
        let status = eventually_some("it ends", || process.ended());
        assert!(begun.elapsed() < STOP, "it took {:.0?} to stop: {}", begun.elapsed(), self.log());
        // Its watchdog would remove the data.
        process.kill();
        assert!(status.success(), "{status}: {}", self.log());
        assert!(self.bus.is_left(self.name), "it is still a member of its group");
    }

    /// Waits until a condition holds; fails at once if the consumer ends.
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            if let Some(status) = self.process.as_mut().and_then(Watched::ended) {
                panic!("{} ended ({status}), and not: {what}\n{}", self.name, self.log());
            }
            assert!(
                Instant::now() < deadline,
                "{}: not within {PATIENCE:?}: {what}\n{}",
                self.name,
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until everything is acknowledged.
    pub fn until_done(&mut self) {
        self.until("everything is acknowledged", |consumer| consumer.bus.is_done(consumer.name));
    }

    fn log(&self) -> String {
        fs::read_to_string(self.data.path().join("output.log")).unwrap_or_default()
    }
}
