//! What is shown, kept in files: a change of it is seen in a review.
//!
//! `ATTIO_BRIDGE_TEST_RENEW=1 cargo test --test it` writes the files anew; look at what changed.

use std::fs;
use std::path::{Path, PathBuf};

/// The folder below `tests/fixtures`.
pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Whether the files are to be written anew.
pub fn renewing() -> bool {
    std::env::var_os("ATTIO_BRIDGE_TEST_RENEW").is_some()
}

/// What to do about a text that is not as it was kept; none where it is.
pub fn compare(file: &Path, now: &str) -> Option<String> {
    if renewing() {
        fs::create_dir_all(file.parent().expect("a file is in a folder")).expect("the folder is there");
        fs::write(file, now).expect("the file is written");
    }
    let same = fs::read_to_string(file).is_ok_and(|kept| kept == now);
    let name = file.file_name().unwrap_or_default().display();
    let advice = "if it is meant so, write the files anew: ATTIO_BRIDGE_TEST_RENEW=1";
    (!same).then(|| format!("{name} is not what is shown now ({advice}):\n{now}"))
}
