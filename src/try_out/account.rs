//! The bridge's own account of the events, read from its metrics: what was received is what was
//! published, dropped, put aside or failed, and what is still in flight.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::planned::Counts;
use crate::fake_attio::post::{PostError, Poster};

/// The account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// `events_received_total`.
    pub received: u64,
    /// `events_total`, by result.
    pub results: BTreeMap<String, u64>,
    /// `events_in_flight`.
    pub in_flight: u64,
}

impl Account {
    /// Reads it from the admin listener.
    pub async fn read(client: &Poster, admin: SocketAddr) -> Result<Self, PostError> {
        let page = client.get(&format!("http://{admin}/metrics")).await?;
        Ok(Self::parse(&String::from_utf8_lossy(&page.body)))
    }

    fn parse(page: &str) -> Self {
        let mut account = Self::default();
        for line in page.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            // Counters of events are whole numbers, and far below where a float would not be.
            let Ok(value) = value.parse::<u64>() else { continue };
            match name {
                "attio_bridge_events_received_total" => account.received += value,
                "attio_bridge_events_in_flight" => account.in_flight += value,
                "attio_bridge_events_total" => {
                    let result = labels.split_once("result=\"").and_then(|(_, rest)| rest.split('"').next());
                    *account.results.entry(result.unwrap_or_default().to_owned()).or_default() += value;
                }
                _ => {}
            }
        }
        account
    }

    /// One result.
    pub fn result(&self, name: &str) -> u64 {
        self.results.get(name).copied().unwrap_or_default()
    }

    /// Where it does not balance.
    pub fn imbalance(&self) -> Option<String> {
        let settled: u64 = self.results.values().sum();
        let (received, in_flight) = (self.received, self.in_flight);
        let differs = received != settled + in_flight;
        differs
            .then(|| format!("metrics: {received} events received, {settled} settled, {in_flight} in flight"))
    }

    /// Where it does not agree with what was sent.
    pub fn differences(&self, expected: Counts) -> Vec<String> {
        let table = [
            ("received", self.received, expected.events),
            ("published", self.result("published"), expected.published),
            ("duplicate", self.result("duplicate"), expected.duplicates),
            ("filtered", self.result("filtered"), expected.filtered),
            ("quarantined", self.result("quarantined"), expected.quarantined),
            ("failed", self.result("failed"), 0),
            ("in flight", self.in_flight, 0),
        ];
        let wrong = table.into_iter().filter(|(_, got, expected)| got != expected);
        let line = |(name, got, expected)| format!("metrics: {got} events {name}, expected {expected}");
        self.imbalance().into_iter().chain(wrong.map(line)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
# HELP attio_bridge_events_total Events.
attio_bridge_events_in_flight 0
attio_bridge_events_received_total{source=\"attio\"} 5
attio_bridge_events_total{category=\"record\",result=\"published\",source=\"attio\"} 2
attio_bridge_events_total{category=\"task\",result=\"published\",source=\"attio\"} 1
attio_bridge_events_total{category=\"task\",result=\"duplicate\",source=\"attio\"} 2
attio_bridge_publish_duration_seconds_sum{bus=\"kafka\"} 0.25
";

    #[test]
    fn the_page_is_summed_up_and_compared() {
        let account = Account::parse(PAGE);
        let counts = Counts { events: 5, published: 3, duplicates: 2, ..Counts::default() };
        assert_eq!(account.differences(counts), Vec::<String>::new());
        let found = account.differences(Counts { published: 4, ..counts });
        assert_eq!(found, ["metrics: 3 events published, expected 4"]);
    }

    #[test]
    fn an_account_that_does_not_balance_is_noticed() {
        let account = Account { in_flight: 1, ..Account::parse(PAGE) };
        assert_eq!(account.imbalance().unwrap(), "metrics: 5 events received, 5 settled, 1 in flight");
    }
}
