//! `state get`: prints the state that is kept of an entity.

use clap::Args;

use crate::app::logging;
use crate::bus::state::Version;
use crate::cli::output::{print, say};
use crate::cli::{Exit, Failure, LOG, block_on, invalid_configuration};
use crate::config::{self, Input};
use crate::printable;
use crate::state::stored::{self, Stored};

const AFTER_HELP: &str = "\
It prints the CloudEvent, whose `data` is the entity as Attio returned it at `time`. Exit code 3: nothing is kept of the \
entity, or a tombstone. On Kafka it reads the whole topic.

Example: a person
  attio-bridge state get 891dcbfc-9141-415d-9b2a-2238a6cc012d";

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Id of the record, list entry, note, task or comment
    id: String,
}

pub fn run(input: &Input, arguments: &Arguments) -> Result<Exit, Failure> {
    let config::State { options, bus, .. } = config::state(input).map_err(invalid_configuration)?;
    let _log = logging::start(LOG, &input.environment)?;
    let id = arguments.id.as_str();
    let found = block_on(Some(1), async {
        let mut found: Option<Stored> = None;
        for kind in options.kinds() {
            let mut reader = stored::read(&options, &bus.kind, kind, Some(id)).await?;
            while let Some(item) = reader.next().await {
                let stored = Stored::new(&item?, &options.prefix).filter(|stored| stored.id == id);
                found = stored.or(found);
            }
            reader.end().await;
        }
        Ok::<_, Failure>(found)
    })??;
    match found {
        Some(Stored { event: Some(event), .. }) => {
            print(printable::lines(&event.to_json()) + "\n");
            Ok(Exit::Done)
        }
        Some(Stored { version: Version::Gone, .. }) => {
            say(format_args!("{id} is gone"));
            Ok(Exit::Unexpected)
        }
        _ => {
            say(format_args!("nothing is kept of {id}"));
            Ok(Exit::Unexpected)
        }
    }
}
