//! So many requests a second. Source: <https://docs.attio.com/rest-api/guides/rate-limiting>.

use time::macros::format_description;
use time::{Duration, OffsetDateTime};

/// The budget of the current second.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Reads a second.
    pub reads: u32,
    /// Writes a second.
    pub writes: u32,
    second: i64,
    used: (u32, u32),
}

impl Default for Rate {
    fn default() -> Self {
        Self { reads: 100, writes: 25, second: 0, used: (0, 0) }
    }
}

impl Rate {
    /// Takes one request; where there is no room, what `Retry-After` says.
    pub fn take(&mut self, write: bool) -> Result<(), String> {
        let now = OffsetDateTime::now_utc();
        if now.unix_timestamp() != self.second {
            (self.second, self.used) = (now.unix_timestamp(), (0, 0));
        }
        let (used, most) = match write {
            true => (&mut self.used.1, self.writes),
            false => (&mut self.used.0, self.reads),
        };
        *used += 1;
        if *used <= most { Ok(()) } else { Err(next_second(now)) }
    }
}

/// The second after this one, as an HTTP date.
pub fn next_second(now: OffsetDateTime) -> String {
    const FORM: &[time::format_description::FormatItem<'_>] = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    (now + Duration::SECOND).format(FORM).expect("a time of this era has this form")
}
