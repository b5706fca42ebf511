//! `watch`: notices when Attio stops sending. A process of its own; one is enough.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Exit, fail, load_attio, say};
use crate::app::logging::{self, Log};
use crate::attio::secret_file::Reserved;
use crate::attio::watch::{Hook, Options, Watch};
use crate::attio::{Client, WebhookOptions};
use crate::config::{self, Input, LogFormat, LogOptions};
use crate::http::connection::Timeouts;
use crate::http::listen::{self, Limits, Parsing};
use crate::metrics::Metrics;
use crate::metrics::watch::WatchMetrics;
use crate::shutdown;

/// In an outage each try of each look would be a line: what comes of them is told by the watch.
const LEVEL: &str = "info,attio_bridge::attio::request=error";

/// How long the command of --secret-hook may take.
const HOOK_TIMEOUT: Duration = Duration::from_secs(60);

/// What an operator types.
const AFTER_HELP: &str = "\
Example: every minute, held against what the bridge itself hears
  attio-bridge watch --every 1m --metrics http://127.0.0.1:8081/metrics --silent-after 12h --config bridge.toml
Example: the secret of a webhook that was made again goes to Kubernetes
  attio-bridge watch --secret-format kubernetes --secret-name attio-bridge \\
    --secret-hook 'kubectl apply -f -' --config bridge.toml";

/// The flags of `watch`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Address of its /metrics
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8082")]
    listen: String,
    /// How often Attio is asked
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = every)]
    every: Duration,
    /// /metrics of the bridge, to hold against what Attio says; of each replica where there are several
    #[arg(long, value_name = "URL")]
    metrics: Vec<String>,
    /// How long the bridge may hear nothing while Attio calls the webhook active
    #[arg(long, value_name = "TIME", requires = "metrics", value_parser = humantime::parse_duration)]
    silent_after: Option<Duration>,
    /// Keep the map of slugs fresh in this file [default: route.slugs_file]
    #[arg(long, value_name = "FILE")]
    slugs: Option<PathBuf>,
    /// Give the secret of a webhook that was made again to --secret-hook in this form, not to secret_file
    #[arg(long, value_enum, requires = "secret_hook", requires = "secret_name")]
    secret_format: Option<Format>,
    /// Name of the Kubernetes Secret
    #[arg(long, value_name = "NAME", requires = "secret_format")]
    secret_name: Option<String>,
    /// Command that takes the manifest on its standard input, for a minute at most
    #[arg(long, value_name = "COMMAND", requires = "secret_format")]
    secret_hook: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// The manifest of a Secret
    Kubernetes,
}

fn every(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time < Duration::from_millis(100) { Err("expects 100ms or more".into()) } else { Ok(time) }
}

/// Watches until told to stop.
pub fn run(input: &Input, arguments: Arguments) -> Result<Exit, Exit> {
    let config = load_attio(input)?;
    let log = logging::start(LogOptions { level: LEVEL, format: LogFormat::Auto }, &input.environment)
        .map_err(|error| fail(format_args!("the thread that logs cannot be started: {error}")))?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let slugs_file = arguments.slugs.clone().or_else(|| config.slugs_file.clone());
    if config.webhooks.is_empty() && slugs_file.is_none() {
        say("error: there is nothing to watch: add [[webhooks]], or name a file with --slugs");
        return Err(Exit::Configuration);
    }
    if let Err(message) = has_places(&config.webhooks, arguments.secret_hook.is_some()) {
        say(format_args!("error: {message}"));
        return Err(Exit::Configuration);
    }
    let client = Client::new(&config.options).map_err(|error| {
        say(format_args!("error: {error}"));
        Exit::Configuration
    })?;
    match start(client, config, slugs_file, arguments, &log) {
        Ok(()) => Ok(Exit::Done),
        Err(error) => {
            tracing::error!("{error}");
            Err(Exit::Failed)
        }
    }
}

/// Whether each secret that may be made has a place; found now and not when a webhook is lost. A folder
/// that cannot be written to may come yet, so it is said and nothing more.
fn has_places(webhooks: &[WebhookOptions], hook: bool) -> Result<(), String> {
    let recreated: Vec<_> = webhooks.iter().filter(|webhook| webhook.recreate).collect();
    if hook && recreated.len() > 1 {
        return Err("one Secret holds one secret, and several webhooks have recreate = true".into());
    }
    for WebhookOptions { name, secret_file, .. } in recreated.into_iter().filter(|_| !hook) {
        let Some(path) = secret_file else {
            return Err(format!(
                "webhook {name:?} has recreate = true, and there is no place for its new secret: set its \
                 secret_file, or say --secret-hook"
            ));
        };
        if let Err(error) = Reserved::at(path, true) {
            tracing::error!(webhook = name, %error, "it could not be made again as things are");
        }
    }
    Ok(())
}

fn start(
    client: Client,
    config: config::Attio,
    slugs_file: Option<PathBuf>,
    arguments: Arguments,
    log: &Log,
) -> Result<(), String> {
    let names = config.webhooks.iter().map(|webhook| webhook.name.clone()).collect();
    let metrics = Arc::new(WatchMetrics::new(names, &config.sources));
    let hook = arguments.secret_hook.zip(arguments.secret_name);
    let options = Options {
        webhooks: config.webhooks,
        every: arguments.every,
        slugs_file,
        hook: hook.map(|(command, secret_name)| Hook { command, secret_name, timeout: HOOK_TIMEOUT }),
        bridge: arguments.metrics,
        silent_after: arguments.silent_after,
        now: || time::OffsetDateTime::now_utc().unix_timestamp(),
    };
    let watch = Watch::new(client, options, Arc::clone(&metrics)).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| format!("the threads cannot be started: {error}"))?;
    let done = runtime.block_on(serve(watch, metrics, &arguments.listen, log));
    // A name that is still being looked up is left behind.
    runtime.shutdown_background();
    done
}

async fn serve(watch: Watch, metrics: Arc<WatchMetrics>, listen: &str, log: &Log) -> Result<(), String> {
    let signal = shutdown::stop_signal(log.last_words());
    let signal = signal.map_err(|error| format!("cannot listen for signals: {error}"))?;
    let unbound = |error| format!("cannot listen on {listen} (--listen): {error}");
    let listener = listen::bind(listen).await.map_err(unbound)?;
    let addr = listener.local_addr().map_err(unbound)?;
    tracing::info!(%addr, "watching");
    let (stop, over) = (CancellationToken::new(), CancellationToken::new());
    let told = stop.clone();
    tokio::spawn(async move {
        signal.await;
        told.cancel();
    });
    let page = move || async move { ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], metrics.render()) };
    let router = Router::new().route("/livez", get(|| async { "ok\n" })).route("/metrics", get(page));
    let patience = Duration::from_secs(5);
    let limits = Limits {
        timeouts: Timeouts { header: patience, idle: patience },
        max_connections: 64,
        max_header_bytes: 16_384,
        parsing: Parsing::Lenient,
    };
    tokio::spawn(listen::serve(listener, router, limits, TaskTracker::new(), over.clone()));
    watch.run(stop).await;
    over.cancel();
    Ok(())
}
