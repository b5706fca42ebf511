//! The line that stays below a run on a terminal: what has happened so far, and how fast.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::summary::milliseconds;
use super::tally::Tally;
use crate::paint::Paint;

/// The rate is that of so long back.
const WINDOW: Duration = Duration::from_secs(5);

/// The line, and what it must remember for its rate.
#[derive(Default)]
pub struct Footer {
    shown: VecDeque<Instant>,
    began: Option<Instant>,
}

impl Footer {
    /// A delivery was shown at `now`.
    pub fn delivery(&mut self, now: Instant) {
        self.began.get_or_insert(now);
        self.shown.push_back(now);
    }

    /// Deliveries per second at `now`; none before there is anything to divide by.
    fn rate(&mut self, now: Instant) -> Option<f64> {
        let is_old = |at: &Instant| now.duration_since(*at) > WINDOW;
        while self.shown.front().is_some_and(is_old) {
            self.shown.pop_front();
        }
        let observed = now.duration_since(self.began?).min(WINDOW).as_secs_f64();
        (observed > 0.5).then(|| self.shown.len() as f64 / observed)
    }

    /// The line at `now`, at most `width` columns of it: what matters least goes first.
    pub fn line(&mut self, tally: &Tally, now: Instant, width: usize, paint: Paint) -> String {
        let rate = self.rate(now).map_or("  -/s".to_owned(), |rate| format!("{rate:5.1}/s"));
        let counts = tally.counts;
        let refused = tally.refused();
        let failed = tally.total().deliveries - tally.taken() - refused;
        let latency = |name, per_mille| {
            tally.latency(per_mille).map(|time| (format!("{name} {}", milliseconds(time)), Colour::Plain))
        };
        let mut parts = vec![
            (rate, Colour::Plain),
            (format!("{} published", counts.published), Colour::Good),
            (format!("{} duplicate", counts.duplicates), Colour::Known),
            (format!("{refused} refused"), Colour::Refused),
        ];
        if counts.quarantined > 0 {
            parts.push((format!("{} quarantined", counts.quarantined), Colour::Refused));
        }
        if counts.filtered > 0 {
            parts.push((format!("{} filtered", counts.filtered), Colour::Plain));
        }
        parts.extend(latency("p50", 500));
        parts.extend(latency("p99", 990));
        let wrong = tally.differences_total;
        if wrong > 0 || failed > 0 {
            parts.insert(1, (format!("{failed} failed, {wrong} WRONG"), Colour::Bad));
        }
        fit(parts, width, paint)
    }
}

/// What a part of the line means.
#[derive(Clone, Copy)]
enum Colour {
    Plain,
    Good,
    Known,
    Refused,
    Bad,
}

impl Colour {
    fn paint(self, text: &str, paint: Paint) -> String {
        match self {
            Self::Plain => paint.dim(text),
            Self::Good => paint.good(text),
            Self::Known => paint.known(text),
            Self::Refused => paint.refused(text),
            Self::Bad => paint.bad(text),
        }
    }
}

/// As many parts as fit: a line that wraps could not be erased.
fn fit(parts: Vec<(String, Colour)>, width: usize, paint: Paint) -> String {
    const BETWEEN: &str = "  ";
    let mut line = String::new();
    let mut columns = 0;
    for (text, colour) in parts {
        let needed = text.chars().count() + if columns == 0 { 0 } else { BETWEEN.len() };
        if columns + needed >= width {
            break;
        }
        if columns > 0 {
            line += BETWEEN;
        }
        line += &colour.paint(&text, paint);
        columns += needed;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::try_out::planned::Counts;

    fn tally() -> Tally {
        let mut tally = Tally::default();
        tally.counts = Counts { published: 1234, duplicates: 56, quarantined: 7, ..Counts::default() };
        tally
    }

    #[test]
    fn the_line_never_wraps_and_keeps_what_matters_most() {
        for width in 0..120 {
            let line = Footer::default().line(&tally(), Instant::now(), width, Paint(false));
            assert!(line.chars().count() < width.max(1), "{width}: {line}");
        }
        let line = Footer::default().line(&tally(), Instant::now(), 80, Paint(false));
        assert_eq!(line, "  -/s  1234 published  56 duplicate  0 refused  7 quarantined");
    }

    #[test]
    fn what_is_wrong_stands_in_front() {
        let mut tally = tally();
        tally.differences_total = 3;
        let line = Footer::default().line(&tally, Instant::now(), 41, Paint(false));
        assert_eq!(line, "  -/s  0 failed, 3 WRONG  1234 published");
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut footer = Footer::default();
        let began = Instant::now();
        (0..100).for_each(|n| footer.delivery(began + Duration::from_millis(n * 100)));
        let rate = footer.rate(began + Duration::from_millis(9_950)).unwrap();
        assert!((9.5..10.5).contains(&rate), "{rate}");
        assert_eq!(footer.rate(began + Duration::from_secs(60)), Some(0.0));
        assert_eq!(Footer::default().rate(began), None);
    }
}
