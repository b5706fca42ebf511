//! `config` and `check`, and how the problems of a configuration are printed: on a terminal with the position and
//! the line in the file, otherwise one line each.

use std::io::{IsTerminal, Write};

use annotate_snippets as snippets;
use annotate_snippets::{AnnotationKind, Group, Renderer, Snippet};
use clap::Args;

use super::output::no_color;
use super::{Exit, fail, load, load_for_serving, print, say};
use crate::app;
use crate::bus::Kind;
use crate::bus::inspect::{Level, Report};
use crate::config::{self, Config, Input, Origin, Problem, Problems};
use crate::printable::styled;

const CONFIG_HELP: &str = "\
Example: where a value comes from
  attio-bridge config --config config.toml | grep http.listen

Example: an editor that completes and checks the file, by `#:schema ./schema.json` in its first line
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

pub fn config(input: &Input, arguments: &Arguments) -> Result<Exit, Exit> {
    if arguments.schema {
        print(format_args!("{:#}\n", config::schema()));
        return Ok(Exit::Done);
    }
    let config = load(input)?;
    warn(&config.warnings);
    if arguments.json {
        print(format_args!("{:#}\n", config.to_json()));
    } else {
        print(config.to_text());
    }
    Ok(Exit::Done)
}

const CHECK_HELP: &str = "\
Example: before a change of the configuration goes out
  attio-bridge check --config config.toml --connect";

#[derive(Args)]
#[command(after_help = CHECK_HELP)]
pub struct CheckArguments {
    /// Reach the broker too: TLS, login, each topic, the right to write. Nothing is published
    #[arg(long)]
    connect: bool,
    /// Print what --connect finds as a JSON object
    #[arg(long, requires = "connect")]
    json: bool,
}

pub fn check(input: &Input, arguments: &CheckArguments) -> Result<Exit, Exit> {
    let config = load_for_serving(input)?;
    warn(&config.warnings);
    if arguments.connect {
        return connect(config, arguments.json);
    }
    print(summary(&config));
    Ok(Exit::Done)
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

fn connect(config: Config, json: bool) -> Result<Exit, Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| fail(format_args!("the check cannot be started: {error}")))?;
    let found = runtime.block_on(app::inspect(config));
    // Does not wait for what still waits for the network.
    runtime.shutdown_background();
    match found {
        Ok(report) => Ok(show(&report, json)),
        Err(error) => {
            say(format_args!("error: {error}"));
            Err(Exit::Configuration)
        }
    }
}

fn show(report: &Report, json: bool) -> Exit {
    if json {
        print(format_args!("{:#}\n", report.to_json()));
    } else {
        print(report.to_text());
    }
    match report.worst() {
        Level::Failed => Exit::Unexpected,
        Level::Ok | Level::Warning => Exit::Done,
    }
}

/// Prints every problem, and the warnings found with them.
pub fn print_problems(problems: &Problems) {
    warn(&problems.warnings);
    let Some(renderer) = terminal() else {
        return say(format_args!("error: {problems}"));
    };
    for problem in &problems.problems {
        show_styled(&in_full(problem, snippets::Level::ERROR, &renderer));
    }
    show_styled(&renderer.render(&[Group::with_title(snippets::Level::ERROR.primary_title(problems.count()))]));
}

pub fn warn(warnings: &[Problem]) {
    let renderer = terminal();
    for warning in warnings {
        match &renderer {
            Some(renderer) => show_styled(&in_full(warning, snippets::Level::WARNING, renderer)),
            None => say(format_args!("warning: {warning}")),
        }
    }
}

/// Prints rendered text with its colours.
fn show_styled(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", styled(text));
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
