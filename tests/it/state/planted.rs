//! The checker finds bugs: each patch in `planted/` is applied to a copy of the source, and the checker must fail.

use std::path::Path;
use std::process::Command;

use crate::loss::planted::{build, shell};
use crate::support::program::PROGRAM;

/// The bugs.
const BUGS: [&str; 6] = [
    "done-before-its-state",
    "no-version-check",
    "merge-without-tombstone",
    "absence-is-an-error",
    "answer-settles-later-changes",
    "coalescing-drops-the-last-change",
];

/// The bugs to plant: all, or those whose names contain this.
const ONLY: &str = "ATTIO_BRIDGE_STATE_PLANTED";

/// Runs of the checker, each with a seed of its own, one of which has to find a bug: some show only in a race.
const RUNS: usize = 3;

const CHECK: &str = "state::soak::topics_on_kafka_equal_the_workspace_whatever_is_killed";

fn patch(bug: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/it/state/planted/{bug}.patch"))
}

/// Runs the checker, with that program if there is one. Whether it passed, and what it said.
fn check(program: Option<&Path>) -> (bool, String) {
    let mut checker = Command::new(std::env::current_exe().expect("the tests are a program"));
    checker.args(["--exact", CHECK, "--nocapture"]).env("ATTIO_BRIDGE_STATE_PATIENCE", "90");
    checker.env("ATTIO_BRIDGE_STATE_CHANGES", "1500").env("ATTIO_BRIDGE_STATE_KILLS", "6");
    if let Some(program) = program {
        checker.env(PROGRAM, program);
    }
    let output = checker.output().expect("the checker runs");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
#[ignore = "full tier: builds the program once for each bug"]
fn every_planted_bug_is_found() {
    let only = std::env::var(ONLY).unwrap_or_default();
    let bugs: Vec<_> = BUGS.into_iter().filter(|bug| bug.contains(&only)).collect();
    assert!(!bugs.is_empty(), "{only:?} is none of {BUGS:?}");
    let (good, said) = check(None);
    assert!(good, "without a bug: {said}");
    let missed = bugs.into_iter().filter(|bug| {
        let program = build(bug, &patch(bug));
        let found = (0..RUNS).map(|_| check(Some(&program))).find(|(good, _)| !good);
        let said = found.as_ref().map(|(_, said)| said);
        let why = |said: &String| {
            let mut lines = said.lines();
            let why = lines.find(|line| line.contains("seed") || line.contains("not within"));
            why.unwrap_or("found").to_owned()
        };
        println!("planted: {bug}: {}", said.map_or_else(|| "missed".to_owned(), why));
        found.is_none()
    });
    assert_eq!(missed.collect::<Vec<_>>(), [""; 0], "not found");
}

#[test]
fn every_patch_applies() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for bug in BUGS {
        let mut dry = Command::new("patch");
        dry.args(["-p1", "--forward", "--fuzz=0", "--dry-run", "-i"]).arg(patch(bug)).current_dir(root);
        shell(&mut dry);
    }
}
