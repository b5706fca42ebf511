//! A request as a line for a shell.

/// The line that posts the bytes of a file with these headers; `-` is standard input.
pub fn line(url: &str, headers: &[(&str, String)], file: &str) -> String {
    let headers =
        headers.iter().map(|(name, value)| format!("--header {}", quoted(&format!("{name}: {value}"))));
    let mut words = vec!["curl --globoff".to_owned()];
    words.extend(headers);
    // Without this a body would lose its line ends.
    words.push(format!("--data-binary {}", quoted(&format!("@{file}"))));
    words.push(format!("--url {}", quoted(url)));
    words.join(" ")
}

/// One word of a POSIX shell, whatever is in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_word_means_anything_to_a_shell() {
        assert_eq!(quoted("a $b `c` \"d\" \\"), "'a $b `c` \"d\" \\'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
