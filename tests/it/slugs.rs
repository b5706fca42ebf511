//! Slugs of objects and lists: in events, in filters, and while the file changes.

use std::io::BufRead;
use std::path::PathBuf;

use attio_bridge::cloudevent::{Attribute, CloudEvent, structured};
use attio_bridge::pipeline::slugs::Slugs;
use serde_json::{Value, json};

use crate::setup::Setup;
use crate::support::bridge::Bridge;
use crate::support::logs::Logs;
use crate::support::memory::Memory;
use crate::support::request::{Request, SECRET};
use crate::support::served::Served;
use crate::support::wait::eventually;

const PEOPLE: &str = "97052eb9-e65e-443f-a297-f2d9a4a7f795";
const DEALS: &str = "bc6ba1c2-6f3a-4f4c-9b7a-d2c3b1a0e001";
const SALES: &str = "33ebdbe9-e529-47c9-b894-0ba25e9c15c0";
const STRANGE: &str = "00000000-0000-4000-8000-000000000000";

/// A map of two objects and one list.
fn map() -> Value {
    json!({
        "version": 1, "workspace_id": "14beef7a-99f7-4534-a87e-70b564330a4c", "written_by": "a test",
        "objects": { PEOPLE: "people", DEALS: "deals" }, "lists": { SALES: "sales_pipeline" },
    })
}

/// A bridge whose map is that text, if there is one, with more configuration.
struct Case {
    setup: Setup,
    file: PathBuf,
    bridge: Bridge,
}

impl Case {
    async fn new(slugs: Option<&str>, more: &str) -> Self {
        let setup = Setup::empty();
        let file = setup.folder().join("slugs.json");
        if let Some(text) = slugs {
            setup.write("slugs.json", text);
        }
        let text = format!(
            "http.listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\nbus.type = \"stdout\"\n\
             route.slugs_file = \"{}\"\n[sources.attio]\nsecrets = [{{ label = \"a\", value = \"{SECRET}\" }}]\n{more}",
            file.display()
        );
        let setup = setup.toml(&text);
        let bridge = Bridge::over(Memory::new(), setup.config()).await;
        Self { setup, file, bridge }
    }

    /// Writes another map and waits until the bridge has found it.
    async fn write(&self, text: &str, result: &str) {
        let labels = [("result", result)];
        let before = self.bridge.metric("config_reloads_total", &labels).await;
        self.setup.write("slugs.json", text);
        eventually("the file is found changed", || async {
            self.bridge.metric("config_reloads_total", &labels).await > before
        })
        .await;
    }

    /// Publishes an event; none where it was filtered.
    async fn publish(&self, event: &Value) -> Option<CloudEvent> {
        let before = self.bridge.bus.stored().len();
        let answer = self.bridge.ask(&Request::signed(event.to_string())).await;
        assert_eq!(answer.status, 200);
        let stored = self.bridge.bus.stored();
        stored.get(before).map(|message| message.event.clone())
    }

    /// The slugs of an event.
    async fn slugs(&self, event: &Value) -> (Option<String>, Option<String>) {
        let event = self.publish(event).await.expect("it is published");
        let get = |attribute| event.get(attribute).map(str::to_owned);
        (get(Attribute::AttioObject), get(Attribute::AttioList))
    }
}

fn record(object: &str) -> Value {
    json!({ "event_type": "record.created", "id": { "workspace_id": "w", "object_id": object, "record_id": "r" } })
}

fn entry(list: &str, object: &str) -> Value {
    let id = json!({ "workspace_id": "w", "list_id": list, "entry_id": "e" });
    json!({ "event_type": "list-entry.created", "id": id, "parent_object_id": object, "parent_record_id": "r" })
}

fn named(object: Option<&str>, list: Option<&str>) -> (Option<String>, Option<String>) {
    (object.map(str::to_owned), list.map(str::to_owned))
}

#[tokio::test]
async fn events_carry_the_slugs_of_their_object_and_list() {
    let case = Case::new(Some(&map().to_string()), "").await;
    let w = "w";
    let people = Some("people");
    let table = [
        (record(PEOPLE), people, None),
        (record(DEALS), Some("deals"), None),
        (record(STRANGE), None, None),
        (entry(SALES, PEOPLE), people, Some("sales_pipeline")),
        (entry(STRANGE, PEOPLE), people, None),
        (entry(SALES, STRANGE), None, Some("sales_pipeline")),
        // An object is not a list, even with the same id.
        (entry(PEOPLE, SALES), None, None),
        (
            json!({ "event_type": "list.updated", "id": { "workspace_id": w, "list_id": SALES } }),
            None,
            Some("sales_pipeline"),
        ),
        (
            json!({ "event_type": "object-attribute.created", "id": { "workspace_id": w, "object_id": DEALS, "attribute_id": "a" } }),
            Some("deals"),
            None,
        ),
        (
            json!({ "event_type": "note.created", "id": { "workspace_id": w, "note_id": "n" }, "parent_object_id": PEOPLE, "parent_record_id": "r" }),
            people,
            None,
        ),
        (
            json!({ "event_type": "record.merged", "id": { "workspace_id": w, "object_id": DEALS, "record_id": "r" }, "duplicate_object_id": PEOPLE }),
            Some("deals"),
            None,
        ),
        (
            json!({ "event_type": "comment.created", "id": { "workspace_id": w, "comment_id": "c" }, "thread_id": "t", "object_id": PEOPLE, "record_id": "r", "list_id": SALES, "entry_id": "e" }),
            people,
            Some("sales_pipeline"),
        ),
        (
            json!({ "event_type": "comment.created", "id": { "workspace_id": w, "comment_id": "c" }, "thread_id": "t", "object_id": PEOPLE, "list_id": null }),
            people,
            None,
        ),
        (json!({ "event_type": "task.created", "id": { "workspace_id": w, "task_id": "t" } }), None, None),
        // The guide's form, and a type that the catalog not_ready_reason.
        (
            json!({ "event_type": "record.created", "id": { "event_id": "e1" }, "object": { "id": { "object_id": PEOPLE } }, "record": { "id": { "record_id": "r" } } }),
            people,
            None,
        ),
        (
            json!({ "event_type": "meeting.created", "id": { "workspace_id": w, "list_id": SALES } }),
            None,
            Some("sales_pipeline"),
        ),
        // The object of the event comes before the one of its parent.
        (json!({ "event_type": "x.y", "parent_object_id": PEOPLE, "object_id": DEALS }), Some("deals"), None),
        (json!({ "event_type": "x.y", "object_id": 5, "list_id": "" }), None, None),
    ];
    for (event, object, list) in table {
        assert_eq!(case.slugs(&event).await, named(object, list), "{event}");
    }
}

#[tokio::test]
async fn slugs_are_in_both_content_modes_and_never_empty() {
    let case = Case::new(Some(&map().to_string()), "").await;
    let event = case.publish(&entry(SALES, PEOPLE)).await.expect("it is published");
    let json: Value = serde_json::from_slice(&structured::encode(&event)).unwrap();
    assert_eq!((&json["attioobject"], &json["attiolist"]), (&json!("people"), &json!("sales_pipeline")));
    let headers: Vec<_> = event.binary_headers().filter(|(name, _)| name.starts_with("attio")).collect();
    assert_eq!(headers, [("attioobject", "people"), ("attiolist", "sales_pipeline")]);
    let read: cloudevents::Event = serde_json::from_value(json).unwrap();
    assert_eq!(read.extension("attioobject").unwrap().to_string(), "people");

    let event = case.publish(&record(STRANGE)).await.expect("it is published");
    let json: Value = serde_json::from_slice(&structured::encode(&event)).unwrap();
    assert!(json.get("attioobject").is_none() && json.get("attiolist").is_none(), "{json}");
}

#[tokio::test]
async fn without_slugs_file_no_event_has_slugs() {
    let bridge = Bridge::start().await;
    assert_eq!(bridge.ask(&Request::signed(entry(SALES, PEOPLE).to_string())).await.status, 200);
    let event = bridge.bus.stored().remove(0).event;
    assert_eq!((event.get(Attribute::AttioObject), event.get(Attribute::AttioList)), (None, None));
}

#[tokio::test]
async fn a_changed_slugs_file_is_reloaded_and_an_invalid_one_changes_nothing() {
    let logs = Logs::capture();
    let case = Case::new(Some(&map().to_string()), "").await;
    let mut renamed = map();
    renamed["objects"][PEOPLE] = json!("contacts");
    case.write(&renamed.to_string(), "ok").await;
    assert_eq!(case.slugs(&record(PEOPLE)).await.0.as_deref(), Some("contacts"));
    assert!(logs.text().contains("slugs reloaded"));
    assert!(!logs.text().contains("secrets reloaded"), "{}", logs.text());

    let with = |member: &str, value: Value| {
        let mut map = map();
        map[member] = value;
        map.to_string()
    };
    let bad = [
        ("{", "is not a slugs file: EOF while parsing"),
        ("[]", "is not a slugs file"),
        (r#"{"version":1,"workspace_id":"w","objects":{}}"#, "missing field `lists`"),
        (&with("version", json!(2)), "has version 2, and this build reads version 1"),
        (&with("objects", json!({ PEOPLE: "" })), "objects has "),
        (&with("objects", json!({ PEOPLE: null })), "invalid type: null"),
        (&with("lists", json!({ SALES: "sales pipeline" })), "sales pipeline"),
        (&with("lists", json!({ "a b": "x" })), "lists has "),
        (&with("workspace_id", json!("")), "workspace_id has "),
    ];
    for (text, problem) in bad {
        case.write(text, "failed").await;
        let log = logs.text().replace('\\', "");
        assert!(log.contains(problem), "{problem}: {log}");
        assert_eq!(case.slugs(&record(PEOPLE)).await.0.as_deref(), Some("contacts"), "{text}");
    }
    assert!(logs.text().contains("reload failed: the slugs stay as they were"));
    // The way back.
    case.write(&map().to_string(), "ok").await;
    assert_eq!(case.slugs(&record(PEOPLE)).await.0.as_deref(), Some("people"));
    std::fs::remove_file(&case.file).unwrap();
    case.bridge.begin_reload();
    eventually("the loss is logged", || async { logs.text().contains("slugs.json cannot be read") }).await;
    assert_eq!(case.slugs(&record(PEOPLE)).await.0.as_deref(), Some("people"));
}

#[tokio::test]
async fn a_filter_may_name_slugs() {
    let filter = "filter.include.objects = [\"people\"]\nfilter.exclude.lists = [\"sales_pipeline\"]\n";
    let case = Case::new(Some(&map().to_string()), filter).await;
    assert_eq!(case.setup.warnings(), [""; 0]);
    let table = [
        (record(PEOPLE), true),
        (record(DEALS), false),
        (record(STRANGE), false),
        (entry(STRANGE, PEOPLE), true),
        (entry(SALES, PEOPLE), false),
        (json!({ "event_type": "task.created", "id": { "workspace_id": "w", "task_id": "t" } }), false),
    ];
    for (event, passes) in table {
        assert_eq!(case.publish(&event).await.is_some(), passes, "{event}");
    }
    // The same name for another object.
    let mut moved = map();
    moved["objects"] = json!({ PEOPLE: "contacts", DEALS: "people" });
    case.write(&moved.to_string(), "ok").await;
    assert!(case.publish(&record(PEOPLE)).await.is_none());
    assert!(case.publish(&record(DEALS)).await.is_some());
}

#[tokio::test]
async fn a_filter_with_an_unknown_slug_drops_nothing() {
    let more = "filter.include.objects = [\"people\"]\nfilter.exclude.objects = [\"deals\"]\n";
    let case = Case::new(None, more).await;
    for object in [PEOPLE, DEALS, STRANGE] {
        assert!(case.publish(&record(object)).await.is_some(), "{object}");
    }
    let task = json!({ "event_type": "task.created", "id": { "workspace_id": "w", "task_id": "t" } });
    assert!(case.publish(&task).await.is_none(), "it has no object, so it is in no list of objects");
    case.write(&map().to_string(), "ok").await;
    assert!(case.publish(&record(PEOPLE)).await.is_some());
    for object in [DEALS, STRANGE] {
        assert!(case.publish(&record(object)).await.is_none(), "{object}");
    }
}

#[test]
fn unknown_slugs_in_filters_are_warnings() {
    let filter = "[sources.attio]\nfilter.include.objects = [\"people\", \"97052eb9-e65e-443f-a297-f2d9a4a7f795\"]\n\
                  filter.exclude.lists = [\"slaes\"]\n";
    let warnings = Setup::good().toml(filter).warnings();
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(warnings[0].contains("filter.include.objects: \"people\" is no id: set route.slugs_file"));
    assert!(warnings[0].contains("config.toml:2"), "{warnings:?}");
    let setup = Setup::good();
    let file = setup.write("slugs.json", map().to_string());
    let setup = setup.toml(&format!("route.slugs_file = \"{}\"\n{filter}", file.display()));
    let warnings = setup.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert!(warnings[0].contains("\"slaes\" is neither an id nor a slug in "), "{warnings:?}");
    let setup = Setup::good().toml("[route]\nslugs_file = \"/no/such/file\"\n");
    let warnings = setup.warnings();
    assert!(warnings[0].contains("route.slugs_file: the file /no/such/file cannot be read"), "{warnings:?}");
}

#[test]
fn a_written_slugs_file_can_be_read() {
    let mut slugs = Slugs::new("w");
    slugs.objects.insert(PEOPLE.into(), "people".into());
    let text = serde_json::to_string(&slugs).unwrap();
    assert_eq!(Slugs::parse(&text).unwrap(), slugs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slugs_file_that_is_missing_at_start_is_reloaded_later() {
    let setup = Setup::empty();
    let file = setup.folder().join("slugs.json");
    let variables =
        [("ATTIO_BRIDGE__BUS__TYPE", "stdout"), ("ATTIO_BRIDGE__ROUTE__SLUGS_FILE", file.to_str().unwrap())];
    let mut served = Served::start(&variables);
    let mut lines = served.stdout().lines();
    let warned = served.log().iter().any(|line| line.contains("slugs.json cannot be read"));
    assert!(warned, "{:?}", served.log());
    let mut publish = async |expected: Value| {
        assert_eq!(served.ask(&Request::signed(record(PEOPLE).to_string())).await.status, 200);
        let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(event["attioobject"], expected);
    };
    publish(Value::Null).await;
    setup.write("slugs.json", map().to_string());
    eventually("it is reloaded", || async { !served.logged("slugs reloaded").is_empty() }).await;
    publish(json!("people")).await;
    // Replaced by a rename, as `slugs pull` does.
    let draft = setup.write("draft", map().to_string().replace("\"people\"", "\"contacts\""));
    std::fs::rename(draft, &file).unwrap();
    eventually("it is reloaded", || async { served.logged("slugs reloaded").len() == 2 }).await;
    publish(json!("contacts")).await;
}
