//! Styles of text on a terminal.

use anstyle::{AnsiColor, Effects, Style};

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
