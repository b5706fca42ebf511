//! The composition root: configuration -> bus -> pipeline -> listeners.

use crate::config::Config;

/// Why the bridge ended other than by a drain.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing to run yet.
    #[error("this build cannot serve yet")]
    Missing,
}

/// Runs the bridge until it is told to stop.
pub async fn run(_config: Config) -> Result<(), Error> {
    Err(Error::Missing)
}
