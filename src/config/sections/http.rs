//! `[http]`, `[admin]`, `[shutdown]` and `[runtime]`: the listeners and the process.

use std::net::SocketAddr;
use std::time::Duration;

use super::{DAY, HOUR, INSTANT};
use crate::config::kinds::{Boolean, Form, Integer, Pattern, TimeSpan};
use crate::config::section::{Section, keys};
use crate::http::{Options, admin};
use crate::shutdown;

const GIBIBYTE: usize = 1 << 30;

/// How long Attio waits for an answer.
const SENDER_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) const ADDRESS: Pattern = Pattern {
    expects: "host:port, such as \"0.0.0.0:8080\"",
    regex: r"^(\[[0-9A-Fa-f:.]+(%\S+)?\]|[A-Za-z0-9._-]+):[0-9]{1,5}$",
    accepts: is_address,
};

keys! {
    Http => Options {
        /// Address of the public listener, host:port. Port 0 takes a free one; the log line `listening`
        /// names it.
        listen: Form(&ADDRESS) = "0.0.0.0:8080";
        /// Largest body in bytes; a larger one is answered 413. At most max_in_flight_bytes.
        max_body_bytes: Integer<usize>(1..=GIBIBYTE) = "524288";
        /// Largest request head in bytes; a larger one is answered 431.
        max_header_bytes: Integer<usize>(1024..=1_048_576) = "16384";
        /// From the first byte of a request to the end of its head.
        header_timeout: TimeSpan(INSTANT..=HOUR) = "5s";
        /// From the end of the head to the end of the body; then 408. Shorter than answer_timeout.
        body_timeout: TimeSpan(INSTANT..=HOUR) = "2s";
        /// How long a connection may stay open without a request, and how long a client may leave an
        /// answer unread. Longer than a load balancer's 60 s.
        idle_timeout: TimeSpan(INSTANT..=DAY) = "75s";
        /// From the end of the head to the answer; then 503. Attio waits 5 s.
        answer_timeout: TimeSpan(INSTANT..=HOUR) = "4s";
        /// Most connections open at once.
        max_connections: Integer<usize>(1..=10_000_000) = "10000";
        /// Most deliveries in flight at once; more are answered 503 with Retry-After.
        max_in_flight: Integer<usize>(1..=10_000_000) = "1024";
        /// Most bytes of the bodies of those deliveries.
        max_in_flight_bytes: Integer<usize>(1..=1024 * GIBIBYTE) = "67108864";
    }
}

keys! {
    Admin => admin::Options {
        /// Address of the admin listener, host:port.
        listen: Form(&ADDRESS) = "0.0.0.0:8081";
        /// Whether / is a page with the last deliveries, rates and health, and /deliveries the same deliveries as
        /// server-sent events.
        page: Boolean = "true";
    }
}

keys! {
    Shutdown => shutdown::Options {
        /// How long to keep serving once /readyz answers 503, so that load balancers notice.
        delay: TimeSpan(Duration::ZERO..=HOUR) = "0s";
        /// How long to wait for deliveries in flight; then exit 1.
        drain_timeout: TimeSpan(INSTANT..=HOUR) = "20s";
    }
}

keys! {
    Runtime {
        /// Threads that serve requests. If not set, one per core that the process may use.
        workers: Integer<usize>(1..=1024) like "4";
    }
}

pub fn http(section: &mut Section<'_>) -> Options {
    let options = Http::read(section);
    let (body, all) = (options.max_body_bytes, options.max_in_flight_bytes);
    if body > all {
        let message = format!(
            "{body} is more than http.max_in_flight_bytes ({all}), so such a body would always be refused; lower it, \
             or raise http.max_in_flight_bytes"
        );
        section.refuse("max_body_bytes", message);
    }
    if options.body_timeout >= options.answer_timeout {
        let message = "leaves no time for the broker; make it shorter than http.answer_timeout";
        section.warn("body_timeout", message);
    }
    if options.answer_timeout >= SENDER_TIMEOUT {
        let message = "Attio waits 5s for an answer and counts a later one as a failure; make it shorter";
        section.warn("answer_timeout", message);
    }
    options
}

/// The admin listener; `public` is the address of the public one.
pub fn admin(section: &mut Section<'_>, public: Option<&str>) -> admin::Options {
    let options = Admin::read(section);
    let listen = &options.listen;
    if public == Some(&**listen) && !listen.ends_with(":0") {
        let message = format!("{listen} is also http.listen; give each listener its own address");
        section.refuse("listen", message);
    }
    options
}

pub fn workers(section: &mut Section<'_>) -> Option<usize> {
    Runtime::read(section).workers
}

/// `host:port`, the host an IP address (version 6 in brackets) or a name.
fn is_address(text: &str) -> bool {
    if text.parse::<SocketAddr>().is_ok() {
        return true;
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let numeric = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let port_fits = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    !numeric && host.bytes().all(fits) && port_fits
}

#[cfg(test)]
mod tests {
    use super::is_address;

    #[test]
    fn addresses_are_host_and_port() {
        for good in ["0.0.0.0:8080", "127.0.0.1:0", "[::]:8080", "[::1]:1", "localhost:80", "a-b.c:65535"] {
            assert!(is_address(good), "{good}");
        }
        for bad in [
            "",
            "8080",
            ":8080",
            "localhost",
            "localhost:",
            "a:65536",
            "a:+1",
            "a b:1",
            "::1:80",
            "1.2.3:4",
            "256.0.0.1:80",
        ] {
            assert!(!is_address(bad), "{bad}");
        }
    }
}
