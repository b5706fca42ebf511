//! What `check --connect` says of state topics and of the stream.

use std::time::Duration;

use async_nats::jetstream::stream::Config;
use serde_json::Value;

use super::scene::{Bus, Scene};
use crate::support::program::run;

/// The rows of `check --connect` about states: name, result and detail.
pub fn checked(scene: &Scene) -> Vec<[String; 3]> {
    let output = run(&["check", "--connect", "--json"], &scene.variables);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let rows = report["checks"].as_array().unwrap().iter();
    let rows =
        rows.map(|row| ["check", "result", "detail"].map(|name| row[name].as_str().unwrap().to_owned()));
    rows.filter(|[check, ..]| check.starts_with("state ")).collect()
}

fn assert_found(scene: &Scene, what: &str, (result, words): (&str, &str)) {
    let rows = checked(scene);
    let row = rows.iter().find(|[check, ..]| check == what).unwrap_or_else(|| panic!("{what}: {rows:#?}"));
    assert!(row[1] == result && row[2].contains(words), "{result} {words}: {row:?}");
}

#[test]
fn topics_that_break_the_promise_are_reported() {
    let mut scene = Scene::kafka();
    for kind in ["NOTES", "TASKS", "COMMENTS"] {
        scene.set(&format!("STATE__{kind}"), "true");
    }
    scene.set("KAFKA__TOPICS__ENSURE", "verify");
    let Bus::Kafka(broker) = &scene.bus else { unreachable!() };
    let compacted = ("cleanup.policy", "compact");
    let table: [(&str, &[(&str, &str)], (&str, &str)); 4] = [
        (
            "record",
            &[("cleanup.policy", "delete")],
            ("failed", "cleanup.policy is delete, which deletes states"),
        ),
        ("list-entry", &[("cleanup.policy", "compact,delete")], ("failed", "set it to compact")),
        ("note", &[compacted, ("delete.retention.ms", "599999")], ("failed", "set it to 600000 at least")),
        ("task", &[compacted, ("delete.retention.ms", "600000")], ("ok", "compacted")),
    ];
    for (kind, settings, _) in table {
        broker.create_topic(&format!("{}-state.{kind}", scene.prefix), 1, settings);
    }
    let missing = ("comment", &[][..], ("failed", "does not exist"));
    for (kind, _, found) in table.into_iter().chain([missing]) {
        assert_found(&scene, &format!("state topic {}-state.{kind}", scene.prefix), found);
    }
}

#[test]
fn stream_that_breaks_the_promise_is_reported() {
    let scene = Scene::nats();
    let Bus::Nats(server) = &scene.bus else { unreachable!() };
    let check = format!("state stream {}", scene.stream());
    assert_found(&scene, &check, ("warning", "`state run` creates it"));
    let former: fn(&mut Config) = |config| config.max_messages_per_subject = 5;
    let table: [(&str, fn(&mut Config), (&str, &str)); 4] = [
        (">", former, ("warning", "keeps former states too: set its max_msgs_per_subject to 1")),
        (">", |config| config.max_age = Duration::from_secs(3600), ("failed", "max_age deletes states")),
        ("record.>", |_| {}, ("failed", "does not accept")),
        (">", |config| config.max_messages_per_subject = 1, ("ok", "one message a subject")),
    ];
    for (subjects, change, found) in table {
        server.create_stream(scene.stream(), &[&format!("{}-state.{subjects}", scene.prefix)], change);
        assert_found(&scene, &check, found);
        server.delete_stream(scene.stream());
    }
}
