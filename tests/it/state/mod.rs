//! `state run` on real brokers, against the fake Attio.

mod check;
mod figures;
mod hidden;
mod keys;
mod limits;
mod model;
mod model_compaction;
mod people;
mod planted;
mod rights;
pub mod scene;
mod soak;
mod tail;
mod times;
mod transactions;
mod trouble;
mod walks;
mod witness;
mod writers;

use std::collections::BTreeMap;
use std::sync::Arc;

use attio_bridge::catalog::Category;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::support::kafka::Broker;
use scene::{Bus, SETTLE, Scene};

const NAMESPACE: Uuid = uuid::uuid!("82aa3251-fb12-5533-8215-e473197ca642");

#[test]
fn changes_become_states_and_a_delete_a_tombstone() {
    for scene in Scene::both() {
        let mut program = scene.run();
        let id = scene.person("Ada");
        scene.tell("record.created", &id);
        let kept = scene.eventually_named(&id, "Ada");
        let event = kept.event.clone().unwrap();
        let time = kept.time();
        let expected =
            Uuid::new_v5(&NAMESPACE, format!("state\nrecord\n{id}\n{time}").as_bytes()).to_string();
        let world = scene.attio.store().everything(Category::Record);
        assert_eq!(event["data"], world[&id]);
        for (name, value) in [
            ("id", &*expected),
            ("type", "com.attio.record.state"),
            ("subject", &format!("objects/{}/records/{id}", scene.object())),
            ("partitionkey", &id),
            ("attioobject", "people"),
            ("datacontenttype", "application/json"),
            (
                "source",
                &format!(
                    "https://attio.com/workspaces/{}",
                    world[&id]["id"]["workspace_id"].as_str().unwrap()
                ),
            ),
        ] {
            assert_eq!(event[name], value, "{name}");
        }
        let reads = scene.metrics().sum("state_reads_total", &[("kind", "record")]);
        for name in ["Ada K", "Ada King", "Ada Lovelace"] {
            scene.rename(&id, name);
            scene.tell("record.updated", &id);
        }
        scene.eventually_named(&id, "Ada Lovelace");
        scene.attio.store().remove(&id).unwrap();
        scene.tell("record.deleted", &id);
        let gone = scene.eventually_gone(&id);
        let (header, only) =
            if matches!(scene.bus, Bus::Kafka(_)) { ("ce_type", true) } else { ("ce-type", false) };
        assert_eq!(gone.headers.get(header).map(String::as_str), Some("com.attio.record.gone"));
        assert!(!only || gone.headers.len() == 1, "{gone:?}");
        scene.tell("record.updated", &id);
        scene.eventually_done();
        assert!(scene.last(&id).unwrap().event.is_none(), "a late update brought it back");
        let metrics = scene.metrics();
        let events = |result| metrics.get("state_events_total", &[("kind", "record"), ("result", result)]);
        assert_eq!(events("fetched") + events("coalesced") + events("gone"), 6.0);
        assert_eq!((events("gone"), events("ignored")), (2.0, 0.0));
        assert!(events("coalesced") >= 1.0, "{metrics:?}");
        assert!(metrics.sum("state_reads_total", &[("kind", "record")]) > reads);
        program.signal("TERM");
        assert_eq!(program.end().0, Some(0));
    }
}

#[test]
fn merge_refreshes_the_survivor_and_buries_the_originals() {
    for scene in Scene::both() {
        let _program = scene.run();
        let originals = ["Ada", "Grace"].map(|name| {
            let id = scene.person(name);
            scene.tell("record.created", &id);
            scene.eventually_named(&id, name);
            id
        });
        let survivor = scene.attio.store().merge(&originals[0], &originals[1]).unwrap();
        for id in &originals {
            let duplicate = json!({ "duplicate_object_id": scene.object(), "duplicate_record_id": id });
            scene.tell_more("record.merged", &survivor, duplicate);
        }
        for id in &originals {
            scene.eventually_gone(id);
            scene.tell("record.updated", id);
        }
        scene.eventually_done();
        assert!(scene.last(&survivor).unwrap().event.is_some());
        for id in &originals {
            assert!(scene.last(id).unwrap().event.is_none());
        }
    }
}

#[test]
fn merge_into_a_record_of_a_hidden_object_buries_the_original_all_the_same() {
    let scene = Scene::kafka();
    let _program = scene.run();
    let id = scene.person("Ada");
    scene.tell("record.created", &id);
    scene.eventually_named(&id, "Ada");
    let survivor =
        json!({ "workspace_id": scene.workspace, "object_id": "a-hidden-one", "record_id": "survivor" });
    let data = json!({
        "event_type": "record.merged", "id": survivor,
        "duplicate_object_id": scene.object(), "duplicate_record_id": id,
    });
    scene.publish("record.merged", "survivor", &data);
    scene.eventually_gone(&id);
    scene.eventually_done();
    assert_eq!(scene.events("record", "gone"), 1.0);
}

#[test]
fn answer_that_is_older_than_its_event_is_read_again() {
    for scene in Scene::both() {
        scene.attio.store().lag = SETTLE * 4;
        let _program = scene.run();
        let id = scene.person("Ada");
        let told = OffsetDateTime::now_utc();
        scene.tell("record.created", &id);
        let kept = scene.eventually_named(&id, "Ada");
        let time = OffsetDateTime::parse(kept.time(), &Rfc3339).unwrap();
        assert!(time >= told - SETTLE / 100, "{time} is before {told}");
    }
}

#[test]
fn killed_process_loses_no_change() {
    for scene in Scene::both() {
        let ids: Vec<_> = (0..20).map(|number| scene.person(&format!("person {number}"))).collect();
        let program = scene.run();
        for id in &ids {
            scene.tell("record.created", id);
        }
        drop(program);
        for (number, id) in ids.iter().enumerate() {
            scene.rename(id, &format!("renamed {number}"));
            scene.tell("record.updated", id);
        }
        let program = scene.run();
        for (number, id) in ids.iter().enumerate() {
            scene.eventually_named(id, &format!("renamed {number}"));
        }
        drop(program);
        let mut times = BTreeMap::<String, String>::new();
        for kept in scene.kept() {
            let time = kept.time().to_owned();
            let before = times.insert(kept.key, time.clone());
            assert!(before.is_none_or(|before| before <= time));
        }
    }
}

#[test]
fn broker_that_is_killed_takes_nothing_along() {
    let broker = Arc::new(Broker::start());
    let scene = Scene::on_kafka(Arc::clone(&broker));
    let mut program = scene.run();
    let id = scene.person("Ada");
    for name in ["Grace", "Barbara", "Frances"] {
        scene.rename(&id, name);
        scene.tell("record.updated", &id);
        broker.kill();
        broker.restart();
        scene.eventually_named(&id, name);
    }
    scene.eventually_done();
    program.signal("TERM");
    assert_eq!(program.end().0, Some(0));
}

#[test]
fn second_process_takes_over_and_the_first_one_ends() {
    let mut scene = Scene::kafka();
    let mut first = scene.run();
    let id = scene.person("Ada");
    scene.tell("record.created", &id);
    scene.eventually_named(&id, "Ada");
    scene.listen = crate::support::ports::free_address();
    scene.set("STATE__LISTEN", &scene.listen.clone());
    let _second = scene.run();
    scene.rename(&id, "Grace");
    scene.tell("record.updated", &id);
    scene.eventually_named(&id, "Grace");
    let (code, said) = first.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("another process has taken over"), "{said}");
    scene.eventually_done();
}

#[test]
fn objects_that_are_not_kept_are_ignored() {
    let mut scene = Scene::kafka();
    scene.set("STATE__OBJECTS", "companies");
    let _program = scene.run();
    let id = scene.person("Ada");
    scene.tell("record.created", &id);
    scene.eventually_done();
    assert!(scene.last(&id).is_none());
    let ignored = scene.metrics().get("state_events_total", &[("kind", "record"), ("result", "ignored")]);
    assert_eq!(ignored, 1.0);
}

#[test]
fn key_that_may_not_read_ends_it_with_what_to_grant() {
    let scene = Scene::kafka();
    scene.attio.store().scopes.retain(|scope| !scope.starts_with("record_permission"));
    let mut program = scene.start();
    let id = scene.person("Ada");
    scene.tell("record.created", &id);
    let (code, said) = program.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("record_permission:read"), "{said}");
}

#[test]
fn events_of_another_workspace_bury_nothing() {
    for mut scene in Scene::both() {
        let _program = scene.run();
        let own = std::mem::replace(&mut scene.workspace, "another".into());
        let id = scene.person("Ada");
        scene.attio.store().remove(&id).unwrap();
        scene.tell("record.updated", &id);
        scene.tell("record.deleted", &id);
        scene.eventually_done();
        scene.workspace = own;
        let there = scene.person("Grace");
        scene.tell("record.created", &there);
        scene.eventually_named(&there, "Grace");
        assert!(scene.last(&id).is_none(), "a tombstone by the key of another workspace");
        let ignored = scene.metrics().get("state_events_total", &[("kind", "record"), ("result", "ignored")]);
        assert_eq!(ignored, 2.0);
    }
}

#[test]
fn record_of_an_object_that_the_key_may_not_see_is_not_gone() {
    let scene = Scene::kafka();
    let _program = scene.run();
    let id = scene.person("Ada");
    let event = scene.event("record.updated", &id);
    scene.attio.store().objects.retain(|object| object.slug != "people");
    let Bus::Kafka(broker) = &scene.bus else { unreachable!() };
    let headers = [("content-type", Some(scene::MEDIA_TYPE.as_bytes()))];
    broker.publish(&event.0, Some(&id), &headers, Some(event.1.as_bytes()));
    scene.eventually_done();
    assert!(scene.last(&id).is_none(), "a tombstone of a record that exists");
    assert_eq!((scene.events("record", "ignored"), scene.metrics().get("state_stuck", &[])), (1.0, 0.0));
    assert_eq!(scene.metrics().sum("state_events_total", &[("kind", "record")]), 1.0, "it counts once");
}
