//! Secret texts, and their encodings, that no output may contain.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Texts that no output may contain.
pub struct Canaries(Vec<Vec<u8>>);

impl Canaries {
    pub fn new(texts: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        let texts: Vec<Vec<u8>> = texts.into_iter().map(|text| text.as_ref().to_vec()).collect();
        assert!(texts.iter().all(|text| text.len() >= 12), "shorter ones could be there by chance");
        Self(texts)
    }

    /// Asserts that the output contains none of them, in any encoding.
    pub fn check(&self, context: &str, seen: &str) {
        for text in &self.0 {
            for disguise in encodings(text) {
                if let Some(at) = seen.find(&disguise) {
                    let around = seen[..at].rfind('\n').map_or(0, |start| start + 1);
                    let line = seen[around..].lines().next().unwrap_or_default();
                    panic!("{context}: {:?} as {disguise:?} in: {line}", String::from_utf8_lossy(text));
                }
            }
        }
    }
}

/// The text itself, reversed, in hex, as numbers, as JSON, and in base64 at every alignment.
fn encodings(text: &[u8]) -> Vec<String> {
    let hex: String = text.iter().map(|byte| format!("{byte:02x}")).collect();
    let reversed: Vec<u8> = text.iter().rev().copied().collect();
    let numbers: Vec<String> = text.iter().map(u8::to_string).collect();
    let plain = String::from_utf8_lossy(text).into_owned();
    let mut all = vec![
        String::from_utf8_lossy(&reversed).into_owned(),
        hex.to_uppercase(),
        hex,
        numbers.join(", "),
        numbers.join(","),
        serde_json::Value::from(plain.clone()).to_string().trim_matches('"').to_owned(),
        format!("{plain:?}").trim_matches('"').to_owned(),
        plain,
    ];
    for before in 0..3 {
        let padded = [&vec![0; before], text].concat();
        for encoded in [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
            // Only the characters that encode nothing but the text.
            all.push(encoded[(before * 8).div_ceil(6)..padded.len() * 8 / 6].to_owned());
        }
    }
    all
}

#[test]
fn a_text_is_found_in_every_disguise() {
    let text = "a canary's text?>~";
    let around = |inner: &str| format!("line before\nxx{inner}yy\nline after");
    let canaries = Canaries::new([text]);
    let mut seen = vec![around(text), around(&text.chars().rev().collect::<String>())];
    for before in ["", "1", "12", "123", "1234"] {
        let whole = format!("{before}{text}{before}");
        seen.push(around(&STANDARD_NO_PAD.encode(&whole)));
        seen.push(around(&URL_SAFE_NO_PAD.encode(&whole)));
        seen.push(whole.bytes().map(|byte| format!("{byte:02X}")).collect());
    }
    for seen in seen {
        assert!(std::panic::catch_unwind(|| canaries.check("here", &seen)).is_err(), "{seen}");
    }
    canaries.check("here", "nothing of it");
}
