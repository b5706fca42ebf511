//! `send`: deliveries from files or generated ones, signed and posted as Attio does.

use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, Args};
use hyper::Uri;
use secrecy::{ExposeSecret, SecretString};

use super::arguments::{rate, read, unreadable};
use super::output::{Progress, table};
use super::sign::Flags;
use super::{Exit, Failure, block_on, cores, print};
use crate::catalog::{EVENT_TYPES, EventType};
use crate::config::Input;
use crate::fake_attio::post::Poster;
use crate::signing::{Payload, Scheme};
use crate::try_out::load::{self, Answers, Ending, Options, PayloadGenerator, Shares, Target};

const USER_AGENT: &str = concat!("attio-bridge/", env!("CARGO_PKG_VERSION"), " send");

const AFTER_HELP: &str = "\
Each delivery has an Idempotency-Key of its own. The timeout is 5 s, as Attio's is. --retry repeats \
what was not answered 2xx under the same key, after 0.5 s, 1 s, 2 s and so on, at most 30 s; Attio \
does so up to 10 times over about three days.

Example: one generated event to a bridge on this machine
  attio-bridge send http://127.0.0.1:8080/webhooks/attio \\
    --config config.toml --event record.updated
Example: a stream, a fifth of it duplicates
  attio-bridge send http://127.0.0.1:8080/webhooks/attio \\
    --secret-env ATTIO_WEBHOOK_SECRET --count 1000 --rate 25 \\
    --duplicates 20 --concurrency 8 --retry

Exit codes: 0 all were answered 200 or 202, 3 not all, 1 no connection could be made.";

#[derive(Args)]
#[command(after_help = AFTER_HELP, group = ArgGroup::new("what").required(true).multiple(true))]
pub struct Arguments {
    /// Where to send, http:// or https://
    #[arg(value_name = "URL", value_parser = address)]
    url: Uri,
    /// Bodies, byte for byte; of a folder every .json file, sorted by name; `-` for standard input
    #[arg(value_name = "FILE", group = "what", conflicts_with_all = ["event", "count"])]
    files: Vec<PathBuf>,
    /// Generated events of these types [default: every type in turn]
    #[arg(long, value_name = "TYPE", group = "what", value_delimiter = ',', value_parser = event_type(),
          hide_possible_values = true)]
    event: Vec<&'static EventType>,
    /// Number of generated deliveries [default: one of each --event]
    #[arg(long, value_name = "N", group = "what", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Percentage that repeats the delivery before
    #[arg(long, value_name = "PERCENT", requires = "count", default_value_t = 0, value_parser = percent())]
    duplicates: u32,
    /// Percentage with three events
    #[arg(long, value_name = "PERCENT", requires = "count", default_value_t = 0, value_parser = percent())]
    batches: u32,
    /// Percentage that is signed but not JSON
    #[arg(long, value_name = "PERCENT", requires = "count", default_value_t = 0, value_parser = percent())]
    broken: u32,
    /// Deliveries per second, at most [default: as fast as they are answered]
    #[arg(long, value_name = "N", value_parser = rate(100_000.0))]
    rate: Option<f64>,
    /// Deliveries in flight
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// Retry what was not answered 2xx, up to 10 times or as often as given
    #[arg(long, value_name = "TIMES", num_args = 0..=1, require_equals = true, default_missing_value = "10",
          value_parser = clap::value_parser!(u32).range(1..=100))]
    retry: Option<u32>,
    #[command(flatten)]
    signer: Flags,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

fn address(text: &str) -> Result<Uri, String> {
    let uri = text.parse::<Uri>().ok().filter(|uri| uri.authority().is_some());
    uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")))
        .ok_or_else(|| "expects an address such as http://127.0.0.1:8080/webhooks/attio".into())
}

fn event_type() -> impl TypedValueParser<Value = &'static EventType> {
    PossibleValuesParser::new(EVENT_TYPES.iter().map(|entry| entry.name)).map(|name| {
        let entry = EVENT_TYPES.iter().find(|entry| entry.name == name);
        entry.expect("the parser lets only names of the catalog through")
    })
}

fn percent() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(0..=100)
}

pub fn run(input: &Input, arguments: &Arguments) -> Result<Exit, Failure> {
    if arguments.duplicates + arguments.batches + arguments.broken > 100 {
        return Err(Failure::usage("--duplicates, --batches and --broken are more than 100 together"));
    }
    let (scheme, secret) = arguments.signer.signer(input)?;
    Ok(show(&send(arguments, scheme, &secret)?, arguments.json))
}

fn send(arguments: &Arguments, scheme: Scheme, secret: &SecretString) -> Result<Answers, Failure> {
    let (payloads, total) = payloads(arguments, scheme)?;
    let target = Target {
        url: &arguments.url.to_string(),
        secret: secret.expose_secret(),
        poster: Poster::new(USER_AGENT)?,
    };
    let options = Options {
        concurrency: arguments.concurrency.into(),
        rate: arguments.rate,
        retries: arguments.retry.unwrap_or_default(),
    };
    let progress = Progress::new(total);
    let progress = |answers: &Answers| {
        let failed = answers.deliveries - answers.succeeded;
        progress
            .set(usize::try_from(answers.deliveries).unwrap_or(usize::MAX), format_args!("{failed} failed"));
    };
    Ok(block_on(Some(cores()), load::send(&target, options, payloads, progress))?)
}

type Payloads = Box<dyn Iterator<Item = Payload>>;

/// What to send, and the number of deliveries.
fn payloads(arguments: &Arguments, scheme: Scheme) -> Result<(Payloads, usize), String> {
    if arguments.files.is_empty() {
        let Arguments { duplicates, batches, broken, .. } = *arguments;
        let count = arguments.count.unwrap_or(arguments.event.len() as u64);
        let payloads =
            PayloadGenerator::new(scheme, &arguments.event, Shares { duplicates, batches, broken });
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        return Ok((Box::new(payloads.take(count)), count));
    }
    let mut paths = Vec::new();
    for path in &arguments.files {
        paths.extend(if path.is_dir() { folder(path)? } else { vec![path.clone()] });
    }
    let bodies = paths.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    let count = bodies.len();
    Ok((Box::new(bodies.into_iter().map(move |body| Payload::new(scheme, body))), count))
}

fn folder(path: &Path) -> Result<Vec<PathBuf>, String> {
    let files = std::fs::read_dir(path).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut files: Vec<PathBuf> = files.map_err(|error: std::io::Error| unreadable(path, error))?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    if files.is_empty() { Err(format!("{} has no .json file", path.display())) } else { Ok(files) }
}

fn next_step(ending: &Ending) -> Option<(String, &'static str)> {
    let Ending::Answer(status, _) = ending else {
        return Some(("no answer".into(), "is the bridge running there? `attio-bridge healthcheck` asks it"));
    };
    let step = match status {
        401 => "the bridge has another secret; `attio-bridge explain` finds out why a request is refused",
        404 => "no such source: the path is /webhooks/SOURCE, with a source of the configuration",
        413 => "larger than http.max_body_bytes of the bridge",
        503 => "repeat it with --retry; the bridge's /readyz tells whether its broker is reached",
        300..=399 => "the URL is not the bridge's own; Attio follows no redirects",
        _ => return None,
    };
    Some((status.to_string(), step))
}

fn show(answers: &Answers, json: bool) -> Exit {
    if json {
        print(format_args!("{:#}\n", answers.to_json()));
    } else {
        let row = |(ending, count): (&Ending, &u64)| match ending {
            Ending::Answer(status, reason) => [status.to_string(), reason.clone(), count.to_string()],
            Ending::NoAnswer(error) => ["-".into(), error.to_string(), count.to_string()],
        };
        let rows: Vec<_> = answers.endings.iter().map(row).collect();
        print(table(["STATUS", "REASON", "COUNT"], &rows));
        let Answers { deliveries, elapsed, .. } = answers;
        let seconds = elapsed.as_secs_f64();
        let (plural, rate) = (if *deliveries == 1 { "y" } else { "ies" }, *deliveries as f64 / seconds);
        print(format_args!("total: {deliveries} deliver{plural} in {seconds:.1} s, {rate:.1}/s\n"));
        if let Some(latency) = answers.latency() {
            print(format_args!(
                "latency: {}\n",
                latency.map(|(name, took)| format!("{name} {took:.1} ms")).join(", ")
            ));
        }
        if answers.attempts > answers.deliveries {
            print(format_args!("attempts: {} for {} deliveries\n", answers.attempts, answers.deliveries));
        }
        let mut steps: Vec<_> = answers.endings.keys().filter_map(next_step).collect();
        steps.dedup();
        steps.iter().for_each(|(status, step)| print(format_args!("{status}: {step}\n")));
    }
    match (answers.all_succeeded(), answers.is_reached()) {
        (true, _) => Exit::Done,
        (false, true) => Exit::Unexpected,
        (false, false) => Exit::Failed,
    }
}
