//! What is wrong with a configuration, as it is told: on a terminal with the place in the file, else a
//! line each.

use std::fmt::Write;
use std::io::IsTerminal;

use super::{no_color, say};
use crate::config::{Excerpt, Origin, Problem, Problems};
use crate::paint::Paint;

/// Says every problem, and what would have been worth a warning.
pub fn tell(problems: &Problems) {
    warn(&problems.warnings);
    let Some(paint) = terminal() else {
        return say(format_args!("error: {problems}"));
    };
    for problem in &problems.problems {
        say(in_full(problem, &paint.bad("error"), paint));
    }
    say(format_args!("{}: {}", paint.bad("error"), problems.count()));
}

/// Says warnings.
pub fn warn(warnings: &[Problem]) {
    let terminal = terminal();
    for warning in warnings {
        match terminal {
            Some(paint) => say(in_full(warning, &paint.refused("warning"), paint)),
            None => say(format_args!("warning: {warning}")),
        }
    }
}

/// How to paint for the terminal; none where messages go elsewhere.
fn terminal() -> Option<Paint> {
    std::io::stderr().is_terminal().then(|| Paint(!no_color()))
}

/// One problem with its place, as compilers show it.
fn in_full(problem: &Problem, level: &str, paint: Paint) -> String {
    let Problem { key, message, origin, excerpt } = problem;
    let (line, place) = match origin {
        Some(Origin::File { path, line, column }) => (line.to_string(), format!("{path}:{line}:{column}")),
        Some(origin) => (String::new(), origin.to_string()),
        None => (String::new(), "not set".to_owned()),
    };
    let margin = line.len().max(1);
    let mut out = format!("{level}: {}: {message}\n", paint.strong(key));
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{:margin$}{} {place}", "", paint.known("-->"));
    if let Some(Excerpt { text, mark }) = excerpt {
        let bar = paint.known("|");
        let _ = writeln!(out, "{:margin$} {bar}", "");
        let _ = writeln!(out, "{} {bar} {text}", paint.known(&line));
        let carets = paint.bad(&"^".repeat(mark.len()));
        let _ = writeln!(out, "{:margin$} {bar} {:start$}{carets}", "", "", start = mark.start);
    }
    out
}
