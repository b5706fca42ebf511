//! Colour, on a terminal only.

/// Puts colours around texts, or leaves them as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint(pub bool);

impl Paint {
    /// What went well.
    pub fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    /// What was done before, and is therefore not done again.
    pub fn known(self, text: &str) -> String {
        self.with("36", text)
    }

    /// What was refused on purpose, or put aside.
    pub fn refused(self, text: &str) -> String {
        self.with("33", text)
    }

    /// What is not as expected.
    pub fn bad(self, text: &str) -> String {
        self.with("31", text)
    }

    /// What matters less.
    pub fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    /// What matters more.
    pub fn strong(self, text: &str) -> String {
        self.with("1", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
