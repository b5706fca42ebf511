//! Log lines that repeat: the client says the same again and again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The first of several similar log lines is logged at once, the next one after this.
pub(super) const REPEAT: Duration = Duration::from_secs(60);
/// More kinds than this in a minute are not told apart.
const KINDS: usize = 256;

/// The kinds of the last minute: when one was logged, and how often it was left out since.
#[derive(Default)]
pub(super) struct Repeats(Mutex<HashMap<String, (Instant, u64)>>);

impl Repeats {
    /// Whether a line of this kind is to be logged now; then, how many were left out before it, if any.
    pub(super) fn pass(&self, kind: &str) -> Option<Option<u64>> {
        let mut kinds = self.0.lock();
        if kinds.len() >= KINDS {
            kinds.retain(|_, (at, _)| at.elapsed() < REPEAT);
        }
        let kind = if kinds.len() < KINDS || kinds.contains_key(kind) { kind } else { "" };
        let Some((at, left_out)) = kinds.get_mut(kind) else {
            kinds.insert(kind.to_owned(), (Instant::now(), 0));
            return Some(None);
        };
        if at.elapsed() < REPEAT {
            *left_out += 1;
            return None;
        }
        *at = Instant::now();
        Some(Some(std::mem::take(left_out)).filter(|left_out| *left_out > 0))
    }

    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }
}

/// What texts that differ only by numbers have in common.
pub(super) fn kind(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_lines_are_counted_and_other_kinds_pass() {
        let repeats = Repeats::default();
        assert_eq!(repeats.pass("a"), Some(None));
        assert_eq!((repeats.pass("a"), repeats.pass("a"), repeats.pass("b")), (None, None, Some(None)));
        let minute_ago = Instant::now().checked_sub(REPEAT).unwrap();
        repeats.0.lock().get_mut("a").unwrap().0 = minute_ago;
        assert_eq!((repeats.pass("a"), repeats.pass("a")), (Some(Some(2)), None));
    }
}
