//! How deep a JSON text nests, without parsing it.
//!
//! serde_json's own limit does not hold for raw values, which the bridge uses so that events keep
//! their bytes; a hostile text of a million brackets must be found before anything recurses.

/// Whether brackets nest deeper than `limit`. On text that is no JSON the answer means nothing.
pub fn exceeds(text: &[u8], limit: usize) -> bool {
    // Nothing nests deeper than it has brackets; to count them all takes a twentieth of following them.
    if text.iter().filter(|byte| matches!(byte, b'{' | b'[')).count() <= limit {
        return false;
    }
    let mut depth = 0usize;
    let mut in_string = false;
    let mut escaped = false;
    for &byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
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
