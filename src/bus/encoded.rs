//! A message as a bus would store it, for `explain`.

/// Headers and payload; topic or subject, and the key, are those of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedMessage {
    /// Names and values, in the order they are written.
    pub headers: Vec<(String, String)>,
    /// The envelope, or the data.
    pub payload: Vec<u8>,
}
