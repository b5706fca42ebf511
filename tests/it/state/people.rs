//! The examples that keep a table of people from the states.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use attio_bridge::catalog::Category;
use serde_json::Value;

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

#[test]
fn python_keeps_one_row_for_each_person_that_exists() {
    let folder = install(of_folder("python"));
    for scene in Scene::both() {
        let data = tempfile::tempdir().unwrap();
        let database = data.path().join("people.db");
        let mut command = program_in(&folder, &database);
        command.arg(format!("PEOPLE={}", database.display()));
        let program = match &scene.bus {
            Bus::Kafka(broker) => {
                command.arg(format!("KAFKA_BOOTSTRAP={}", broker.bootstrap()));
                command.arg(format!("KAFKA_TOPIC={}-state.record", scene.prefix));
                "people_kafka.py"
            }
            Bus::Nats(server) => {
                let stream =
                    scene.variables.iter().find(|(name, _)| name.ends_with("STATE__STREAM")).unwrap();
                command.args([format!("NATS_URL={}", server.url()), format!("NATS_STREAM={}", stream.1)]);
                command.arg(format!("NATS_SUBJECT={}-state.record.>", scene.prefix));
                "people_nats.py"
            }
        };
        command.args([".venv/bin/python", program]);
        let _run = scene.run();
        let equal = || {
            let world = scene.attio.store().everything(Category::Record);
            let people = world.into_iter().filter(|(_, one)| one["id"]["object_id"] == scene.object());
            people.collect::<BTreeMap<_, _>>() == rows(&folder, &database)
        };
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
