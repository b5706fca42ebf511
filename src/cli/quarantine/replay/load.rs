//! What is to be replayed: pieces of quarantine as they lie there, or a file.

use bytes::Bytes;
use time::OffsetDateTime;

use super::Arguments;
use crate::cli::given::read;
use crate::cli::quarantine::Session;
use crate::cli::{Exit, fail, say};
use crate::consumer::quarantined::{Origin, Quarantined, Unplaced};

/// One thing to replay.
pub(super) struct Load {
    /// What to call it.
    pub name: String,
    pub reason: String,
    pub raw: Bytes,
    pub received_at: OffsetDateTime,
    pub origin: Result<Origin, Unplaced>,
}

/// Everything that the arguments name.
pub(super) async fn loads(session: &Session, arguments: &Arguments) -> Result<Vec<Load>, Exit> {
    let source = arguments.source.as_deref();
    let Some(file) = &arguments.file else {
        let pieces = arguments.selection.read_named(session, &arguments.ids).await?;
        return Ok(pieces.into_iter().map(|piece| load(piece, source)).collect());
    };
    let bytes = read(file).map_err(fail)?;
    // Raw bytes may look like anything: what they are is for the operator to say.
    match (source, Quarantined::read_all(&bytes)) {
        (None, Some(pieces)) => Ok(pieces.into_iter().map(|piece| load(piece, None)).collect()),
        (None, None) => {
            say(format_args!(
                "error: {}: nothing that `export` wrote as JSON; for the raw bytes of a delivery add --source NAME",
                file.display()
            ));
            Err(Exit::Usage)
        }
        (Some(source), _) => Ok(vec![Load {
            name: file.display().to_string(),
            reason: "file".into(),
            raw: bytes,
            received_at: OffsetDateTime::now_utc(),
            origin: Ok(Origin { source: source.to_owned(), key: arguments.key.clone(), alone: None }),
        }]),
    }
}

fn load(piece: Quarantined, source: Option<&str>) -> Load {
    let origin = piece.origin(source);
    let Quarantined { id, received_at, reason, raw, .. } = piece;
    Load { name: id, reason, raw, received_at, origin }
}
