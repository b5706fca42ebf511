//! When to try again, and after how long. Pure: whoever calls sleeps.

use std::time::Duration;

use hyper::Method;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

/// How often one call is tried at most.
pub const TRIES: u32 = 6;

/// How long one call may take with all its tries and waits.
pub const OVERALL: Duration = Duration::from_secs(60);

/// In seconds; no call waits as long.
const A_DAY: u64 = 24 * 3600;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);

/// Whether to try again after an answer. A limited request was not processed; after a 5xx nobody
/// knows, so that only what may be done twice is tried again.
pub fn after_answer(method: &Method, status: u16) -> bool {
    match status {
        429 => true,
        408 | 500..=599 => is_repeatable(method),
        _ => false,
    }
}

/// Whether to try again where no answer came.
pub fn after_loss(method: &Method, surely_not_sent: bool) -> bool {
    surely_not_sent || is_repeatable(method)
}

/// GET changes nothing; PATCH and DELETE leave the same behind as often as they are done.
pub fn is_repeatable(method: &Method) -> bool {
    method != Method::POST
}

/// How long to wait before a try, the first being 1: what Attio asks for, and some jitter on it; else
/// any time up to a bound that doubles.
pub fn wait(tries: u32, asked: Option<Duration>) -> Duration {
    let bound = FIRST.saturating_mul(1 << tries.min(10)).min(LONGEST);
    match asked {
        Some(asked) => asked + FIRST.mul_f64(fastrand::f64()),
        None => bound.mul_f64(0.5 + fastrand::f64() / 2.0),
    }
}

/// Reads `Retry-After`: seconds, or an HTTP date, which is held against the answer's own `Date` so
/// that this machine's clock does not matter. A date that has passed means now; without a `Date` to
/// hold it against it means the next second, as Attio's does.
pub fn retry_after(text: &str, date: Option<&str>) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds.min(A_DAY)));
    }
    let then = http_date(text)?;
    match date.and_then(http_date) {
        Some(now) => Some((then - now).try_into().unwrap_or(Duration::ZERO)),
        None => Some(Duration::from_secs(1)),
    }
}

/// Reads the one form of HTTP dates that may still be sent.
fn http_date(text: &str) -> Option<OffsetDateTime> {
    const FORM: &[time::format_description::FormatItem<'_>] = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    PrimitiveDateTime::parse(text.trim(), FORM).ok().map(PrimitiveDateTime::assume_utc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_attio_asks_for_is_read() {
        let date = Some("Tue, 24 Nov 2026 10:00:00 GMT");
        let table = [
            ("3", None, Some(3)),
            ("Tue, 24 Nov 2026 10:00:02 GMT", date, Some(2)),
            ("Tue, 24 Nov 2026 09:59:00 GMT", date, Some(0)),
            ("Tue, 24 Nov 2026 10:00:02 GMT", None, Some(1)),
            ("18446744073709551615", None, Some(A_DAY)),
            ("soon", date, None),
        ];
        for (text, date, seconds) in table {
            assert_eq!(retry_after(text, date), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn a_post_is_repeated_only_where_it_surely_did_nothing() {
        assert!(after_answer(&Method::POST, 429) && after_loss(&Method::POST, true));
        assert!(!after_answer(&Method::POST, 503) && !after_loss(&Method::POST, false));
        for method in [Method::GET, Method::PATCH, Method::DELETE] {
            assert!(after_answer(&method, 503) && after_loss(&method, false), "{method}");
            assert!(!after_answer(&method, 409), "{method}");
        }
    }

    #[test]
    fn waits_grow_to_a_bound() {
        for tries in 1..40 {
            assert!(wait(tries, None) <= LONGEST);
        }
        assert!(wait(1, Some(Duration::from_secs(7))) >= Duration::from_secs(7));
    }
}
