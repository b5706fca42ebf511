//! `tail --state` on real brokers.

use serde_json::{Value, json};

use super::scene::Scene;
use crate::support::program::{Program, on_terminal};

#[test]
fn states_are_shown_as_they_come_and_a_tombstone_as_such() {
    for scene in Scene::both() {
        let _program = scene.run();
        let mut tail = Program::start(&["tail", "--state", "--from", "beginning"], &scene.variables);
        let id = scene.person("Ada");
        scene.tell("record.created", &id);
        assert_eq!(Some(tail.line()), scene.eventually_named(&id, "Ada").event);
        scene.attio.store().remove(&id).unwrap();
        scene.tell("record.deleted", &id);
        let gone = json!({ "type": "com.attio.record.gone", "partitionkey": id, "data": Value::Null });
        assert_eq!(tail.line(), gone);

        // On NATS the tombstone has taken the place of the state.
        let count = scene.kept().len().to_string();
        let shown = on_terminal(
            200,
            &["tail", "--state", "--category", "record", "--from", "beginning", "--count", &count],
            &scene.variables,
        );
        let last = shown.lines().last().unwrap();
        assert!(last.contains("record.gone") && last.contains(&id), "{shown}");
        tail.signal("INT");
        assert_eq!(tail.end().0, Some(0));
    }
}
