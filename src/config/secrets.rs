//! Whether a text can be a secret, and what it seems to be instead of the one that was meant.

use secrecy::{ExposeSecret, SecretString};

use crate::printable::is_invisible;

/// Refuses a secret that is empty (a variable or a file that was meant to be filled), and what an editor or a shell
/// makes of a text: nobody has such a secret.
pub fn usable_secret(secret: &SecretString) -> Result<(), String> {
    let text = secret.expose_secret();
    let problem = if text.is_empty() {
        "is empty"
    } else if text.starts_with('\u{feff}') {
        "begins with a byte order mark, which is no part of the secret: save it as UTF-8 without one"
    } else if text.contains('\0') {
        "contains a NUL character, as UTF-16 text does: save it as UTF-8"
    } else if text.trim_end().contains(['\n', '\r']) {
        "has more than one line"
    } else {
        return Ok(());
    };
    Err(problem.into())
}

/// What a text is instead of the secret that was meant. No part of it is repeated, as it may be one after all.
pub fn mistake(text: &str) -> Option<String> {
    const REFERENCES: [&str; 10] =
        ["vault:", "op://", "ref+", "arn:aws:", "awssm://", "gcpsm://", "secret://", "ENC[", "file:", "env:"];
    const PLACEHOLDERS: [(&str, &str); 5] = [("${", "}"), ("$(", ")"), ("{{", "}}"), ("<", ">"), ("%", "%")];
    if let Some(c) = text.chars().find(|c| c.is_control() || is_invisible(*c)) {
        let code = u32::from(c);
        return Some(format!("has an invisible character, U+{code:04X}, which is part of it: type it again"));
    }
    let of_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_') && name.chars().all(of_name)
    };
    let line = text.strip_prefix("export ").unwrap_or(text).split_once('=');
    if line.is_some_and(|(name, value)| is_name(name) && !value.trim_matches('=').is_empty()) {
        return Some("looks like the line NAME=value of an env file: write only what follows the =".into());
    }
    if let Some(reference) = REFERENCES.iter().find(|start| text.starts_with(**start)) {
        return Some(format!(
            "looks like a reference ({reference}…) that nothing has resolved: write the secret"
        ));
    }
    let is_path =
        ["/run/", "/var/", "/etc/", "/home/", "/mnt/", "./"].iter().any(|start| text.starts_with(start));
    if is_path {
        return Some("looks like the path of a file: use `file`, or the variable that ends in _FILE".into());
    }
    let is_variable = text.strip_prefix('$').is_some_and(is_name);
    let is_placeholder =
        PLACEHOLDERS.iter().any(|(start, end)| text.starts_with(start) && text.ends_with(end));
    (is_variable || is_placeholder)
        .then(|| "looks like a placeholder that nothing has replaced: write the secret".into())
}
