//! Whether the user may publish, found out without publishing.
//!
//! Each subject is sent one message whose reply subject is of those that the server keeps to itself.
//! The server looks at the rights first, then at the reply, and drops the message in either case: it
//! names the subject without the right, the reply with it. Nobody is handed anything. Should a server
//! ever take such a reply, the message expects to be stored in a stream whose name no stream can have.

use std::sync::Arc;
use std::time::Duration;

use async_nats::header::NATS_EXPECTED_STREAM;
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::timeout;

/// What the server keeps to itself.
const RESERVED: &str = "_R_.attio-bridge.";

/// The client drops what it has no room to tell.
const AT_ONCE: usize = 32;

/// How long the server may take for all.
const PATIENCE: Duration = Duration::from_secs(2);

/// Every complaint of the server, in its words.
pub(super) type Heard = watch::Sender<Vec<String>>;

/// Whether the server speaks of such a message, not of one that matters.
pub(super) fn is_answer(text: &str) -> bool {
    text.contains(RESERVED)
}

/// The subjects that the user may not publish to; none where the server does not tell in time.
pub(super) async fn denied(client: &Client, heard: &Heard, subjects: &[Arc<str>]) -> Option<Vec<Arc<str>>> {
    let answers = timeout(PATIENCE, probe(client, heard, subjects)).await.ok()?;
    let refused = subjects.iter().zip(answers).filter(|(_, allowed)| *allowed == Some(false));
    Some(refused.map(|(subject, _)| Arc::clone(subject)).collect())
}

/// What the server says of each subject.
async fn probe(client: &Client, heard: &Heard, subjects: &[Arc<str>]) -> Vec<Option<bool>> {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_EXPECTED_STREAM, "no.such.stream");
    let mut complaints = heard.subscribe();
    let asked: Vec<(&Arc<str>, String)> =
        subjects.iter().enumerate().map(|(at, subject)| (subject, format!("{RESERVED}{at}"))).collect();
    for some in asked.chunks(AT_ONCE) {
        for (subject, reply) in some {
            let message = (subject.to_string(), reply.clone(), headers.clone(), Bytes::new());
            let (subject, reply, headers, payload) = message;
            // A client that has ended hears no answer either.
            let _ = client.publish_with_reply_and_headers(subject, reply, headers, payload).await;
        }
        let all = |texts: &Vec<String>| some.iter().all(|(to, reply)| answer(texts, to, reply).is_some());
        // The sender lives as long as the check.
        let _ = complaints.wait_for(all).await;
    }
    let texts = complaints.borrow();
    asked.iter().map(|(subject, reply)| answer(&texts, subject, reply)).collect()
}

/// What the server has said of a message: whether it may be published.
fn answer(texts: &[String], subject: &str, reply: &str) -> Option<bool> {
    texts.iter().find_map(|text| {
        let named = text.split('"').nth(1)?;
        match text.to_ascii_lowercase().contains("publish with reply") {
            true => (named == reply).then_some(true),
            false => (named == subject).then_some(false),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_words_are_told_apart() {
        let texts = [
            "Permissions Violation for Publish with Reply of \"_R_.attio-bridge.0\"",
            "Permissions Violation for Publish to \"a.created\"",
        ]
        .map(String::from);
        assert_eq!(answer(&texts, "b", "_R_.attio-bridge.0"), Some(true));
        assert_eq!(answer(&texts, "a.created", "_R_.attio-bridge.1"), Some(false));
        assert_eq!(answer(&texts, "a", "_R_.attio-bridge.2"), None);
        assert_eq!([&texts[0], &texts[1]].map(|text| is_answer(text)), [true, false]);
    }
}
