//! What goes wrong with one entity, or with one answer of Attio, is for that one alone.

use std::collections::BTreeMap;
use std::time::Duration;

use attio_bridge::catalog::Category;
use tempfile::TempDir;

use super::scene::{Bus, SETTLE, Scene};
use super::walks::{diff, states};
use crate::support::faults::Fault;
use crate::support::program::run;
use crate::support::wait::eventually_blocking;

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
        let large = [scene.person(&"x".repeat(30_000)), scene.person(&"y".repeat(30_000))];
        let others: Vec<_> = (0..30).map(|number| scene.person(&format!("person {number}"))).collect();
        for id in large.iter().chain(&others) {
            scene.tell("record.created", id);
        }
        for (number, id) in others.iter().enumerate() {
            scene.eventually_named(id, &format!("person {number}"));
        }
        eventually_blocking("both are stuck, and nothing else is open", || {
            (stuck(&scene), scene.metrics().get("state_backlog", &[])) == (2.0, 2.0)
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
            assert!(said.contains("larger than the broker takes") && said.contains("raise max_"), "{said}");
        }
        let _program = scene.run();
        eventually_blocking("they are not done, so they are stuck again", || stuck(&scene) == 2.0);
        for (number, id) in large.iter().enumerate() {
            scene.rename(id, &format!("small {number}"));
            scene.tell("record.updated", id);
            scene.eventually_named(id, &format!("small {number}"));
        }
        scene.eventually_done();
        eventually_blocking("none is stuck", || stuck(&scene) == 0.0);
    }
}

#[test]
fn entries_of_a_list_that_is_gone_are_gone_and_those_of_an_unknown_one_are_ignored() {
    for scene in Scene::both() {
        let ada = scene.person("Ada");
        let list =
            scene.attio.store().lists.iter().find(|list| list.slug == "recruiting").unwrap().id.clone();
        let entries: Vec<_> = (0..2)
            .map(|_| scene.attio.store().add_entry("recruiting", &ada, BTreeMap::new()).unwrap())
            .collect();
        let _program = scene.run();
        for entry in &entries {
            scene.tell_entry("list-entry.created", &list, entry);
        }
        let kept = || states(&scene, Category::ListEntry);
        eventually_blocking("both have states", || kept().len() == 2);
        scene.attio.store().lists.retain(|known| known.id != list);
        scene.tell_entry("list-entry.updated", &list, &entries[0]);
        scene.tell_entry("list-entry.updated", "another-list", "an-entry");
        eventually_blocking("the first one is gone", || kept().keys().eq([&entries[1]]));
        eventually_blocking("the other list is ignored", || scene.events("list-entry", "ignored") == 1.0);
        scene.eventually_done();
        assert_eq!(stuck(&scene), 0.0);
        let left = BTreeMap::from([(entries[1].clone(), "left over".to_owned())]);
        let found = diff(&scene, &["--repair"], 0);
        assert_eq!(found.get(&entries[1]), left.get(&entries[1]), "{found:?}");
        assert!(kept().is_empty());
    }
}

#[test]
fn list_that_is_made_later_is_kept_by_its_slug() {
    let mut scene = Scene::kafka();
    scene.set("STATE__LISTS", "sales_pipeline,events");
    let _program = scene.run();
    let (ada, list) = (scene.person("Ada"), attio_bridge::fake_attio::store::Named::new("events", &[]));
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

#[test]
fn answers_without_their_time_count_as_old_and_with_it_as_what_they_say() {
    for scene in Scene::both() {
        let _program = scene.run();
        let ada = scene.person("Ada");
        scene.tell("record.created", &ada);
        scene.eventually_named(&ada, "Ada");
        // As old as it says, an absence counts at once.
        let gone = || scene.metrics().get("state_reads_total", &[("kind", "record"), ("result", "gone")]);
        let before = gone();
        scene.attio.store().remove(&ada).unwrap();
        scene.tell("record.updated", &ada);
        scene.eventually_gone(&ada);
        assert_eq!(gone() - before, 1.0);

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
