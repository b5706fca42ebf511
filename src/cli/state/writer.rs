//! What `state backfill` and `state diff` begin with.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use time::OffsetDateTime;

use crate::app::logging;
use crate::attio::entities::EntityReader;
use crate::bus::state::{Role, StateError};
use crate::bus::states;
use crate::cli::{Exit, Failure, LOG, block_on, invalid_configuration, stop_token};
use crate::config::{self, Input};
use crate::state::names::Names;
use crate::state::stored;
use crate::state::targets::{Scope, Target};
use crate::state::writing::{Reading, Writing, patiently};

/// Between two attempts to begin.
const RETRY: Duration = Duration::from_secs(1);

/// The flags that say which part to go through.
#[derive(Args)]
pub struct Which {
    /// Only the records of this object, by slug or id; may be repeated
    #[arg(long, value_name = "SLUG")]
    object: Vec<String>,
    /// Only the entries of this list, by slug or id; may be repeated
    #[arg(long, value_name = "SLUG")]
    list: Vec<String>,
}

impl Which {
    pub fn scope(&self) -> Scope {
        Scope { objects: self.object.clone(), lists: self.list.clone(), deleted_lists: Vec::new() }
    }
}

/// Runs a verb until it is done, or interrupted.
pub fn run(
    input: &Input,
    interrupted: &str,
    verb: impl AsyncFnOnce(&config::State) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let config = config::state(input).map_err(invalid_configuration)?;
    let log = logging::start(LOG, &input.environment)?;
    block_on(Some(2), async {
        let stop = stop_token(&log, None)?;
        let done = stop.run_until_cancelled(verb(&config)).await;
        done.unwrap_or_else(|| Err(interrupted.to_owned().into()))
    })?
}

/// Reads the names of objects and lists. What to go through.
pub async fn begin(config: &config::State, scope: &Scope) -> Result<(Reading, Vec<Target>), Failure> {
    let options = Arc::new(config.options.clone());
    let reader = EntityReader::new(&config.attio, options.reads_per_second, |_, _| {})?;
    let names = Arc::new(patiently(async || Names::read(&reader).await).await?);
    let targets = Target::all(&options, &names, scope)?;
    Ok((Reading { options, names, reader }, targets))
}

/// Begins to write. Ends any other writer of this role.
pub async fn write(config: &config::State, role: Role, reading: Reading) -> Result<Writing, Failure> {
    let writer = async || {
        stored::check_workspace(&reading.options, &config.bus, &reading.names.workspace).await?;
        states::writer(&config.bus, reading.options.writer(role), OffsetDateTime::now_utc).await
    };
    let publisher = started(writer).await?;
    Ok(Writing { reading, publisher })
}

/// Begins to write, however long the broker is away.
async fn started<T, F: Future<Output = Result<T, StateError>>>(begin: impl Fn() -> F) -> Result<T, Failure> {
    let mut logged = None;
    loop {
        let reason = match begin().await {
            Ok(begun) => return Ok(begun),
            Err(StateError::Passing(reason)) => reason,
            Err(StateError::Read(error @ crate::bus::ReadError::Broker { .. })) => error.to_string(),
            Err(error) => return Err(error.to_string().into()),
        };
        if logged.as_ref() != Some(&reason) {
            tracing::warn!("{reason}; trying on");
            logged = Some(reason);
        }
        tokio::time::sleep(RETRY).await;
    }
}
