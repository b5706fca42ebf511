//! Text on a terminal: its styles, and what makes text from outside safe to print. Such text could move the cursor,
//! change colours, or hide and reorder what is shown. Characters that could are escaped as JSON does it, so JSON keeps
//! its meaning.

use std::fmt::Write;

use anstyle::{AnsiColor, Effects, Style};

/// Text on one line: line ends and tabs are escaped too.
pub fn line(text: &str) -> String {
    escape(text, |c| c.is_control() || is_invisible(c))
}

/// Text of several lines, or JSON.
pub fn lines(text: &str) -> String {
    escape(text, |c| (c.is_control() && !matches!(c, '\n' | '\t')) || is_invisible(c))
}

/// Lines with colours. What they contain of outside text is escaped by [`line()`] before.
pub fn styled(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(start) = rest.find('\x1b') {
        let (before, sequence) = rest.split_at(start);
        out += &lines(before);
        let is_parameter = |c: char| c.is_ascii_digit() || c == ';';
        let after = sequence.strip_prefix("\x1b[").map(|body| body.trim_start_matches(is_parameter));
        rest = match after.and_then(|after| after.strip_prefix('m')) {
            Some(after) => {
                out += &sequence[..sequence.len() - after.len()];
                after
            }
            None => {
                out += "\\u001b";
                &sequence[1..]
            }
        };
    }
    out + &lines(rest)
}

fn escape(text: &str, is_unsafe: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if !is_unsafe(c) => out.push(c),
            '\n' => out += "\\n",
            '\r' => out += "\\r",
            '\t' => out += "\\t",
            c => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }),
        }
    }
    out
}

/// Whether a character is shown as nothing, ends a line or changes the direction of its neighbours.
pub fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
    )
}

pub const GOOD: Style = AnsiColor::Green.on_default();
/// A duplicate.
pub const KNOWN: Style = AnsiColor::Cyan.on_default();
/// A refusal, or quarantine.
pub const REFUSED: Style = AnsiColor::Yellow.on_default();
pub const BAD: Style = AnsiColor::Red.on_default();
/// Less important.
pub const DIM: Style = Style::new().effects(Effects::DIMMED);
pub const STRONG: Style = Style::new().effects(Effects::BOLD);

/// Styles texts if true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint(pub bool);

impl Paint {
    /// A text in a style.
    pub fn with(self, style: Style, text: &str) -> String {
        if self.0 { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_bidi_and_invisible_characters_are_escaped() {
        let table = [
            ("caf\u{e9} \u{1f600} \u{5e9}", "caf\u{e9} \u{1f600} \u{5e9}"),
            ("a\x1b[2Jb\x07", "a\\u001b[2Jb\\u0007"),
            ("\u{7f}\u{9b}2J\u{85}", "\\u007f\\u009b2J\\u0085"),
            ("\u{202e}gpj\u{2069}\u{200f}\u{61c}", "\\u202egpj\\u2069\\u200f\\u061c"),
            ("a\u{200b}\u{200d}\u{feff}\u{2028}\u{e0041}", "a\\u200b\\u200d\\ufeff\\u2028\\udb40\\udc41"),
        ];
        for (text, expected) in table {
            assert_eq!([line(text), lines(text), styled(text)], [expected, expected, expected]);
        }
        assert_eq!((line("a\n\r\tb").as_str(), lines("a\n\r\tb").as_str()), ("a\\n\\r\\tb", "a\n\\r\tb"));
    }

    #[test]
    fn colours_alone_pass_as_styled_text() {
        let table = [
            ("\x1b[1;31mred\x1b[0m\x1b[m", "\x1b[1;31mred\x1b[0m\x1b[m"),
            ("\x1b[2J\x1b]0;t\x07\x1b", "\\u001b[2J\\u001b]0;t\\u0007\\u001b"),
            ("\x1b[1\x1b[2m", "\\u001b[1\x1b[2m"),
        ];
        for (text, expected) in table {
            assert_eq!(styled(text), expected);
        }
    }

    #[test]
    fn escaped_json_is_the_same_json() {
        let json = serde_json::json!({ "\u{202e}": ["\u{7f}\u{9b}\x1b\n", "\u{e0041}\u{feff}"] });
        let text = lines(&format!("{json:#}"));
        assert!(text.is_ascii(), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), json);
    }
}
