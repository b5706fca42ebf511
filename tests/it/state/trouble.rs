//! What goes wrong with one entity, or with one answer of Attio, is for that one alone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use attio_bridge::catalog::Category;
use attio_bridge::fake_attio::store::Named;
use axum::http::Method;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::scene::{Bus, MEDIA_TYPE, SETTLE, Scene};
use super::walks::{diff, states};
use crate::support::faults::Fault;
use crate::support::program::run;
use crate::support::wait::{PATIENCE, eventually_blocking};

const FOR_EVER: Duration = Duration::from_secs(300);

fn stuck(scene: &Scene) -> f64 {
    scene.metrics().get("state_stuck", &[])
}

/// A scene whose topic or stream takes no state of more than 20,000 bytes.
fn small(scene: Scene) -> Scene {
    let address = format!("{}-state.record", scene.prefix);
    match &scene.bus {
        Bus::Kafka(broker) => {
            broker.create_topic(
                &address,
                3,
                &[("cleanup.policy", "compact"), ("max.message.bytes", "20000")],
            );
        }
        Bus::Nats(server) => {
            server.create_stream(scene.stream(), &[&format!("{}-state.>", scene.prefix)], |config| {
                (config.max_messages_per_subject, config.max_message_size) = (1, 20_000);
            });
        }
    }
    scene
}

#[test]
fn state_that_is_too_large_is_stuck_and_holds_up_no_other() {
    for scene in Scene::both().map(small) {
        let mut program = scene.run();
        let large: [String; 8] =
            std::array::from_fn(|number| scene.person(&number.to_string().repeat(30_000)));
        let others: Vec<_> = (0..30).map(|number| scene.person(&format!("person {number}"))).collect();
        for id in large.iter().chain(&others) {
            scene.tell("record.created", id);
        }
        for (number, id) in others.iter().enumerate() {
            scene.eventually_named(id, &format!("person {number}"));
        }
        eventually_blocking("they are stuck, and nothing else is open", || {
            (stuck(&scene), scene.metrics().get("state_backlog", &[])) == (8.0, 8.0)
        });

        let (folder, missing) =
            (TempDir::new().unwrap(), BTreeMap::from(large.clone().map(|id| (id, "missing"))));
        let journal = folder.path().join("journal");
        let output = run(&["state", "backfill", "--journal", journal.to_str().unwrap()], &scene.variables);
        let backfilled = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{backfilled}");
        let found = diff(&scene, &[], 3);
        assert!(
            found.iter().map(|(id, how)| (id, &**how)).eq(missing.iter().map(|(id, how)| (id, *how))),
            "{found:?}"
        );

        program.signal("TERM");
        let (code, said) = program.end();
        assert_eq!(code, Some(0), "{said}");
        for said in [&*said, &*backfilled] {
            assert!(large.iter().all(|id| said.contains(id.as_str())), "{said}");
            assert!(said.contains("larger than the broker takes") && said.contains("raise max"), "{said}");
        }
        let _program = scene.run();
        eventually_blocking("they are not done, so they are stuck again", || stuck(&scene) == 8.0);
        for (number, id) in large.iter().enumerate() {
            scene.rename(id, &format!("small {number}"));
            scene.tell("record.updated", id);
        }
        for (number, id) in large.iter().enumerate() {
            scene.eventually_named(id, &format!("small {number}"));
        }
        scene.eventually_done();
        eventually_blocking("none is stuck", || stuck(&scene) == 0.0);
    }
}

/// Hides a list from the key. What it was.
fn hide(scene: &Scene, list: &str) -> Named {
    let mut store = scene.attio.store();
    let at = store.lists.iter().position(|known| known.id == list).unwrap();
    store.lists.remove(at)
}

#[test]
fn list_that_is_hidden_keeps_its_entries_and_goes_on_once_it_is_shown() {
    for mut scene in Scene::both() {
        scene.set("STATE__COMMENTS", "true");
        if let Bus::Kafka(broker) = &scene.bus {
            broker.create_topic(&format!("{}.comment", scene.prefix), 1, &[]);
        }
        let ada = scene.person("Ada");
        let list =
            scene.attio.store().lists.iter().find(|list| list.slug == "recruiting").unwrap().id.clone();
        let entries: Vec<_> = (0..3)
            .map(|_| scene.attio.store().add_entry("recruiting", &ada, BTreeMap::new()).unwrap())
            .collect();
        let comment = scene.attio.store().add_comment(&entries[0], None, "well done").unwrap();
        let tell_comment = || {
            let id = json!({ "workspace_id": scene.workspace, "comment_id": comment });
            let data = json!({ "id": id, "thread_id": comment, "list_id": list, "entry_id": entries[0] });
            scene.publish("comment.created", &comment, &data);
        };
        let _program = scene.run();
        for entry in &entries {
            scene.tell_entry("list-entry.created", &list, entry);
        }
        tell_comment();
        let kept = || states(&scene, Category::ListEntry);
        let comments = || states(&scene, Category::Comment);
        eventually_blocking("all have states", || (kept().len(), comments().len()) == (3, 1));

        let hidden = hide(&scene, &list);
        let not_found = json!({ "status_code": 404, "type": "x", "code": "not_found", "message": "no" });
        scene.attio.always(&comment, Fault::Answer(404, not_found.to_string()));
        scene.attio.store().set(&entries[0], "stage", json!("hired")).unwrap();
        scene.tell_entry("list-entry.updated", &list, &entries[0]);
        tell_comment();
        eventually_blocking("both are ignored", || {
            (scene.events("list-entry", "ignored"), scene.events("comment", "ignored")) == (1.0, 1.0)
        });
        scene.tell_entry("list-entry.updated", "another-list", "an-entry");
        scene.tell_entry("list-entry.deleted", &list, &entries[2]);
        scene.attio.store().remove(&entries[2]).unwrap();
        eventually_blocking("one is said to be gone", || kept().len() == 2);
        eventually_blocking("the other list is ignored", || scene.events("list-entry", "ignored") == 2.0);
        for arguments in [&["state", "diff"][..], &["state", "diff", "--repair", "--object", "people"]] {
            let output = run(arguments, &scene.variables);
            let said = String::from_utf8_lossy(&output.stderr);
            let names_it = said.contains(&format!("list {list}")) && said.contains("left as they are");
            assert_eq!(names_it, arguments.len() == 2, "{said}");
        }
        diff(&scene, &["--repair"], 0);
        assert_eq!((kept().len(), comments().len(), stuck(&scene)), (2, 1, 0.0));

        scene.attio.no_more_faults();
        scene.attio.store().lists.push(hidden);
        eventually_blocking("what was ignored is caught up with", || {
            kept().get(&entries[0]).is_some_and(|entry| entry.to_string().contains("hired"))
        });
        scene.tell_entry("list-entry.updated", &list, &entries[1]);
        scene.eventually_done();
        assert_eq!((kept().len(), comments().len(), stuck(&scene)), (2, 1, 0.0));
        assert_eq!(diff(&scene, &["--repair", "--list", &list], 0), BTreeMap::new());

        let there = run(&["state", "diff", "--repair", "--deleted-list", &list], &scene.variables);
        assert_eq!(there.status.code(), Some(1), "the list is there");
        let object = run(&["state", "diff", "--repair", "--deleted-list", &scene.object()], &scene.variables);
        assert_eq!(object.status.code(), Some(1), "it is an object");
        hide(&scene, &list);
        let found = diff(&scene, &["--repair", "--deleted-list", &list], 0);
        for entry in &entries[..2] {
            assert_eq!(found.get(entry).map(String::as_str), Some("left over"), "{found:?}");
        }
        assert!(kept().is_empty());
    }
}

#[test]
fn list_that_is_made_later_is_kept_by_its_slug() {
    let mut scene = Scene::kafka();
    scene.set("STATE__LISTS", "sales_pipeline,events");
    let _program = scene.run();
    let (ada, list) = (scene.person("Ada"), Named::new("events", &[]));
    scene.attio.store().lag = Duration::from_secs(1);
    scene.attio.store().lists.push(list.clone());
    let entry = scene.attio.store().add_entry("events", &ada, BTreeMap::new()).unwrap();
    scene.tell_entry("list-entry.created", &list.id, &entry);
    eventually_blocking("its entry has a state", || states(&scene, Category::ListEntry).contains_key(&entry));
    let kept = scene.kept_of(Category::ListEntry).remove(0).event.unwrap();
    assert_eq!(kept["attiolist"], "events");
}

#[test]
fn names_that_do_not_come_hold_up_nobody_else() {
    let mut scene = Scene::kafka();
    scene.set("ATTIO__TIMEOUT", &format!("{}s", FOR_EVER.as_secs()));
    let _program = scene.run();
    scene.attio.always("/v2/lists", Fault::Hang(FOR_EVER));
    scene.tell_entry("list-entry.created", "another-list", "an-entry");
    eventually_blocking("the lists are asked for", || {
        scene.attio.seen().iter().any(|seen| seen.target.ends_with("/v2/lists") && seen.status == 0)
    });
    let id = scene.person("Ada");
    scene.tell("record.created", &id);
    scene.eventually_named(&id, "Ada");
    eventually_blocking("the entry waits, and nothing else", || {
        scene.metrics().get("state_backlog", &[]) == 1.0
    });
}

#[test]
fn read_that_fails_fails_for_its_own_entity() {
    let scene = Scene::kafka();
    let mut program = scene.run();
    let [bad, gone] = ["Ada", "Grace"].map(|name| {
        let id = scene.person(name);
        scene.tell("record.created", &id);
        scene.eventually_named(&id, name);
        id
    });
    for id in [&bad, &gone] {
        scene.attio.store().remove(id).unwrap();
        scene.attio.always(&format!("/records/{bad}"), Fault::Status(500));
        scene.tell("record.updated", id);
    }
    scene.eventually_gone(&gone);
    eventually_blocking("the other one is stuck", || stuck(&scene) == 1.0);
    let output = run(&["state", "diff"], &scene.variables);
    let compared = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{compared}");
    assert!(compared.contains(&bad) && compared.contains("0 differ"), "{compared}");
    scene.attio.no_more_faults();
    scene.eventually_gone(&bad);
    scene.eventually_done();
    program.signal("TERM");
    let (_, said) = program.end();
    let named = |id: &str| said.lines().any(|line| line.contains(id) && line.contains("cannot be read"));
    assert!(named(&bad) && !named(&gone), "{said}");
}

/// How often records were asked for together, and each alone.
fn asked(scene: &Scene) -> (usize, usize) {
    let seen = scene.attio.seen();
    let count = |method: &str, part: &str| {
        seen.iter().filter(|seen| seen.method == method && seen.target.contains(part)).count()
    };
    (count("POST", "/records/query"), count("GET", "/records/"))
}

/// Publishes an event of each record, all received at the same time.
pub fn tell_together(scene: &Scene, event_type: &str, ids: &[String]) {
    let Bus::Kafka(broker) = &scene.bus else { panic!("it is on NATS") };
    let producer: BaseProducer = broker.client().create().unwrap();
    let events = ids.iter().map(|id| {
        let (topic, text) = scene.event(event_type, id);
        (id, topic, serde_json::from_str::<Value>(&text).unwrap())
    });
    let mut events: Vec<_> = events.collect();
    let received = events.last().unwrap().2["recordedtime"].clone();
    for (id, topic, event) in &mut events {
        event["recordedtime"] = received.clone();
        let headers = OwnedHeaders::new().insert(Header { key: "content-type", value: Some(MEDIA_TYPE) });
        let payload = event.to_string();
        assert!(
            producer.send(BaseRecord::to(topic).key(*id).payload(&payload).headers(headers)).is_ok(),
            "the record is taken"
        );
    }
    producer.flush(PATIENCE).unwrap();
}

/// People of whom the program is told together.
fn crowd(scene: &Scene, count: usize) -> Vec<String> {
    let ids: Vec<_> = (0..count).map(|number| scene.person(&format!("person {number}"))).collect();
    tell_together(scene, "record.created", &ids);
    ids
}

/// A scene in which what comes together is read together.
fn settled() -> Scene {
    let mut scene = Scene::kafka();
    scene.set("STATE__SETTLE", "3s");
    scene
}

#[test]
fn api_that_fails_is_asked_for_all_together_and_ever_less_often() {
    const CROWD: usize = 40;
    let scene = settled();
    let _program = scene.run();
    scene.attio.always("/records/query", Fault::Status(503));
    let ids: Vec<_> = (0..CROWD).map(|number| scene.person(&format!("person {number}"))).collect();
    // Some may come by themselves, and are asked for alone at first.
    ids.iter().for_each(|id| scene.attio.always(id, Fault::Status(503)));
    tell_together(&scene, "record.created", &ids);
    eventually_blocking("all are stuck", || stuck(&scene) == CROWD as f64);
    let (before, begun) = (asked(&scene), Instant::now());
    eventually_blocking("it tries on", || {
        begun.elapsed() > Duration::from_secs(10) && asked(&scene).0 > before.0
    });
    let (together, alone) = asked(&scene);
    let requests = together + alone - before.0 - before.1;
    assert!(requests <= CROWD / 2, "{requests} requests for {CROWD} records in {:?}", begun.elapsed());
    scene.attio.no_more_faults();
    for (number, id) in ids.iter().enumerate() {
        scene.eventually_named(id, &format!("person {number}"));
    }
    scene.eventually_done();
    eventually_blocking("none is stuck", || stuck(&scene) == 0.0);
    let last = asked(&scene).1 - alone;
    assert!(last <= CROWD / 4, "{last} alone");
}

#[test]
fn question_that_is_refused_is_asked_for_each_alone() {
    let scene = settled();
    let _program = scene.run();
    let refusal = json!({
        "status_code": 400, "type": "invalid_request_error", "code": "filter_error", "message": "no",
    });
    scene.attio.always("/records/query", Fault::Answer(400, refusal.to_string()));
    for (number, id) in crowd(&scene, 5).iter().enumerate() {
        scene.eventually_named(id, &format!("person {number}"));
    }
    scene.eventually_done();
    let (together, alone) = asked(&scene);
    assert!(alone >= 5 && stuck(&scene) == 0.0, "{together} times together, {alone} alone");
}

/// An answer with these records of the workspace; the last one has no time of its creation.
fn spoiled(scene: &Scene, ids: &[String]) -> String {
    let world = scene.attio.store().everything(Category::Record);
    let mut rows: Vec<Value> = ids.iter().map(|id| world[id].clone()).collect();
    let last = rows.last_mut().and_then(Value::as_object_mut).unwrap();
    last.remove("created_at");
    last.remove("values");
    json!({ "data": rows }).to_string()
}

#[test]
fn row_that_cannot_be_read_is_asked_for_alone_and_the_others_are_not() {
    let scene = settled();
    let mut program = scene.run();
    let ids: Vec<_> = (0..3).map(|number| scene.person(&format!("person {number}"))).collect();
    scene.attio.always("/records/query", Fault::Answer(200, spoiled(&scene, &ids)));
    tell_together(&scene, "record.created", &ids);
    for (number, id) in ids.iter().enumerate() {
        scene.eventually_named(id, &format!("person {number}"));
    }
    let alone = |id: &String| scene.attio.seen().iter().any(|seen| seen.target.ends_with(id));
    assert!(alone(&ids[2]) && !alone(&ids[0]) && !alone(&ids[1]), "{:?}", scene.attio.seen());
    program.signal("TERM");
    assert_eq!(program.end().0, Some(0));

    // A walk names it, and goes on with the others.
    scene.attio.no_more_faults();
    scene.rename(&ids[1], "renamed");
    // The three rows are counted first.
    let faults = [vec![Fault::Late(Duration::ZERO); 5], vec![Fault::Answer(200, spoiled(&scene, &ids))]];
    scene.attio.faults(faults.concat().into_iter().map(|fault| Fault::Of(Method::POST, fault.into())));
    let journal = scene.attio.path("journal");
    let arguments = ["state", "backfill", "--object", "people", "--journal", journal.to_str().unwrap()];
    let output = run(&arguments, &scene.variables);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let named = said.lines().filter(|line| line.contains("cannot be read")).collect::<Vec<_>>();
    assert!(named.len() == 1 && named[0].contains(&ids[2]), "{said}");
    scene.eventually_named(&ids[1], "renamed");
}

#[test]
fn answers_without_their_time_count_as_old() {
    for scene in Scene::both() {
        let _program = scene.run();
        let ada = scene.person("Ada");
        scene.tell("record.created", &ada);
        scene.eventually_named(&ada, "Ada");
        scene.attio.store().remove(&ada).unwrap();
        scene.tell("record.updated", &ada);
        scene.eventually_gone(&ada);

        scene.attio.always("", Fault::Undated);
        scene.attio.store().lag = Duration::from_secs(2);
        let grace = scene.person("Grace");
        scene.tell("record.created", &grace);
        scene.eventually_named(&grace, "Grace");
        for name in ["Barbara", "Frances"] {
            scene.rename(&grace, name);
            scene.tell("record.updated", &grace);
            scene.eventually_named(&grace, name);
        }
        scene.eventually_done();
    }
}

#[test]
fn answers_that_are_too_old_are_asked_for_ever_less_often() {
    let mut scene = Scene::kafka();
    scene.ahead = SETTLE * 20;
    let _program = scene.run();
    let (id, before) = (scene.person("Ada"), scene.attio.store().rate.all_reads);
    scene.tell("record.created", &id);
    scene.eventually_named(&id, "Ada");
    let reads = scene.attio.store().rate.all_reads - before;
    assert!(reads <= 10, "{reads} reads within {:?}", scene.ahead);
}

#[test]
fn event_from_the_future_is_answered_within_seconds() {
    for mut scene in Scene::both() {
        scene.ahead = Duration::from_secs(3600);
        let mut program = scene.run();
        let (id, before) = (scene.person("Ada"), scene.attio.store().rate.all_reads);
        scene.tell("record.created", &id);
        scene.eventually_named(&id, "Ada");
        scene.tell_entry("list-entry.created", "another-list", "an-entry");
        eventually_blocking("it is ignored", || scene.events("list-entry", "ignored") == 1.0);
        scene.eventually_done();
        let reads = scene.attio.store().rate.all_reads - before;
        assert!(reads <= 40, "{reads} reads");
        program.signal("TERM");
        let (code, said) = program.end();
        assert!(
            code == Some(0) && said.contains("the clock of the bridge that received it is ahead"),
            "{said}"
        );
    }
}

#[test]
fn clock_that_is_far_ahead_of_attio_is_told_and_bounded() {
    const AHEAD: Duration = Duration::from_secs(11 * 60);
    for scene in Scene::both() {
        let is_kafka = matches!(scene.bus, Bus::Kafka(_));
        scene.attio.always("", Fault::Behind(AHEAD));
        let mut program = scene.run();
        let (id, before) = (scene.person("Ada"), scene.attio.store().rate.all_reads);
        scene.tell("record.created", &id);
        if is_kafka {
            eventually_blocking("it is stuck", || stuck(&scene) == 1.0);
            let reads = scene.attio.store().rate.all_reads - before;
            assert!(reads <= 12, "{reads} reads");
            let folder = TempDir::new().unwrap();
            let journal = folder.path().join("journal");
            let output =
                run(&["state", "backfill", "--journal", journal.to_str().unwrap()], &scene.variables);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains("correct the clock of this host"), "{said}");
            scene.attio.no_more_faults();
        }
        scene.eventually_named(&id, "Ada");
        scene.eventually_done();
        eventually_blocking("it is not stuck", || stuck(&scene) == 0.0);
        program.signal("TERM");
        let (code, said) = program.end();
        assert_eq!((code, said.contains("ahead of Attio's: correct it")), (Some(0), is_kafka), "{said}");
    }
}

#[test]
fn states_of_another_workspace_are_left_as_they_are() {
    for scene in Scene::both() {
        let mut program = scene.run();
        let (first, id) = (scene.person("Grace"), scene.person("Ada"));
        scene.tell("record.deleted", &first);
        scene.eventually_gone(&first);
        scene.tell("record.created", &id);
        scene.eventually_named(&id, "Ada");
        program.signal("TERM");
        program.end();
        let before = scene.kept().len();
        scene.attio.store().workspace_id = "another-workspace".into();
        let (folder, mut program) = (TempDir::new().unwrap(), scene.start());
        let (code, said) = program.end();
        assert_eq!(code, Some(1), "{said}");
        let journal = folder.path().join("journal");
        let output = run(&["state", "backfill", "--journal", journal.to_str().unwrap()], &scene.variables);
        let backfilled = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{backfilled}");
        for said in [&*said, &*backfilled] {
            assert!(said.contains("another-workspace") && said.contains("another state.prefix"), "{said}");
        }
        assert_eq!(scene.kept().len(), before);
    }
}
