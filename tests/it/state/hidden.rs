//! Objects and lists that the key may not see, for a while or for ever.

use std::collections::BTreeMap;
use std::time::Duration;

use attio_bridge::catalog::Category;
use attio_bridge::fake_attio::store::Named;
use serde_json::json;
use uuid::Uuid;

use super::scene::{Bus, Scene};
use super::walks::{backfill, diff, states};
use crate::support::faults::Fault;
use crate::support::program::{Program, run};
use crate::support::wait::eventually_blocking;

const LISTS: [&str; 3] = ["recruiting", "sales_pipeline", "events"];

/// Requests for a page until it counts as one that cannot be read for now.
const ATTEMPTS: usize = 6;

fn list(scene: &Scene, slug: &str) -> Named {
    scene.attio.store().lists.iter().find(|list| list.slug == slug).unwrap().clone()
}

fn entry(scene: &Scene, list: &str) -> String {
    let ada = scene.person("Ada");
    scene.attio.store().add_entry(list, &ada, BTreeMap::new()).unwrap()
}

/// Comments are kept too.
fn with_comments(mut scene: Scene) -> Scene {
    scene.set("STATE__COMMENTS", "true");
    if let Bus::Kafka(broker) = &scene.bus {
        broker.create_topic(&format!("{}.comment", scene.prefix), 1, &[]);
    }
    scene
}

/// An event of a comment on an entry, as Attio has it: it names the object of the entry's record, too.
fn tell_comment(scene: &Scene, event_type: &str, comment: &str, list: &str, entry: &str) {
    let id = json!({ "workspace_id": scene.workspace, "comment_id": comment });
    let (object, world) = (scene.object(), scene.attio.store().everything(Category::ListEntry));
    let data = json!({
        "id": id, "thread_id": comment, "list_id": list, "entry_id": entry, "object_id": object,
        "record_id": world[entry]["parent_record_id"],
    });
    scene.publish(event_type, comment, &data);
}

/// A 404 as Attio has it.
fn not_found() -> Fault {
    let body = json!({ "status_code": 404, "type": "x", "code": "not_found", "message": "no" });
    Fault::Answer(404, body.to_string())
}

fn metric(scene: &Scene, name: &str) -> f64 {
    scene.metrics().get(name, &[])
}

/// Three lists with an entry each of which a change was ignored, as they are hidden. What they are, and the entries.
fn hidden_lists(scene: &Scene) -> (Vec<Named>, Vec<String>) {
    scene.attio.store().lists.push(Named::new("events", &[]));
    let lists = LISTS.map(|slug| list(scene, slug)).to_vec();
    let entries: Vec<String> = LISTS.iter().map(|slug| entry(scene, slug)).collect();
    for (list, entry) in lists.iter().zip(&entries) {
        scene.tell_entry("list-entry.created", &list.id, entry);
    }
    eventually_blocking("all have states", || states(scene, Category::ListEntry).len() == 3);
    scene.attio.store().lists.clear();
    for (list, entry) in lists.iter().zip(&entries) {
        scene.attio.store().set(entry, "stage", json!("changed")).unwrap();
        scene.tell_entry("list-entry.updated", &list.id, entry);
    }
    eventually_blocking("all are ignored", || scene.events("list-entry", "ignored") == 3.0);
    (lists, entries)
}

fn eventually_caught_up(scene: &Scene, entries: &[String]) {
    eventually_blocking("all are caught up with", || {
        let kept = states(scene, Category::ListEntry);
        entries.iter().all(|entry| kept[entry].to_string().contains("changed"))
    });
}

/// The lists whose entries were asked for page by page, with what was answered, since so many requests.
fn walked(scene: &Scene, since: usize) -> Vec<(String, u16)> {
    let seen = scene.attio.seen();
    let walks = seen[since..].iter().filter(|seen| seen.target.ends_with("/entries/query"));
    walks.map(|seen| (seen.target.clone(), seen.status)).collect()
}

#[test]
fn lists_that_are_shown_again_are_read_one_after_the_other() {
    const SLOW: Duration = Duration::from_secs(4);
    let scene = Scene::kafka();
    let _program = scene.run();
    let (lists, entries) = hidden_lists(&scene);
    let since = scene.attio.seen().len();
    scene.attio.always("/entries/query", Fault::Hang(SLOW));
    scene.attio.store().lists.extend(lists);
    eventually_blocking("one is walked through", || !walked(&scene, since).is_empty());
    std::thread::sleep(SLOW / 2);
    assert_eq!(walked(&scene, since).len(), 1, "one at a time");
    scene.attio.no_more_faults();
    eventually_caught_up(&scene, &entries);
}

#[test]
fn catching_up_that_fails_is_repeated_until_it_works() {
    let scene = Scene::kafka();
    let mut program = scene.run();
    let (lists, entries) = hidden_lists(&scene);
    let since = scene.attio.seen().len();
    let end = format!("/lists/{}/entries/query", lists[0].id);
    scene.attio.always(&end, Fault::Status(500));
    scene.attio.store().lists.extend(lists);
    eventually_caught_up(&scene, &entries[1..]);
    eventually_blocking("the other one is gone through once more", || {
        walked(&scene, since).iter().filter(|(target, _)| target.ends_with(&end)).count() > ATTEMPTS
    });
    scene.attio.no_more_faults();
    eventually_caught_up(&scene, &entries);
    program.signal("TERM");
    let (code, said) = program.end();
    assert_eq!(code, Some(0), "{said}");
    let of = |what: &str, slug: &str| said.lines().any(|line| line.contains(what) && line.contains(slug));
    assert!(of("is not read", LISTS[0]) && of("trying on", LISTS[0]), "{said}");
    assert!(LISTS.iter().all(|slug| of("what can be seen again is read", slug)), "{said}");
}

#[test]
fn catching_up_that_is_not_allowed_ends_it_and_says_what_to_grant() {
    let scene = Scene::kafka();
    let mut program = scene.run();
    let (lists, _) = hidden_lists(&scene);
    let refusal =
        json!({ "status_code": 403, "type": "auth_error", "code": "unauthorized", "message": "no" });
    scene.attio.always("/entries/query", Fault::Answer(403, refusal.to_string()));
    scene.attio.store().lists.extend(lists);
    let (code, said) = program.end();
    assert!(code == Some(1) && said.contains("list_entry:read"), "{code:?}: {said}");
}

#[test]
fn list_that_is_not_found_as_it_is_gone_through_is_gone_through_again() {
    let scene = Scene::kafka();
    let mut program = scene.run();
    let (lists, entries) = hidden_lists(&scene);
    let since = scene.attio.seen().len();
    let end = format!("/lists/{}/entries/query", lists[0].id);
    scene.attio.always(&end, not_found());
    scene.attio.store().lists.extend(lists);
    eventually_blocking("one is stuck", || metric(&scene, "state_stuck") == 1.0);
    let asked = |since| walked(&scene, since).iter().filter(|(target, _)| target.ends_with(&end)).count();
    assert!(asked(since) >= ATTEMPTS, "it was asked for {} times", asked(since));
    scene.attio.no_more_faults();
    eventually_caught_up(&scene, &entries);
    eventually_blocking("none is stuck", || metric(&scene, "state_stuck") == 0.0);
    program.signal("TERM");
    let (_, said) = program.end();
    assert!(said.contains("what is left of list-entry recruiting is left out"), "{said}");
}

#[test]
fn list_that_is_gone_as_it_is_gone_through_is_not_stuck_and_is_gone_through_once_it_is_shown() {
    let scene = Scene::kafka();
    let mut program = scene.run();
    let (lists, entries) = hidden_lists(&scene);
    let end = format!("/lists/{}/entries/query", lists[0].id);
    scene.attio.always(&end, not_found());
    scene.attio.store().lists.extend(lists);
    eventually_blocking("one is stuck", || metric(&scene, "state_stuck") == 1.0);
    let gone = scene.attio.store().lists.remove(0);
    eventually_blocking("none is stuck", || metric(&scene, "state_stuck") == 0.0);
    scene.attio.no_more_faults();
    scene.attio.store().lists.push(gone);
    eventually_caught_up(&scene, &entries);
    program.signal("TERM");
    let (_, said) = program.end();
    assert!(said.contains("cannot be seen any more"), "{said}");
}

#[test]
fn backfill_names_a_list_that_is_not_found_and_publishes_the_rest() {
    let scene = Scene::kafka();
    let (ada, entry) = (scene.person("Ada"), entry(&scene, "recruiting"));
    let end = format!("/lists/{}/entries/query", list(&scene, "recruiting").id);
    scene.attio.always(&end, not_found());
    let journal = scene.attio.path("journal");
    let output = run(&["state", "backfill", "--journal", journal.to_str().unwrap()], &scene.variables);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("not published: what is left of list-entry recruiting"), "{said}");
    assert!(states(&scene, Category::Record).contains_key(&ada), "{said}");
    scene.attio.no_more_faults();
    backfill(&scene, &journal, &[]);
    assert!(states(&scene, Category::ListEntry).contains_key(&entry));
}

#[test]
fn entry_is_not_gone_whose_list_is_hidden_at_the_404_and_shown_after_it() {
    // An absence says nothing until its event is so old.
    const CERTAIN: Duration = Duration::from_secs(2);
    let scene = Scene::kafka();
    let _program = scene.run();
    let (list, entry) = (list(&scene, "recruiting"), entry(&scene, "recruiting"));
    scene.tell_entry("list-entry.created", &list.id, &entry);
    eventually_blocking("it has a state", || states(&scene, Category::ListEntry).contains_key(&entry));
    let end = format!("/entries/{entry}");
    scene.attio.always(&end, Fault::Status(503));
    scene.attio.store().set(&entry, "stage", json!("changed")).unwrap();
    scene.tell_entry("list-entry.updated", &list.id, &entry);
    std::thread::sleep(CERTAIN + Duration::from_millis(500));
    scene.attio.store().lists.retain(|known| known.id != list.id);
    scene.attio.no_more_faults();
    scene.attio.always(&end, Fault::Late(Duration::from_secs(3)));
    eventually_blocking("it is not found", || {
        scene.attio.seen().iter().any(|seen| seen.target.ends_with(&end) && seen.status == 404)
    });
    scene.attio.store().lists.push(list);
    eventually_blocking("it has its new state", || {
        let kept = states(&scene, Category::ListEntry);
        kept.get(&entry).is_some_and(|kept| kept.to_string().contains("changed"))
    });
    assert!(scene.kept_of(Category::ListEntry).iter().all(|kept| kept.event.is_some()), "it was buried");
}

#[test]
fn what_catching_up_leaves_out_is_stuck_until_it_is_read() {
    let scene = Scene::kafka();
    let mut program = scene.run();
    let (lists, entries) = hidden_lists(&scene);
    let mut row = scene.attio.store().everything(Category::ListEntry)[&entries[0]].clone();
    let members = row.as_object_mut().unwrap();
    members.remove("created_at");
    members.remove("entry_values");
    let end = format!("/lists/{}/entries/query", lists[0].id);
    scene.attio.always(&end, Fault::Answer(200, json!({ "data": [row] }).to_string()));
    scene.attio.store().lists.extend(lists);
    eventually_caught_up(&scene, &entries[1..]);
    eventually_blocking("one is stuck", || metric(&scene, "state_stuck") == 1.0);
    scene.attio.no_more_faults();
    eventually_caught_up(&scene, &entries);
    eventually_blocking("none is stuck", || metric(&scene, "state_stuck") == 0.0);
    program.signal("TERM");
    let (_, said) = program.end();
    assert!(said.contains("but for 1: list-entry recruiting; trying on"), "{said}");
}

#[test]
fn comment_on_an_entry_is_not_gone_while_the_object_of_its_record_is_hidden() {
    for scene in Scene::both().map(with_comments) {
        let mut program = scene.run();
        let (list, entry) = (list(&scene, "recruiting").id, entry(&scene, "recruiting"));
        let comment = scene.attio.store().add_comment(&entry, None, "well done").unwrap();
        tell_comment(&scene, "comment.created", &comment, &list, &entry);
        let comments = || states(&scene, Category::Comment);
        eventually_blocking("it has a state", || comments().contains_key(&comment));

        let object = scene.object();
        let updated = |event_type| {
            let id = json!({ "workspace_id": scene.workspace, "comment_id": comment });
            let data = json!({
                "id": id, "thread_id": comment, "list_id": list, "entry_id": entry, "object_id": object,
                "record_id": "a-person",
            });
            scene.publish(event_type, &comment, &data);
        };
        let people = {
            let mut store = scene.attio.store();
            let at = store.objects.iter().position(|known| known.id == object).unwrap();
            store.objects.remove(at)
        };
        scene.attio.always(&comment, not_found());
        scene.attio.always("&limit=50&offset=0", Fault::Answer(200, json!({ "data": [] }).to_string()));
        updated("comment.resolved");
        eventually_blocking("it is ignored", || scene.events("comment", "ignored") == 1.0);
        let output = run(&["state", "diff", "--repair"], &scene.variables);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains(&format!("object or list {object}: ATTIO_API_KEY may not see it")), "{said}");
        assert!(comments().contains_key(&comment), "it was buried");

        scene.attio.store().set(&comment, "is_resolved", json!(true)).unwrap();
        scene.attio.no_more_faults();
        let since = scene.attio.seen().len();
        std::thread::sleep(Duration::from_secs(2));
        assert!(walked(&scene, since).is_empty(), "it is hidden still");
        scene.attio.store().objects.push(people);
        eventually_blocking("it is caught up with", || !comments()[&comment]["resolved_at"].is_null());
        scene.attio.store().remove(&comment).unwrap();
        updated("comment.unresolved");
        eventually_blocking("it is gone", || !comments().contains_key(&comment));
        program.signal("TERM");
        let (_, said) = program.end();
        assert!(said.contains(&format!("events of what belongs to {object} are ignored")), "{said}");
    }
}

/// Exit code and messages of a repair with this list as a deleted one.
fn repair(scene: &Scene, list: &str) -> (i32, String) {
    let output = run(&["state", "diff", "--repair", "--deleted-list", list], &scene.variables);
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn what_is_no_list_is_not_taken_for_a_deleted_one() {
    for scene in Scene::both().map(with_comments) {
        let ada = scene.person("Ada");
        scene.attio.store().add_comment(&ada, None, "well done").unwrap();
        let company = scene.attio.store().create_record("companies", BTreeMap::new()).unwrap();
        scene.attio.store().add_comment(&company, None, "about the company").unwrap();
        backfill(&scene, &scene.attio.path("journal"), &[]);
        let kept = || [Category::Record, Category::Comment].map(|category| states(&scene, category));
        let before = kept();
        assert_eq!(before.each_ref().map(BTreeMap::len), [2, 2]);
        // This one a repair would publish.
        scene.person("Grace");
        let companies = {
            let mut store = scene.attio.store();
            let at = store.objects.iter().position(|object| object.slug == "companies").unwrap();
            store.objects.remove(at)
        };
        let (there, no_list) = (list(&scene, "recruiting").id, Uuid::new_v4().to_string());
        for (id, why) in [
            ("recruiting", "not the id of a list"),
            (&there[1..], "not the id of a list"),
            (&scene.object(), "is an object"),
            (&companies.id, "is an object"),
            (&no_list, "is no list that is known here"),
            (&ada, "is no list that is known here"),
            (&there, "was not deleted"),
        ] {
            let (code, said) = repair(&scene, id);
            assert!(code != 0 && said.contains(why) && said.contains(id), "{code}: {said}");
            assert!(kept() == before, "{id}: something was written");
        }
    }
}

#[test]
fn deleted_list_is_known_by_comments_alone_or_by_the_configuration() {
    for mut scene in Scene::both().map(with_comments) {
        let (list, entry) = (list(&scene, "recruiting").id, entry(&scene, "recruiting"));
        let comment = scene.attio.store().add_comment(&entry, None, "well done").unwrap();
        backfill(&scene, &scene.attio.path("journal"), &[]);
        scene.attio.store().remove(&entry).unwrap();
        diff(&scene, &["--repair"], 0);
        let comments = || states(&scene, Category::Comment);
        scene.attio.store().lists.retain(|known| known.id != list);
        scene.attio.always(&comment, not_found());
        assert!(states(&scene, Category::ListEntry).is_empty() && comments().contains_key(&comment));
        let (code, said) = repair(&scene, &list.to_uppercase());
        assert_eq!(code, 0, "{said}");
        assert!(comments().is_empty(), "{said}");

        let (code, said) = repair(&scene, &list);
        assert!(code == 1 && said.contains("is no list that is known here"), "{code}: {said}");
        scene.set("STATE__LISTS", &list);
        let (code, said) = repair(&scene, &list);
        assert_eq!(code, 0, "{said}");
    }
}

#[test]
fn deleted_list_buries_nothing_that_another_reason_keeps_from_being_seen() {
    let mut scene = with_comments(Scene::kafka());
    scene.set("STATE__SETTLE", "8s");
    let (list, entry) = (list(&scene, "recruiting"), entry(&scene, "recruiting"));
    let comment = scene.attio.store().add_comment(&entry, None, "well done").unwrap();
    backfill(&scene, &scene.attio.path("journal"), &[]);
    scene.attio.store().lists.retain(|known| known.id != list.id);
    scene.attio.always(&comment, not_found());
    scene.attio.always("&limit=50&offset=0", Fault::Answer(200, json!({ "data": [] }).to_string()));
    let since = scene.attio.seen().len();
    let repair = ["state", "diff", "--repair", "--deleted-list", &list.id];
    let mut program = Program::start(&repair, &scene.variables);
    eventually_blocking("comments are gone through", || {
        scene.attio.seen()[since..].iter().any(|seen| seen.target.starts_with("/v2/threads"))
    });
    // What differs is looked at once more after ten seconds.
    std::thread::sleep(Duration::from_secs(4));
    let object = scene.object();
    scene.attio.store().lists.push(list);
    scene.attio.store().objects.retain(|known| known.id != object);
    let (code, said) = program.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("object or list {object}: ATTIO_API_KEY may not see it")), "{said}");
    assert!(states(&scene, Category::Comment).contains_key(&comment), "it was buried: {said}");
}
