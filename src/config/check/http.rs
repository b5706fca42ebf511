//! `[http]` and `[admin]`.

use std::net::SocketAddr;
use std::time::Duration;

use super::{DAY, HOUR, INSTANT, size};
use crate::config::report::Given;
use crate::config::section::Section;
use crate::http::Options;

/// How long Attio waits for an answer.
const SENDER_WAITS: Duration = Duration::from_secs(5);

const GIBIBYTE: u64 = 1 << 30;

/// `[http]` as read.
pub struct Http {
    /// The limits of the edge.
    pub options: Options,
    /// The public address, with its origin.
    pub listen: Given<String>,
}

/// Reads `[http]`.
pub fn read(section: &mut Section<'_>) -> Http {
    let listen = address(section, "0.0.0.0:8080");
    let max_body_bytes = section.whole_or("max_body_bytes", "524288", 1..=GIBIBYTE);
    let max_header_bytes = section.whole_or("max_header_bytes", "16384", 1024..=1_048_576);
    let header_timeout = section.duration_or("header_timeout", "5s", INSTANT..=HOUR).value;
    let body_timeout = section.duration_or("body_timeout", "2s", INSTANT..=HOUR);
    let idle_timeout = section.duration_or("idle_timeout", "75s", INSTANT..=DAY).value;
    let answer_timeout = section.duration_or("answer_timeout", "4s", INSTANT..=HOUR);
    let max_connections = section.whole_or("max_connections", "10000", 1..=10_000_000);
    let max_in_flight = section.whole_or("max_in_flight", "1024", 1..=10_000_000);
    let max_in_flight_bytes = section.whole_or("max_in_flight_bytes", "67108864", 1..=1024 * GIBIBYTE);
    if max_body_bytes.value > max_in_flight_bytes.value {
        let (body, all) = (max_body_bytes.value, max_in_flight_bytes.value);
        let message = format!(
            "{body} is more than http.max_in_flight_bytes ({all}): such a body could never be let in"
        );
        section.report().refuse(&max_body_bytes, message);
    }
    timeouts(section, &body_timeout, &answer_timeout);
    let options = Options {
        listen: listen.value.clone(),
        max_body_bytes: size(&max_body_bytes),
        max_header_bytes: size(&max_header_bytes),
        header_timeout,
        body_timeout: body_timeout.value,
        idle_timeout,
        answer_timeout: answer_timeout.value,
        max_connections: size(&max_connections),
        max_in_flight: size(&max_in_flight),
        max_in_flight_bytes: size(&max_in_flight_bytes),
    };
    Http { options, listen }
}

fn timeouts(section: &Section<'_>, body: &Given<Duration>, answer: &Given<Duration>) {
    if body.value >= answer.value {
        section
            .report()
            .warn(body, "leaves no time for the broker: it is not shorter than http.answer_timeout");
    }
    if answer.value >= SENDER_WAITS {
        section.report().warn(answer, "Attio waits 5s for an answer and counts a later one as a failure");
    }
}

/// Reads `[admin]`: the address of the admin listener.
pub fn admin(section: &mut Section<'_>, public: &Given<String>) -> String {
    let listen = address(section, "0.0.0.0:8081");
    if listen.value == public.value && !listen.value.ends_with(":0") {
        let message = format!("{} is also http.listen; two listeners need two addresses", listen.value);
        section.report().refuse(&listen, message);
    }
    listen.value
}

/// The address of the admin listener by itself, for the verb that only asks whether it is ready.
pub fn admin_listen(section: &mut Section<'_>) -> String {
    address(section, "0.0.0.0:8081").value
}

fn address(section: &mut Section<'_>, default: &str) -> Given<String> {
    let listen = section.text_or("listen", default);
    if !is_address(&listen.value) {
        let message = format!("expects host:port such as \"{default}\", not {:?}", listen.value);
        section.report().refuse(&listen, message);
    }
    listen
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
