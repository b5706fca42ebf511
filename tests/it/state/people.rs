//! The examples that keep a copy of people from the states: in a database, or in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use attio_bridge::catalog::Category;
use serde_json::Value;
use tempfile::TempDir;

use super::scene::{Bus, Scene};
use crate::interop::consumer::{install, program_in};
use crate::interop::languages::of_folder;
use crate::support::wait::eventually_blocking;
use crate::support::watched::Watched;

const READ: &str = "import json, sqlite3, sys; rows = sqlite3.connect(sys.argv[1]).execute('SELECT id, data FROM people'); \
                    print(json.dumps(dict(rows.fetchall())))";

/// The rows; empty while there is no table.
fn rows(folder: &Path, database: &Path) -> BTreeMap<String, Value> {
    let mut python = Command::new(folder.join(".venv/bin/python"));
    let output = python.args(["-c", READ]).arg(database).output().unwrap();
    let rows: BTreeMap<String, String> = serde_json::from_slice(&output.stdout).unwrap_or_default();
    rows.into_iter().map(|(id, data)| (id, serde_json::from_str(&data).unwrap())).collect()
}

/// A command that runs a program of an example with the variables that say where the states are.
fn command(folder: &Path, database: &Path, scene: &Scene, kafka: &[&str], nats: &[&str]) -> Command {
    let mut command = program_in(folder, database);
    command.arg(format!("PEOPLE={}", database.display()));
    let program = match &scene.bus {
        Bus::Kafka(broker) => {
            command.arg(format!("KAFKA_BOOTSTRAP={}", broker.bootstrap()));
            command.arg(format!("KAFKA_TOPIC={}-state.record", scene.prefix));
            kafka
        }
        Bus::Nats(server) => {
            let stream = scene.variables.iter().find(|(name, _)| name.ends_with("STATE__STREAM")).unwrap();
            command.args([format!("NATS_URL={}", server.url()), format!("NATS_STREAM={}", stream.1)]);
            command.arg(format!("NATS_SUBJECT={}-state.record.>", scene.prefix));
            nats
        }
    };
    command.args(program);
    command
}

/// The people that exist.
fn people(scene: &Scene) -> BTreeMap<String, Value> {
    let world = scene.attio.store().everything(Category::Record);
    world.into_iter().filter(|(_, one)| one["id"]["object_id"] == scene.object()).collect()
}

/// What a program has printed so far: a line for each person once it has read to the end, and then one for each change.
fn lines(data: &Path) -> Vec<(String, Option<Value>)> {
    let text = fs::read_to_string(data.join("output.log")).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let rows = whole.lines().filter_map(|line| line.split_once('\t'));
    rows.map(|(id, row)| (id.to_owned(), (row != "gone").then(|| serde_json::from_str(row).expect("JSON"))))
        .collect()
}

/// The people that it holds. Nothing comes back that is gone.
fn printed(data: &Path) -> BTreeMap<String, Value> {
    let (mut rows, mut gone) = (BTreeMap::new(), BTreeSet::new());
    for (id, row) in lines(data) {
        assert!(!gone.contains(&id), "{id} is back");
        match row {
            Some(row) => drop(rows.insert(id, row)),
            None => {
                assert!(rows.remove(&id).is_some(), "{id} was never there");
                gone.insert(id);
            }
        }
    }
    rows
}

/// Fills the states by `state run` and changes them while the program runs. It holds what the workspace does, and a second
/// one that begins later does, too.
fn keeps_a_copy(folder: &str, kafka: &[&str], nats: &[&str]) {
    let folder = install(of_folder(folder));
    let scenes = if nats.is_empty() { vec![Scene::kafka()] } else { Scene::both().into() };
    for scene in scenes {
        let _run = scene.run();
        let ids = ["Ada", "Grace", "Barbara"].map(|name| scene.person(name));
        let company = scene.attio.store().create_record("companies", BTreeMap::new()).unwrap();
        ids.iter().for_each(|id| scene.tell("record.created", id));
        scene.tell("record.created", &company);
        scene.attio.store().remove(&ids[2]).unwrap();
        scene.tell("record.deleted", &ids[2]);
        scene.eventually_gone(&ids[2]);
        scene.eventually_done();
        let start = |data: &TempDir| {
            let command = command(&folder, &data.path().join("unused"), &scene, kafka, nats);
            Watched::start(&command, data.path())
        };
        let (first, second) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let program = start(&first);
        eventually_blocking("it has everything from the beginning", || {
            printed(first.path()) == people(&scene)
        });
        assert_eq!(lines(first.path()).len(), 2, "a line for each that exists, and nothing before");
        scene.rename(&ids[0], "Ada Lovelace");
        scene.tell("record.updated", &ids[0]);
        scene.attio.store().remove(&ids[1]).unwrap();
        scene.tell("record.deleted", &ids[1]);
        let newcomer = scene.person("Frances");
        scene.tell("record.created", &newcomer);
        eventually_blocking("it has the changes", || printed(first.path()) == people(&scene));
        let other = start(&second);
        eventually_blocking("another has everything", || printed(second.path()) == people(&scene));
        assert_eq!((people(&scene).len(), lines(second.path()).len()), (2, 2));
        for kept in [program, other] {
            kept.kill();
        }
    }
}

#[test]
fn typescript_keeps_a_copy_of_people() {
    keeps_a_copy("typescript", &["node", "people.ts"], &["node", "people_nats.ts"]);
}

#[test]
fn go_keeps_a_copy_of_people() {
    keeps_a_copy("go", &["bin/people"], &["bin/people_nats"]);
}

#[test]
#[ignore = "full tier: fetches and compiles for minutes"]
fn java_keeps_a_copy_of_people() {
    keeps_a_copy("java", &["java", "-cp", "target/classes:target/lib/*", "example.People"], &[]);
}

#[test]
#[ignore = "full tier: fetches and compiles for minutes"]
fn rust_keeps_a_copy_of_people() {
    keeps_a_copy("rust", &["target/debug/people"], &[]);
}

#[test]
fn python_keeps_one_row_for_each_person_that_exists() {
    let folder = install(of_folder("python"));
    for scene in Scene::both() {
        let data = tempfile::tempdir().unwrap();
        let database = data.path().join("people.db");
        let python = |program| [".venv/bin/python", program];
        let (kafka, nats) = (python("people_kafka.py"), python("people_nats.py"));
        let command = command(&folder, &database, &scene, &kafka, &nats);
        let _run = scene.run();
        let equal = || people(&scene) == rows(&folder, &database);
        let ids = ["Ada", "Grace", "Barbara"].map(|name| scene.person(name));
        ids.iter().for_each(|id| scene.tell("record.created", id));
        let kept = Watched::start(&command, data.path());
        eventually_blocking("every person is there", equal);
        kept.kill();
        let kept = Watched::start(&command, data.path());
        scene.rename(&ids[0], "Ada Lovelace");
        scene.tell("record.updated", &ids[0]);
        scene.attio.store().remove(&ids[1]).unwrap();
        scene.tell("record.deleted", &ids[1]);
        eventually_blocking("the change and the delete are there", equal);
        kept.kill();
    }
}
