//! `healthcheck`: asks a running bridge whether it is ready. For containers that have no curl.

use std::io::{Error, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use clap::Args;

use super::{Exit, fail, say};
use crate::config::{self, Input};

/// From the first packet to the status line.
const TIMEOUT: Duration = Duration::from_secs(3);

/// More than any status line.
const LONGEST_LINE: usize = 512;

const AFTER_HELP: &str = "\
Example: in a container's health check
  HEALTHCHECK CMD [\"attio-bridge\", \"healthcheck\"]";

/// The flags of `healthcheck`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// What to ask, instead of /readyz of the configured admin.listen
    #[arg(long, value_name = "URL", value_parser = target)]
    url: Option<Target>,
}

/// `http://authority/path`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    authority: String,
    path: String,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

/// Asks once.
pub fn run(input: &Input, arguments: Arguments) -> Result<Exit, Exit> {
    let target = arguments.url.map_or_else(|| configured(input), Ok)?;
    match ask(&target) {
        Ok(200) => {
            say(format_args!("ready: {target} answered 200"));
            return Ok(Exit::Done);
        }
        Ok(status) => say(format_args!("not ready: {target} answered {status}")),
        Err(error) => say(format_args!("not ready: {target} gave no answer: {error}")),
    }
    Err(Exit::Failed)
}

fn configured(input: &Input) -> Result<Target, Exit> {
    let listen = config::admin_listen(input).map_err(|problems| {
        say(format_args!("error: {problems}"));
        Exit::Configuration
    })?;
    if listen.ends_with(":0") {
        return Err(fail("admin.listen has port 0, so the port is not known; give --url"));
    }
    Ok(Target { authority: reachable(&listen), path: "/readyz".into() })
}

/// A listener on every address is asked on this machine's own.
fn reachable(listen: &str) -> String {
    match listen.rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => listen.to_owned(),
    }
}

fn target(url: &str) -> Result<Target, String> {
    let rest = url.strip_prefix("http://").ok_or("expects an address that begins with http://")?;
    let at = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let odd = |c: char| c.is_whitespace() || c.is_control();
    if authority.is_empty() || authority.contains('@') || url.contains(odd) {
        return Err("expects http://host:port/path".into());
    }
    let port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let authority = if port { authority.to_owned() } else { format!("{authority}:80") };
    Ok(Target { authority, path: if path.is_empty() { "/".into() } else { path.into() } })
}

fn ask(target: &Target) -> std::io::Result<u16> {
    let deadline = Instant::now() + TIMEOUT;
    let mut stream = connect(&target.authority, deadline)?;
    let Target { authority, path } = target;
    stream.set_write_timeout(Some(left(deadline)?))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    while !head.contains(&b'\n') && head.len() < LONGEST_LINE {
        stream.set_read_timeout(Some(left(deadline)?))?;
        let mut chunk = [0; LONGEST_LINE];
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => head.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(late()),
            Err(error) => return Err(error),
        }
    }
    status(&head).ok_or_else(|| Error::new(ErrorKind::InvalidData, "what answered does not speak HTTP/1.1"))
}

fn connect(authority: &str, deadline: Instant) -> std::io::Result<TcpStream> {
    let mut last = Error::new(ErrorKind::NotFound, "the name has no address");
    for address in authority.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left(deadline)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn left(deadline: Instant) -> std::io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(late()) } else { Ok(left) }
}

fn late() -> Error {
    Error::new(ErrorKind::TimedOut, format!("not within {}", humantime::format_duration(TIMEOUT)))
}

fn status(head: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(head.split(|byte| *byte == b'\n').next()?).ok()?;
    text.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_asked_here() {
        assert_eq!(reachable("0.0.0.0:8081"), "127.0.0.1:8081");
        assert_eq!(reachable("[::]:8081"), "[::1]:8081");
        assert_eq!(reachable("10.0.0.1:1"), "10.0.0.1:1");
    }

    #[test]
    fn urls_are_taken_apart() {
        let good = target("http://localhost:81/livez").expect("a url");
        assert_eq!((&*good.authority, &*good.path), ("localhost:81", "/livez"));
        assert_eq!(target("http://localhost").expect("a url").to_string(), "http://localhost:80/");
        for bad in ["localhost:81", "https://a/", "http://", "http://a b/", "http://u:p@a/"] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_status_is_read() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.1 503\r\n"), Some(503));
        assert_eq!(status(b"SSH-2.0-x\r\n"), None);
        assert_eq!(status(b""), None);
    }
}
