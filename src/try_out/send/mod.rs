//! What `attio-bridge send` is made of: deliveries out of files or made up, signed and posted to an
//! address as Attio does, and an account of the answers.

pub mod invention;
pub mod tally;

use std::time::Duration;

use futures_util::StreamExt;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, sleep_until};

use crate::fake_attio::post::{PostError, Poster, Reply};
use crate::signing::Payload;
use tally::Tally;

/// The pause before a delivery is sent again; each one after that is twice as long. Attio's own are
/// not published, and spread over three days.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How to send.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Deliveries that are under way at a time.
    pub concurrency: usize,
    /// Deliveries per second, at most.
    pub rate: Option<f64>,
    /// How often a delivery is sent again that was not answered 2xx.
    pub retries: u32,
}

/// How one delivery ended: what its last attempt brought.
#[derive(Debug)]
pub struct Sent {
    /// The answer, or why there is none.
    pub reply: Result<Reply, PostError>,
    /// Attempts.
    pub attempts: u32,
}

/// Where deliveries go, and what signs them.
pub struct Target<'a> {
    /// The address.
    pub url: &'a str,
    /// The secret.
    pub secret: &'a str,
    /// The client.
    pub poster: Poster,
}

/// Sends everything; `progress` hears of each delivery as it ends.
pub async fn send(
    target: &Target<'_>,
    options: Options,
    mails: impl Iterator<Item = Payload>,
    mut progress: impl FnMut(&Tally),
) -> Tally {
    let start = Instant::now();
    let due = |index: usize| {
        // Precise enough: a count of deliveries is far below 2^52.
        #[expect(clippy::cast_precision_loss)]
        let seconds = options.rate.map_or(0.0, |rate| index as f64 / rate);
        start + Duration::from_secs_f64(seconds)
    };
    let jobs = mails.enumerate().map(|(index, mail)| async move {
        sleep_until(due(index)).await;
        deliver(target, options, &mail).await
    });
    let mut sent = futures_util::stream::iter(jobs).buffer_unordered(options.concurrency);
    let mut tally = Tally::default();
    while let Some(one) = sent.next().await {
        tally.add(one);
        progress(&tally);
    }
    tally.elapsed = start.elapsed();
    tally
}

/// One delivery, with as many attempts as it needs and may have. A timestamp is of its attempt; the
/// key is the same in all.
async fn deliver(target: &Target<'_>, options: Options, mail: &Payload) -> Sent {
    let mut attempts = 0;
    loop {
        let request = mail.sign(target.secret, OffsetDateTime::now_utc());
        let reply = target.poster.post(target.url, &request).await;
        attempts += 1;
        let again = reply.as_ref().map_or_else(|lost| *lost != PostError::Invalid, |reply| !reply.is_2xx());
        if !again || attempts > options.retries {
            return Sent { reply, attempts };
        }
        sleep(pause(attempts)).await;
    }
}

fn pause(attempts: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2u32.saturating_pow(attempts - 1)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        let pauses = [1, 2, 3, 7, 40].map(|attempts| pause(attempts).as_millis());
        assert_eq!(pauses, [500, 1000, 2000, 30_000, 30_000]);
    }
}
