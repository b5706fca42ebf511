//! The part of the file that a message is about. The file holds secrets, so nothing is shown of it but
//! the key, which the message names anyway, and a plain value of a key that is known to be no secret.

use std::ops::Range;

use super::secret;

/// What a message points at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The key: there is no such thing, so nobody knows whether its value is a secret.
    Key,
    /// The value.
    Value,
}

/// A part of one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// What is shown of the line; `…` stands for what is not.
    pub text: String,
    /// The characters of `text` that the message is about.
    pub mark: Range<usize>,
}

const LEFT_OUT: &str = "…";

/// The excerpt for a key that begins at a place of the text, lines and columns from 1.
pub fn of(text: &str, (line, column): (usize, usize), key: &str, mark: Mark) -> Option<Excerpt> {
    let line = text.lines().nth(line.checked_sub(1)?)?;
    let before: String = line.chars().take(column.checked_sub(1)?).collect();
    let (token, after) = token(line.strip_prefix(&*before)?)?;
    if key != token.trim_matches(['"', '\''])
        && !key.ends_with(&format!(".{}", token.trim_matches(['"', '\''])))
    {
        return None;
    }
    let mut shown = if before.trim().is_empty() { String::new() } else { format!("{LEFT_OUT} ") };
    let start = shown.chars().count();
    shown.push_str(token);
    let mut marked = start..start + token.chars().count();
    if let Some(value) = after.trim_start().strip_prefix('=').map(str::trim_start) {
        shown.push_str(" = ");
        let start = shown.chars().count();
        let value = plain(value).filter(|value| mark == Mark::Value && is_open(key, value));
        shown.push_str(value.unwrap_or(LEFT_OUT));
        if value.is_some() {
            marked = start..shown.chars().count();
        }
    }
    Some(Excerpt { text: shown, mark: marked })
}

/// The key at the beginning of a text, quoted or bare, and what comes after it.
fn token(text: &str) -> Option<(&str, &str)> {
    let length = match text.chars().next()? {
        quote @ ('"' | '\'') => text[1..].find(quote)? + 2,
        _ => text.find(|c: char| !(c.is_ascii_alphanumeric() || "_-".contains(c))).unwrap_or(text.len()),
    };
    (length > 0).then(|| text.split_at(length))
}

/// A value that ends on its line and holds no table.
fn plain(value: &str) -> Option<&str> {
    let length = match value.chars().next()? {
        '{' => return None,
        '[' => {
            let end = value.find(']')?;
            let quotes = |quote| value[..end].matches(quote).count();
            let whole = !value[..end].contains(['{', '\\']) && quotes('"') % 2 == 0 && quotes('\'') % 2 == 0;
            if whole { end + 1 } else { return None }
        }
        quote @ ('"' | '\'') => {
            let text = &value[1..];
            let end = text.find(quote)?;
            // Not the first of three, and not one that a backslash takes away.
            let whole = end > 0 && !text[..end].contains('\\');
            if whole { end + 2 } else { return None }
        }
        _ => value.find(|c: char| c.is_whitespace() || ",#]}".contains(c)).unwrap_or(value.len()),
    };
    Some(&value[..length])
}

/// Whether a value may be shown: its key is known and holds no secret, and it is no URL with a
/// login or a query.
fn is_open(key: &str, value: &str) -> bool {
    let path: Vec<&str> = key.splitn(3, '.').collect();
    let of_source = matches!(path[..], ["sources", _, rest] if rest.starts_with("secrets"));
    let property = matches!(path[..], ["kafka", "properties", _]);
    !of_source && !property && !secret::is_secret(&path) && !value.contains(['@', '?'])
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANARY: &str = "canary";

    fn check(text: &str, place: (usize, usize), key: &str, mark: Mark) -> Option<(String, String)> {
        let Excerpt { text, mark } = of(text, place, key, mark)?;
        let marked = text.chars().skip(mark.start).take(mark.len()).collect();
        Some((text, marked))
    }

    fn pair(text: &str, marked: &str) -> Option<(String, String)> {
        Some((text.into(), marked.into()))
    }

    #[test]
    fn a_value_is_shown_and_marked() {
        let table = [
            ("listen = \"nowhere\" # why", "listen = \"nowhere\"", "\"nowhere\""),
            ("listen=5", "listen = 5", "5"),
            ("\"listen\" = 'x'", "\"listen\" = 'x'", "'x'"),
            ("listen = [\"a\", 'b'], # c", "listen = [\"a\", 'b']", "[\"a\", 'b']"),
        ];
        for (line, text, marked) in table {
            let file = format!("[http]\n{line}\n");
            assert_eq!(check(&file, (2, 1), "http.listen", Mark::Value), pair(text, marked));
        }
        let inline = "http = { body = 1, listen = true }";
        assert_eq!(check(inline, (1, 20), "http.listen", Mark::Value), pair("… listen = true", "true"));
    }

    #[test]
    fn an_unknown_key_is_marked_without_its_value() {
        let file = format!("passwrod = \"{CANARY}\"");
        assert_eq!(check(&file, (1, 1), "passwrod", Mark::Key), pair("passwrod = …", "passwrod"));
        let secret = format!("sasl_password = \"{CANARY}\"");
        let shown = check(&secret, (1, 1), "kafka.sasl_password", Mark::Value);
        assert_eq!(shown, pair("sasl_password = …", "sasl_password"));
        assert_eq!(check("[htttp]", (1, 2), "htttp", Mark::Key), pair("… htttp", "htttp"));
    }

    #[test]
    fn nothing_secret_is_shown() {
        let table = [
            (format!("sasl_password = \"{CANARY}\""), 1, "kafka.sasl_password"),
            (format!("api_key = {CANARY}"), 1, "attio.api_key"),
            (format!("\"ssl.key.pasword\" = \"{CANARY}\""), 1, "kafka.properties.ssl.key.pasword"),
            (format!("secrets = [{{ label = \"a\", value = \"{CANARY}\" }}]"), 1, "sources.a.secrets"),
            (format!("secrets = [{{ value = {CANARY} }}]"), 14, "sources.a.secrets[0].value"),
            (format!("secrets = [\"{CANARY}\"]"), 12, "sources.a.secrets[0]"),
            (format!("attio = {{ secrets = [\"{CANARY}\"] }}"), 1, "sources.attio"),
            (format!("servers = \"nats://me:{CANARY}@n\""), 1, "nats.servers"),
            (format!("target_url = \"http://n/?token={CANARY}\""), 1, "webhooks[0].target_url"),
            (format!("listen = \"\"\"{CANARY}\"\"\""), 1, "http.listen"),
            (format!("listen = \"\\\"{CANARY}\""), 1, "http.listen"),
            (format!("listen = 5 # {CANARY}"), 1, "http.listen"),
            (format!("a = \"{CANARY}\", listen = 5, b = \"{CANARY}\""), 15, "http.listen"),
        ];
        for (line, column, key) in table {
            let shown = of(&line, (1, column), key, Mark::Value).map(|excerpt| excerpt.text);
            assert!(!shown.unwrap_or_default().contains(CANARY), "{line}");
        }
    }

    #[test]
    fn a_place_that_is_not_there_has_none() {
        for place in [(0, 1), (1, 0), (9, 1), (1, 99)] {
            assert_eq!(of("listen = 5", place, "listen", Mark::Value), None, "{place:?}");
        }
    }
}
