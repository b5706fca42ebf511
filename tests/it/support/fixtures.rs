//! The files of `tests/fixtures`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(relative)
}

pub fn read(relative: &str) -> Vec<u8> {
    fs::read(path(relative)).unwrap_or_else(|error| panic!("{relative}: {error}"))
}

pub fn json(relative: &str) -> Value {
    serde_json::from_slice(&read(relative)).unwrap_or_else(|error| panic!("{relative}: {error}"))
}

/// Every delivery of `events/`, as its path below it and its bytes, in the order of the paths.
pub fn deliveries() -> Vec<(String, Vec<u8>)> {
    let mut names = Vec::new();
    for folder in ["events", "events/edge", "events/seed-style"] {
        for entry in fs::read_dir(path(folder)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                names.push(format!("{folder}/{}", entry.file_name().into_string().unwrap()));
            }
        }
    }
    names.sort();
    let with_bytes = |name: String| {
        let bytes = read(&name);
        (name.strip_prefix("events/").unwrap().to_owned(), bytes)
    };
    names.into_iter().map(with_bytes).collect()
}

/// One delivery of `events/`.
pub fn delivery(name: &str) -> Vec<u8> {
    read(&format!("events/{name}.json"))
}
