//! `quarantine show`: one piece, as it came, and what to do about it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Value, json};

use super::list::json;
use super::{Exit, Selection, Session};
use crate::cli::{fail, print};
use crate::cloudevent::timestamp;
use crate::consumer::line::safe;
use crate::consumer::quarantined::Quarantined;

const AFTER_HELP: &str = "\
Example: by the beginning of its id
  attio-bridge quarantine show 9d5ee6c0";

/// The flags of `quarantine show`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Its id, or the beginning of it
    #[arg(value_name = "ID")]
    id: String,
    /// Print a JSON object, the raw bytes in base64
    #[arg(long)]
    json: bool,
}

/// Prints one piece.
pub async fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Exit> {
    let named = Selection::ALL.read_named(session, std::slice::from_ref(&arguments.id)).await?;
    let piece = named.into_iter().next().ok_or_else(|| fail("no id was given"))?;
    if arguments.json {
        let mut value = json(&piece);
        value["hint"] = Value::from(piece.hint());
        value["raw_base64"] = json!(STANDARD.encode(&piece.raw));
        print(format_args!("{value:#}\n"));
    } else {
        print(text(&piece));
    }
    Ok(Exit::Done)
}

fn text(piece: &Quarantined) -> String {
    let place = match piece.index() {
        Some(index) => format!("event {index} of its delivery"),
        None => "a whole delivery".into(),
    };
    let rows = [
        ("id", safe(&piece.id)),
        ("received", timestamp(piece.received_at).unwrap_or_default()),
        ("reason", safe(&piece.reason)),
        ("hint", piece.hint().to_owned()),
        ("source", safe(piece.source())),
        ("correlation id", safe(piece.key().unwrap_or("-"))),
        ("webhook", safe(piece.webhook_id().as_deref().unwrap_or("-"))),
        ("what", format!("{place}, {} bytes", piece.raw.len())),
    ];
    let rows: String = rows.iter().map(|(name, value)| format!("{name:<14}  {value}\n")).collect();
    format!("{rows}\n{}\n", escaped(&piece.raw))
}

/// Text as it is; what is none, or would move the cursor of a terminal, escaped as in Rust and C.
fn escaped(raw: &[u8]) -> String {
    let chunk = |chunk: std::str::Utf8Chunk<'_>| {
        let text = chunk.valid().chars().map(|c| match c {
            '\n' | '\t' => c.to_string(),
            c if c.is_control() => c.escape_default().to_string(),
            c => c.to_string(),
        });
        text.chain(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"))).collect::<String>()
    };
    raw.utf8_chunks().map(chunk).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_and_the_rest_is_escaped() {
        assert_eq!(escaped("{\"é\":\n\t1}".as_bytes()), "{\"é\":\n\t1}");
        assert_eq!(escaped(b"a\xff\x1b[2J\r"), "a\\xff\\u{1b}[2J\\r");
    }
}
