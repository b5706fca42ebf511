//! Output compared with committed files, so that a review shows every change of it.
//!
//! `ATTIO_BRIDGE_TEST_RENEW=1 cargo test --test it` writes the files again; review the diff.

use std::fs;
use std::path::{Path, PathBuf};

/// The folder below `tests/fixtures`.
pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Whether the files are written again.
pub fn renewing() -> bool {
    std::env::var_os("ATTIO_BRIDGE_TEST_RENEW").is_some()
}

/// A message where the text differs from its file.
pub fn compare(file: &Path, now: &str) -> Option<String> {
    if renewing() {
        fs::create_dir_all(file.parent().expect("a file is in a folder")).expect("the folder is there");
        fs::write(file, now).expect("the file is written");
    }
    let same = fs::read_to_string(file).is_ok_and(|committed| committed == now);
    let name = file.file_name().unwrap_or_default().display();
    let advice = "if this is intended, write the files again: ATTIO_BRIDGE_TEST_RENEW=1";
    (!same).then(|| format!("{name} differs from the output ({advice}):\n{now}"))
}
