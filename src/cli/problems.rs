//! Prints the problems of a configuration: on a terminal with the position and the line in the file, otherwise
//! one line each.

use std::io::IsTerminal;

use annotate_snippets as snippets;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::{no_color, say, say_styled};
use crate::config::{Origin, Problem, Problems};

/// Prints every problem, and the warnings found with them.
pub fn print(problems: &Problems) {
    warn(&problems.warnings);
    let Some(renderer) = terminal() else {
        return say(format_args!("error: {problems}"));
    };
    for problem in &problems.problems {
        say_styled(&in_full(problem, Level::ERROR, &renderer));
    }
    say_styled(&renderer.render(&[Group::with_title(Level::ERROR.primary_title(problems.count()))]));
}

/// Prints warnings.
pub fn warn(warnings: &[Problem]) {
    let renderer = terminal();
    for warning in warnings {
        match &renderer {
            Some(renderer) => say_styled(&in_full(warning, Level::WARNING, renderer)),
            None => say(format_args!("warning: {warning}")),
        }
    }
}

/// The renderer for a terminal; none if stderr is not one.
fn terminal() -> Option<Renderer> {
    let renderer = || if no_color() { Renderer::plain() } else { Renderer::styled() };
    std::io::stderr().is_terminal().then(renderer)
}

/// One problem with its position, as compilers show it.
fn in_full(problem: &Problem, level: Level<'static>, renderer: &Renderer) -> String {
    let group = level.primary_title(format!("{}: {}", problem.key, problem.message));
    let group = match &problem.origin {
        Some(Origin::File { path, line, excerpt: Some(excerpt), .. }) => {
            let mark = AnnotationKind::Primary.span(excerpt.mark.clone());
            group.element(Snippet::source(&*excerpt.text).path(&**path).line_start(*line).annotation(mark))
        }
        Some(Origin::File { path, line, column, .. }) => {
            group.element(snippets::Origin::path(&**path).line(*line).char_column(*column))
        }
        Some(origin) => group.element(snippets::Origin::path(origin.to_string())),
        None => group.element(snippets::Origin::path("not set")),
    };
    renderer.render(&[group]) + "\n"
}
