//! `quarantine export`: pieces as files that `quarantine replay --file` takes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Exit, Selection, Session};
use crate::cli::reading::write;
use crate::cli::{fail, print, say};
use crate::consumer::quarantined::Quarantined;

const AFTER_HELP: &str = "\
Of each piece two files are written: ID.raw, its bytes as they came, to be looked at or mended; and
ID.json, the CloudEvent of quarantine with its bytes, source, key and place. Replay takes either.
The path of each ID.raw is printed, one a line. For a program it is all in --to -, which prints
JSON Lines and writes no file; there is no --json beside it.

Example: everything into a folder
  attio-bridge quarantine export --to quarantined
Example: as JSON Lines, one CloudEvent a line
  attio-bridge quarantine export --to - > quarantined.jsonl";

/// The flags of `quarantine export`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Only these, each by its id or the beginning of it
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// A folder, made where it is missing; `-` for JSON Lines on standard output
    #[arg(long, value_name = "DIR", default_value = ".")]
    to: PathBuf,
}

/// Writes pieces.
pub async fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Exit> {
    let pieces = arguments.selection.read_named(session, &arguments.ids).await?;
    let written = match arguments.to.to_str() {
        Some("-") => pieces.iter().try_for_each(|piece| write(&piece.event.to_json()).map(drop)),
        _ => files(&arguments.to, &pieces),
    };
    written.map_err(|error| fail(format_args!("{}: {error}", arguments.to.display())))?;
    say(format_args!("exported {}", pieces.len()));
    Ok(Exit::Done)
}

fn files(folder: &Path, pieces: &[Quarantined]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for piece in pieces {
        let [raw, event] = ["raw", "json"].map(|end| folder.join(format!("{}.{end}", file_name(&piece.id))));
        fs::write(&raw, &piece.raw)?;
        fs::write(event, piece.event.to_json() + "\n")?;
        print(format_args!("{}\n", raw.display()));
    }
    Ok(())
}

/// What comes from the bus names no other folder.
fn file_name(id: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    id.chars().map(|c| if fits(c) { c } else { '_' }).collect()
}
