//! Version and revision of this build.

/// The version of the release.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The source revision, from `ATTIO_BRIDGE_REVISION` at build time.
pub const REVISION: &str = match option_env!("ATTIO_BRIDGE_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};
