//! One token, and what all sources of tokens need.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rdkafka::client::OAuthToken;

/// The life that a client is told of a token that has none left: it asks again a second later.
const EXPIRED: Duration = Duration::from_millis(1250);

/// All but the unreserved characters of RFC 3986.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

pub(super) struct Token {
    pub value: String,
    /// For librdkafka's log.
    pub principal: String,
    pub fetched: Instant,
    /// How long it is valid from then on.
    pub life: Duration,
}

impl Token {
    pub fn left(&self) -> Duration {
        self.life.saturating_sub(self.fetched.elapsed())
    }

    /// The token as librdkafka takes it. It asks for the next one at 80 % of what it is told is left: of three
    /// quarters that is after the half at which the next one is fetched.
    pub fn told(&self) -> OAuthToken {
        let left = (self.left() * 3 / 4).max(EXPIRED);
        let until = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + left;
        OAuthToken {
            token: self.value.clone(),
            principal_name: self.principal.clone(),
            lifetime_ms: i64::try_from(until.as_millis()).unwrap_or(i64::MAX),
        }
    }
}

/// Percent-encoded for a form or a query.
pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// The time of a signature, which is wall time.
pub(super) fn signing_time() -> SystemTime {
    SystemTime::now()
}
