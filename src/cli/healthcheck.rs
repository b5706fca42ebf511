//! `healthcheck`: asks a running bridge whether it is ready, for containers without curl.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use hyper::{Request, Uri};

use super::arguments::reachable;
use super::{Exit, Failure, block_on, say};
use crate::config::{self, Input};
use crate::http_client::{self, HttpClient};
use crate::printable;

const OPTIONS: http_client::Options =
    http_client::Options { timeout: Duration::from_secs(3), max_body_bytes: 1 << 20, keep_alive: false };

/// The flags of `healthcheck`.
#[derive(Args)]
#[command(after_help = "\
Example: in a container's health check
  HEALTHCHECK CMD [\"attio-bridge\", \"healthcheck\"]")]
pub struct Arguments {
    /// The URL to ask, instead of /readyz of the configured admin.listen
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    url: Option<Uri>,
}

/// Asks once, without a proxy.
pub fn run(input: &Input, arguments: Arguments) -> Result<Exit, Failure> {
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
    fn only_http_urls_without_credentials_are_accepted() {
        assert_eq!(parse_url("http://localhost:81/livez").unwrap(), "http://localhost:81/livez");
        assert_eq!(parse_url("http://localhost").unwrap().path(), "/");
        for bad in ["localhost:81", "https://a/", "http://", "http://a b/", "http://u:p@a/", "/livez"] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
    }
}
