//! `explain`: why a captured request is refused, or what happens to its events.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::json;
use time::OffsetDateTime;

use super::arguments::{read, source, time};
use super::{Exit, Failure, block_on, invalid_configuration, print};
use crate::app;
use crate::bus::recording::RecordingBus;
use crate::config::{self, Config, Input, SecretFile};
use crate::explain::captured::Captured;
use crate::explain::{Tried, explain};
use crate::pipeline::SourceOptions;

const AFTER_HELP: &str = "\
A dump is the request as sent: an optional request line, headers, an empty line, the body. \
Nothing is sent and nothing is published. Secrets are used but never printed.

Example: why does Attio get 401?
  attio-bridge explain --config config.toml request.txt
Example: headers and body in separate files
  attio-bridge explain --config config.toml \\
    --headers headers.txt --body body.json

Exit codes: 0 it verifies and can be published, 3 it does not, 78 configuration.";

#[derive(Args)]
#[command(
    after_help = AFTER_HELP,
    override_usage = "attio-bridge explain [OPTIONS] <FILE>\n       attio-bridge explain [OPTIONS] --headers <FILE> --body <FILE>"
)]
pub struct Arguments {
    /// A dump of the request, or an HTTP archive (HAR); `-` for standard input
    #[arg(value_name = "FILE", required_unless_present = "headers", conflicts_with = "headers")]
    request: Option<PathBuf>,
    /// The number of the request in an HTTP archive, counted from 1
    #[arg(long, value_name = "N", default_value_t = 1)]
    entry: usize,
    /// A file with the headers only
    #[arg(long, value_name = "FILE", requires = "body")]
    headers: Option<PathBuf>,
    /// A file with the body only, byte for byte
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// The source it was sent to [default: the one in its path, or the only one]
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// When it was received, such as 2026-11-24T10:00:00Z [default: now]
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<OffsetDateTime>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(input: &Input, arguments: &Arguments) -> Result<Exit, Failure> {
    let config = config::load(input).map_err(invalid_configuration)?;
    let request = captured(arguments)?;
    let name = arguments.source.as_deref().or(request.source());
    let note = name.map_or("the request does not name a source", |_| "the bridge answers 404");
    let source = source(&config, name).map_err(|error| format!("{note}: {error}"))?;
    let received_at = arguments.at.unwrap_or_else(OffsetDateTime::now_utc);
    let files = config::attio(input).map(|config| config.secret_files).unwrap_or_default();
    let (tried, open) =
        (tried(&config, source, &files), |bus: Arc<RecordingBus>| app::pipeline(&config, bus));
    let explained = explain(&request, source, &config.sources, received_at, &config.bus, tried, open);
    let explanation = block_on(None, explained)??;
    if arguments.json {
        print(format_args!("{:#}\n", json!(explanation)));
    } else {
        print(explanation.to_text(config.bus.kind.name()));
    }
    Ok(if explanation.is_good() { Exit::Done } else { Exit::Unexpected })
}

/// The secrets of the source, then those of the others.
fn tried(config: &Config, source: &SourceOptions, files: &[SecretFile]) -> Vec<Tried> {
    let others = config.sources.iter().filter(|other| other.name != source.name);
    let of_source = |source: &SourceOptions| {
        let name = source.name.to_string();
        let secrets = source.verify.secrets.clone();
        secrets.into_iter().map(move |secret| {
            let file = files.iter().find(|file| file.source == name && *file.label == *secret.label);
            let file = file.map(|file| file.path.display().to_string());
            Tried { source: name.clone(), secret: secret.label.to_string(), file }
        })
    };
    std::iter::once(source).chain(others).flat_map(of_source).collect()
}

fn captured(arguments: &Arguments) -> Result<Captured, String> {
    let named = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut request = match (&arguments.request, &arguments.headers) {
        (Some(path), _) => {
            let bytes = read(path)?;
            let archive = bytes.trim_ascii_start().starts_with(b"{");
            let request =
                if archive { Captured::archive(&bytes, arguments.entry) } else { Captured::dump(&bytes) };
            request.map_err(|error| {
                let hint = "for a file with the body alone use --headers FILE --body FILE";
                format!("{}; {hint}", named(path, &error))
            })?
        }
        (None, Some(path)) => {
            let text = read(path)?;
            Captured::head(&String::from_utf8_lossy(&text)).map_err(|error| named(path, &error))?
        }
        (None, None) => return Err("give a file with the request, or --headers and --body".into()),
    };
    if let Some(path) = &arguments.body {
        request.body = read(path)?;
    }
    Ok(request)
}
