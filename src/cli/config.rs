//! `config` and `check`, and how the problems of a configuration are printed: on a terminal with the position and
//! the line in the file, otherwise one line each.

use std::io::IsTerminal;

use annotate_snippets as snippets;
use annotate_snippets::{AnnotationKind, Group, Renderer, Snippet};
use clap::Args;
use serde_json::{Value as Json, json};

use super::output::{no_color, paint, say_styled, terminal_columns, without_error_numbers};
use super::{Exit, Failure, block_on, load, print, say};
use crate::app;
use crate::bus::Kind;
use crate::bus::inspect::{Level, Report, Row};
use crate::config::{self, Config, Input, Origin, Problem, Problems};
use crate::printable::{BAD, GOOD, Paint, REFUSED};

const CONFIG_HELP: &str = "\
Example: where a value comes from
  attio-bridge config --config config.toml | grep http.listen

Example: for editors, with `#:schema ./schema.json` at the top of the file
  attio-bridge config --schema > schema.json";

#[derive(Args)]
#[command(after_help = CONFIG_HELP)]
pub struct Arguments {
    /// Print a JSON object by key
    #[arg(long)]
    json: bool,
    /// Print the JSON Schema of the file, for editors. Reads no configuration
    #[arg(long, conflicts_with = "json")]
    schema: bool,
}

pub fn config(input: &Input, arguments: &Arguments) -> Result<Exit, Failure> {
    if arguments.schema {
        print(format_args!("{:#}\n", config::schema()));
        return Ok(Exit::Done);
    }
    let config = load(input)?;
    if arguments.json {
        print(format_args!("{:#}\n", config.to_json()));
    } else {
        print(config.to_text());
    }
    Ok(Exit::Done)
}

const CHECK_HELP: &str = "\
Example: before a change of the configuration goes out
  attio-bridge check --config config.toml --connect
Example: in a pipeline, where a warning is a failure too
  attio-bridge check --config config.toml --strict --json";

#[derive(Args)]
#[command(after_help = CHECK_HELP)]
pub struct CheckArguments {
    /// Reach the broker too: TLS, login, each topic, the right to write. Nothing is published
    #[arg(long)]
    connect: bool,
    /// Exit with 3 on warnings too
    #[arg(long)]
    strict: bool,
    /// Print a JSON object, also of an invalid configuration
    #[arg(long)]
    json: bool,
}

pub fn check(input: &Input, arguments: &CheckArguments) -> Result<Exit, Failure> {
    let (config, warnings) = match config::load_for_serving(input) {
        Ok(config) => {
            let warnings = config.warnings.clone();
            (config, warnings)
        }
        Err(problems) => {
            match arguments.json {
                true => print_json(json!({}), Level::Failed, &problems.problems, &problems.warnings),
                false => print_problems(&problems),
            }
            return Ok(Exit::Configuration);
        }
    };
    if !arguments.json {
        warn(&warnings);
    }
    let summary = summary(&config);
    let report = if arguments.connect { Some(connect(config)?) } else { None };
    let found = report.as_ref().map_or(Level::Ok, Report::worst);
    let result = if warnings.is_empty() { found } else { found.max(Level::Warning) };
    match &report {
        _ if arguments.json => {
            let report = report.map_or(json!({}), |report| report.to_json());
            print_json(report, result, &[], &warnings);
        }
        Some(report) => print(report_text(report, terminal_columns(), paint())),
        None => print(summary),
    }
    match result {
        Level::Failed => Ok(Exit::Unexpected),
        Level::Warning if arguments.strict => Ok(Exit::Unexpected),
        Level::Ok | Level::Warning => Ok(Exit::Done),
    }
}

/// Prints what `--connect` found, with the result of the whole check and what is wrong with the configuration.
fn print_json(mut report: Json, result: Level, problems: &[Problem], warnings: &[Problem]) {
    let list = |problems: &[Problem]| -> Json {
        let each = |problem: &Problem| {
            let from = problem.origin.as_ref().map(ToString::to_string);
            json!({ "key": problem.key, "message": problem.message, "from": from })
        };
        problems.iter().map(each).collect()
    };
    report["result"] = json!(result);
    report["problems"] = list(problems);
    report["warnings"] = list(warnings);
    print(format_args!("{report:#}\n"));
}

fn summary(config: &Config) -> String {
    let bus = match &config.bus.kind {
        Kind::Kafka(options) => format!("kafka at {}", options.bootstrap_servers),
        Kind::Nats(options) => {
            format!("nats at {}, stream {}", options.servers.join(","), options.stream.name)
        }
        Kind::Stdout => "stdout".into(),
    };
    let many = if config.sources.len() == 1 { "source" } else { "sources" };
    format!("the configuration is good: {many} {}, bus {bus}\n", config.source_names())
}

fn connect(config: Config) -> Result<Report, Failure> {
    let found = block_on(None, app::inspect(config));
    let found = found.map_err(|error| format!("the check cannot be started: {error}"))?;
    let mut report = found.map_err(|error| Failure::new(Exit::Configuration, error))?;
    for row in &mut report.checks {
        row.detail = without_error_numbers(&row.detail);
    }
    Ok(report)
}

/// A table, and a line with the counts. No line is wrapped unless there is a terminal, with so many columns.
fn report_text(report: &Report, columns: Option<usize>, paint: Paint) -> String {
    /// A column of details that is narrower cannot be read.
    const LEAST: usize = 24;
    let rows = grouped(&report.checks);
    let first = rows.iter().map(|row| row.check.chars().count()).max().unwrap_or_default();
    let before = first + "  warning  ".len();
    let room = columns.map_or(usize::MAX, |columns| columns.saturating_sub(before).max(LEAST));
    let mut text = format!("{} at {}\n\n", report.bus, report.target);
    for Row { check, result, detail } in &rows {
        let style = match result {
            Level::Ok => GOOD,
            Level::Warning => REFUSED,
            Level::Failed => BAD,
        };
        let result = paint.with(style, &format!("{:<7}", result.word()));
        let detail = wrapped(detail, room).join(&format!("\n{:before$}", ""));
        text.push_str(format!("{check:<first$}  {result}  {detail}").trim_end());
        text.push('\n');
    }
    let count = |level| report.checks.iter().filter(|row| row.result == level).count();
    let [ok, warnings, failed] = [Level::Ok, Level::Warning, Level::Failed].map(count);
    text + &format!("\n{ok} ok, {warnings} warning, {failed} failed\n")
}

/// Rows of the same kind, such as `topic NAME`, with the same result and detail become one. It names them, unless
/// they are all of that kind and good.
fn grouped(rows: &[Row]) -> Vec<Row> {
    let split = |row: &Row| row.check.split_once(' ').map(|(kind, name)| (kind.to_owned(), name.to_owned()));
    let mut shown: Vec<(Row, Option<String>, Vec<String>)> = Vec::new();
    for row in rows {
        let (kind, name) = split(row).unzip();
        let same = shown.iter_mut().find(|(first, of, _)| {
            of.is_some() && *of == kind && first.result == row.result && first.detail == row.detail
        });
        match same {
            Some((.., names)) => names.extend(name),
            None => shown.push((row.clone(), kind, name.into_iter().collect())),
        }
    }
    let all = |kind: &Option<String>| rows.iter().filter(|row| split(row).unzip().0 == *kind).count();
    let one = |(row, kind, names): (Row, Option<String>, Vec<String>)| match &kind {
        Some(word) if names.len() > 1 => {
            let hidden = row.result == Level::Ok && names.len() == all(&kind);
            let named = if hidden { String::new() } else { format!("{}: ", names.join(", ")) };
            Row { check: format!("{} {word}s", names.len()), detail: named + &row.detail, ..row }
        }
        _ => row,
    };
    shown.into_iter().map(one).collect()
}

/// The words of a text in lines of at most `width` characters; a longer word has a line of its own.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

pub fn print_problems(problems: &Problems) {
    warn(&problems.warnings);
    let Some(renderer) = terminal() else {
        return say(format_args!("error: {problems}"));
    };
    for problem in &problems.problems {
        say_styled(&in_full(problem, snippets::Level::ERROR, &renderer));
    }
    say_styled(
        &renderer.render(&[Group::with_title(snippets::Level::ERROR.primary_title(problems.count()))]),
    );
}

pub fn warn(warnings: &[Problem]) {
    let renderer = terminal();
    for warning in warnings {
        match &renderer {
            Some(renderer) => say_styled(&in_full(warning, snippets::Level::WARNING, renderer)),
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
fn in_full(problem: &Problem, level: snippets::Level<'static>, renderer: &Renderer) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new("kafka", "k:1");
        report.add("tls", Level::Ok, "short");
        for topic in ["a.record", "a.note"] {
            report.add(format!("topic {topic}"), Level::Ok, "partitions 1");
        }
        report.add("permission to write", Level::Failed, "word ".repeat(30).trim());
        report
    }

    #[test]
    fn report_is_aligned_and_wrapped_for_its_terminal_only() {
        let text = report_text(&report(), Some(80), Paint(false));
        assert!(
            text.starts_with(
                "kafka at k:1\n\ntls                  ok       short\n2 topics             ok       p"
            ),
            "{text}"
        );
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.ends_with("\n3 ok, 0 warning, 1 failed\n"), "{text}");
        assert_eq!(report_text(&report(), None, Paint(false)).lines().count(), 2 + 3 + 2);
        assert!(report_text(&report(), None, Paint(true)).contains("\u{1b}[31mfailed "));
    }

    #[test]
    fn equal_rows_are_grouped_and_named_unless_all_are_good() {
        let mut report = report();
        report.add("topic a.task", Level::Failed, "missing");
        report.add("topic a.list", Level::Failed, "missing");
        let rows = grouped(&report.checks);
        let shown: Vec<_> = rows.iter().map(|row| (&*row.check, &*row.detail)).collect();
        assert_eq!(shown[1], ("2 topics", "a.record, a.note: partitions 1"));
        assert_eq!(shown[3], ("2 topics", "a.task, a.list: missing"));
    }
}
