//! Answers that are older than what they are asked for: they bury nothing, and nothing is ignored for them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use attio_bridge::catalog::Category;
use attio_bridge::fake_attio::store::Named;
use serde_json::json;

use super::scene::{SETTLE, Scene};
use super::walks::states;
use crate::support::faults::Fault;
use crate::support::wait::eventually_blocking;

/// How often an entity was not found.
fn not_found(scene: &Scene, id: &str) -> usize {
    let seen = scene.attio.seen();
    seen.iter().filter(|seen| seen.status == 404 && seen.target.ends_with(id)).count()
}

#[test]
fn absence_of_before_its_event_is_no_tombstone() {
    const BEHIND: Duration = Duration::from_secs(5);
    for scene in Scene::both() {
        let _program = scene.run();
        let (ada, grace) = (scene.person("Ada"), scene.person("Grace"));
        for (id, name) in [(&ada, "Ada"), (&grace, "Grace")] {
            scene.tell("record.created", id);
            scene.eventually_named(id, name);
        }
        // Attio says of both that they are not there, and that this was true a while ago.
        scene.attio.always("", Fault::Behind(BEHIND));
        let begun = Instant::now();
        for id in [&ada, &grace] {
            scene.attio.store().remove(id).unwrap();
            scene.tell("record.updated", id);
        }
        while begun.elapsed() < BEHIND - Duration::from_secs(1) {
            for id in [&ada, &grace] {
                assert!(scene.last(id).unwrap().event.is_some(), "buried after {:?}", begun.elapsed());
            }
            std::thread::sleep(SETTLE);
        }
        assert!(not_found(&scene, &ada) > 1 && not_found(&scene, &grace) > 1, "{:?}", scene.attio.seen());
        for id in [&ada, &grace] {
            scene.eventually_gone(id);
        }
        assert!(begun.elapsed() >= BEHIND, "{:?}", begun.elapsed());
        scene.eventually_done();
    }
}

#[test]
fn records_that_answers_do_not_show_yet_are_not_buried() {
    for scene in Scene::both() {
        scene.attio.store().lag = Duration::from_secs(2);
        let _program = scene.run();
        let ids: Vec<_> = (0..30).map(|number| scene.person(&format!("person {number}"))).collect();
        ids.iter().for_each(|id| scene.tell("record.created", id));
        for (number, id) in ids.iter().enumerate() {
            scene.eventually_named(id, &format!("person {number}"));
        }
        scene.eventually_done();
        assert!(ids.iter().any(|id| not_found(&scene, id) > 0), "no answer was too old");
        assert!(scene.kept().iter().all(|kept| kept.event.is_some()), "a tombstone");
    }
}

/// The answer with lists, as it was that long ago.
fn stale(time: Duration, lists: &[&Named]) -> Fault {
    let one = |list: &&Named| json!({ "id": { "list_id": list.id }, "api_slug": list.slug });
    Fault::Stale(time, json!({ "data": lists.iter().map(one).collect::<Vec<_>>() }).to_string())
}

#[test]
fn event_of_a_new_list_waits_for_names_that_are_not_older_than_it() {
    let scene = Scene::kafka();
    let _program = scene.run();
    let (ada, list) = (scene.person("Ada"), Named::new("events", &[]));
    let known = scene.attio.store().lists.clone();
    scene.attio.always("/v2/lists", stale(Duration::from_secs(60), &known.iter().collect::<Vec<_>>()));
    scene.attio.store().lists.push(list.clone());
    let entry = scene.attio.store().add_entry("events", &ada, BTreeMap::new()).unwrap();
    scene.tell_entry("list-entry.created", &list.id, &entry);
    let asked = || scene.attio.seen().iter().filter(|seen| seen.target == "/v2/lists").count();
    let before = asked();
    eventually_blocking("the names are read again", || asked() >= before + 3);
    assert_eq!(
        (scene.events("list-entry", "ignored"), scene.metrics().get("state_backlog", &[])),
        (0.0, 1.0)
    );
    scene.attio.no_more_faults();
    eventually_blocking("its entry has a state", || states(&scene, Category::ListEntry).contains_key(&entry));
    let kept = scene.kept_of(Category::ListEntry).remove(0).event.unwrap();
    assert_eq!(kept["attiolist"], "events");
}

#[test]
fn entry_of_a_list_that_was_hidden_after_the_names_is_not_gone() {
    const OLD: Duration = Duration::from_secs(6);
    let scene = Scene::kafka();
    let _program = scene.run();
    let ada = scene.person("Ada");
    let list = scene.attio.store().lists.iter().find(|list| list.slug == "recruiting").unwrap().clone();
    let entry = scene.attio.store().add_entry("recruiting", &ada, BTreeMap::new()).unwrap();
    scene.tell_entry("list-entry.created", &list.id, &entry);
    let kept = || states(&scene, Category::ListEntry).contains_key(&entry);
    eventually_blocking("it has a state", kept);
    scene.attio.always("/v2/lists", stale(OLD, &[&list]));
    scene.attio.store().lists.retain(|known| known.id != list.id);
    scene.tell_entry("list-entry.updated", &list.id, &entry);
    // An answer that names the list is now later than the event, and older than the 404.
    std::thread::sleep(OLD * 2);
    assert!(kept() && not_found(&scene, &entry) > 0, "it was buried");
    scene.attio.no_more_faults();
    eventually_blocking("it is ignored", || scene.events("list-entry", "ignored") == 1.0);
    scene.attio.store().lists.push(list);
    eventually_blocking("it is not stuck", || scene.metrics().get("state_stuck", &[]) == 0.0);
    scene.eventually_done();
    assert!(kept());
}
