//! `webhooks try` on a real Kafka: nothing is left behind, also after Ctrl-C.

use std::process::{Command, Stdio};
use std::sync::Arc;

use attio_bridge::catalog::Category;
use attio_bridge::fake_attio::deliver::Timing;
use attio_bridge::fake_attio::webhook::Status;

use serde_json::{Value, json};

use crate::support::attio::{Attio, Deliveries, KEY};
use crate::support::faults::Fault;
use crate::support::kafka::shared;
use crate::support::served::Served;
use crate::support::unique;
use crate::support::wait::eventually_blocking;

const BEFORE: &str = "earlier contents of the file, long enough\n";

/// The secret of another webhook of the same bridge.
const OTHER: &str = "the secret of another webhook, long enough";

struct Site {
    attio: Attio,
    served: Served,
    deliverer: Arc<Deliveries>,
    config: std::path::PathBuf,
}

impl Site {
    fn start() -> Self {
        let (attio, broker) = (Attio::start(), shared());
        let secret = attio.write("secret", BEFORE);
        let config = attio.write(
            "config.toml",
            &format!(
                "[bus]\ntype = \"kafka\"\n[kafka]\nbootstrap_servers = \"{}\"\ntopics.ensure = \"create\"\n[route]\n\
                 prefix = \"{}\"\n[sources.attio]\nsecrets = [{{ label = \"try\", file = \"{}\" }}, \
                 {{ label = \"other\", value = \"{OTHER}\" }}]\n",
                broker.bootstrap(),
                unique("try"),
                secret.display()
            ),
        );
        let served = Served::start(&[("ATTIO_BRIDGE_CONFIG", config.to_str().unwrap())]);
        // Then its topics have leaders, which the verb needs to find the end of the topics.
        eventually_blocking("the bridge is ready", || attio.block_on(served.probe("/readyz")) == 200);
        let deliverer = attio.deliverer(served.http, Timing { time_scale: 2000.0, ..Timing::default() });
        Self { attio, served, deliverer, config }
    }

    fn arguments(&self) -> [String; 7] {
        let probe = format!("http://{}/webhooks/attio", self.served.http);
        let target = "https://abc123.example.com/webhooks/attio";
        ["try", "--target-url", target, "--secret-file", "secret", "--probe-url", &probe].map(String::from)
    }

    fn assert_cleaned_up(&self) {
        let store = self.attio.store();
        assert!(store.webhooks.is_empty() && store.everything(Category::Record).is_empty());
        assert_eq!(std::fs::read_to_string(self.attio.path("secret")).unwrap(), BEFORE);
    }
}

#[test]
fn publishes_a_test_event_and_deletes_webhook_and_record() {
    let site = Site::start();
    site.attio.block_on(async { site.deliverer.follow_api() });
    let arguments = site.arguments();
    let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ran = site.attio.configured(&site.config, &arguments).expect(0);
    let ran = ran.mentions(&["created webhook", "created record", "it is on try", "it works"]);
    assert_eq!(ran.stdout, "");
    site.assert_cleaned_up();
    arguments.push("--json");
    let ran = site.attio.configured(&site.config, &arguments).expect(0).mentions(&["it works"]);
    let outcome = ran.json();
    let [webhook, record] = ["webhook_id", "record_id"].map(|name| outcome[name].as_str().unwrap());
    assert!(ran.stderr.contains(webhook) && ran.stderr.contains(record), "{outcome} {}", ran.stderr);
    assert!(outcome["address"].as_str().unwrap().ends_with(".record"), "{outcome}");
    assert!(outcome["position"]["offset"].is_u64(), "{outcome}");
    let rest = ["works", "left_behind", "error"].map(|name| outcome[name].clone());
    assert_eq!(rest, [json!(true), json!([]), Value::Null]);
    site.assert_cleaned_up();
}

#[test]
fn without_a_readable_bus_no_webhook_is_created() {
    let attio = Attio::start();
    let arguments =
        ["try", "--target-url", "https://a.example.com/webhooks/attio", "--secret-file", "secret"];
    attio.webhooks(&arguments).expect(78).mentions(&["bus.type: required"]);
    let secret = ("ATTIO_WEBHOOK_SECRET", "0123456789abcdef0123456789abcdef");
    let stdout = [secret, ("ATTIO_BRIDGE__BUS__TYPE", "stdout")];
    attio.with(&stdout, &arguments).expect(2).mentions(&["cannot be read back", "\"kafka\" or \"nats\""]);
    assert_eq!(attio.asked("POST"), 0);
}

/// Without deliveries.
#[test]
fn timeout_and_ctrl_c_delete_webhook_and_record() {
    let site = Site::start();
    let arguments = site.arguments();
    let all: Vec<&str> = arguments.iter().map(String::as_str).chain(["--timeout", "20s"]).collect();
    let all = [&all[..], &["--json"]].concat();
    let ran =
        site.attio.configured(&site.config, &all).expect(3).mentions(&["timed out after 20s", "on the bus"]);
    let outcome = ran.json();
    assert_eq!((&outcome["works"], &outcome["address"]), (&json!(false), &Value::Null));
    assert!(outcome["error"].as_str().unwrap().contains("timed out after 20s"), "{outcome}");
    site.assert_cleaned_up();

    let child = Command::new(env!("CARGO_BIN_EXE_attio-bridge"))
        .arg("webhooks")
        .args(&arguments)
        .env_clear()
        .env("ATTIO_API_KEY", KEY)
        .env("ATTIO_BRIDGE__ATTIO__API_URL", site.attio.url())
        .env("ATTIO_BRIDGE_CONFIG", &site.config)
        .current_dir(site.attio.path(""))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually_blocking("the record is created", || {
        !site.attio.store().everything(Category::Record).is_empty()
    });
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.unwrap().success());
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("interrupted"), "{message}");
    site.assert_cleaned_up();
}

#[test]
fn failed_deletes_are_reported_beside_the_timeout() {
    let site = Site::start();
    let arguments = site.arguments();
    let all: Vec<&str> = arguments.iter().map(String::as_str).chain(["--timeout", "30s"]).collect();
    let ran = std::thread::scope(|scope| {
        let running = scope.spawn(|| site.attio.configured(&site.config, &all));
        eventually_blocking("the record is created", || {
            !site.attio.store().everything(Category::Record).is_empty()
        });
        site.attio.faults(std::iter::repeat_n(Fault::Status(503), 12));
        running.join().unwrap()
    });
    let store = site.attio.store();
    let records = store.everything(Category::Record);
    let (webhook, record) = (&store.webhooks[0].webhook_id, records.keys().next().unwrap());
    ran.expect(3).mentions(&["left behind", webhook, record, "timed out after 30s"]);
}

#[test]
fn secret_file_that_did_not_exist_is_removed_again() {
    let site = Site::start();
    let mut arguments = site.arguments();
    arguments[4] = "another".into();
    let all: Vec<&str> = arguments.iter().map(String::as_str).chain(["--timeout", "1s"]).collect();
    site.attio.configured(&site.config, &all).expect(3).mentions(&["it answers 401"]);
    assert!(!site.attio.path("another").exists());
    site.assert_cleaned_up();
}

#[test]
fn invalid_configuration_exits_78() {
    let attio = Attio::start();
    let config = attio.write("config.toml", "[bus]\ntype = \"zebra\"\n");
    let target = "https://abc123.example.com/webhooks/attio";
    attio.configured(&config, &["try", "--target-url", target, "--secret-file", "secret"]).expect(78);
    assert_eq!(attio.asked("POST"), 0);
}

/// The record is delivered through another webhook only.
#[test]
fn event_of_another_webhook_does_not_count() {
    let site = Site::start();
    site.attio.block_on(async { site.deliverer.follow_api() });
    site.attio.add("https://hooks.example.com/webhooks/attio", &[("record.created", Value::Null)]);
    site.attio.store().webhooks[0].secret = OTHER.into();
    let arguments = site.arguments();
    let all: Vec<&str> = arguments.iter().map(String::as_str).chain(["--timeout", "30s"]).collect();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| site.attio.configured(&site.config, &all));
        eventually_blocking("the webhook is created", || site.attio.store().webhooks.len() == 2);
        let made = site.attio.store().webhooks[1].webhook_id.clone();
        site.attio.store().set_status(&made, Status::Inactive);
        running.join().unwrap().expect(3).mentions(&["created record", "timed out after 30s", "on the bus"]);
    });
    assert_eq!(site.deliverer.counts().delivered, 1, "by the other");
}
