//! What `state` costs, measured on a real Kafka: at the most that Attio sends to one URL, in a backfill of three million
//! records, and beside a loop that does nothing but consume, transform and produce.
//!
//! `tests/state figures` prints the figures; each test fails where its limit is not kept.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value, json};

use super::scene::{Bus, MEDIA_TYPE, Scene};
use super::soak::number;
use crate::support::faults::Fault;
use crate::support::kafka::Broker;
use crate::support::program::Program;

/// Of requests to a broker.
const REQUEST: Duration = Duration::from_secs(30);

/// What a process has used so far, of CPU in seconds and of memory in MiB.
fn usage(pid: u32) -> Option<(f64, f64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // User and system time in hundredths of a second, and pages of 4 KiB: proc_pid_stat(5).
    let field = |at: usize| fields.get(at - 3)?.parse::<f64>().ok();
    Some(((field(14)? + field(15)?) / 100.0, field(24)? / 256.0))
}

fn broker(scene: &Scene) -> &Broker {
    let Bus::Kafka(broker) = &scene.bus else { panic!("it is on NATS") };
    broker
}

fn load() -> String {
    fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Publishes an event of each of these records.
fn tell_all<'a>(scene: &Scene, producer: &BaseProducer, ids: impl IntoIterator<Item = &'a String>) {
    for id in ids {
        let (topic, event) = scene.event("record.updated", id);
        loop {
            let headers = OwnedHeaders::new().insert(Header { key: "content-type", value: Some(MEDIA_TYPE) });
            if producer.send(BaseRecord::to(&topic).key(id).payload(&event).headers(headers)).is_ok() {
                break;
            }
            // The client's queue is full.
            producer.poll(Duration::from_millis(10));
        }
    }
    producer.flush(REQUEST).unwrap();
}

fn people(scene: &Scene, count: usize) -> Vec<String> {
    (0..count).map(|number| scene.person(&format!("person {number}"))).collect()
}

const BURST: usize = 10;
const EVENTS_PER_SECOND: usize = 25;

#[test]
#[ignore = "a figure: tests/state figures"]
fn changes_in_bursts_of_ten_are_read_once_a_burst() {
    let mut scene = Scene::kafka();
    scene.set("STATE__SETTLE", "5s");
    let ids = people(&scene, 5_000);
    let program = scene.run();
    let producer: BaseProducer = broker(&scene).client().create().unwrap();
    let time = Duration::from_secs(number("SECONDS", 120) as u64);
    let (begun, mut sent, mut lags, mut memory) = (Instant::now(), 0, Vec::new(), 0.0_f64);
    while begun.elapsed() < time {
        let id = &ids[fastrand::usize(..ids.len())];
        scene.rename(id, &format!("renamed {sent}"));
        tell_all(&scene, &producer, std::iter::repeat_n(id, BURST));
        sent += BURST;
        let next = begun + Duration::from_secs_f64(sent as f64 / EVENTS_PER_SECOND as f64);
        while Instant::now() < next {
            lags.push(scene.metrics().get("state_lag_seconds", &[]));
            memory = memory.max(usage(program.pid()).expect("it runs").1);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    scene.eventually_done();
    let reads = scene.metrics().sum("state_reads_total", &[("kind", "record")]);
    lags.sort_by(f64::total_cmp);
    let (p99, (cpu, _)) = (lags[lags.len() * 99 / 100], usage(program.pid()).expect("it runs"));
    let share = reads / sent as f64;
    println!(
        "{sent} events in bursts of {BURST} over {} records in {} s: {reads} reads ({share:.3} an event), lag p99 \
         {p99:.1} s with settle 5 s, at most {memory:.0} MiB resident, {cpu:.2} s of CPU; load {}",
        ids.len(),
        time.as_secs(),
        load()
    );
    assert!(share <= 0.1 + 2.0 / sent as f64, "{reads} reads of {sent} events");
    assert!(p99 < 7.0, "lag {p99} s");
    assert!(memory < 64.0, "{memory} MiB");
}

#[test]
#[ignore = "a figure: tests/state figures"]
fn backfill_of_three_million_records_uses_the_reads_that_it_may() {
    // A million are read before the memory has reached the level at which it stays.
    let (records, limit) = (number("RECORDS", 3_000_000), number("READS", 50));
    // How long Attio takes for an answer.
    let late = Duration::from_millis(number("LATE_MS", 0) as u64);
    let mut scene = Scene::kafka();
    scene.set("STATE__READS_PER_SECOND", &limit.to_string());
    people(&scene, records);
    if !late.is_zero() {
        scene.attio.always("", Fault::Late(late));
    }
    let journal = scene.attio.path("journal");
    let begun = Instant::now();
    let arguments = ["state", "backfill", "--object", "people", "--journal", journal.to_str().unwrap()];
    let mut program = Program::start(&arguments, &scene.variables);
    // CPU, MiB and reads each second.
    let mut seen = Vec::new();
    while !program.has_ended() {
        if let Some((cpu, memory)) = usage(program.pid()).filter(|(_, memory)| *memory > 0.0) {
            seen.push((cpu, memory, scene.attio.store().rate.all_reads));
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    let took = begun.elapsed().as_secs_f64();
    assert_eq!(program.end().0, Some(0));
    let published: i64 = broker(&scene).ends(&[format!("{}-state.record", scene.prefix)]).values().sum();
    let rate = scene.attio.store().rate.clone();
    let used = rate.all_reads as f64 / (limit as f64 * took);
    let most = |part: &[(f64, f64, u64)]| part.iter().map(|(_, memory, _)| *memory).fold(0.0, f64::max);
    let (first, last) = (most(&seen[..seen.len() / 3]), most(&seen[seen.len() * 2 / 3..]));
    let cpu = seen.last().map_or(0.0, |(cpu, ..)| *cpu);
    println!(
        "{records} records in {took:.0} s: {} reads, {:.0} % of {limit} a second, {} refused, {published} states and marks \
         of transactions, {cpu:.1} s of CPU, at most {first:.0} MiB in the first third and {last:.0} MiB in the last; load {}",
        rate.all_reads,
        used * 100.0,
        rate.refused,
        load()
    );
    assert!(published as usize >= records);
    // A read counts until a second after its answer, so that late answers leave less of the limit to be used.
    assert!(used >= 0.9 || !late.is_zero(), "{used} of the reads");
    assert!(last < first * 1.25, "{first} MiB, and {last} MiB at the end");
    assert_eq!(rate.refused, 0);
}

/// Of a transaction, as of `state run`.
const BATCH: usize = 500;

#[test]
#[ignore = "a figure: tests/state figures"]
fn whole_process_costs_at_most_twice_a_bare_loop() {
    let mut scene = Scene::kafka();
    scene.set("STATE__READS_PER_SECOND", "90");
    let ids = people(&scene, number("EVENTS", 100_000));
    let producer: BaseProducer = broker(&scene).client().create().unwrap();
    tell_all(&scene, &producer, &ids);
    let program = scene.run();
    wait_until_done(&scene, ids.len());
    let (whole, memory) = usage(program.pid()).expect("it runs");
    drop(program);
    let one = scene.kept().into_iter().find_map(|kept| kept.event).expect("a state");
    let mut bare = Command::new(std::env::current_exe().unwrap());
    bare.args(["--ignored", "--exact", "state::figures::bare_loop", "--nocapture"]);
    let out = format!("{}-bare", scene.prefix);
    broker(&scene).create_topic(&out, 3, &[]);
    bare.env("BARE_BROKER", broker(&scene).bootstrap()).env("BARE_IN", format!("{}.record", scene.prefix));
    bare.env("BARE_OUT", &out)
        .env("BARE_EVENTS", ids.len().to_string())
        .env("BARE_DATA", one["data"].to_string());
    let output = bare.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let loops: f64 = said
        .lines()
        .find_map(|line| line.strip_prefix("bare: "))
        .unwrap_or_else(|| panic!("{output:?}"))
        .parse()
        .unwrap();
    println!(
        "{} events: state run {whole:.2} s of CPU, {memory:.0} MiB; a bare loop {loops:.2} s; {:.2} x; load {}",
        ids.len(),
        whole / loops,
        load()
    );
    assert!(whole <= 2.0 * loops, "{:.2} x", whole / loops);
}

fn wait_until_done(scene: &Scene, events: usize) {
    let begun = Instant::now();
    let group = format!("{}-state", scene.prefix);
    loop {
        let ends = broker(scene).ends(&[format!("{}.record", scene.prefix)]);
        if broker(scene).committed(&group, ends.keys()) == ends {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(600), "{events} events are not done");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Consumes events, makes a state of each with data that it has already, and produces it, in transactions with the
/// positions: the same client, the same amount of work, and no HTTP, no settling, and no look at what others wrote.
#[test]
#[ignore = "run by the figure"]
fn bare_loop() {
    let Ok(bootstrap) = std::env::var("BARE_BROKER") else { return };
    let variable = |name: &str| std::env::var(name).unwrap();
    let (topic, out, data) = (variable("BARE_IN"), variable("BARE_OUT"), variable("BARE_DATA"));
    let (events, data): (usize, Value) =
        (variable("BARE_EVENTS").parse().unwrap(), serde_json::from_str(&data).unwrap());
    let broker = Broker::at(bootstrap);
    let mut config = broker.client();
    let consumer: BaseConsumer =
        config.set("group.id", "bare").set("enable.auto.commit", "false").create().unwrap();
    let mut list = TopicPartitionList::new();
    let partitions = broker.partitions(&topic).unwrap() as i32;
    (0..partitions).for_each(|at| drop(list.add_partition_offset(&topic, at, Offset::Beginning)));
    consumer.assign(&list).unwrap();
    let producer: BaseProducer = broker.client().set("transactional.id", "bare").create().unwrap();
    producer.init_transactions(REQUEST).unwrap();
    let mut done = 0;
    while done < events {
        producer.begin_transaction().unwrap();
        let mut positions = TopicPartitionList::new();
        for _ in 0..BATCH.min(events - done) {
            let message = consumer.poll(REQUEST).expect("an event").unwrap();
            let event: Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
            let state = json!({
                "specversion": "1.0", "id": event["id"], "source": event["source"], "type": "com.attio.record.state",
                "time": event["recordedtime"], "partitionkey": event["partitionkey"],
                "datacontenttype": "application/json", "subject": event["subject"], "data": data,
            });
            let header = Header { key: "content-type", value: Some(MEDIA_TYPE) };
            let (payload, headers) = (state.to_string(), OwnedHeaders::new().insert(header));
            let record = BaseRecord::to(&out).key(message.key().unwrap()).payload(&payload).headers(headers);
            producer.send(record).unwrap_or_else(|(error, _)| panic!("{error}"));
            let (partition, next) = (message.partition(), Offset::Offset(message.offset() + 1));
            match positions.find_partition(&topic, partition) {
                Some(mut known) => known.set_offset(next).unwrap(),
                None => positions.add_partition_offset(&topic, partition, next).unwrap(),
            }
            done += 1;
        }
        let group = consumer.group_metadata().expect("it has a group");
        producer.send_offsets_to_transaction(&positions, &group, REQUEST).unwrap();
        producer.commit_transaction(REQUEST).unwrap();
    }
    println!("bare: {:.3}", usage(std::process::id()).unwrap().0);
}
