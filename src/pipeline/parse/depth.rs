//! How deep a JSON text nests, without parsing it.
//!
//! serde_json's own limit does not hold for values that are skipped, as most of a body is; a hostile
//! text of a million brackets must be found before anything follows them.

use super::json::after_string;

/// Whether brackets nest deeper than `limit`. On text that is no JSON the answer means nothing.
pub fn exceeds(text: &[u8], limit: usize) -> bool {
    // Nothing nests deeper than it has brackets; to count them all takes a twentieth of following them.
    if text.iter().filter(|byte| matches!(byte, b'{' | b'[')).count() <= limit {
        return false;
    }
    let (mut at, mut depth) = (0usize, 0usize);
    while let Some(byte) = text.get(at) {
        at += 1;
        match byte {
            b'"' => at = after_string(text, at),
            b'{' | b'[' => {
                depth += 1;
                if depth > limit {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}
