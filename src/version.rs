//! What this build is.

/// The version of the release.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The revision it was built from, where the build was told (`ATTIO_BRIDGE_REVISION`).
pub const REVISION: &str = match option_env!("ATTIO_BRIDGE_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};
