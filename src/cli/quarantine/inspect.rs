//! `quarantine list`, `show` and `export`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table};
use serde_json::{Value, json};

use super::{NOTHING, Selection};
use crate::cli::output::{self, render, short, terminal_columns, write_line};
use crate::cli::{BusSession, Exit, Failure, print, say};
use crate::cloudevent::timestamp;
use crate::consumer::quarantine::{Entry, Quarantined, Stored, hint};
use crate::printable::{self, is_invisible, line as escaped};

const LIST_HELP: &str = "\
If the table is wider than the terminal, ids are shortened; the other verbs accept the beginning \
of an id. In a pipe and with --json ids are whole.

Example: what was quarantined since yesterday
  attio-bridge quarantine list --from 24h";

#[derive(Args)]
#[command(after_help = LIST_HELP)]
pub struct ListArguments {
    #[command(flatten)]
    selection: Selection,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

pub async fn list(session: &BusSession, arguments: &ListArguments) -> Result<Exit, Failure> {
    let entries = arguments.selection.entries(session).await?;
    let entries = entries.iter().map(|Stored { entry, .. }| entry);
    if arguments.json {
        print(format_args!("{:#}\n", Value::from_iter(entries.map(entry_json))));
    } else {
        let entries: Vec<_> = entries.collect();
        print(entry_table(&entries, terminal_columns()));
        match entries.len() {
            0 => {}
            1 => say("1 record"),
            count => say(format_args!("{count} records")),
        }
    }
    Ok(Exit::Done)
}

fn entry_json(entry: &Entry) -> Value {
    json!({
        "id": entry.id,
        "time": timestamp(entry.received_at),
        "reason": entry.reason,
        "source": entry.source,
        "bytes": entry.bytes,
        "correlationid": entry.idempotency_key,
        "webhook_id": entry.webhook_id,
        "index": entry.index,
    })
}

/// The width of the table on a narrower terminal.
const MIN_COLUMNS: usize = 80;

/// Enough of an id to distinguish ids.
const SHORT_ID: usize = 9;

/// No wider than `columns`: ids and times are shortened first, then source and key.
fn entry_table(entries: &[&Entry], columns: Option<usize>) -> String {
    if entries.is_empty() {
        return format!("{NOTHING}\n");
    }
    let whole = new_table(entries, |entry| (entry.id.clone(), timestamp(entry.received_at)));
    let text = render(&whole);
    let Some(columns) = columns.map(|columns| columns.max(MIN_COLUMNS)) else { return text };
    if text.lines().all(|line| line.chars().count() <= columns) {
        return text;
    }
    let mut narrow = new_table(entries, |entry| {
        let seconds = entry.received_at.replace_nanosecond(0).ok().and_then(timestamp);
        (short(&entry.id, SHORT_ID), seconds.map(|time| time.replace(".000Z", "Z")))
    });
    narrow.set_content_arrangement(ContentArrangement::Dynamic);
    // The padding behind the last column is trimmed.
    narrow.set_width(u16::try_from(columns + 2).unwrap_or(u16::MAX));
    for fixed in [0, 1, 2, 4] {
        if let Some(column) = narrow.column_mut(fixed) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    render(&narrow)
}

fn new_table(entries: &[&Entry], id_and_time: impl Fn(&Entry) -> (String, Option<String>)) -> Table {
    let row = |entry: &&Entry| {
        let (id, time) = id_and_time(entry);
        [
            escaped(&id),
            time.unwrap_or_default(),
            short(&escaped(&entry.reason), "rejected_by_broker".len()),
            escaped(&entry.source),
            entry.bytes.to_string(),
            escaped(entry.idempotency_key.as_deref().unwrap_or("-")),
        ]
    };
    let rows: Vec<_> = entries.iter().map(row).collect();
    let mut table = output::new_table(["ID", "TIME", "REASON", "SOURCE", "BYTES", "KEY"], &rows);
    if let Some(bytes) = table.column_mut(4) {
        bytes.set_cell_alignment(CellAlignment::Right);
    }
    table
}

const SHOW_HELP: &str = "\
Example: by the beginning of its id
  attio-bridge quarantine show 9d5ee6c0";

#[derive(Args)]
#[command(after_help = SHOW_HELP)]
pub struct ShowArguments {
    /// Its id, or the beginning of it
    #[arg(value_name = "ID")]
    id: String,
    /// Print a JSON object, with the raw body in base64
    #[arg(long)]
    json: bool,
}

pub async fn show(session: &BusSession, arguments: &ShowArguments) -> Result<Exit, Failure> {
    let (mut bodies, _) = Selection::ALL.bodies(session, std::slice::from_ref(&arguments.id)).await?;
    let Quarantined { entry, raw, .. } = bodies.next().await?.ok_or("no id was given")?;
    if arguments.json {
        let mut value = entry_json(&entry);
        value["hint"] = Value::from(hint(&entry.reason));
        value["raw_base64"] = json!(STANDARD.encode(&raw));
        print(format_args!("{value:#}\n"));
    } else {
        print(text(&entry, &raw));
    }
    Ok(Exit::Done)
}

fn text(entry: &Entry, raw: &[u8]) -> String {
    let what = match entry.index {
        Some(index) => format!("event {index} of its delivery"),
        None => "a whole delivery".into(),
    };
    let rows = [
        ("id", escaped(&entry.id)),
        ("received", timestamp(entry.received_at).unwrap_or_default()),
        ("reason", escaped(&entry.reason)),
        ("hint", hint(&entry.reason).to_owned()),
        ("source", escaped(&entry.source)),
        ("correlation id", escaped(entry.idempotency_key.as_deref().unwrap_or("-"))),
        ("webhook", escaped(entry.webhook_id.as_deref().unwrap_or("-"))),
        ("what", format!("{what}, {} bytes", entry.bytes)),
    ];
    let rows: String = rows.iter().map(|(name, value)| format!("{name:<14}  {value}\n")).collect();
    format!("{rows}\n{}\n", body(raw))
}

/// Text as it is; characters that are unsafe to print and bytes that are not UTF-8 escaped as in Rust and C.
fn body(raw: &[u8]) -> String {
    let chunk = |chunk: std::str::Utf8Chunk<'_>| {
        let text = chunk.valid().chars().map(|c| match c {
            '\n' | '\t' => c.to_string(),
            c if c.is_control() || is_invisible(c) => c.escape_default().to_string(),
            c => c.to_string(),
        });
        text.chain(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"))).collect::<String>()
    };
    raw.utf8_chunks().map(chunk).collect()
}

const EXPORT_HELP: &str = "\
Writes two files for each record: ID.raw, the body as received, to inspect or edit; and ID.json, the \
CloudEvent of the record with its body, source, key and index. `quarantine replay --file` accepts \
both. The path of each ID.raw is printed, one per line; with --json an object with all paths. --to - \
prints JSON Lines and writes no file.

Example: everything into a folder
  attio-bridge quarantine export --to quarantined
Example: as JSON Lines, one CloudEvent per line
  attio-bridge quarantine export --to - > quarantined.jsonl";

#[derive(Args)]
#[command(after_help = EXPORT_HELP)]
pub struct ExportArguments {
    /// Only these records, each by its id or the beginning of it
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// A folder, created if missing; `-` for JSON Lines on standard output
    #[arg(long, value_name = "DIR", default_value = ".")]
    to: PathBuf,
    /// Print a JSON object for each record: its id and the files that were written
    #[arg(long)]
    json: bool,
}

pub async fn export(session: &BusSession, arguments: &ExportArguments) -> Result<Exit, Failure> {
    let folder = &arguments.to;
    let unwritable = |error: io::Error| format!("{}: {error}", folder.display());
    let (mut bodies, count) = arguments.selection.bodies(session, &arguments.ids).await?;
    let lines = folder == Path::new("-");
    if !lines {
        fs::create_dir_all(folder).map_err(unwritable)?;
    }
    while let Some(record) = bodies.next().await? {
        match lines {
            true => write_line(&printable::lines(&record.event.to_json())).map(drop),
            false => write_files(folder, &record, arguments.json),
        }
        .map_err(unwritable)?;
    }
    match count {
        0 => say(NOTHING),
        count => say(format_args!("exported {count}")),
    }
    Ok(Exit::Done)
}

fn write_files(folder: &Path, record: &Quarantined, json: bool) -> io::Result<()> {
    let [raw, event] =
        ["raw", "json"].map(|end| folder.join(format!("{}.{end}", file_name(&record.entry.id))));
    fs::write(&raw, &record.raw)?;
    fs::write(&event, record.event.to_json() + "\n")?;
    match json {
        true => {
            // A path need not be UTF-8, which serde_json refuses.
            let [raw, event] = [raw, event].map(|path| path.display().to_string());
            print(format_args!("{}\n", json!({ "id": record.entry.id, "raw": raw, "event": event })));
        }
        false => print(format_args!("{}\n", raw.display())),
    }
    Ok(())
}

/// An id from the bus must not lead to another folder.
fn file_name(id: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    id.chars().map(|c| if is_safe(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn entry(source: &str, key: &str) -> Entry {
        Entry {
            id: "9d5ee6c0-7a6e-5c0e-9d5e-e6c07a6e5c0e".into(),
            received_at: datetime!(2026-11-24 10:00:00.123 UTC),
            reason: "rejected_by_broker".into(),
            source: source.into(),
            idempotency_key: Some(key.into()),
            webhook_id: None,
            index: None,
            bytes: 123_456,
        }
    }

    #[test]
    fn table_is_whole_if_it_fits_and_never_wider_than_the_terminal() {
        let key = "b2c3d4e5-7a6e-5c0e-9d5e-e6c07a6e5c0e";
        let usual = entry("attio", key);
        let table = entry_table(&[&usual], Some(140));
        assert!(
            table.contains(&usual.id) && table.contains("T10:00:00.123Z") && table.contains(key),
            "{table}"
        );
        let long = entry(&"s".repeat(63), &"k".repeat(255));
        for columns in [20, 80, 100, 134] {
            let table = entry_table(&[&usual, &long], Some(columns));
            assert!(table.lines().all(|line| line.chars().count() <= columns.max(80)), "{table}");
            let mut lines = table.lines().skip(1);
            let cells = "9d5ee6c0…  2026-11-24T10:00:00Z  rejected_by_broker  ";
            assert!(lines.all(|line| line.starts_with(cells) && line.contains("  123456  ")), "{table}");
            assert_eq!(table.lines().count(), 3, "{table}");
        }
        let piped = entry_table(&[&usual, &long], None);
        assert!(piped.contains(&usual.id) && piped.contains(&"k".repeat(255)), "{piped}");
        assert_eq!(entry_table(&[], Some(80)), "no quarantined events\n");
    }

    #[test]
    fn control_characters_and_invalid_utf8_are_escaped() {
        assert_eq!(body("{\"é\":\n\t1}".as_bytes()), "{\"é\":\n\t1}");
        assert_eq!(body(b"a\xff\x1b[2J\r"), "a\\xff\\u{1b}[2J\\r");
        assert_eq!(body("\u{9b}\u{202e}".as_bytes()), "\\u{9b}\\u{202e}");
    }
}
