//! What `state run` costs at the most that Attio sends to one URL: 25 events a second, over 5,000 records, in bursts of ten.
//!
//! `cargo test --test it -- --ignored --nocapture state::figures` prints the figures.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::scene::{Bus, MEDIA_TYPE, Scene};

const RECORDS: usize = 5_000;
const BURST: usize = 10;
const EVENTS_PER_SECOND: u32 = 25;
const FOR: Duration = Duration::from_secs(60);

#[test]
#[ignore = "measures for a minute"]
fn changes_in_bursts_of_ten_are_read_once_a_burst() {
    let mut scene = Scene::kafka();
    scene.set("STATE__SETTLE", "5s");
    let ids: Vec<_> = (0..RECORDS).map(|number| scene.person(&format!("person {number}"))).collect();
    let _program = scene.run();
    let Bus::Kafka(broker) = &scene.bus else { panic!("it is on NATS") };
    let producer: BaseProducer = broker.client().create().unwrap();
    let (begun, mut sent, mut lags) = (Instant::now(), 0_u32, Vec::new());
    let mut burst = 0;
    while begun.elapsed() < FOR {
        let id = &ids[fastrand::usize(..RECORDS)];
        scene.rename(id, &format!("renamed {burst}"));
        for _ in 0..BURST {
            let (topic, event) = scene.event("record.updated", id);
            let headers = OwnedHeaders::new();
            let headers = headers.insert(Header { key: "content-type", value: Some(MEDIA_TYPE) });
            producer.send(BaseRecord::to(&topic).key(id).payload(&event).headers(headers)).unwrap();
            sent += 1;
        }
        producer.flush(Duration::from_secs(5)).unwrap();
        burst += 1;
        let next = begun + Duration::from_secs(1) * sent / EVENTS_PER_SECOND;
        while Instant::now() < next {
            lags.push(scene.metrics().get("state_lag_seconds", &[]));
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    scene.eventually_done();
    let metrics = scene.metrics();
    let reads = metrics.sum("state_reads_total", &[("kind", "record")]);
    lags.sort_by(f64::total_cmp);
    let p99 = lags[lags.len() * 99 / 100];
    let process: HashMap<_, _> = scene
        .get("/metrics")
        .lines()
        .filter_map(|line| line.split_once(' ').map(|(name, value)| (name.to_owned(), value.to_owned())))
        .collect();
    let number = |name: &str| process[name].parse::<f64>().unwrap();
    println!(
        "{sent} events in bursts of {BURST} over {RECORDS} records: {reads} reads ({:.3} an event), lag p99 {p99:.1} s with \
         settle 5 s, {:.0} MiB resident, {:.2} s of CPU",
        reads / f64::from(sent),
        number("process_resident_memory_bytes") / f64::from(1 << 20),
        number("process_cpu_seconds_total")
    );
    assert!(reads <= f64::from(sent) / 10.0 + 2.0, "{reads} reads of {sent} events");
}
