//! Looks whether the stream of the states holds any.

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{ContextBuilder, GetStreamError, GetStreamErrorKind};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{LastRawMessageError, LastRawMessageErrorKind, Stream};

use super::state::{REQUEST, pairs, passing};
use super::{Options, connect};
use crate::bus::read::{Item, Position};
use crate::bus::state::{StateError, Writer};

/// A state that is kept; none if there is none. What could not be looked at is an error.
pub(in crate::bus) async fn any(options: &Options, writer: &Writer) -> Result<Option<Item>, StateError> {
    let client = connect::connect_once(options, drop).await?.map_err(StateError::Passing)?;
    let context = ContextBuilder::new().timeout(REQUEST).build(client);
    let name = &writer.stream;
    let stream = match context.get_stream(name).await {
        Ok(stream) => stream,
        Err(error) if is_no_stream(&error) => return Ok(None),
        Err(error) => return Err(passing(format!("stream {name} cannot be read: {error}"))),
    };
    for address in &writer.addresses {
        if let Some(found) = any_of(&stream, name, &format!("{address}.>")).await? {
            return Ok(Some(Item {
                address: found.subject.to_string(),
                key: None,
                headers: pairs(&found.headers),
                payload: found.payload,
                stored_at: Some(found.time),
                position: Position::Nats { sequence: found.sequence },
            }));
        }
    }
    Ok(None)
}

/// The last message, if it is a state; otherwise the first one that is: there may be many tombstones.
async fn any_of(stream: &Stream, name: &str, subjects: &str) -> Result<Option<StreamMessage>, StateError> {
    let read = |answer: Result<StreamMessage, LastRawMessageError>| match answer {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(passing(format!("stream {name} cannot be read: {error}"))),
    };
    let (mut found, mut next) = (read(stream.get_last_raw_message_by_subject(subjects).await)?, 1);
    while let Some(message) = found {
        if !message.payload.is_empty() {
            return Ok(Some(message));
        }
        found = read(stream.get_first_raw_message_by_subject(subjects, next).await)?;
        next = found.as_ref().map_or(next, |message| message.sequence + 1);
    }
    Ok(None)
}

/// Whether the server says that there is no such stream.
fn is_no_stream(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}
