//! Shows the effective configuration: every key, its value, where it came from; secrets as `***`.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};

use super::report::Setting;

/// The column at which origins begin, unless a line is longer.
const COLUMN: usize = 56;

/// One key a line, in the notation of the file.
pub fn text(settings: &[Setting]) -> String {
    settings.iter().fold(String::new(), |mut out, setting| {
        let _ = match &setting.origin {
            Some(origin) => {
                let line = format!("{} = {}", setting.key, setting.value);
                writeln!(out, "{line:<COLUMN$} # {origin}")
            }
            None => writeln!(out, "{:<COLUMN$} # not set", format!("# {} =", setting.key)),
        };
        out
    })
}

/// An object by key.
pub fn json(settings: &[Setting]) -> Json {
    let entry = |setting: &Setting| {
        let origin = setting.origin.as_ref().map_or("not set".to_owned(), ToString::to_string);
        (setting.key.clone(), json!({ "value": setting.value, "from": origin }))
    };
    settings.iter().map(entry).collect::<Map<_, _>>().into()
}
