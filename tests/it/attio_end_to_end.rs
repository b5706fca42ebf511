//! From an empty workspace to a consumer: `apply` creates the webhook, Attio retries during an outage of a real
//! Kafka, and each event is stored exactly once.

use std::collections::BTreeSet;

use attio_bridge::fake_attio::deliver::DeliveryCounts;
use attio_bridge::fake_attio::deliver::Timing;

use crate::support::attio::Attio;
use crate::support::consumer::Found;
use crate::support::kafka::Broker;
use crate::support::served::Served;
use crate::support::wait::eventually_blocking;
use crate::support::{stress, unique};

const URL: &str = "https://hooks.example.com/webhooks/attio";

/// Three days in about two minutes, the first wait a quarter of a second; and more than 25 in a second.
const FAST: Timing = Timing { time_scale: 2000.0, per_second: 200 };

fn event(record: usize) -> String {
    let kind = ["record.created", "record.updated", "record.deleted"][record % 3];
    format!(r#"{{"event_type":"{kind}","id":{{"object_id":"people","record_id":"r{record}"}}}}"#)
}

#[test]
fn events_sent_during_an_outage_are_stored_exactly_once() {
    let (attio, broker, prefix) = (Attio::start(), Broker::start(), unique("attio"));
    let secret = attio.path("secret");
    let text = format!(
        "[bus]\ntype = \"kafka\"\n[kafka]\nbootstrap_servers = \"{}\"\ntopics.ensure = \"create\"\n[route]\n\
         prefix = \"{prefix}\"\n[sources.attio]\nsecrets = [{{ label = \"a\", file = \"{1}\" }}]\n[[webhooks]]\n\
         name = \"production\"\nsource = \"attio\"\ntarget_url = \"{URL}\"\nsecret_file = \"{1}\"\n\
         subscriptions = [{{ event_type = \"record.created\" }}, {{ event_type = \"record.updated\" }}, \
         {{ event_type = \"record.deleted\" }}]\n",
        broker.bootstrap(),
        secret.display(),
    );
    let config = attio.write("config.toml", &text);
    attio.configured(&config, &["apply", "--yes"]).expect(0);
    let served = Served::start(&[("ATTIO_BRIDGE_CONFIG", config.to_str().unwrap())]);
    let deliverer = attio.deliverer(served.http, FAST);

    let events = stress(600, 5000);
    attio.block_on(async {
        for record in 0..events {
            assert_eq!(deliverer.publish(&event(record)), 1);
        }
    });
    eventually_blocking("deliveries flow", || deliverer.counts().delivered >= events / 5);
    broker.kill();
    let refused = || deliverer.statuses().iter().filter(|status| **status == Some(503)).count();
    eventually_blocking("deliveries are refused during the outage", || refused() >= events / 20);
    broker.restart();
    attio.block_on(deliverer.idle());
    assert_eq!(deliverer.counts(), DeliveryCounts { delivered: events, ..DeliveryCounts::default() });

    let found = Found::on(&broker, &prefix);
    let copies: Vec<_> = found.events.values().flatten().collect();
    let records: BTreeSet<&str> = copies.iter().map(|want| &*want.key).collect();
    assert_eq!((copies.len(), records.len()), (events, events), "each once, and none is missing");
    assert!(found.quarantine.is_empty());
    println!("{events} events, {} tries, {} of them refused", deliverer.statuses().len(), refused());
}
