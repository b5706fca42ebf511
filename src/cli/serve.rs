//! `serve`: receives webhooks and publishes their events until SIGTERM; `healthcheck`: asks it whether it is ready,
//! for containers without curl.

use std::time::Duration;
use std::{panic, thread};

use bytes::Bytes;
use clap::Args;
use hyper::{Request, Uri};
use parking_lot::Mutex;
use tokio::signal::unix::SignalKind;

use super::{Exit, Failure, block_on, cores, invalid_configuration, say};
use crate::app::{self, logging};
use crate::config::{self, Flag, Input};
use crate::http_client::{self, HttpClient};
use crate::{open_files, printable, shutdown};

const AFTER_HELP: &str = "\
Example: to a Kafka on this machine, with everything else at its default
  export ATTIO_WEBHOOK_SECRET=...
  export ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS=localhost:9092
  attio-bridge serve --bus kafka
Example: with a file
  attio-bridge serve --config /etc/attio-bridge/config.toml";

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Address of the public listener, http.listen
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Address of the admin listener, admin.listen
    #[arg(long, value_name = "ADDR")]
    admin_listen: Option<String>,
    /// Where events go, bus.type
    #[arg(long, value_name = "BUS", value_parser = ["kafka", "nats", "stdout"])]
    bus: Option<String>,
}

impl Arguments {
    pub fn flags(&self) -> Vec<Flag> {
        let flag = |name, key, value: &Option<String>| Some(Flag { name, key, value: value.clone()? });
        let flags = [
            flag("--listen", "http.listen", &self.listen),
            flag("--admin-listen", "admin.listen", &self.admin_listen),
            flag("--bus", "bus.type", &self.bus),
        ];
        flags.into_iter().flatten().collect()
    }
}

pub fn run(input: &Input) -> Result<Exit, Failure> {
    // Before anything that takes time. Until the bridge can reload, SIGHUP has nothing to do.
    shutdown::survive([SignalKind::hangup()])
        .map_err(|error| format!("cannot listen for signals: {error}"))?;
    let config = config::load_for_serving(input).map_err(invalid_configuration)?;
    let log = logging::start(config.log, &input.environment)
        .map_err(|error| format!("cannot start the log thread: {error}"))?;
    if let Err(error) = open_files::raise_limit() {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    exit_after_panic(log.last_words());
    let workers = config.workers.unwrap_or_else(cores);
    let ended = block_on(Some(workers), app::run(config, log.last_words()));
    let ended =
        ended.map_err(|error| Failure::from(format!("{error}, or lower runtime.workers")).logged())?;
    ended.map(|()| Exit::Done).map_err(|error| {
        let exit = if error.is_configuration() { Exit::Configuration } else { Exit::Failed };
        Failure::new(exit, error).logged()
    })
}

/// Ends the process after a panic of this thread, once it is logged. Unwinding would drop the runtime, which waits for
/// its threads.
fn exit_after_panic(flush_log: impl FnOnce() + Send + 'static) {
    let (this, log_panic) = (thread::current().id(), panic::take_hook());
    let flush_log = Mutex::new(Some(flush_log));
    panic::set_hook(Box::new(move |panicked| {
        log_panic(panicked);
        if thread::current().id() == this {
            if let Some(flush) = flush_log.lock().take() {
                flush();
            }
            std::process::exit(Exit::Failed as i32);
        }
    }));
}

const OPTIONS: http_client::Options =
    http_client::Options { timeout: Duration::from_secs(3), max_body_bytes: 1 << 20, keep_alive: false };

/// The flags of `healthcheck`.
#[derive(Args)]
#[command(after_help = "\
Example: in a container's health check
  HEALTHCHECK CMD [\"attio-bridge\", \"healthcheck\"]")]
pub struct HealthcheckArguments {
    /// The URL to ask, instead of /readyz of the configured admin.listen
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    url: Option<Uri>,
}

/// Asks once, without a proxy.
pub fn healthcheck(input: &Input, arguments: HealthcheckArguments) -> Result<Exit, Failure> {
    let url = arguments.url.map_or_else(|| configured(input), Ok)?;
    match block_on(None, HttpClient::plain(OPTIONS).send(Request::get(&url), Bytes::new()))? {
        Ok(response) if response.status == 200 => {
            say(format_args!("ready: {url} answered 200"));
            return Ok(Exit::Done);
        }
        Ok(response) => {
            let body: String = String::from_utf8_lossy(&response.body).trim().chars().take(MAX_WHY).collect();
            let why = if body.is_empty() { String::new() } else { format!(": {}", printable::line(&body)) };
            say(format_args!("not ready: {url} answered {}{why}", response.status));
        }
        Err(error) => say(format_args!("not ready: {url} did not answer: {error}")),
    }
    Ok(Exit::Failed)
}

const MAX_WHY: usize = 500;

fn configured(input: &Input) -> Result<Uri, Failure> {
    let listen =
        config::admin_listen(input).map_err(|problems| Failure::new(Exit::Configuration, problems))?;
    if listen.ends_with(":0") {
        return Err("admin.listen has port 0, so the port is unknown; give --url".into());
    }
    Ok(parse_url(&format!("http://{}/readyz", reachable(&listen)))?)
}

/// Where a listener on all addresses is reached from this machine.
pub fn reachable(listen: &str) -> String {
    match listen.rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => listen.to_owned(),
    }
}

fn parse_url(text: &str) -> Result<Uri, String> {
    let url: Uri = text.parse().map_err(|error| format!("expected http://host:port/path: {error}"))?;
    match (url.scheme_str(), url.authority()) {
        (Some("http"), Some(authority)) if !authority.as_str().contains('@') => Ok(url),
        (Some("http"), _) => Err("expected http://host:port/path".into()),
        _ => Err("expected a URL that begins with http://".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listener_on_all_addresses_is_reached_by_loopback() {
        assert_eq!(reachable("0.0.0.0:8081"), "127.0.0.1:8081");
        assert_eq!(reachable("[::]:8081"), "[::1]:8081");
        assert_eq!(reachable("10.0.0.1:1"), "10.0.0.1:1");
    }

    #[test]
    fn only_http_urls_without_credentials_are_accepted() {
        assert_eq!(parse_url("http://localhost:81/livez").unwrap(), "http://localhost:81/livez");
        assert_eq!(parse_url("http://localhost").unwrap().path(), "/");
        for bad in ["localhost:81", "https://a/", "http://", "http://a b/", "http://u:p@a/", "/livez"] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
    }
}
