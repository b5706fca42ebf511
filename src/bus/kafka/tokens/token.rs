//! One token.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::client::OAuthToken;

/// The life that a client is told of a token that has none left: it asks again a second later.
const EXPIRED: Duration = Duration::from_millis(1250);

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
