//! The checker finds bugs: each of the eight patches in `planted/` is applied to a copy of the source, and the
//! checker must fail; it must pass without one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::options::{Bus, Counts, Options};
use super::run;

/// The scenario of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scenario {
    /// The broker is down for longer than the publish timeout, and the senders retry while their first attempts are
    /// still pending.
    Outages,
    /// Nothing fails; senders disconnect early and repeat remembered deliveries, and the dedup memory is small.
    Repeats,
    /// The broker is formatted anew under the bridges before they publish, and bridges are killed and replaced.
    FormattedAnew,
}

/// The bugs, their scenarios, and the laws of which one must be violated.
const BUGS: [(&str, Scenario, &[&str]); 8] = [
    ("mark-before-ack", Scenario::Outages, &["L1"]),
    ("busy-repeat-answered-200", Scenario::Outages, &["L1"]),
    ("work-tied-to-the-connection", Scenario::Repeats, &["L6"]),
    ("default-cache-policy", Scenario::Repeats, &["L3"]),
    ("first-error-ends-the-batch", Scenario::Outages, &["L6"]),
    ("4xx-for-a-broker-error", Scenario::Outages, &["L4"]),
    ("duplicates-counted-as-published", Scenario::Repeats, &["L6"]),
    ("another-cluster-unnoticed", Scenario::FormattedAnew, &["L1"]),
];

fn scenario(of: Scenario, name: &str, bridge: PathBuf) -> Options {
    let mut options = match of {
        Scenario::FormattedAnew => super::formatted_anew(name),
        Scenario::Outages | Scenario::Repeats => Options::new(name, Bus::Kafka, 6, 3000),
    };
    options.bridge = bridge;
    // Nothing waits longer than its publish.
    options.quiet = Duration::from_secs(8);
    options.keeps = false;
    let set = |name: &str, value: &str| (format!("ATTIO_BRIDGE__{name}"), value.to_owned());
    match of {
        Scenario::FormattedAnew => {}
        Scenario::Outages => {
            options.faults = Counts { broker_kills: 2, ..Counts::default() };
            options.down_ms = (4500, 5000);
            options.variables = vec![set("KAFKA__PUBLISH_TIMEOUT", "3s"), set("HTTP__ANSWER_TIMEOUT", "1s")];
        }
        Scenario::Repeats => {
            (options.senders, options.batch) = (8, 2);
            (options.leavers, options.repeats, options.repeats_after) = (150, 400, 5);
            // Slow enough for a sender to disconnect before the ack.
            options.variables = vec![set("DEDUP__CAPACITY", "800"), set("KAFKA__LINGER", "20ms")];
        }
    }
    options
}

/// A copy of the source with one patch in it, built beside the other builds.
pub fn build(bug: &str, patch: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let copy = tempfile::tempdir().expect("a folder for the copy");
    for part in ["Cargo.toml", "Cargo.lock", "src"] {
        shell(Command::new("cp").arg("-r").arg(root.join(part)).arg(copy.path()));
    }
    shell(
        Command::new("patch")
            .args(["-p1", "--forward", "--fuzz=0", "-i"])
            .arg(patch)
            .current_dir(copy.path()),
    );
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("planted");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--locked", "--quiet", "--bin", "attio-bridge"]).current_dir(copy.path());
    shell(cargo.env("CARGO_TARGET_DIR", &target).env_remove("RUSTFLAGS"));
    let bridge = target.join(bug);
    fs::copy(target.join("debug/attio-bridge"), &bridge).expect("the bridge was built");
    bridge
}

pub fn shell(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}\n{}{}", text(&output.stdout), text(&output.stderr));
}

/// The bugs to try: all, or those whose names contain this.
const ONLY: &str = "ATTIO_BRIDGE_LOSS_PLANTED";

/// Every bug is found, and the bridge as it is passes the same scenarios.
pub fn check() {
    let only = std::env::var(ONLY).unwrap_or_default();
    for of in [Scenario::Outages, Scenario::Repeats, Scenario::FormattedAnew]
        .into_iter()
        .filter(|_| only.is_empty())
    {
        let name = format!("planted-none-{of:?}").to_lowercase();
        let report = run(&scenario(of, &name, env!("CARGO_BIN_EXE_attio-bridge").into()));
        assert!(report.is_good(), "without a bug: {}", report.text());
        println!("planted: none, {of:?}: good");
    }
    let patches = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/loss/planted");
    let mut missed = Vec::new();
    for (bug, of, laws) in BUGS.into_iter().filter(|(bug, ..)| bug.contains(&only)) {
        let bridge = build(bug, &patches.join(format!("{bug}.patch")));
        let report = run(&scenario(of, &format!("planted-{bug}"), bridge));
        let broken = report.laws.broken();
        println!("planted: {bug}, {of:?}: broken {broken:?}");
        if !laws.iter().all(|law| broken.contains(law)) {
            missed.push(format!("{bug}: {laws:?} should be broken\n{}", report.text()));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
#[ignore = "full tier: builds the bridge once for each bug"]
fn every_planted_bug_is_found() {
    check();
}

#[test]
fn there_is_a_scenario_for_every_patch() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/loss/planted");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut there: Vec<String> = fs::read_dir(folder).unwrap().map(name).collect();
    let mut listed: Vec<String> = BUGS.iter().map(|(bug, ..)| format!("{bug}.patch")).collect();
    there.sort();
    listed.sort();
    assert_eq!(there, listed);
}

#[test]
fn every_patch_applies() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (bug, ..) in BUGS {
        let patch = root.join(format!("tests/it/loss/planted/{bug}.patch"));
        let mut dry = Command::new("patch");
        shell(dry.args(["-p1", "--forward", "--fuzz=0", "--dry-run", "-i"]).arg(patch).current_dir(root));
    }
}
