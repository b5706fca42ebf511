//! `quarantine list`: a table, or JSON.

use std::fmt::Write;

use clap::Args;
use serde_json::{Value, json};

use super::{Exit, Selection, Session};
use crate::cli::print;
use crate::cli::reading::columns;
use crate::cloudevent::timestamp;
use crate::consumer::line::{safe, short};
use crate::consumer::quarantined::Quarantined;

/// Columns of a pipe, and the fewest that the table is made for.
const NARROWEST: usize = 80;

const AFTER_HELP: &str = "\
Where there are fewer columns than whole ids need, ids are shown by their beginning, which the other
verbs take as it stands; --json has them whole.

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
        print(table(&pieces, columns(NARROWEST)));
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

const HEADINGS: [&str; 6] = ["ID", "TIME", "REASON", "SOURCE", "BYTES", "KEY"];

/// What is left of a column where the whole does not fit: enough to tell ids apart, times to the second.
const SHORT_ID: usize = 9;
const SECONDS: usize = "2026-11-24T10:00:00Z".len();
const LONGEST_REASON: usize = "rejected_by_broker".len();

/// Between two columns.
const GAP: &str = "  ";

fn table(pieces: &[Quarantined], columns: usize) -> String {
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
    let widths = fitting(std::array::from_fn(width), columns);
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column {
            1 => format!("{:<width$}", time(cell, width)),
            4 => format!("{cell:>width$}"),
            _ => format!("{:<width$}", short(cell, width)),
        });
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{}", cells.collect::<Vec<_>>().join(GAP).trim_end());
    }
    out
}

/// The widths of the columns: whole where all of it fits, else the source and the key have what the
/// others leave.
fn fitting(whole: [usize; 6], columns: usize) -> [usize; 6] {
    let gaps = GAP.len() * (whole.len() - 1);
    let columns = columns.max(NARROWEST);
    if whole.iter().sum::<usize>() + gaps <= columns {
        return whole;
    }
    let [id, time, reason, source, bytes, key] = whole;
    let (id, time, reason) = (id.min(SHORT_ID), time.min(SECONDS), reason.min(LONGEST_REASON));
    let left = columns.saturating_sub(gaps + id + time + reason + bytes);
    let source = source.min(left.saturating_sub(key.min(SHORT_ID)));
    [id, time, reason, source, bytes, key.min(left - source)]
}

/// `2026-11-24T10:00:00.000Z` without its fraction where there is no room for it.
fn time(cell: &str, width: usize) -> String {
    match cell.split_once('.') {
        Some((seconds, _)) if cell.len() > width => format!("{seconds}Z"),
        _ => cell.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_shortened_and_the_rest_is_given_away() {
        let whole = [36, 24, 18, 5, 6, 36];
        assert_eq!(fitting(whole, 135), whole);
        assert_eq!(fitting(whole, 134), [9, 20, 18, 5, 6, 36]);
        assert_eq!(fitting(whole, 80), [9, 20, 18, 5, 6, 12]);
        assert_eq!(fitting(whole, 20), fitting(whole, 80));
        assert_eq!(fitting([36, 24, 18, 63, 8, 255], 80), [9, 20, 18, 6, 8, 9]);
        assert_eq!(fitting([4, 24, 8, 6, 5, 3], 80), [4, 24, 8, 6, 5, 3]);
    }
}
