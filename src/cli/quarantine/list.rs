//! `quarantine list`: a table, or JSON.

use std::fmt::Write;

use clap::Args;
use serde_json::{Value, json};

use super::{Exit, Selection, Session};
use crate::cli::print;
use crate::cloudevent::timestamp;
use crate::consumer::line::safe;
use crate::consumer::quarantined::Quarantined;

const AFTER_HELP: &str = "\
Example: what came aside since yesterday
  attio-bridge quarantine list --from 24h";

/// The flags of `quarantine list`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    #[command(flatten)]
    selection: Selection,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// Prints what lies in quarantine.
pub async fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Exit> {
    let pieces = arguments.selection.read(session).await?;
    if arguments.json {
        print(format_args!("{:#}\n", Value::from_iter(pieces.iter().map(json))));
    } else {
        print(table(&pieces));
    }
    Ok(Exit::Done)
}

/// What is known of a piece, without its bytes.
pub fn json(piece: &Quarantined) -> Value {
    json!({
        "id": piece.id,
        "time": timestamp(piece.received_at),
        "reason": piece.reason,
        "source": piece.source(),
        "bytes": piece.raw.len(),
        "correlationid": piece.key(),
        "webhook_id": piece.webhook_id(),
        "index": piece.index(),
    })
}

const HEADINGS: [&str; 6] = ["ID", "TIME", "REASON", "SOURCE", "BYTES", "CORRELATION ID"];

fn table(pieces: &[Quarantined]) -> String {
    if pieces.is_empty() {
        return "nothing\n".into();
    }
    let row = |piece: &Quarantined| {
        [
            safe(&piece.id),
            timestamp(piece.received_at).unwrap_or_default(),
            safe(&piece.reason),
            safe(piece.source()),
            piece.raw.len().to_string(),
            safe(piece.key().unwrap_or("-")),
        ]
    };
    let rows: Vec<_> = std::iter::once(HEADINGS.map(str::to_owned)).chain(pieces.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column {
            4 => format!("{cell:>width$}"),
            _ => format!("{cell:<width$}"),
        });
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    out
}
