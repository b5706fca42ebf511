//! Ids that are unusual, and keys that cannot be written: nothing is counted twice, and the others go on.

use std::collections::BTreeMap;
use std::thread;

use attio_bridge::bus::state::{Role, milliseconds};
use attio_bridge::catalog::Category;
use attio_bridge::fake_attio::world::Item;
use axum::http::Method;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::scene::{Bus, Scene};
use super::walks::{diff, states};
use super::writers::{change, start, state};
use crate::support::faults::Fault;
use crate::support::nats;
use crate::support::program::run;

/// Adds people with these ids.
fn people(scene: &Scene, ids: &[&str]) {
    let object = scene.object();
    for id in ids {
        let item = Item::new(Category::Record, &object, None);
        scene.attio.store().world.add_as(id, item, BTreeMap::new());
    }
}

/// Exit code and messages.
fn backfill(scene: &Scene) -> (i32, String) {
    let journal = scene.attio.path("journal");
    let arguments = ["state", "backfill", "--object", "people", "--journal", journal.to_str().unwrap()];
    let output = run(&arguments, &scene.variables);
    assert!(!journal.exists(), "it is done");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn id_with_dots_is_one_key_everywhere() {
    const DOTTED: &str = "an.id.with-dots";
    for scene in Scene::both() {
        people(&scene, &[DOTTED, "dots", "with-dots"]);
        let (code, said) = backfill(&scene);
        assert_eq!(code, 0, "{said}");
        let keys: Vec<String> = states(&scene, Category::Record).into_keys().collect();
        assert_eq!(keys, [DOTTED, "dots", "with-dots"]);
        if let Bus::Nats(server) = &scene.bus {
            let subject = format!("{}-state.record.{DOTTED}", scene.prefix);
            assert!(server.read_all(scene.stream()).iter().any(|stored| stored.subject == subject));
        }
        assert_eq!(diff(&scene, &["--object", "people"], 0), BTreeMap::new());
        let get = || run(&["state", "get", DOTTED], &scene.variables);
        assert!(String::from_utf8_lossy(&get().stdout).contains(DOTTED));

        scene.attio.store().remove(DOTTED).unwrap();
        let found = diff(&scene, &["--object", "people", "--repair"], 0);
        assert_eq!(found, BTreeMap::from([(DOTTED.to_owned(), "left over".to_owned())]));
        assert_eq!(diff(&scene, &["--object", "people"], 0), BTreeMap::new());
        let gone = get();
        assert_eq!(gone.status.code(), Some(3), "{gone:?}");
        assert_eq!(states(&scene, Category::Record).len(), 2, "no other is touched");
    }
}

#[test]
fn id_that_can_be_no_key_is_named_and_the_others_go_on() {
    for scene in Scene::both() {
        people(&scene, &["first", "an..id", "end.", "last"]);
        let (code, said) = backfill(&scene);
        assert_eq!(code, 1, "{said}");
        for id in ["an..id", "end."] {
            assert!(
                said.lines().any(|line| line.ends_with(&format!("not published: record {id}"))),
                "{said}"
            );
        }
        let keys: Vec<String> = states(&scene, Category::Record).into_keys().collect();
        assert_eq!(keys, ["first", "last"]);
    }
}

#[test]
fn key_that_cannot_be_written_is_named_and_the_rest_is_published() {
    let both = Scene::both().map(|scene| {
        thread::spawn(move || {
            let ids = ["Ada", "Grace", "Barbara"].map(|name| scene.person(name));
            // Written by a host with a clock that is an hour ahead.
            let ahead = milliseconds(OffsetDateTime::now_utc()) + 3_600_000;
            let poison = change(state(&scene.prefix, &ids[1], Some(ahead)));
            nats::runtime().block_on(async {
                start(&scene, Role::Run).await.publish(vec![poison]).await.unwrap();
            });
            let (code, said) = backfill(&scene);
            assert_eq!(code, 1, "{said}");
            assert!(said.contains("cannot be written: the topic holds something newer"), "{said}");
            let named: Vec<&str> = said.lines().filter(|line| line.contains("not published: ")).collect();
            assert!(named.len() == 1 && named[0].ends_with(&format!("record {}", ids[1])), "{said}");
            assert!(said.contains("1 states are not published"), "{said}");
            let (kept, world) =
                (states(&scene, Category::Record), scene.attio.store().everything(Category::Record));
            for id in [&ids[0], &ids[2]] {
                assert_eq!(kept[id], world[id]);
            }
        })
    });
    both.into_iter().for_each(|one| one.join().unwrap());
}

#[test]
fn comments_on_a_record_that_cannot_be_read_are_published() {
    let mut scene = Scene::kafka();
    scene.set("STATE__COMMENTS", "true");
    let Bus::Kafka(broker) = &scene.bus else { unreachable!() };
    broker.create_topic(&format!("{}.comment", scene.prefix), 1, &[]);
    let ada = scene.person("Ada");
    let comment = scene.attio.store().add_comment(&ada, None, "well done").unwrap();
    let mut row = scene.attio.store().everything(Category::Record)[&ada].clone();
    row.as_object_mut().unwrap().retain(|member, _| member == "id");
    let spoiled = Fault::Answer(200, json!({ "data": [row] }).to_string());
    scene.attio.always("/objects/people/records/query", spoiled.clone());
    scene.attio.always(&format!("/objects/{}/records/query", scene.object()), spoiled);
    let journal = scene.attio.path("journal");
    let output = run(&["state", "backfill", "--journal", journal.to_str().unwrap()], &scene.variables);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("record {ada}")), "{said}");
    assert!(states(&scene, Category::Record).is_empty());
    assert!(states(&scene, Category::Comment).contains_key(&comment), "{said}");
}

#[test]
fn row_that_only_another_page_shows_well_differs_and_does_not_count_as_failed() {
    let scene = Scene::kafka();
    people(&scene, &["second", "third"]);
    assert_eq!(backfill(&scene).0, 0);
    people(&scene, &["first"]);
    let world = scene.attio.store().everything(Category::Record);
    let [first, second, third] = ["first", "second", "third"].map(|id| world[id].clone());
    let mut spoiled = first.clone();
    spoiled.as_object_mut().unwrap().retain(|member, _| member == "id");
    let page = |rows: &[Value]| {
        Fault::Of(Method::POST, Fault::Answer(200, json!({ "data": rows }).to_string()).into())
    };
    scene.attio.faults([page(&[spoiled, second, third.clone()]), page(&[third, first])]);
    let output = run(&["state", "diff", "--json", "--object", "people"], &scene.variables);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    let found: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let found: Vec<_> = found.iter().map(|one| (&one["id"], &one["difference"])).collect();
    assert_eq!(found, [(&json!("first"), &json!("missing"))], "{said}");
    assert!(said.contains("3 entities compared, 1 differ: 1 missing, 0 stale, 0 left over"), "{said}");
}
