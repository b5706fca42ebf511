//! `watch`: monitors the webhooks at Attio. It runs as its own process; one instance is enough.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use clap::Args;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::webhooks::SecretFormat;
use super::{Exit, Failure, block_on, invalid_configuration, stop_token};
use crate::app::logging::{self, Log};
use crate::attio::secret::SecretFile;
use crate::attio::watch::{Hook, Options, Watch, WatchMetrics};
use crate::attio::{Client, WebhookOptions};
use crate::config::{self, Input, LogFormat, LogOptions};
use crate::http::listen::{self, Limits};
use crate::metrics::Metrics;

/// Without the client's warnings about retries: the watch itself logs when polls begin to fail.
const LEVEL: &str = "info,attio_bridge::attio::request=error";

const HOOK_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Args)]
#[command(after_help = "\
Example: every minute, compared with what the bridge itself receives
  attio-bridge watch --config bridge.toml --every 1m \\
    --metrics http://127.0.0.1:8081/metrics --silent-after 12h
Example: the secret of a recreated webhook goes to Kubernetes
  attio-bridge watch --secret-format kubernetes --secret-name attio-bridge \\
    --secret-hook 'kubectl apply -f -' --config bridge.toml")]
pub struct Arguments {
    /// Listen address of its own /metrics
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8082")]
    listen: String,
    /// Time between two polls of Attio
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = every)]
    every: Duration,
    /// /metrics of the bridge, to compare with Attio's status; repeat it for each replica
    #[arg(long, value_name = "URL")]
    metrics: Vec<String>,
    /// How long the bridge may receive nothing while Attio calls the webhook active
    #[arg(long, value_name = "TIME", requires = "metrics", value_parser = humantime::parse_duration)]
    silent_after: Option<Duration>,
    /// Keep this file of slugs up to date [default: route.slugs_file]
    #[arg(long, value_name = "FILE")]
    slugs: Option<PathBuf>,
    /// Pass the secret of a recreated webhook to --secret-hook in this form, instead of writing secret_file
    #[arg(long, value_enum, requires = "secret_hook", requires = "secret_name")]
    secret_format: Option<SecretFormat>,
    /// Name of the Kubernetes Secret
    #[arg(long, value_name = "NAME", requires = "secret_format")]
    secret_name: Option<String>,
    /// Command that reads the manifest on its standard input; killed after a minute
    #[arg(long, value_name = "COMMAND", requires = "secret_format")]
    secret_hook: Option<String>,
}

fn every(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time < Duration::from_millis(100) { Err("expected 100ms or more".into()) } else { Ok(time) }
}

pub fn run(input: &Input, arguments: Arguments) -> Result<Exit, Failure> {
    let config = config::attio(input).map_err(invalid_configuration)?;
    let log = logging::start(LogOptions { level: LEVEL, format: LogFormat::Auto }, &input.environment)
        .map_err(|error| format!("cannot start a thread: {error}"))?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let slugs_file = arguments.slugs.clone().or_else(|| config.slugs_file.clone());
    let invalid = |message: String| Failure::new(Exit::Configuration, message);
    if config.webhooks.is_empty() && slugs_file.is_none() {
        return Err(invalid("nothing to watch: add [[webhooks]], or give a file with --slugs".into()));
    }
    check_outputs(&config, arguments.secret_hook.is_some()).map_err(invalid)?;
    let client = Client::new(&config.options).map_err(|error| invalid(error.to_string()))?;
    start(client, config, slugs_file, arguments, &log).map_err(Failure::logged)
}

/// Checks that the secret of every webhook that may be recreated has an output. A folder that is not writable
/// may become so, and is only logged.
fn check_outputs(config: &config::Attio, hook: bool) -> Result<(), String> {
    let recreated: Vec<_> = config.webhooks.iter().filter(|webhook| webhook.recreate).collect();
    if hook && recreated.len() > 1 {
        return Err(
            "several webhooks have recreate = true, but one Kubernetes Secret holds only one secret".into()
        );
    }
    for WebhookOptions { name, source, secret_file, .. } in recreated.into_iter().filter(|_| !hook) {
        let path = secret_file.as_ref().ok_or_else(|| {
            format!(
                "webhook {name:?} has recreate = true, but no output for its new secret: set its secret_file, or \
                 use --secret-hook"
            )
        })?;
        if let Err(error) = SecretFile::reserve(path, true) {
            tracing::error!(webhook = name, error, "recreating this webhook would fail");
        }
        if !config.is_secret_of(source, path) {
            let file = path.display();
            tracing::error!(
                webhook = name,
                source,
                %file,
                "its secret_file is no secret of its source: once it is recreated, the bridge answers 401 to every \
                 delivery; add the file to the secrets of the source"
            );
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
) -> Result<Exit, Failure> {
    let names: Vec<_> = config.webhooks.iter().map(|webhook| webhook.name.clone()).collect();
    let metrics = Arc::new(WatchMetrics::new(&names, &config.sources));
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
    block_on(Some(2), serve(watch, metrics, &arguments.listen, log))?
}

async fn serve(watch: Watch, metrics: Arc<WatchMetrics>, listen: &str, log: &Log) -> Result<Exit, Failure> {
    let (stop, over) = (stop_token(log, None)?, CancellationToken::new());
    let unbound = |error| format!("cannot listen on {listen} (--listen): {error}");
    let listener = listen::bind(listen).await.map_err(unbound)?;
    let addr = listener.local_addr().map_err(unbound)?;
    tracing::info!(%addr, "watching");
    let page = move || async move { ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], metrics.render()) };
    let router = Router::new().route("/livez", get(|| async { "ok\n" })).route("/metrics", get(page));
    let limits = Limits::for_probes(Duration::from_secs(5));
    tokio::spawn(listen::serve(listener, router, limits, TaskTracker::new(), over.clone()));
    watch.run(stop).await;
    over.cancel();
    Ok(Exit::Done)
}
