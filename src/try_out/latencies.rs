//! How long answers took, for quantiles.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Longer latencies, in microseconds, are recorded as this one: an hour.
const MAX_LATENCY: u64 = 3_600_000_000;

/// Latencies in microseconds, in bounded memory, precise to a thousandth.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, MAX_LATENCY, 3).expect("0 to 5 digits and 1 < high / 2 are valid"))
    }
}

impl Latencies {
    pub fn record(&mut self, took: Duration) {
        self.0.saturating_record(u64::try_from(took.as_micros()).unwrap_or(MAX_LATENCY));
    }

    /// The latency that this share of all, 0 to 1, did not exceed; none without any.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let micros = self.0.value_at_quantile(share).min(self.0.max());
        (!self.0.is_empty()).then(|| Duration::from_micros(micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_latencies() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(0.5), None);
        (1..=100).for_each(|millis| latencies.record(Duration::from_millis(millis)));
        let rounded = |share| latencies.quantile(share).map(|took| took.as_secs_f64() * 1000.0);
        for (share, expected) in [(0.5, 50.0), (0.9, 90.0), (0.99, 99.0), (1.0, 100.0)] {
            let got = rounded(share).unwrap();
            assert!((got - expected).abs() < expected / 1000.0, "{share}: {got}");
        }
    }
}
