//! What the verbs that read the bus share: start and stop.

use tokio_util::sync::CancellationToken;

use super::{Exit, Failure, block_on, load, stop_token};
use crate::app::logging;
use crate::config::{Config, Input, LogFormat, LogOptions};

/// These verbs print their own messages; the log has warnings only, as text.
pub const LOG: LogOptions = LogOptions { level: "warn", format: LogFormat::Text };

pub struct Session {
    pub config: Config,
    /// Cancelled by the first stop signal. A second one ends the process.
    pub stop: CancellationToken,
}

pub fn run(
    input: &Input,
    verb: impl AsyncFnOnce(&Session) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let config = load(input)?;
    let log = logging::start(LOG, &input.environment)?;
    block_on(Some(1), async { verb(&Session { config, stop: stop_token(&log, None)? }).await })?
}
