//! Parsers of arguments that several verbs take: times, rates, a bus in place of a configuration, and files. Also
//! how the address of a listener is reached.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::bus::read::Begin;
use crate::config::{Config, Environment, variable};
use crate::pipeline::SourceOptions;

pub fn time(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "expects a time such as 2026-11-24T10:00:00Z".into())
}

pub fn moment(text: &str) -> Result<OffsetDateTime, String> {
    if let Ok(time) = time(text) {
        return Ok(time);
    }
    let ago: Option<Duration> = humantime::parse_duration(text).ok();
    let time = ago.and_then(|ago| SystemTime::now().checked_sub(ago)).map(OffsetDateTime::from);
    time.ok_or_else(|| "expects a time such as 2026-11-24T10:00:00Z, or an age such as 15m".into())
}

/// `beginning`, `now`, a time, or how long ago.
pub fn begin(text: &str) -> Result<Begin, String> {
    match text {
        "beginning" => Ok(Begin::Beginning),
        "now" => Ok(Begin::Now),
        text => moment(text).map(Begin::At).map_err(|_| {
            "expects beginning, now, a time such as 2026-11-24T10:00:00Z, or an age such as 15m".into()
        }),
    }
}

/// A number of things per second, at most this.
pub fn rate(max: f64) -> impl Fn(&str) -> Result<f64, String> + Clone {
    move |text| {
        let rate = text.parse().map_err(|_| "expects a number".to_owned())?;
        if (0.01..=max).contains(&rate) { Ok(rate) } else { Err(format!("expects 0.01 to {max}")) }
    }
}

/// An `Idempotency-Key` that the bridge accepts as part of an identity.
pub fn key(text: &str) -> Result<String, String> {
    let usable = (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if usable { Ok(text.to_owned()) } else { Err("expects 1 to 255 visible ASCII characters".into()) }
}

/// The largest body or capture that is read.
const MAX_READ_BYTES: u64 = 256 << 20;

/// The bytes of a file; `-` is standard input. Waits for the writer of a pipe, as a person would want.
pub fn read(path: &Path) -> Result<Bytes, String> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().take(MAX_READ_BYTES + 1).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(MAX_READ_BYTES + 1).read_to_end(&mut bytes))
    };
    match read {
        Ok(count) if count as u64 > MAX_READ_BYTES => {
            Err(unreadable(path, format_args!("larger than {} MiB", MAX_READ_BYTES >> 20)))
        }
        Ok(_) => Ok(bytes.into()),
        Err(error) => Err(unreadable(path, error)),
    }
}

pub fn unreadable(path: &Path, error: impl Display) -> String {
    format!("{} cannot be read: {error}", path.display())
}

/// The source of this name, or the only one.
pub fn source<'c>(config: &'c Config, name: Option<&str>) -> Result<&'c SourceOptions, String> {
    let names = config.source_names();
    match (name, &config.sources[..]) {
        (None, [only]) => Ok(only),
        (None, _) => Err(format!("several sources are configured; add --source with one of: {names}")),
        (Some(name), _) => {
            config.source(name).ok_or_else(|| format!("no source {name} is configured; configured: {names}"))
        }
    }
}

/// A bus as an argument: `kafka://HOST:PORT`, `nats://HOST:PORT` or `stdout`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusAddress {
    /// The value of `bus.type`.
    pub name: &'static str,
    /// `host:port` of Kafka, a URL of NATS, or nothing.
    pub address: String,
}

impl BusAddress {
    pub const STDOUT: Self = Self { name: "stdout", address: String::new() };

    pub fn kafka(address: impl Into<String>) -> Self {
        Self { name: "kafka", address: address.into() }
    }

    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            None if text == "stdout" => Ok(Self::STDOUT),
            Some(("kafka", rest)) if rest.contains(':') => Ok(Self::kafka(rest)),
            Some(("nats", rest)) if rest.contains(':') => Ok(Self { name: "nats", address: text.to_owned() }),
            _ => Err("expects kafka://HOST:PORT, nats://HOST:PORT or stdout".into()),
        }
    }

    /// The variables of a bridge on this bus whose source `attio` has that secret.
    pub fn environment(&self, secret: &str) -> Environment {
        let mut environment = Environment::from_iter([
            ("ATTIO_WEBHOOK_SECRET".to_owned(), OsString::from(secret)),
            (variable("bus.type"), self.name.into()),
        ]);
        let servers = if self.name == "kafka" { "kafka.bootstrap_servers" } else { "nats.servers" };
        if *self != Self::STDOUT {
            environment.insert(variable(servers), OsString::from(&self.address));
        }
        environment
    }
}

/// Where a listener on all addresses is reached from this machine.
pub fn reachable(listen: &str) -> String {
    match listen.rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => listen.to_owned(),
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
}
