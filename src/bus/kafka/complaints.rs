//! What keeps the client from a broker: its complaints, with what to do, each logged once a change.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::trouble;

/// The same complaint of the client is logged again, and a puzzle looked into again, after this.
const AGAIN: Duration = Duration::from_secs(60);

/// A complaint that a look at the listener may explain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Puzzle {
    /// `host:port` of the broker; the first of the list where the client named none.
    pub server: Option<String>,
    complaint: String,
}

/// What is new about a complaint.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing.
    None,
    /// To be logged.
    Said(Arc<str>),
    /// To be looked into, and logged then.
    Puzzle,
}

/// Since the broker was last reached.
#[derive(Default)]
pub(super) struct Complaints {
    cause: Option<Arc<str>>,
    said: HashMap<String, Instant>,
    explained: HashMap<String, (Instant, Arc<str>)>,
    puzzle: Option<Puzzle>,
}

impl Complaints {
    /// What last kept the client from a broker.
    pub(super) fn cause(&self) -> Option<Arc<str>> {
        self.cause.clone()
    }

    /// Notes a complaint.
    pub(super) fn add(&mut self, reason: &str) -> News {
        let text = without_suffix(reason);
        let kind: String = text.chars().filter(|c| !c.is_ascii_digit()).collect();
        if let Some(server) = trouble::puzzle(text) {
            return self.puzzled(kind, server, text);
        }
        let cause: Arc<str> = trouble::words(text).1.into();
        self.cause = Some(cause.clone());
        self.said.retain(|_, at| at.elapsed() < AGAIN);
        if self.said.contains_key(&kind) {
            return News::None;
        }
        self.said.insert(kind, Instant::now());
        News::Said(cause)
    }

    fn puzzled(&mut self, kind: String, server: &str, text: &str) -> News {
        self.explained.retain(|_, (at, _)| at.elapsed() < AGAIN);
        if let Some((_, explanation)) = self.explained.get(&kind) {
            self.cause = Some(explanation.clone());
            return News::None;
        }
        self.cause = Some(text.into());
        self.puzzle = Some(Puzzle { server: Some(server.to_owned()), complaint: text.to_owned() });
        News::Puzzle
    }

    /// Every broker is lost: a puzzle, where nothing says why.
    pub(super) fn silent(&mut self) {
        if self.cause.is_none() && self.puzzle.is_none() {
            self.puzzle = Some(Puzzle { server: None, complaint: String::new() });
        }
    }

    /// What is to be looked into.
    pub(super) fn puzzle(&mut self) -> Option<Puzzle> {
        self.puzzle.take()
    }

    /// The explanation, or the complaint itself where there is none; to be logged.
    pub(super) fn explain(&mut self, puzzle: Puzzle, explanation: Option<String>) -> Arc<str> {
        let Puzzle { complaint, .. } = puzzle;
        let silent = complaint.is_empty();
        let known = if silent { "all brokers are down".into() } else { complaint.clone() };
        let text: Arc<str> = explanation.unwrap_or(known).into();
        // A complaint that came meanwhile knows more than silence.
        if !silent || self.cause.is_none() {
            self.cause = Some(text.clone());
        }
        let kind = complaint.chars().filter(|c| !c.is_ascii_digit()).collect();
        self.explained.insert(kind, (Instant::now(), text.clone()));
        text
    }
}

/// The client's text without its times and counters, which differ on every try.
fn without_suffix(reason: &str) -> &str {
    reason.split(" (after ").next().unwrap_or(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &str = "ssl://k:9/bootstrap: SSL handshake failed: certificate verify failed: why";

    #[test]
    fn a_complaint_is_news_once_whatever_its_numbers() {
        let mut complaints = Complaints::default();
        let first = complaints.add("k:9/1: Connection refused (after 3ms in state CONNECT)");
        assert!(matches!(first, News::Said(text) if text.starts_with("k:9/1: Connection refused: check")));
        assert_eq!(complaints.add("k:9/2: Connection refused (after 5ms in state CONNECT)"), News::None);
    }

    #[test]
    fn a_puzzle_is_looked_into_once_and_its_explanation_stays_the_cause() {
        let mut complaints = Complaints::default();
        assert_eq!(complaints.add(CERTIFICATE), News::Puzzle);
        let puzzle = complaints.puzzle().unwrap();
        assert_eq!(puzzle.server.as_deref(), Some("k:9"));
        complaints.explain(puzzle, Some("it has expired".into()));
        assert_eq!(complaints.add(CERTIFICATE), News::None);
        assert_eq!(complaints.cause().as_deref(), Some("it has expired"));
    }

    #[test]
    fn silence_is_a_puzzle_until_somebody_complains() {
        let mut complaints = Complaints::default();
        complaints.silent();
        let puzzle = complaints.puzzle().unwrap();
        complaints.add("SASL authentication error: no");
        complaints.explain(puzzle, Some("closed".into()));
        assert!(complaints.cause().unwrap().starts_with("SASL"));
        complaints.silent();
        assert_eq!(complaints.puzzle(), None);
    }
}
