//! `state backfill` and `state diff` on real brokers, against the fake Attio.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use attio_bridge::catalog::Category;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::scene::Scene;
use crate::support::faults::Fault;
use crate::support::program::{Program, run};
use crate::support::wait::eventually_blocking;

/// The categories whose entities have states.
pub const CATEGORIES: [Category; 5] =
    [Category::Record, Category::ListEntry, Category::Note, Category::Task, Category::Comment];

/// A scene in which every kind is kept.
fn everything(scene: Scene) -> Scene {
    let mut scene = scene;
    for kind in ["NOTES", "TASKS", "COMMENTS"] {
        scene.set(&format!("STATE__{kind}"), "true");
    }
    scene
}

/// Some of each kind. Nobody is told.
fn populate(scene: &Scene, people: usize) -> Vec<String> {
    let ids: Vec<String> = (0..people).map(|number| scene.person(&format!("person {number}"))).collect();
    let mut store = scene.attio.store();
    for id in ids.iter().step_by(7) {
        let entry = store.add_entry("recruiting", id, BTreeMap::new()).unwrap();
        store.add_note(id, "a title", "a text").unwrap();
        store.add_task(id, "call back").unwrap();
        store.add_comment(id, None, "about the person").unwrap();
        store.add_comment(&entry, None, "about the entry").unwrap();
    }
    ids
}

/// The last state of each entity that is not gone.
pub fn states(scene: &Scene, category: Category) -> BTreeMap<String, Value> {
    let mut states = BTreeMap::new();
    for kept in scene.kept_of(category) {
        match kept.event {
            Some(event) => states.insert(kept.key, event["data"].clone()),
            None => states.remove(&kept.key),
        };
    }
    states
}

fn equal(scene: &Scene) {
    for category in CATEGORIES {
        let (kept, world) = (states(scene, category), scene.attio.store().everything(category));
        assert!(kept == world, "{category}: {} states of {}", kept.len(), world.len());
    }
}

pub fn backfill(scene: &Scene, journal: &Path, more: &[&str]) {
    let journal = journal.to_str().unwrap();
    let output = run(&[&["state", "backfill", "--journal", journal], more].concat(), &scene.variables);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("states published") && !Path::new(journal).exists(), "{said}");
}

/// The ids that differ, by how they do.
pub fn diff(scene: &Scene, more: &[&str], code: i32) -> BTreeMap<String, String> {
    let output = run(&[&["state", "diff", "--json"], more].concat(), &scene.variables);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    let all: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    all.iter().map(|found| (text(&found["id"]), text(&found["difference"]))).collect()
}

#[test]
fn backfill_publishes_everything_and_diff_names_what_no_event_told_of() {
    for scene in Scene::both().map(everything) {
        let folder = TempDir::new().unwrap();
        let journal = folder.path().join("journal");
        let people = populate(&scene, 30);
        backfill(&scene, &journal, &[]);
        equal(&scene);
        assert_eq!(diff(&scene, &[], 0), BTreeMap::new());

        let company = scene.attio.store().create_record("companies", BTreeMap::new()).unwrap();
        let newcomer = scene.person("nobody knows");
        scene.rename(&people[3], "renamed in silence");
        scene.attio.store().remove(&people[4]).unwrap();
        let expected = [
            (company.clone(), "missing"),
            (newcomer.clone(), "missing"),
            (people[3].clone(), "stale"),
            (people[4].clone(), "left over"),
        ];
        let expected = BTreeMap::from(expected.map(|(id, difference)| (id, difference.to_owned())));
        assert_eq!(diff(&scene, &[], 3), expected);
        let of_people: BTreeSet<_> = expected.keys().filter(|id| **id != company).cloned().collect();
        let found = diff(&scene, &["--object", "people", "--repair"], 0);
        assert_eq!(found.into_keys().collect::<BTreeSet<_>>(), of_people);
        assert_eq!(diff(&scene, &[], 3).into_keys().collect::<Vec<_>>(), [company]);
        diff(&scene, &["--repair"], 0);
        assert_eq!(diff(&scene, &[], 0), BTreeMap::new());
        equal(&scene);
    }
}

#[test]
fn interrupted_backfill_goes_on_where_it_was() {
    let mut scene = Scene::kafka();
    let folder = TempDir::new().unwrap();
    let journal = folder.path().join("journal");
    (0..3000).for_each(|number| drop(scene.person(&format!("person {number}"))));
    scene.set("STATE__READS_PER_SECOND", "3");
    let mut first =
        Program::start(&["state", "backfill", "--journal", journal.to_str().unwrap()], &scene.variables);
    // Half of the pages: how many are asked for in vain at the end of a walk differs.
    eventually_blocking("pages are noted", || {
        let text = std::fs::read_to_string(&journal).unwrap_or_default();
        let noted: Value = serde_json::from_str(&text).unwrap_or_default();
        let mut positions = noted["targets"].as_object().into_iter().flat_map(|targets| targets.values());
        positions.any(|position| position["offset"].as_u64() >= Some(1400))
    });
    first.signal("KILL");
    first.end();
    let walked = states(&scene, Category::Record).len();
    assert!((1..3000).contains(&walked), "{walked}");
    scene.set("STATE__READS_PER_SECOND", "90");
    let before = scene.attio.store().rate.all_reads;
    backfill(&scene, &journal, &[]);
    assert!(states(&scene, Category::Record) == scene.attio.store().everything(Category::Record));
    let reads = scene.attio.store().rate.all_reads - before;
    backfill(&scene, &journal, &[]);
    let anew = scene.attio.store().rate.all_reads - before - reads;
    assert!(reads < anew, "{reads} reads after the interruption, {anew} from the beginning");
}

#[test]
fn backfill_replaces_nothing_by_something_older() {
    for scene in Scene::both() {
        let _running = scene.run();
        let (folder, people) = (TempDir::new().unwrap(), populate(&scene, 10));
        scene.attio.store().lag = std::time::Duration::from_secs(2);
        scene.rename(&people[0], "renamed");
        scene.tell("record.updated", &people[0]);
        scene.attio.store().remove(&people[1]).unwrap();
        scene.tell("record.deleted", &people[1]);
        scene.eventually_named(&people[0], "renamed");
        scene.eventually_gone(&people[1]);
        backfill(&scene, &folder.path().join("journal"), &["--object", "people"]);
        assert!(scene.last(&people[1]).unwrap().event.is_none(), "a page brought back what was deleted");
        let last = scene.last(&people[0]).unwrap().event.unwrap();
        assert_eq!(last["data"]["values"]["name"][0]["value"], json!("renamed"));
    }
}

#[test]
fn parent_whose_comments_are_refused_is_named_and_holds_up_no_other() {
    let scene = everything(Scene::kafka());
    let journal = scene.attio.path("journal");
    let (ada, grace) = (scene.person("Ada"), scene.person("Grace"));
    let comment = |parent: &str| scene.attio.store().add_comment(parent, None, "a comment").unwrap();
    let of_ada = comment(&ada);
    backfill(&scene, &journal, &[]);
    let mut asked = scene.attio.seen().into_iter().map(|seen| seen.target);
    let of_threads = asked.find(|target| target.contains("/threads?") && target.contains(&ada));
    let refused =
        json!({ "status_code": 400, "type": "invalid_request_error", "code": "x", "message": "no" });
    scene.attio.always(&of_threads.expect("they were asked for"), Fault::Answer(400, refused.to_string()));
    let of_grace = comment(&grace);
    let output = run(&["state", "backfill", "--journal", journal.to_str().unwrap()], &scene.variables);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("its comments cannot be read") && said.contains(&ada), "{said}");
    assert!(said.contains(&format!("not published: comment {ada}")), "{said}");
    let kept: Vec<_> = states(&scene, Category::Comment).into_keys().collect();
    assert!(kept.contains(&of_grace) && kept.contains(&of_ada), "{kept:?}");
}

#[test]
fn what_was_read_before_a_target_is_not_found_any_more_is_published() {
    let scene = everything(Scene::kafka());
    let journal = scene.attio.path("journal");
    let ada = scene.person("Ada");
    for number in 0..80 {
        scene.attio.store().add_note(&ada, "a title", &format!("note {number}")).unwrap();
    }
    // The second page; the first one has 50 notes.
    let missing = json!({ "status_code": 404, "type": "x", "code": "not_found", "message": "no" });
    scene.attio.always("offset=30", Fault::Answer(404, missing.to_string()));
    let output = run(&["state", "backfill", "--journal", journal.to_str().unwrap()], &scene.variables);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("not published: what is left of note"), "{said}");
    assert_eq!(states(&scene, Category::Note).len(), 50, "{said}");
}

#[test]
fn backfill_that_takes_long_says_how_far_it_is_without_a_terminal() {
    const PEOPLE: usize = 60;
    let mut scene = everything(Scene::kafka());
    // The comments are asked for person by person.
    scene.set("STATE__READS_PER_SECOND", "5");
    populate(&scene, PEOPLE);
    let journal = scene.attio.path("journal");
    let output = run(&["state", "backfill", "--journal", journal.to_str().unwrap()], &scene.variables);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let total = CATEGORIES[..4].iter().map(|category| scene.attio.store().everything(*category).len());
    let parents = CATEGORIES[..2].iter().map(|category| scene.attio.store().everything(*category).len());
    let about = format!(" of about {} entities read, ", total.chain(parents).sum::<usize>());
    let lines: Vec<_> = said.lines().filter(|line| line.contains(&about)).collect();
    assert!(!lines.is_empty() && lines.iter().all(|line| line.ends_with(" left")), "{said}");
}

#[test]
fn unknown_object_is_named() {
    let scene = Scene::kafka();
    let output = run(&["state", "backfill", "--object", "zebras"], &scene.variables);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("zebras"), "{said}");
}
