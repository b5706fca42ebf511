//! What a text seems to be that was given as a secret.

use crate::printable::is_invisible;

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
