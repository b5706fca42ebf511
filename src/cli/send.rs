//! `send`: deliveries of files or made-up ones, signed and posted as Attio does.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, Args};
use hyper::Uri;
use secrecy::ExposeSecret;

use super::given::read;
use super::signer::{Flags, Signer};
use super::table::table;
use super::{Exit, print, say};
use crate::catalog::{EVENT_TYPES, EventType};
use crate::config::Input;
use crate::fake_attio::post::Poster;
use crate::signing::Payload;
use crate::signing::Scheme;
use crate::try_out::send::invention::{Invention, Shares};
use crate::try_out::send::tally::{Kind, Tally, milliseconds};
use crate::try_out::send::{self, Options, Target};

const USER_AGENT: &str = concat!("attio-bridge/", env!("CARGO_PKG_VERSION"), " send");

const AFTER_HELP: &str = "\
Each delivery has an Idempotency-Key of its own. An answer is waited for 5 s, as Attio does. --retry sends
again under the same key what was not answered 2xx, after 0.5 s, 1 s, 2 s and so on, at most 30 s; Attio does
the same up to 10 times over about three days.

Example: one made-up event to a bridge on this machine
  attio-bridge send --config config.toml http://127.0.0.1:8080/webhooks/attio --event record.updated
Example: a stream, of which a fifth is repeated
  attio-bridge send --secret-env ATTIO_WEBHOOK_SECRET http://127.0.0.1:8080/webhooks/attio \\
    --count 1000 --rate 25 --duplicates 20 --concurrency 8 --retry

Exit codes: 0 all were answered 200 or 202, 3 not all, 1 nobody could be reached.";

/// The flags of `send`.
#[derive(Args)]
#[command(after_help = AFTER_HELP, group = ArgGroup::new("what").required(true).multiple(true))]
pub struct Arguments {
    /// Where to, http:// or https://
    #[arg(value_name = "URL", value_parser = address)]
    url: Uri,
    /// Bodies, byte for byte; of a folder every .json file in the order of names; `-` for standard input
    #[arg(value_name = "FILE", group = "what", conflicts_with_all = ["event", "count"])]
    files: Vec<PathBuf>,
    /// Made-up events of these types [default: every type in turn]
    #[arg(long, value_name = "TYPE", group = "what", value_delimiter = ',', value_parser = event_type(),
          hide_possible_values = true)]
    event: Vec<&'static EventType>,
    /// How many made-up deliveries [default: one of each --event]
    #[arg(long, value_name = "N", group = "what", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// How many of a hundred repeat the delivery before them
    #[arg(long, value_name = "PERCENT", requires = "count", default_value_t = 0, value_parser = percent())]
    duplicates: u32,
    /// How many of a hundred hold three events
    #[arg(long, value_name = "PERCENT", requires = "count", default_value_t = 0, value_parser = percent())]
    batches: u32,
    /// How many of a hundred are signed and no JSON
    #[arg(long, value_name = "PERCENT", requires = "count", default_value_t = 0, value_parser = percent())]
    broken: u32,
    /// Deliveries per second, at most [default: as fast as they are answered]
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Deliveries that are under way at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// Send again what was not answered 2xx, up to 10 times or as often as said
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

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().map_err(|_| "expects a number".to_owned())?;
    if (0.01..=100_000.0).contains(&rate) { Ok(rate) } else { Err("expects 0.01 to 100000".into()) }
}

/// Sends, and prints what was answered.
pub fn run(input: &Input, arguments: &Arguments) -> Exit {
    if arguments.duplicates + arguments.batches + arguments.broken > 100 {
        say("error: --duplicates, --batches and --broken are more than 100 together");
        return Exit::Usage;
    }
    let signer = match arguments.signer.signer(input) {
        Ok(signer) => signer,
        Err(exit) => return exit,
    };
    match sent(arguments, &signer) {
        Ok(tally) => show(&tally, arguments.json),
        Err(message) => {
            say(format_args!("error: {message}"));
            Exit::Failed
        }
    }
}

fn sent(arguments: &Arguments, signer: &Signer) -> Result<Tally, String> {
    let (mails, total) = mails(arguments, signer.scheme)?;
    let target = Target {
        url: &arguments.url.to_string(),
        secret: signer.secret.expose_secret(),
        poster: Poster::new(USER_AGENT)?,
    };
    let options = Options {
        concurrency: arguments.concurrency.into(),
        rate: arguments.rate,
        retries: arguments.retry.unwrap_or_default(),
    };
    let terminal = io::stderr().is_terminal();
    let progress = |tally: &Tally| {
        if terminal {
            bar(tally, total);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let tally = runtime.block_on(send::send(&target, options, mails, progress));
    if terminal {
        // The bar gives its line back.
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    Ok(tally)
}

/// One line that is written over and over.
fn bar(tally: &Tally, total: u64) {
    const WIDTH: u64 = 30;
    let full = usize::try_from(tally.deliveries * WIDTH / total.max(1)).unwrap_or_default();
    let rest = usize::try_from(WIDTH).unwrap_or_default() - full;
    let other = tally.deliveries - tally.good;
    let bar = format!("[{}{}]", "#".repeat(full), " ".repeat(rest));
    let _ = write!(io::stderr(), "\r\x1b[K{bar} {}/{total}, {other} not taken", tally.deliveries);
}

type Mails = Box<dyn Iterator<Item = Payload>>;

/// What to send, and how many.
fn mails(arguments: &Arguments, scheme: Scheme) -> Result<(Mails, u64), String> {
    if arguments.files.is_empty() {
        let Arguments { duplicates, batches, broken, .. } = *arguments;
        let count = arguments.count.unwrap_or(arguments.event.len() as u64);
        let invention = Invention::new(scheme, &arguments.event, Shares { duplicates, batches, broken });
        // Nobody waits for more than a usize can count.
        let take = usize::try_from(count).unwrap_or(usize::MAX);
        return Ok((Box::new(invention.take(take)), count));
    }
    let mut paths = Vec::new();
    for path in &arguments.files {
        paths.extend(if path.is_dir() { folder(path)? } else { vec![path.clone()] });
    }
    let bodies = paths.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    let count = bodies.len() as u64;
    Ok((Box::new(bodies.into_iter().map(move |body| Payload::new(scheme, body))), count))
}

/// The JSON files of a folder, by name.
fn folder(path: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error: io::Error| format!("{} cannot be read: {error}", path.display());
    let entries = std::fs::read_dir(path).map_err(failed)?;
    let entries = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut files = entries.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    if files.is_empty() { Err(format!("{} has no .json file", path.display())) } else { Ok(files) }
}

fn show(tally: &Tally, json: bool) -> Exit {
    if json {
        print(format_args!("{:#}\n", tally.to_json()));
    } else {
        let row = |(kind, count): (&Kind, &u64)| match kind {
            Kind::Answer(status, reason) => [status.to_string(), reason.clone(), count.to_string()],
            Kind::Lost(lost) => ["-".into(), lost.to_string(), count.to_string()],
        };
        let rows: Vec<_> = tally.kinds.iter().map(row).collect();
        print(table(["STATUS", "REASON", "COUNT"], &rows));
        if let Some(latency) = tally.latency() {
            let each = latency.map(|(name, took)| format!("{name} {:.1} ms", milliseconds(took)));
            print(format_args!("latency: {}\n", each.join(", ")));
        }
        if tally.attempts > tally.deliveries {
            print(format_args!("attempts: {} for {} deliveries\n", tally.attempts, tally.deliveries));
        }
    }
    match (tally.is_good(), tally.is_reached()) {
        (true, _) => Exit::Done,
        (false, true) => Exit::Unexpected,
        (false, false) => Exit::Failed,
    }
}
